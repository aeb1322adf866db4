"""WaveNet of r9y9 and Parallel WaveGAN of kan-bayashi, from golden/wavenet/cases.npz, as files that those write."""

import json
import pickle
import zipfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import yaml
from scipy.signal import lfilter

from jaxtts import cli, interop
from jaxtts.audio import io
from jaxtts.audio.features import mel_basis, mel_spectrogram_np
from jaxtts.models import parallel_wavegan, wavenet
from jaxtts.models.parallel_wavegan import convert as pwg_convert
from jaxtts.models.wavenet import convert as wavenet_convert
from jaxtts.nn.functional import merge, nested, rngs_for_shapes, structure
from jaxtts.nn.generation import Fold
from jaxtts.synth.speak import drawn_seed
from jaxtts.synth.vocode import Vocoder
from jaxtts.weights.safetensors import save_safetensors

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = np.load(GOLDEN / "wavenet/cases.npz")
WAVE = {"sample_rate": 8000, "fft_size": 64, "hop_size": 16, "win_length": 48, "window": "hann", "fmin": 125,
        "fmax": 3600, "global_gain_scale": 0.55}  # fmt: skip
R9Y9 = WAVE | {"name": "wavenet_vocoder", "input_type": "raw", "preprocess": "preemphasis",
               "postprocess": "inv_preemphasis", "num_mels": 8, "n_speakers": 7, "gin_channels": -1}  # fmt: skip
KAN_BAYASHI = {"sampling_rate": 8000, "fft_size": 64, "hop_size": 16, "win_length": None, "window": "hann",
               "num_mels": 14, "fmin": 80, "fmax": 3800, "global_gain_scale": 1.0, "format": "hdf5"}  # fmt: skip


def case(name: str) -> tuple[dict, dict]:
    """The arguments of a recorded model, and its weights in the reference's names."""
    start = f"{name}/weights."
    weights = {key.removeprefix(start): CASES[key] for key in CASES.files if key.startswith(start)}
    return json.loads(CASES[f"{name}/meta"].tobytes())["config"], weights


def save_torch(path: Path, tree: dict) -> None:
    """Nested dictionaries of float32 arrays as `torch.save` writes them."""
    storages = []

    def piece(node) -> bytes:
        if isinstance(node, dict):
            return b"}(" + b"".join(piece(key) + piece(value) for key, value in node.items()) + b"u"
        if not isinstance(node, np.ndarray):
            return pickle.dumps(node, 2)[2:-1]
        number = str(len(storages))
        storages.append(np.ascontiguousarray(node))
        storage = piece("storage") + b"ctorch\nFloatStorage\n" + piece(number) + piece("cpu") + piece(node.size)
        strides = tuple(n // 4 for n in storages[-1].strides)
        sizes = piece(0) + piece(node.shape) + piece(strides) + b"\x89}"
        return b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQ" + sizes + b"tR"

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + piece(tree) + b".")
        for number, array in enumerate(storages):
            archive.writestr(f"archive/data/{number}", array.tobytes())


def statistics(bins: int) -> tuple[np.ndarray, np.ndarray]:
    return np.linspace(-3.0, -1.0, bins), np.linspace(0.4, 0.9, bins)


def built(module, config, tensors):
    return merge(structure(lambda: module.Model(config, rngs=rngs_for_shapes()))[0], tensors)


@pytest.fixture
def r9y9(tmp_path):
    arguments, weights = case("wavenet_vocoder/mol_local")
    values = arguments | R9Y9 | {"log_scale_min": -16.0}
    folder = tmp_path / "r9y9"
    folder.mkdir()
    (folder / "hparams.json").write_text(json.dumps(values))
    mean, scale = statistics(8)
    np.savez(folder / "meanvar.npz", mean=mean, scale=scale)
    for name, factor in (("step000000020", 0), ("step000000003_ema", 0), ("step000000020_ema", 1)):
        state = {"state_dict": {n: factor * x for n, x in weights.items()}, "optimizer": None, "global_step": 20}
        save_torch(folder / f"checkpoint_{name}.pth", state)
    return folder


@pytest.fixture
def kan_bayashi(tmp_path):
    arguments, weights = case("parallel_wavegan/generator")
    folder = tmp_path / "pwg"
    folder.mkdir()
    (folder / "config.yml").write_text(yaml.dump(KAN_BAYASHI | {"generator_params": arguments, "version": "0.5.5"}))
    np.save(folder / "stats.npy", np.stack(statistics(14)).astype(np.float32))
    for steps, factor in ((5, 0), (10, 1)):
        model = {"generator": {n: factor * x for n, x in weights.items()}, "discriminator": {"x": np.ones(2, "f")}}
        save_torch(
            folder / f"checkpoint-{steps}steps.pkl", {"model": model, "optimizer": {"param_groups": [1]}, "steps": 10}
        )
    return folder


def change(path: Path, **changes) -> None:
    load, dump = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.dump)
    path.write_text(dump(load(path.read_text()) | changes))


def refused(path: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        interop.read(path)


def test_wavenet_of_r9y9_sounds_as_its_model_with_gain_and_preemphasis_undone(r9y9):
    arguments, weights = case("wavenet_vocoder/mol_local")
    plain = wavenet_convert.config_from(arguments)
    assert (plain.gain, plain.preemphasis) == (1.0, 0.0)
    mel = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)
    model = built(wavenet, plain, wavenet_convert.convert(weights, plain))
    seeds = jnp.array([drawn_seed(7, 0, 3)], jnp.uint32)
    raw = jax.jit(lambda mel: model.infer(mel, seeds=seeds)[0])(mel[None])
    want = np.clip(np.asarray(lfilter([1], [1, -0.85], raw)) / 0.55, -1, 1)
    assert np.std(raw) > 0.01
    for path in (r9y9, r9y9 / "checkpoint_step000000020_ema.pth"):
        wave = Vocoder(path).wave(mel, seed=7, exact=True)
        np.testing.assert_allclose(wave, want, atol=1e-4)


def test_segments_drawn_apart_are_those_of_one_batch(r9y9):
    found = interop.read(r9y9).folded()
    model = built(wavenet, found.config, nested(dict(found.tensors)))
    mel = np.random.default_rng(0).standard_normal((1600, 8)).astype(np.float32)
    seeds = jnp.array([drawn_seed(7, 0, 3)], jnp.uint32)
    want = jax.jit(lambda mel: model.infer(mel, seeds=seeds, fold=Fold())[0])(mel[None])
    assert Fold().count(len(want)) == 3 and np.std(want) > 0.01
    np.testing.assert_allclose(Vocoder(r9y9).wave(mel, seed=7), want, atol=1e-4)


def test_parallel_wavegan_of_kan_bayashi_sounds_as_its_model(kan_bayashi):
    arguments, weights = case("parallel_wavegan/generator")
    config = pwg_convert.config_from(arguments)
    mel = np.random.default_rng(0).standard_normal((9, 14)).astype(np.float32)
    noise = np.random.default_rng((7, 0, 3)).standard_normal((9, 16), np.float32)
    model = built(parallel_wavegan, config, pwg_convert.convert(weights, config))
    want = jax.jit(lambda mel: model.infer(mel, noise=noise[None])[0])(mel[None])
    assert np.std(want) > 0.01
    for path in (kan_bayashi, kan_bayashi / "checkpoint-10steps.pkl"):
        np.testing.assert_allclose(Vocoder(path).wave(mel, seed=7), want, atol=1e-5)


def test_frames_of_a_recording_are_those_of_the_reference(r9y9, kan_bayashi):
    """Against librosa, whose transform both use: neither gain nor pre-emphasis is in the frames."""
    rng = np.random.default_rng(0)
    wave = (rng.standard_normal(1600) * np.geomspace(1e-7, 0.3, 1600)).astype(np.float32)
    for folder, bins, low, high, window in ((r9y9, 8, 125, 3600, 48), (kan_bayashi, 14, 80, 3800, 64)):
        spec = interop.read(folder).mel
        basis = librosa.filters.mel(sr=8000, n_fft=64, n_mels=bins, fmin=low, fmax=high)
        magnitude = np.abs(librosa.stft(wave, n_fft=64, hop_length=16, win_length=window, pad_mode="reflect"))
        mean, scale = statistics(bins)
        want = (np.log10(np.maximum(1e-10, basis @ magnitude)).T - mean) / scale
        np.testing.assert_allclose(mel_spectrogram_np(wave, spec), want, atol=2e-4)
        np.testing.assert_allclose(mel_basis(spec).T, basis, atol=1e-6)


def test_from_the_command_line(r9y9, kan_bayashi, tmp_path):
    io.save(tmp_path / "in.wav", 0.1 * np.random.default_rng(0).standard_normal(320).astype(np.float32), 8000)
    for folder in (r9y9, kan_bayashi):
        out, sound = tmp_path / f"our-{folder.name}", str(tmp_path / "out.wav")
        assert cli.main(["import-weights", str(folder), str(out)]) == 0
        found, want = interop.read(out), interop.read(folder).folded()
        assert found.config == want.config and found.mel == want.mel
        assert all(np.array_equal(x, found.tensors[name]) for name, x in want.tensors.items())
        assert cli.main(["vocode", str(tmp_path / "in.wav"), "-o", sound, "--vocoder", str(out)]) == 0
        assert len(io.load(sound)[0]) == 21 * 16


def test_each_checkpoint_is_of_one_reader_alone(r9y9, kan_bayashi):
    readers = {name: import_module(f"jaxtts.interop.{name}") for name in interop.TOOLKITS}
    hifigan = {"upsample_initial_channel": 32, "resblock": "1", "upsample_rates": [2], "sampling_rate": 8000}
    configs = {name: json.loads((GOLDEN / f"interop/{folder}/config.json").read_text())
               for name, folder in (("huggingface", "hf"), ("coqui", "coqui"), ("piper", "piper"))}  # fmt: skip
    configs |= {"hifigan": hifigan, "r9y9": json.loads((r9y9 / "hparams.json").read_text())}
    configs["kan_bayashi"] = yaml.safe_load((kan_bayashi / "config.yml").read_text())
    for name, values in configs.items():
        assert [other for other, reader in readers.items() if reader.recognises(values)] == [name]
    wavernn = [n.removeprefix("raw/w/") for n in np.load(GOLDEN / "wavernn/cases.npz").files if n.startswith("raw/w/")]
    pwg = [f"generator.{name}" for name in case("parallel_wavegan/generator")[1]]
    weights = {"fatchord": wavernn, "kan_bayashi": pwg, "r9y9": list(case("wavenet_vocoder/mol_local")[1])}
    weights["nvidia"] = [n.removeprefix("w/") for n in np.load(GOLDEN / "tacotron2/cases.npz").files if n[:2] == "w/"]
    for name, names in weights.items():
        assert [n for n in interop.WITHOUT_CONFIG if readers[n].recognises_weights(names)] == [name]
    assert interop.recognise(r9y9) == "WaveNet (r9y9)"
    assert interop.recognise(kan_bayashi) == "Parallel WaveGAN (kan-bayashi)"


def test_what_lies_missing_is_named(r9y9, kan_bayashi):
    mean, scale = statistics(8)
    np.savez(r9y9 / "meanvar.npz", mean=mean, scale=scale[1:])
    refused(r9y9, "meanvar.npz is of 8 and 7 bins, this model's frames have 8")
    np.savez(r9y9 / "meanvar.npz", mean=mean, scale=0 * scale)
    refused(r9y9, "each scale above 0")
    np.savez(r9y9 / "meanvar.npz", mean=mean)
    refused(r9y9, "meanvar.npz does not hold the mean and the scale")
    np.savez(r9y9 / "meanvar.npz", mean=np.array([print]), scale=scale)
    refused(r9y9, "meanvar.npz does not hold the mean and the scale")
    (r9y9 / "meanvar.npz").unlink()
    refused(r9y9, r"no meanvar.npz.*joblib.load.*s.mean_, scale=s.scale_.*--mel-spec")
    (r9y9 / "hparams.json").unlink()
    refused(r9y9 / "checkpoint_step000000020.pth", "no hparams.json")
    (kan_bayashi / "stats.npy").write_bytes(b"\x93NUMPY")
    refused(kan_bayashi, "stats.npy does not hold the mean and the scale")
    (kan_bayashi / "stats.npy").unlink()
    refused(kan_bayashi, r"no stats.npz.*h5py.File\('stats.h5'\)")
    (kan_bayashi / "config.yml").unlink()
    refused(kan_bayashi / "checkpoint-10steps.pkl", "no config.yml")


def test_options_without_counterpart_are_named(r9y9, kan_bayashi):
    hparams, config = r9y9 / "hparams.json", kan_bayashi / "config.yml"
    params = yaml.safe_load(config.read_text())["generator_params"]
    up = params["upsample_params"]
    for path, changes, match in (
        (hparams, {"hop_size": 15}, r"\(4, 4\) must multiply to the hop 15"),
        (hparams, {"input_type": "mulaw"}, "input_type='mulaw'"),
        (hparams, {"postprocess": ""}, "postprocess=''.*'inv_preemphasis'"),
        (hparams, {"upsample_net": "Other"}, "upsample_net='Other'"),
        (hparams, {"gin_channels": 16}, "several speakers"),
        (hparams, {"layers": 10**6}, "layers='1000000'"),
        (hparams, {"residual_channels": 14}, "do not fit"),
        (config, {"hop_size": 15}, r"\(4, 4\) must multiply to the hop 15"),
        (config, {"generator_type": "MelGANGenerator"}, "generator_type='MelGANGenerator'.*'ParallelWaveGANGenerator'"),
        (config, {"sampling_rate_for_feats": 4000}, "sampling_rate_for_feats=4000"),
        (config, {"generator_params": params | {"layers": 10**6}}, "layers='1000000'"),
        (config, {"generator_params": params | {"use_causal_conv": True}}, "causal"),
        (config, {"generator_params": params | {"out_channels": 4}}, "out_channels=4"),
        (config, {"generator_params": params | {"upsample_params": up | {"nonlinear_activation": "ReLU"}}}, "'ReLU'"),
        (config, {"generator_params": params | {"residual_channels": 14}}, "do not fit"),
    ):
        before = path.read_text()
        change(path, **changes)
        refused(path.parent, match)
        path.write_text(before)
    config.write_text("a: !!python/object/apply:os.system ['false']")
    refused(kan_bayashi, "config.yml is not plain YAML")
    config.write_text("[1]")
    refused(kan_bayashi, "holds no table but a list")


def layer(name: str, *shape: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    found = {f"{name}.weight_v": shape, f"{name}.weight_g": (shape[0], *(1,) * (len(shape) - 1))}
    return found | ({f"{name}.bias": (shape[0],)} if bias else {})


@pytest.mark.parametrize(
    ("layers", "stacks", "inputs", "outputs", "count"), [(24, 4, 1, 30, 3_720_932), (30, 3, 256, 256, 4_699_944)]
)
def test_published_sizes_of_r9y9_import_whole(tmp_path, layers, stacks, inputs, outputs, count):
    """The recipes mol and mulaw256, whose numbers of parameters were counted on the reference."""
    shapes = layer("first_conv", 128, inputs, 1) | layer("last_conv_layers.1", 128, 128, 1)
    shapes |= layer("last_conv_layers.3", outputs, 128, 1) | {"upsample_net.conv_in.weight": (80, 80, 5)}
    for i in range(layers):
        name = f"conv_layers.{i}"
        shapes |= layer(f"{name}.conv", 256, 128, 3) | layer(f"{name}.conv1x1c", 256, 80, 1, bias=False)
        shapes |= layer(f"{name}.conv1x1_out", 128, 128, 1) | layer(f"{name}.conv1x1_skip", 128, 128, 1)
    for i in range(1, 8, 2):
        shapes |= layer(f"upsample_net.upsample.up_layers.{i}", 1, 1, 1, 9, bias=False)
    assert sum(np.prod(shape) for shape in shapes.values()) == count
    values = R9Y9 | {
        "layers": layers, "stacks": stacks, "residual_channels": 128, "gate_channels": 256, "skip_out_channels": 128,
        "kernel_size": 3, "cin_channels": 80, "cin_pad": 2, "upsample_conditional_features": True,
        "upsample_net": "ConvInUpsampleNetwork", "upsample_params": {"upsample_scales": [4, 4, 4, 4]},
        "output_distribution": "Logistic", "log_scale_min": -16.0, "quantize_channels": 65536, "out_channels": outputs,
        "input_type": "raw" if inputs == 1 else "mulaw-quantize", "num_mels": 80, "hop_size": 256, "fft_size": 1024,
        "win_length": 1024, "sample_rate": 22050, "fmax": 7600,
    }  # fmt: skip
    (tmp_path / "hparams.json").write_text(json.dumps(values))
    np.savez(tmp_path / "meanvar.npz", mean=np.zeros(80), scale=np.ones(80))
    rng = np.random.default_rng(0)
    save_safetensors(
        tmp_path / "weights.safetensors", {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}
    )
    found = interop.read(tmp_path)
    recipe = wavenet.Config if inputs == 1 else wavenet.Config.mulaw
    default = recipe(gain=0.55, preemphasis=0.85)
    assert replace(found.config, mel=default.mel) == default
    last = 128 * 128 + 2 * 128  # of the last layer's residual output, which leads nowhere
    assert sum(x.size for x in found.tensors.values()) == count - last
    (tmp_path / "meanvar.npz").unlink()
    assert interop.read(tmp_path, mel_spec="tacotron2").config.mel.name == "tacotron2"

"""Beginning with another checkpoint: what fits is taken, told, and gives the same numbers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Positioned, batches, task

from jaxtts import registry
from jaxtts.audio import mel_spec
from jaxtts.nn.functional import named, nested
from jaxtts.text import TextSpec
from jaxtts.train.loop import fit
from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import TrainState
from jaxtts.train.warm_start import EXPORTED, Source, adopt, symbol_rows

THEIRS = TextSpec("characters", symbols=("_", "^", *"abcdefghij"), blank="_")
OURS = TextSpec("characters", symbols=(*"jihgfedcba", "<b>", "z", "y", "^"), blank="<b>")
QUIET = {"eval_every": 0, "sample_every": 0, "log_every": 0}


def tree(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    return nested({n.replace("__", "."): jnp.array(rng.normal(size=s), jnp.float32) for n, s in shapes.items()})


def state_of(seed=0, rest=None, **params):
    return TrainState(jnp.zeros((), jnp.int32), params, rest or {}, {})


def source_of(net=EXPORTED, model="glow_tts", rest=None, **facts):
    arrays = facts.pop("arrays")
    return Source("there", model, {net: {n: np.asarray(x) for n, x in named(arrays).items()}}, rest or {}, **facts)


def test_symbols_are_matched_by_name_and_role():
    rows = symbol_rows(OURS, THEIRS)
    assert rows == [*range(11, 1, -1), 0, None, None, 1]
    assert symbol_rows(THEIRS, THEIRS) is None
    only_a_role = dataclasses.replace(OURS, symbols=(*THEIRS.symbols, "<b>"))
    assert symbol_rows(only_a_role, THEIRS) == [*range(12), 0]


def test_rows_of_tables_follow_their_names():
    fresh = state_of(model=tree(1, encoder__embedding=(14, 3), speaker_embedding=(3, 2), layer__kernel=(1, 5, 5)))
    given = tree(2, encoder__embedding=(12, 3), speaker_embedding=(2, 2), layer__kernel=(1, 5, 5))
    source = source_of(arrays=given, text=THEIRS, speakers=("ann", "bob"))
    state, report = adopt(fresh, source, "glow_tts", OURS, ("bob", "cyd", "ann"))
    theirs, ours, new = given["encoder"]["embedding"], fresh.params["model"], state.params["model"]
    np.testing.assert_array_equal(new["encoder"]["embedding"][:10], theirs[2:][::-1])
    np.testing.assert_array_equal(new["encoder"]["embedding"][10], theirs[0])
    np.testing.assert_array_equal(new["encoder"]["embedding"][11:13], ours["encoder"]["embedding"][11:13])
    np.testing.assert_array_equal(new["speaker_embedding"][[0, 2]], given["speaker_embedding"][::-1])
    np.testing.assert_array_equal(new["speaker_embedding"][1], ours["speaker_embedding"][1])
    assert report.reshaped == {
        "model.encoder.embedding": "12 of 14 rows by the symbol's name",
        "model.speaker_embedding": "2 of 3 rows by the speaker's name",
    }
    assert report.kept == {"model": (1, 25 + 36 + 4)} and not report.fresh and not report.unused
    # the same names: as they are, even in a table with rows to spare; names unknown: only what has the same shape
    same, report = adopt(state_of(model=given), source, "glow_tts", THEIRS, ("ann", "bob"))
    assert same.params["model"] is not given and report.kept == {"model": (3, 36 + 4 + 25)} and not report.reshaped
    _, report = adopt(fresh, source._replace(text=None, speakers=()), "glow_tts", OURS, ("bob", "cyd", "ann"))
    assert set(report.fresh) == {"model.encoder.embedding", "model.speaker_embedding"}
    assert report.fresh["model.encoder.embedding"] == "is [14, 3], [12, 3] in the source"


@pytest.mark.parametrize("per_input", [False, True])
def test_weight_norm_is_split_and_folded(per_input):
    gain = (4, 1) if per_input else (5,)
    plain, normed = tree(1, a__kernel=(3, 4, 5), a__bias=(5,)), tree(2, a__v=(3, 4, 5), a__g=gain, a__bias=(5,))
    split, report = adopt(state_of(generator=normed), source_of(arrays=plain), "glow_tts")
    assert not report.fresh and not report.unused
    a = split.params["generator"]["a"]
    norm = np.sqrt(np.square(a["v"]).sum((0, 2) if per_input else (0, 1)))
    np.testing.assert_allclose(
        a["v"] * (a["g"] / (norm[:, None] if per_input else norm)), plain["a"]["kernel"], rtol=1e-5
    )
    folded, _ = adopt(state_of(generator=plain), source_of(arrays=split.params["generator"]), "glow_tts")
    np.testing.assert_allclose(folded.params["generator"]["a"]["kernel"], plain["a"]["kernel"], rtol=1e-5)


def test_what_is_fresh_or_unused_is_told():
    shapes = {
        "big__kernel": (1, 9, 9),
        "flow__0__cond__g": (4,),
        "flow__0__cond__v": (1, 2, 4),
        "flow__0__cond__bias": (4,),
    }
    fresh = state_of(
        generator=tree(1, **shapes, out__kernel=(1, 3, 3), more__a__kernel=(2, 2), more__b__bias=(2,)),
        discriminator=tree(2, a__kernel=(2, 2), b__kernel=(2, 2)),
        rest={"ema": {"generator": tree(3, **shapes)}, "discriminator": tree(4, u=(3,)), "generator": {}},
    )
    source = source_of(arrays=tree(5, big__kernel=(1, 9, 9), out__kernel=(1, 3, 4), old__kernel=(2,)))
    state, report = adopt(fresh, source, "glow_tts")
    assert report.fresh == {
        "generator.flow": "not in the source; it begins without effect (3 arrays)",
        "generator.out.kernel": "is [1, 3, 3], [1, 3, 4] in the source",
        "generator.more": "not in the source (2 arrays)",
        "discriminator": "the source has none (2 arrays)",
        "discriminator (carried)": "the source has none (1 arrays)",
    }
    assert report.unused == ["generator.old.kernel"]
    cond = state.params["generator"]["flow"]["0"]["cond"]
    assert not cond["g"].any() and not cond["bias"].any() and np.all(cond["v"])
    average = state.rest["ema"]["generator"]
    jax.tree.map(np.testing.assert_array_equal, average, state.params["generator"])
    assert average["big"]["kernel"] is not state.params["generator"]["big"]["kernel"]  # the state is donated
    told = report.lines()
    assert "begins with there (glow_tts)" in told and "kept      generator: 1 arrays, 81 numbers" in told
    assert "fresh     discriminator: the source has none" in told and "unused    generator.old.kernel" in told


def test_a_net_of_which_little_fits_stays_fresh_and_other_shapes_are_told_together():
    judge = dict(c__v=(5, 4, 4), c__g=(4,), out__bias=(1,))
    fresh = state_of(generator=tree(1, a__kernel=(9, 9), b__c__v=(2, 2), b__c__g=(2,)), discriminator=tree(2, **judge))
    nets = {
        "generator": {"a.kernel": np.ones((9, 9)), "b.c.v": np.ones((2, 3)), "b.c.g": np.ones(3)},
        "discriminator": {"c.v": np.ones((5, 8, 8)), "c.g": np.ones(8), "out.bias": np.ones(1)},
    }
    state, report = adopt(fresh, Source("there", "vits", nets, {}), "vits")
    assert report.fresh == {
        "generator.b": "of other shapes in the source (2 arrays)",
        "discriminator": "too little of the source's fits, 1 of 85 numbers",
    }
    assert report.kept == {"generator": (1, 81)} and not report.unused
    jax.tree.map(np.testing.assert_array_equal, state.params["discriminator"], fresh.params["discriminator"])


def test_other_frames_and_front_ends_are_noted():
    params = tree(1, a__kernel=(2, 2))
    source = source_of(arrays=params, mel=mel_spec("vits"), text=THEIRS)
    _, report = adopt(state_of(model=params), source, "glow_tts", OURS, mel=mel_spec("hifigan"))
    assert report.notes == ["it knows frames of 'vits' (22050 Hz, hop 256), this run has 'hifigan' (22050 Hz, hop 256)"]
    espeak = dataclasses.replace(OURS, frontend="espeak")
    _, report = adopt(state_of(model=params), source, "glow_tts", espeak, mel=mel_spec("vits").replace(name="mine"))
    assert len(report.notes) == 1 and "from the front end characters en-us, here from espeak en-us" in report.lines()


def test_what_cannot_be_begun_with_is_one_sentence():
    fresh, given = state_of(model=tree(1, a__kernel=(9, 9))), tree(2, a__kernel=(8, 9), b__bias=(1,))
    with pytest.raises(ValueError, match="there is a vits, which a glow_tts cannot begin with"):
        adopt(fresh, source_of(model="vits", arrays=given), "glow_tts")
    with pytest.raises(
        ValueError, match=r"too little in common .* 0 of 81 numbers fit .*\[9, 9\], \[8, 9\] in the source"
    ):
        adopt(fresh, source_of(arrays=given), "glow_tts")


def a_batch(config, fields, text, size=2, frames=32):
    """Text of the symbols a to j with blanks in between, in the spec's numbering."""
    rng = np.random.default_rng(0)
    spoken = [[["_", *"abcdefghij"][k] for k in rng.integers(0, 11, 10)] for _ in range(size)]
    blank = {"_": text.blank}
    batch = {
        "text": np.array([[text.symbols.index(blank.get(s, s)) for s in row] for row in spoken], np.int32),
        "text_lengths": np.array([10, 7], np.int32),
        "speaker": np.zeros(size, np.int32),
    }
    hop, bins = (config.mel.hop_length, config.mel.num_bins) if hasattr(config, "mel") else (256, config.num_mels)
    batch["wave"] = 0.3 * np.sin(np.cumsum(rng.uniform(0.05, 0.3, (size, frames * hop)), 1)).astype(np.float32)
    batch["mel"] = rng.normal(size=(size, frames, bins)).astype(np.float32)
    batch |= {"mel_lengths": np.array([frames, frames - 6], np.int32)}
    batch["wave_lengths"] = hop * batch["mel_lengths"]
    return {name: batch[name] for name in fields}


@pytest.mark.parametrize("name", ["glow_tts", "hifigan", "vits"])
def test_the_first_evaluation_is_the_source_s(name):
    """With other symbols, and with speakers where the source has one: from a checkpoint and from an export."""
    package, optim, key = registry.module(name), OptimConfig(ema_decay=0.9), jax.random.key(1)
    config = small = package.Config.tiny()
    if name != "hifigan":
        config = dataclasses.replace(small, num_symbols=len(OURS.symbols), num_speakers=3, speaker_dim=4)
        small = dataclasses.replace(small, num_symbols=len(THEIRS.symbols))
    theirs, ours = package.build_task(small, optim), package.build_task(config, optim)
    before, after = a_batch(small, theirs.fields, THEIRS), a_batch(config, ours.fields, OURS)
    trained = theirs.init(jax.random.key(2), before)
    trained = trained._replace(params=jax.tree.map(lambda x: 1.3 * x, trained.params))  # the average is evaluated
    expected = jax.jit(theirs.eval_step)(trained, before, key)
    fresh = ours.init(jax.random.key(3), after)
    evaluate, params = jax.jit(ours.eval_step), theirs.inference(trained)[0]
    for source in (
        Source.of_state("run", name, trained, text=THEIRS, speakers=("ann",)),
        Source("export", name, {EXPORTED: {n: np.asarray(x) for n, x in named(params).items()}}, {}, text=THEIRS),
    ):
        state, report = adopt(fresh, source, name, OURS if name != "hifigan" else None, ("ann", "bob", "cyd"))
        assert jax.tree.structure(state) == jax.tree.structure(fresh) and not report.unused
        assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, fresh)
        found, without = evaluate(state, after, key), evaluate(fresh, after, key)
        assert all(abs(without[metric] - value) > 1e-2 * abs(value) for metric, value in expected.items())
        for metric, value in expected.items():
            np.testing.assert_allclose(
                found[metric], value, rtol=1e-4 if source.where == "export" else 1e-5, err_msg=metric
            )
        assert any("discriminator" in n for n in report.fresh) == (source.where == "export" and name != "glow_tts")


def begin(state):
    kernel = jnp.array([[0.9], [-1.9], [0.4]])
    params = {"model": {"layer": {"kernel": kernel, "bias": jnp.zeros(1)}}}
    return state._replace(params=params, rest={"ema": params}), {"source": {"path": "elsewhere"}}


def never(state):
    raise AssertionError("the run has begun before")


def test_a_run_begins_once_and_goes_on_bit_for_bit(tmp_path):
    def run(name, steps, start):
        where = {"workdir": tmp_path / name, "start": start}
        return fit(task(), Positioned([]), steps=steps, save_every=2, **where, **QUIET)

    whole = run("whole", 6, begin)
    run("cut", 3, begin)
    record = json.loads((tmp_path / "cut" / "start.json").read_text())
    assert record == {"source": {"path": "elsewhere"}}
    (tmp_path / "cut" / "start.json").unlink()
    jax.tree.map(np.testing.assert_array_equal, whole, run("cut", 6, never))
    from jaxtts.train.checkpoint import Checkpoints

    assert Checkpoints(tmp_path / "cut").meta()["start"] == record  # though the run went on
    plain = run("plain", 6, None)
    assert np.any(plain.params["model"]["layer"]["kernel"] != whole.params["model"]["layer"]["kernel"])
    assert not (tmp_path / "plain" / "start.json").exists() and "start" not in Checkpoints(tmp_path / "plain").meta()


def test_a_checkpoint_is_read_without_knowing_its_model(tmp_path):
    from jaxtts.train.checkpoint import Checkpoints
    from jaxtts.train.sharding import data_mesh

    state = fit(task(), batches(), steps=3, workdir=tmp_path, save_every=0, **QUIET)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    found, _, damaged = checkpoints.restore(None, data_mesh())
    jax.tree.map(np.testing.assert_array_equal, (found.params, found.rest), (state.params, state.rest))
    source = Source.of_state("x", "toy", found)
    np.testing.assert_array_equal(source.nets["model"]["layer.kernel"], state.rest["ema"]["model"]["layer"]["kernel"])
    assert source.step == 3 and not damaged and not source.rest

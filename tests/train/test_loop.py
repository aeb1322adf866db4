import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from toy import Positioned, batches, task

from jaxtts.train.checkpoint import Checkpoints, checksum
from jaxtts.train.loop import fit
from jaxtts.train.sharding import data_mesh, put_state
from jaxtts.weights.native import load_native

QUIET = {"eval_every": 0, "sample_every": 0, "save_every": 0}


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines(workdir) if "loss" in line}


def equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_loss_falls_and_the_run_leaves_everything(tmp_path):
    state = fit(task(), batches(), steps=200, workdir=tmp_path, held_out=batches((8, 5), seed=1, count=2),
                log_every=10, eval_every=100, sample_every=100, save_every=60, keep=2,
                description={"model": "toy"}, audio_seconds=lambda batch: 2.0)  # fmt: skip
    trained = losses(tmp_path)
    assert list(trained) == list(range(10, 201, 10))
    assert trained[200] < 0.01 * trained[10]
    held_out = {line["step"]: line["eval/loss"] for line in lines(tmp_path) if "eval/loss" in line}
    assert list(held_out) == [100, 200] and held_out[200] < held_out[100]
    assert all(
        0 < line["audio_seconds_per_second"] and line["steps_per_second"] for line in lines(tmp_path) if "loss" in line
    )
    assert Checkpoints(tmp_path)._manager.all_steps() == [180, 200]
    for name in ("mel_toy", "alignment_toy"):
        with Image.open(tmp_path / "pictures" / f"00000200_{name}.png") as image:
            assert image.format == "PNG" and min(image.size) >= 200
            assert len(np.unique(np.asarray(image.convert("L")))) > 2
    assert (tmp_path / "sounds" / "00000200_audio_toy.wav").stat().st_size > 2205 * 2
    assert any((tmp_path / "tensorboard").iterdir())
    weights, config = load_native(tmp_path)
    assert config == {"model": "toy", "step": 200, "config": {"features": 3}}
    np.testing.assert_array_equal(weights["layer.kernel"], state.rest["ema"]["model"]["layer"]["kernel"])
    np.testing.assert_allclose(weights["layer.kernel"][:, 0], [1, -2, 0.5], atol=0.1)


@pytest.mark.parametrize("positioned", [False, True])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, positioned):
    seen: list[int] = []

    def loader():
        return Positioned(seen) if positioned else batches()

    class Killed(RuntimeError):
        pass

    class Dying:
        def __iter__(self):
            inner = iter(loader())
            outer = self

            class It:
                def __iter__(self):
                    return self

                def __next__(self):
                    outer.count = getattr(outer, "count", 0) + 1
                    if outer.count > 17 + positioned:  # which looks at the first batch twice
                        raise Killed
                    return next(inner)

            if positioned:
                It.get_state = lambda self: inner.get_state()
                It.set_state = lambda self, state: inner.set_state(state)
            return It()

    whole = fit(task(), loader(), steps=25, workdir=tmp_path / "a", log_every=4, **QUIET)
    with pytest.raises(Killed):
        fit(task(), Dying(), steps=25, workdir=tmp_path / "b", log_every=4, **QUIET | {"save_every": 5})
    assert max(losses(tmp_path / "b")) == 16  # behind the checkpoint of step 15, which is within a window
    seen.clear()
    resumed = fit(task(), loader(), steps=25, workdir=tmp_path / "b", log_every=4, **QUIET)
    if positioned:
        assert seen == [0, *range(15, 25)]  # the first one only for its shapes
    equal(resumed, whole)
    assert losses(tmp_path / "b") == losses(tmp_path / "a")
    assert list(losses(tmp_path / "b")) == [4, 8, 12, 16, 20, 24, 25]


def test_a_checkpoint_holds_the_exact_state_although_steps_donate_it(tmp_path):
    fit(task(), batches(), steps=40, workdir=tmp_path / "a", keep=0, **QUIET | {"save_every": 10})
    meta = Checkpoints(tmp_path / "a").meta(20)
    assert {k: v for k, v in meta.items() if k != "window"} == {
        "seed": 0, "loader": None, "skipped": 0, "description": {}, "recipe": None
    }  # fmt: skip
    assert [step for step, _ in meta["window"]] == list(range(1, 21))
    state = fit(task(), batches(), steps=20, workdir=tmp_path / "b", **QUIET)
    for step in (30, 40):
        shutil.rmtree(tmp_path / "a" / "checkpoints" / str(step))
    restored, again, damaged = Checkpoints(tmp_path / "a").restore(jax.eval_shape(lambda: state), data_mesh())
    assert again == meta and not damaged
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    equal(restored, state)


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("harm", ["array", "cut", "gone", "meta"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, capfd, harm):
    big = {**QUIET, "save_every": 10, "log_every": 5}
    whole = fit(task(), batches(width=4096), steps=30, workdir=tmp_path / "a", **big)
    fit(task(), batches(width=4096), steps=20, workdir=tmp_path / "b", **big)
    newest = tmp_path / "b" / "checkpoints" / "20"
    if harm == "array":
        path = largest(newest / "state")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x55
        path.write_bytes(content)
    elif harm == "cut":
        path = largest(newest / "state")
        path.write_bytes(path.read_bytes()[:20])
    elif harm == "gone":
        shutil.rmtree(newest / "state" / "d")
    else:
        path = newest / "meta" / "metadata"
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    resumed = fit(task(), batches(width=4096), steps=30, workdir=tmp_path / "b", **big)
    told = capfd.readouterr().err
    assert "the checkpoint of step 20 is damaged" in told and "that of step 10 is used" in told
    assert (tmp_path / "b" / "damaged" / "20").is_dir()
    equal(resumed, whole)
    assert losses(tmp_path / "b") == losses(tmp_path / "a")
    assert Checkpoints(tmp_path / "b").steps() == [10, 20, 30]
    for step in (10, 20, 30):
        (tmp_path / "b" / "checkpoints" / str(step) / "meta" / "metadata").write_text("{")
    with pytest.raises(ValueError, match="no checkpoint in .* can be read .30: .*; 20: .*; 10: .*use another workdir"):
        fit(task(), batches(width=4096), steps=40, workdir=tmp_path / "b", **big)
    assert Checkpoints(tmp_path / "b").steps() == [10, 20, 30]


def test_the_checksum_sees_every_bit_and_no_mesh(tmp_path):
    state = task().init(jax.random.key(0), next(iter(batches())))
    values = {int(checksum(state))}
    assert int(checksum(put_state(state, data_mesh(fsdp=4)))) in values
    kernel = state.params["model"]["layer"]["kernel"]
    for bit in range(32):
        changed = jax.lax.bitcast_convert_type(kernel, np.uint32).at[1, 0].add(np.uint32(1) << bit)
        params = {"model": {"layer": state.params["model"]["layer"] | {
            "kernel": jax.lax.bitcast_convert_type(changed, np.float32)}}}  # fmt: skip
        values.add(int(checksum(state._replace(params=params))))
    assert len(values) == 33


def test_a_full_disk_is_one_sentence_and_harms_nothing(tmp_path):
    fit(task(), batches(width=4096), steps=10, workdir=tmp_path, **QUIET)
    code = f"""
import resource, sys
sys.path[:0] = {sys.path!r}
from toy import batches, task
from jaxtts.train.loop import fit
resource.setrlimit(resource.RLIMIT_FSIZE, (18000, 18000))  # bytes of a file: room for one array, not for two
try:
    fit(task(), batches(width=4096), steps=20, workdir={str(tmp_path)!r}, log_every=0, **{QUIET | {"save_every": 5}})
except OSError as error:
    print("said:", error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert f"said: cannot write a checkpoint to {tmp_path / 'checkpoints'}" in told.stdout, told
    assert "(File too large); that of step 10 is intact" in told.stdout
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10"]
    state = fit(task(), batches(width=4096), steps=20, workdir=tmp_path, **QUIET)
    equal(state, fit(task(), batches(width=4096), steps=20, workdir=tmp_path / "other", **QUIET))


def test_four_devices_give_what_one_gives(tmp_path):
    devices = jax.devices()
    assert len(devices) >= 4
    for n in (1, 4):
        state = fit(task(), batches(), steps=20, workdir=tmp_path / str(n), mesh=data_mesh(devices[:n]), log_every=1,
                    eval_every=10, held_out=batches((6, 8), count=2), sample_every=20, save_every=0)  # fmt: skip
        kernel = state.params["model"]["layer"]["kernel"]
        assert len(kernel.sharding.device_set) == n and kernel.is_fully_replicated
    one, four = lines(tmp_path / "1"), lines(tmp_path / "4")
    assert [line["step"] for line in one] == [line["step"] for line in four] and len(one) == 22
    for a, b in zip(one, four, strict=True):
        for name in (n for n in a if n.endswith("loss")):
            assert a[name] == pytest.approx(b[name], rel=1e-5)


def test_each_shape_compiles_once_and_is_told(tmp_path, capfd):
    count = []
    plain = task()

    def traced(state, batch, key):
        count.append(batch["x"].shape)
        return plain.train_step(state, batch, key)

    fit(plain._replace(train_step=traced), batches((8, 16)), steps=12, workdir=tmp_path, **QUIET)
    assert count == [(8, 3), (16, 3)]
    told = [line for line in capfd.readouterr().err.splitlines() if "compiling the training step for" in line]
    assert len(told) == 2 and "x [8, 3], y [8, 1]" in told[0]


def test_a_loader_with_examples_has_everything_compiled_before_the_first_step(tmp_path, capfd):
    class Known:
        def __init__(self, sizes, count=None):
            self.sizes, self.count = sizes, count

        def __iter__(self):
            return iter(batches(self.sizes, count=self.count))

        def examples(self):
            return [{"x": np.zeros((n, 3), np.float32), "y": np.zeros((n, 1), np.float32)} for n in self.sizes]

    fit(task(), Known((8, 16)), steps=40, workdir=tmp_path, held_out=Known((4, 8), count=2), log_every=4,
        eval_every=8, sample_every=8, save_every=8)  # fmt: skip
    told = capfd.readouterr().err
    assert "compiling 2 shapes of batches: 2 training steps, 5 others" in told and "after the warm-up" not in told
    counts = [line["compilations"] for line in lines(tmp_path) if "loss" in line]
    assert len(counts) == 10 and sum(counts) == 0
    assert all(0 < line["flop_utilisation"] < 1 for line in lines(tmp_path) if "loss" in line)


def test_a_shape_that_the_loader_did_not_name_is_told_and_counted(tmp_path, capfd):
    class Surprising:
        def __iter__(self):
            return iter(batches((8, 8, 8, 16)))

        def examples(self):
            return [{"x": np.zeros((8, 3), np.float32), "y": np.zeros((8, 1), np.float32)}]

    fit(task(), Surprising(), steps=12, workdir=tmp_path, log_every=3, **QUIET)
    told = capfd.readouterr().err
    assert "compiling the training step for x [16, 3], y [16, 1] after the warm-up" in told
    assert [line["compilations"] for line in lines(tmp_path) if "loss" in line] == [0, 1, 0, 0]
    assert "step 6: 1 compilations after the warm-up" in told


def test_a_step_that_is_not_finite_is_left_out_and_its_utterances_named(tmp_path, capfd):
    def broken():
        for i, batch in enumerate(batches()):
            if i in (12, 13):
                batch["y"][3] = np.nan
            yield batch

    class Broken:
        def __iter__(self):
            return broken()

    state = fit(task(), Broken(), steps=30, workdir=tmp_path, log_every=5, **QUIET)
    assert all(bool(np.isfinite(x).all()) for x in jax.tree.leaves(state.params)) and int(state.step) == 30
    told = capfd.readouterr().err
    assert "loss are not finite in step 13, utterances utt12-0 utt12-1" in told.replace("grad_norm, ", "")
    marked = [(line["step"], line["skipped"][0]) for line in lines(tmp_path) if "skipped" in line]
    assert marked == [(13, "utt12-0"), (14, "utt13-0")]
    assert all(np.isfinite(x) for x in losses(tmp_path).values()) and len(losses(tmp_path)) == 6
    assert "left out" in told


def test_ten_of_them_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match=r"10 steps in a row .* step 22, utterances utt21-0 .* step 20 is int"):
        fit(task(fail_at=range(13, 99)), batches(), steps=40, workdir=tmp_path, log_every=20,
            **QUIET | {"save_every": 10})  # fmt: skip
    assert Checkpoints(tmp_path).steps() == [10, 20]
    fit(task(fail_at=range(13, 22)), batches(), steps=40, workdir=tmp_path / "nine", **QUIET)
    fit(task(), batches(), steps=30, workdir=tmp_path, **QUIET)
    assert Checkpoints(tmp_path).latest() == 30


def test_large_arrays_are_cut_over_devices_and_nothing_else_changes(tmp_path):
    devices = jax.devices()
    runs = {}
    for fsdp in (1, 2, 4):
        runs[fsdp] = fit(task(), batches(width=4096), steps=6, workdir=tmp_path / str(fsdp), log_every=1,
                         mesh=data_mesh(devices, fsdp), eval_every=3, held_out=batches(width=4096, count=2),
                         sample_every=6, save_every=3)  # fmt: skip
        kernel = runs[fsdp].params["model"]["layer"]["kernel"]
        assert kernel.addressable_shards[0].data.shape == (4096 // fsdp, 1)
        moment = runs[fsdp].opt_state["model"][1].mu["layer"]["kernel"]
        assert moment.addressable_shards[0].data.shape == (4096 // fsdp, 1)
    for fsdp in (2, 4):
        for step, value in losses(tmp_path / "1").items():
            assert losses(tmp_path / str(fsdp))[step] == pytest.approx(value, rel=1e-6)
    onward = fit(task(), batches(width=4096), steps=9, workdir=tmp_path / "4", mesh=data_mesh(devices[:1]), **QUIET)
    whole = fit(task(), batches(width=4096), steps=9, workdir=tmp_path / "1", mesh=data_mesh(devices[:1]), **QUIET)
    for a, b in zip(jax.tree.leaves(onward), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_signal_saves(tmp_path):
    def interrupt():
        while not (tmp_path / "checkpoints").exists() or not seen[5:]:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    seen: list[int] = []
    threading.Thread(target=interrupt).start()
    before = signal.getsignal(signal.SIGTERM)
    state = fit(task(), Positioned(seen), steps=1_000_000, workdir=tmp_path, **QUIET)
    assert signal.getsignal(signal.SIGTERM) is before
    step = int(state.step)
    assert 5 <= step < 1_000_000 and Checkpoints(tmp_path).latest() == step
    assert Checkpoints(tmp_path).meta()["loader"] == {"i": step}


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="the batch has no y; it has x"):
        fit(task(), [{"x": np.zeros((2, 3))}], steps=1, workdir=tmp_path / "a")
    with pytest.raises(ValueError, match="no batch"):
        fit(task(), [], steps=1, workdir=tmp_path / "b")
    fit(task(), batches(), steps=2, workdir=tmp_path / "c", **QUIET)
    with pytest.raises(ValueError, match="seed=1.*has seed 0"):
        fit(task(), batches(), steps=3, workdir=tmp_path / "c", seed=1, **QUIET)
    wider = [{"x": np.zeros((2, 4), np.float32), "y": np.zeros((2, 1), np.float32)}] * 9
    with pytest.raises(ValueError, match=r"another model: params.model.layer.kernel is \(3, 1\), not \(4, 1\)"):
        fit(task(), wider, steps=3, workdir=tmp_path / "c", **QUIET)


def test_pretraining_takes_its_own_step_for_so_long(tmp_path):
    plain = task()

    def marked(state, batch, key):
        state, metrics = plain.train_step(state, batch, key)
        return state, metrics | {"pretraining": metrics["loss"]}

    both = plain._replace(pretraining=(5, marked))
    fit(both, batches(), steps=8, workdir=tmp_path, log_every=4, **QUIET)
    assert [line["step"] for line in lines(tmp_path) if "pretraining" in line] == [4, 5]
    assert list(losses(tmp_path)) == [4, 5, 8]
    fit(plain, batches(), steps=8, workdir=tmp_path / "plain", log_every=4, **QUIET)
    assert losses(tmp_path)[4] == losses(tmp_path / "plain")[4]

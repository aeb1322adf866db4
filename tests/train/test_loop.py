import json
import os
import signal
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from toy import Positioned, batches, task

from jaxtts.train.checkpoint import Checkpoints
from jaxtts.train.loop import fit
from jaxtts.train.sharding import data_mesh
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

    whole = fit(task(), loader(), steps=25, workdir=tmp_path / "a", log_every=1, **QUIET)
    with pytest.raises(Killed):
        fit(task(), Dying(), steps=25, workdir=tmp_path / "b", log_every=1, **QUIET | {"save_every": 5})
    assert max(losses(tmp_path / "b")) == 17  # two steps behind the checkpoint
    seen.clear()
    resumed = fit(task(), loader(), steps=25, workdir=tmp_path / "b", log_every=1, **QUIET)
    if positioned:
        assert seen == [0, *range(15, 25)]  # the first one only for its shapes
    equal(resumed, whole)
    assert losses(tmp_path / "b") == losses(tmp_path / "a")
    assert len(lines(tmp_path / "b")) == 25


def test_a_checkpoint_holds_the_exact_state_although_steps_donate_it(tmp_path):
    fit(task(), batches(), steps=40, workdir=tmp_path / "a", keep=0, **QUIET | {"save_every": 10})
    meta = Checkpoints(tmp_path / "a").meta(20)
    assert meta == {"seed": 0, "loader": None, "description": {}, "recipe": None}
    state = fit(task(), batches(), steps=20, workdir=tmp_path / "b", **QUIET)
    restored = Checkpoints(tmp_path / "a").restore(jax.eval_shape(lambda: state), data_mesh(), 20)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    equal(restored, state)


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
    told = [line for line in capfd.readouterr().err.splitlines() if "compiling for" in line]
    assert len(told) == 2 and "x [8, 3], y [8, 1]" in told[0]


def test_what_is_not_finite_stops_the_run_and_names_the_utterances(tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss is not finite in step 13, utterances utt12-0 utt12-1 .* 10 is"):
        fit(task(fail_at=13), batches(), steps=40, workdir=tmp_path, log_every=20, **QUIET | {"save_every": 5})
    assert Checkpoints(tmp_path).latest() == 10
    fit(task(), batches(), steps=20, workdir=tmp_path, **QUIET)
    assert Checkpoints(tmp_path).latest() == 20


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


def test_a_run_may_begin_with_the_parameters_of_another(tmp_path):
    fit(task(), batches(), steps=200, workdir=tmp_path / "first", **QUIET)
    for name, start in (("fresh", None), ("tuned", tmp_path / "first")):
        state = fit(task(), batches(), steps=1, workdir=tmp_path / name, log_every=1, start_from=start, **QUIET)
        assert int(state.step) == 1
    assert losses(tmp_path / "tuned")[1] < 0.1 * losses(tmp_path / "fresh")[1]
    with pytest.raises(ValueError, match="no checkpoint"):
        fit(task(), batches(), steps=1, workdir=tmp_path / "x", start_from=tmp_path / "nothing", **QUIET)

"""Several real processes over loopback (gloo), each with four CPU devices; this file is also the program they run."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STEPS, SAVED = 120, 50  # length of the runs; the step whose checkpoint goes on with other devices


def work(workdir: str, steps: str, delay: str, *several: str) -> None:
    """Trains the toy: alone once for each mesh in MESHES, or as process `several` = (address, count, number)."""
    import jax
    import toy

    from jaxtts.commands.train import Train, join
    from jaxtts.train.loop import fit
    from jaxtts.train.sharding import data_mesh

    number, count = 0, 1
    if several:
        number, count = int(several[2]), int(several[1])
        join(Train("", Path(), Path(), coordinator=several[0], num_processes=count, process_id=number, heartbeat=5))

    class Mine:
        """This process's rows of the batches."""

        def __init__(self, *args, **kwargs):
            self.whole = toy.batches(*args, width=4096, **kwargs)

        def __iter__(self):
            mine = slice(number * 8 // count, (number + 1) * 8 // count)
            for batch in self.whole:
                time.sleep(float(delay))
                yield {name: values[mine] for name, values in batch.items()}

    meshes = {"": data_mesh()}
    if not several:
        meshes = {"one": data_mesh(jax.devices()[:1]), "eight": data_mesh(), "fsdp2": data_mesh(fsdp=2)}
        meshes["fsdp8"] = data_mesh(fsdp=8)
    for name, mesh in meshes.items():
        folder = Path(workdir + name)
        fit(toy.task(), Mine(), steps=int(steps), workdir=folder, mesh=mesh, held_out=Mine(seed=1, count=1),
            log_every=3, eval_every=20, sample_every=0, save_every=10, keep=0)  # fmt: skip


def start(workdir: Path, devices: int = 4, processes: int = 2, steps: int = STEPS, delay: float = 0.0):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    with socket.socket() as s:
        s.bind(("localhost", 0))
        address = f"localhost:{s.getsockname()[1]}"
    command = [sys.executable, __file__, str(workdir), str(steps), str(delay)]
    parts = [[address, str(processes), str(i)] for i in range(processes)] if processes > 1 else [[]]
    started = []
    for i, part in enumerate(parts):
        with open(f"{workdir}-{i}.log", "ab") as told:
            started.append(subprocess.Popen(command + part, stdout=told, stderr=told, env=environment))
    return started


def ended(processes, workdir: Path, seconds: float = 120) -> list[int]:
    """The exit codes; kills whatever is still there when the time is over."""
    until = time.monotonic() + seconds
    try:
        return [p.wait(max(0.1, until - time.monotonic())) for p in processes]
    except subprocess.TimeoutExpired:
        logs = "".join(Path(f"{workdir}-{i}.log").read_text()[-3000:] for i in range(len(processes)))
        pytest.fail(f"still running after {seconds} s:\n{logs}")
    finally:
        for p in processes:
            p.kill()
            p.wait()


def done(processes, workdir: Path) -> None:
    codes = ended(processes, workdir)
    assert not any(codes), Path(f"{workdir}-0.log").read_text()[-3000:]


def reports(workdir: Path) -> list[dict[str, float]]:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    names = ("step", "loss", "grad_norm", "eval/loss")
    told = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{name: line[name] for name in names if name in line} for line in told]


def wait_for(step: int, workdir: Path, processes) -> None:
    until = time.monotonic() + 120
    while not any(line["step"] >= step for line in reports(workdir)):
        assert time.monotonic() < until and all(p.poll() is None for p in processes), Path(
            f"{workdir}-0.log"
        ).read_text()[-3000:]
        time.sleep(0.01)


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Path:
    """A run of two processes that nothing disturbs."""
    workdir = tmp_path_factory.mktemp("processes") / "calm"
    done(start(workdir), workdir)
    assert [line["step"] for line in reports(workdir) if "loss" in line][-2:] == [117, 120]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert sum(line.get("compilations", 0) for line in lines) == 0
    return workdir


def test_killed_processes_go_on_to_the_bit(calm, tmp_path):
    killed = tmp_path / "killed"
    processes = start(killed, delay=0.01)
    wait_for(35, killed, processes)
    for p in processes:
        p.kill()
    assert ended(processes, killed) == [-signal.SIGKILL] * 2
    done(start(killed), killed)
    assert "going on from step" in Path(f"{killed}-0.log").read_text()
    assert reports(killed) == reports(calm)
    assert (killed / "model.safetensors").read_bytes() == (calm / "model.safetensors").read_bytes()


def test_a_checkpoint_goes_on_with_other_devices(calm, tmp_path):
    for name in ("one", "eight", "fsdp2", "fsdp8"):
        shutil.copytree(calm, tmp_path / f"on_{name}")
        for folder in (tmp_path / f"on_{name}" / "checkpoints").iterdir():
            if int(folder.name) > SAVED:
                shutil.rmtree(folder)
    done(start(tmp_path / "on_", devices=8, processes=1), tmp_path / "on_")
    expected = reports(calm)
    for name in ("one", "eight", "fsdp2", "fsdp8"):
        found = reports(tmp_path / f"on_{name}")
        assert [line.keys() for line in found] == [line.keys() for line in expected]
        values = [[[x for x in line.values()] for line in lines] for lines in (found, expected)]
        for ours, theirs in zip(*values, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=name)


def test_sigterm_to_one_saves_and_ends_all(calm, tmp_path):
    told = tmp_path / "told"
    processes = start(told, steps=10_000, delay=0.02)
    wait_for(10, told, processes)
    processes[1].send_signal(signal.SIGTERM)
    done(processes, told)
    stopped = max(int(folder.name) for folder in (told / "checkpoints").iterdir())
    assert f"stopped at step {stopped};" in Path(f"{told}-0.log").read_text()
    done(start(told, steps=max(STEPS, stopped + 10)), told)
    again = [line for line in reports(told) if line["step"] <= STEPS]
    assert again == reports(calm)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_other(tmp_path, victim):
    workdir = tmp_path / "dies"
    processes = start(workdir, steps=10_000, delay=0.01)
    wait_for(5, workdir, processes)
    processes[victim].kill()
    codes = ended(processes, workdir, 60)
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] != 0


if __name__ == "__main__":
    work(*sys.argv[1:])

"""The same work on many items: in this process, in several, or as an Apache Beam pipeline on a cluster.

The processes start anew (spawn): a fork of a process that runs JAX may hang. They end when their parent is killed.
"""

import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(work: Callable[[Item], Result], items: Sequence[Item], jobs: int | None = None) -> Iterator[Result]:
    """The results of `work` in the order of the items.

    Args:
        work: a function of a module, or a `functools.partial` of one.
        items: what it is called with, one at a time.
        jobs: processes; None takes one per CPU. More than one starts Python anew, so a script that calls this needs
            its `if __name__ == "__main__":`.

    Raises:
        ValueError: a process died, or what `work` raises.
    """
    jobs = min(jobs or os.cpu_count() or 1, len(items))
    if jobs <= 1:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        yield from pool.map(work, items)
    except BrokenProcessPool as error:
        raise ValueError(
            "a preparing process died: was memory short, or has the calling script no "
            '`if __name__ == "__main__":`? jobs=1 needs neither'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A killed parent leaves its processes waiting for work for ever: each watches it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_beam(work: Callable[[Item], Any], items: Sequence[Item], flags: Sequence[str]) -> None:
    """Does `work` on each item as a pipeline; it must leave its results in files that all workers share.

    Args:
        work: as in `in_processes`.
        items: as in `in_processes`.
        flags: Beam's pipeline options, for example `--runner=FlinkRunner`; none runs on this machine.

    Raises:
        ValueError: Beam is not installed.
    """
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports]
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f'Apache Beam cannot be imported ({error}): pip install "jaxtts[beam]"') from error
    with beam.Pipeline(options=PipelineOptions(list(flags))) as pipeline:
        work_item = functools.partial(_call, work)
        _ = pipeline | beam.Create(list(items)) | beam.Reshuffle() | beam.Map(work_item)


def _call(work: Callable[[Item], Any], item: Item) -> None:
    work(item)

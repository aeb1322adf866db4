"""Items made in a thread while earlier ones are used."""

import atexit
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from queue import Empty, Queue
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def ahead(items: Iterable[T], depth: int = 8) -> Generator[T, None, None]:
    """The same items, made in a thread that begins with the first `next` and is at most `depth` ahead.

    An error in the thread is raised here, in its place. Closing the iterator ends the thread.
    """
    queue: Queue[Any] = Queue(depth)
    closed = threading.Event()

    def work() -> None:
        try:
            for item in items:
                queue.put((item, None))
                if closed.is_set():
                    return
            queue.put((_END, None))
        except BaseException as error:
            queue.put((_END, error))

    thread = threading.Thread(target=work, name="jaxtts-stream", daemon=True)

    def close() -> None:
        closed.set()
        while thread.is_alive():  # it may wait for room
            with suppress(Empty):
                queue.get(timeout=0.01)

    forget = atexit.unregister  # by a name that lasts longer than this module
    atexit.register(close)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        close()
        forget(close)

"""One thread that prepares batches while the last one is used."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

__all__ = ["prefetched"]

T = TypeVar("T")


def prefetched(work: Callable[[Any], T], inputs: Sequence[Any], depth: int) -> Iterator[T]:
    """Yield ``work(x)`` for every input in order, up to ``depth`` of them made ahead by one thread.

    An exception of ``work`` is raised here; leaving the loop early ends the thread.
    """
    if depth < 1:
        for item in inputs:
            yield work(item)
        return
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(entry: tuple[bool, Any]) -> None:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.05)
            except queue.Full:
                continue
            return

    def run() -> None:
        try:
            for item in inputs:
                if stop.is_set():
                    return
                put((True, work(item)))
        except BaseException as error:  # handed to the reading thread, which raises it
            put((False, error))

    thread = threading.Thread(target=run, name="scidyn-prefetch", daemon=True)
    thread.start()
    try:
        for _ in inputs:
            good, value = ready.get()
            if not good:
                raise value
            yield value
            value = None  # the batch that was drawn is the reader's alone
    finally:
        stop.set()
        while thread.is_alive():  # it may be waiting for a place in the queue
            with contextlib.suppress(queue.Empty):
                ready.get_nowait()
            thread.join(0.001)

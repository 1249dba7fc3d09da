"""End a long fit when the machine asks for it: finish the step, write the checkpoint, leave with code 75."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["TRY_AGAIN", "StopRequest", "stop_requests"]

TRY_AGAIN = 75
"""Exit code that batch systems read as "run me again"."""

_SIGNALS = ("SIGTERM", "SIGUSR1")


class StopRequest:
    """Whether somebody asked the process to stop."""

    def __init__(self) -> None:
        self.received: str | None = None

    def __bool__(self) -> bool:
        return self.received is not None


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGUSR1 instead of dying from them; only a main thread can, elsewhere nothing changes."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        request.received = signal.Signals(number).name

    known = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before: dict[Any, Any] = {number: signal.signal(number, note) for number in known}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

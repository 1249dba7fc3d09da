"""A bar that shows how far a solve has come."""

from __future__ import annotations

import sys
import time
from typing import TextIO

__all__ = ["Bar"]

WIDTH = 30
EVERY = 0.1
QUIET = 1.0


class Bar:
    """Write the fraction done to a stream: one line rewritten on a terminal, one line per quarter elsewhere.

    Nothing is written in the first second.

    Parameters
    ----------
    stream : file, optional
        Default: the standard error stream.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._begun = self._last = time.monotonic()
        self._quarter, self._written = 0, False

    def __call__(self, fraction: float) -> None:
        """Show ``fraction``, between 0 and 1."""
        now, fraction = time.monotonic(), min(max(fraction, 0.0), 1.0)
        finished = fraction >= 1.0
        if now - self._begun < QUIET or (finished and not self._written and now - self._begun < QUIET + EVERY):
            return
        if self._stream.isatty():
            if now - self._last >= EVERY or finished:
                done = int(fraction * WIDTH)
                end = "\n" if finished else ""
                self._stream.write(f"\rsolve_ode [{'#' * done}{' ' * (WIDTH - done)}] {fraction:4.0%}{end}")
                self._stream.flush()
                self._last, self._written = now, True
        elif int(4 * fraction) > self._quarter:
            self._quarter, self._written = int(4 * fraction), True
            self._stream.write(f"solve_ode: {fraction:.0%}\n")

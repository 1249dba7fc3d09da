"""Show how far a long job has come: a bar on a terminal, plain lines elsewhere, nothing for short jobs."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["Progress"]

PATIENCE = 2.0
"""Seconds of silence: jobs shorter than this print nothing."""

EVERY = 5.0
"""Seconds between plain lines within one stage."""


class Progress:
    """Context manager that tells a person what is being done and how far it has come.

    On a terminal a bar moves; elsewhere (a log file, a pipe) a line is printed for each stage and
    then every five seconds. Both tell how long the stage will still take. Nothing is printed in the
    first two seconds. All goes to ``stderr``.

    Parameters
    ----------
    title : str
        What the whole job is called.
    enabled : bool, optional
        False prints nothing at all; default True.

    Examples
    --------
    >>> from scidyn.training.progress import Progress
    >>> with Progress("fit") as bar:
    ...     bar.stage("Adam")
    ...     bar.advance(0.5, "loss 0.1")
    """

    def __init__(self, title: str, enabled: bool | None = None) -> None:
        self.title = title
        self.enabled = True if enabled is None else bool(enabled)
        self._start = self._last = self._begun = time.monotonic()
        self._text, self._told = "", ""
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._start = self._last = self._begun = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def stage(self, text: str) -> None:
        """Begin the part of the job that ``text`` names.

        Parameters
        ----------
        text : str
            For example ``"fit the whole record"``.
        """
        self._text, self._begun = text, time.monotonic()
        self.advance(0.0)

    def advance(self, fraction: float, text: str = "") -> None:
        """Tell which ``fraction`` of the stage is done.

        Parameters
        ----------
        fraction : float
            From 0 to 1.
        text : str
            A few words or numbers to show beside it.
        """
        now = time.monotonic()
        if not self.enabled or now - self._start < PATIENCE:
            return
        words = f"{self._text} {text}".strip()
        if sys.stderr.isatty():
            self._draw(fraction, words)
        elif self._text != self._told or now - self._last >= EVERY:
            self._told, self._last = self._text, now
            share = f" {100 * fraction:.0f} %{self._left(fraction)}" if fraction > 0 else ""
            print(f"{self.title}: {words}{share}", file=sys.stderr, flush=True)

    def _left(self, fraction: float) -> str:
        """How long the stage will still take, if it goes on as it did."""
        if fraction < 0.02 or fraction >= 1:
            return ""
        seconds = (time.monotonic() - self._begun) * (1 - fraction) / fraction
        return f", about {seconds:.0f} s left" if seconds < 120 else f", about {seconds / 60:.0f} min left"

    def _draw(self, fraction: float, words: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}")
            self._bar = Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.title, total=1.0, words=words)
            self._bar.start()
        self._bar.update(self._task, completed=fraction, words=f"{words}{self._left(fraction)}")

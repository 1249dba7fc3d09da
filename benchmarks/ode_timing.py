"""Measure competitors in turn and compare them at equal error."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Contest", "Entry"]


@dataclass
class Entry:
    """One competitor.

    Attributes
    ----------
    name : str
        What the table calls it.
    run : callable
        ``run(tolerance)`` solves and gives an array.
    tolerances : sequence of float
        What it is run at.
    group : str
        Entries are compared with the first of their group.
    """

    name: str
    run: Callable[[float], np.ndarray]
    tolerances: Sequence[float]
    group: str = ""
    errors: list[float] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)
    first: float = 0.0

    def time(self, index: int) -> float:
        """Median seconds at a tolerance."""
        return statistics.median(self.seconds[index])

    def at(self, error: float) -> tuple[float, str]:
        """Time at an error, interpolated between tolerances on logarithmic axes, and a mark if it is a bound.

        The mark is "<" if even the loosest tolerance is more accurate, ">" if not even the tightest is as accurate.
        """
        order = np.argsort(self.errors)
        errors = np.log([max(self.errors[i], 1e-300) for i in order])
        times = np.log([self.time(i) for i in order])
        where = math.log(error)
        mark = ">" if where < errors[0] else "<" if where > errors[-1] else ""
        return float(np.exp(np.interp(where, errors, times))), mark


def _once(entry: Entry, tolerance: float) -> float:
    """CPU seconds of one run; a short run is repeated, since the first one pays for the caches of its neighbours."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < 3 and sum(seconds) < 0.05):
        begin = time.process_time()
        entry.run(tolerance)
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds)


@dataclass
class Contest:
    """A problem and its competitors.

    Attributes
    ----------
    title : str
        Heading of the table.
    entries : list of Entry
        Who takes part; those that cannot run are reported and left out.
    wrong : callable
        ``wrong(result)`` is the error.
    """

    title: str
    entries: list[Entry]
    wrong: Callable[[np.ndarray], float]

    def measure(self, rounds: int, limit: float) -> None:
        """Warm up, then run every entry once a round; entries slower than ``limit`` seconds run fewer times.

        The warm-up of a slow entry counts, unless it is its first call.
        """
        able = []
        for entry in self.entries:
            try:
                for tolerance in entry.tolerances:
                    begin = time.process_time()
                    found = entry.run(tolerance)
                    spent = time.process_time() - begin
                    counts = spent > limit / 4 and bool(entry.errors)
                    entry.first = entry.first or spent
                    entry.errors.append(self.wrong(found))
                    entry.seconds.append([spent] if counts else [])
            except Exception as reason:  # a peer may fail in its own way; the table says so
                print(f"{entry.name}: failed, {type(reason).__name__}: {str(reason).splitlines()[0][:120]}")
                continue
            able.append(entry)
        self.entries = able
        for _ in range(rounds):
            for entry in self.entries:
                for i, tolerance in enumerate(entry.tolerances):
                    seconds = entry.seconds[i]
                    if not seconds or sum(seconds) + seconds[0] < limit:
                        seconds.append(_once(entry, tolerance))

    def report(self, error: float | None = None) -> None:
        """Print the table; at ``error``, or at that of the first of each group at its first tolerance."""
        print(f"\n### {self.title}\n")
        print("| | ms | error | ms at equal error | times that of the first | first call, s |")
        print("|---|---|---|---|---|---|")
        for group in dict.fromkeys(entry.group for entry in self.entries):
            rows = [entry for entry in self.entries if entry.group == group]
            common = error or rows[0].errors[0]
            own = rows[0].at(common)[0]
            for entry in rows:
                each = " / ".join(f"{1e3 * entry.time(i):.3g}" for i in range(len(entry.tolerances)))
                wrong = " / ".join(f"{e:.1e}" for e in entry.errors)
                seconds, mark = entry.at(common)
                print(
                    f"| {entry.name} | {each} | {wrong} | {mark}{1e3 * seconds:.3g} | {mark}{seconds / own:.3g} "
                    f"| {entry.first:.2g} |"
                )
            print("| | | | | | |")

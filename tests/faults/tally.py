"""Count the faults that were tried and survived, per kind, over all workers; part of the suite's own plugin."""

from __future__ import annotations

import os
import re
from collections import Counter

import pytest

NIGHTLY = os.environ.get("SCIDYN_FAULTS") == "nightly"

LISTED = {
    # kind: (least number in every run, least number with SCIDYN_FAULTS=nightly, what is done to the package)
    "F01": (20, 300, "SIGKILL while a checkpoint is written"),
    "F02": (30, 600, "SIGKILL while a Dataset, a table, shards are written"),
    "F03": (4, 50, "SIGKILL in a fit, which then goes on with the same bits"),
    "F04": (2, 10, "SIGTERM and SIGUSR1 to a fit"),
    "F05": (30, 120, "full disk at every path that writes"),
    "F06": (40, 40, "the n-th call that touches the disk fails"),
    "F07": (96, 1600, "truncated files of every format"),
    "F08": (60, 1000, "flipped bits and lost pages in artefacts and shards"),
    "F09": (200, 5000, "NaN and infinity in values, times, masks, controls, parameters"),
    "F10": (200, 5000, "times that repeat, go back, are not finite or overflow"),
    "F11": (30, 30, "units that clash, lack or are unknown"),
    "F12": (60, 60, "dims that are wrong, transposed or mis-spelt"),
    "F13": (25, 25, "too little data"),
    "F14": (20, 200, "leakage between splits"),
    "F19": (12, 12, "pickles in disguise"),
    "F20": (8, 8, "HDF5 files that reach out or never end"),
    "F21": (8, 8, "files that declare more than they hold"),
    "F22": (40, 40, "names that lead out of their folder"),
    "F23": (540, 20_000, "expressions in text"),
    "F24": (10, 100, "two writers, a stale lock"),
    "F25": (6, 40, "forks, spawned and forked servers, threads, pickles"),
    "F26": (1, 4, "files ten times the memory"),
    "F29": (8, 8, "files of other versions"),
    "F30": (8, 8, "other surroundings"),
    "F31": (40, 40, "lab tables"),
}

TRIED: Counter[str] = Counter()
SURVIVED: Counter[str] = Counter()


def kind_of_the_test() -> str:
    """The kind in the name of the test that runs: ``test_f07_truncated`` is F07."""
    found = re.search(r"::test_(f\d\d)_", os.environ.get("PYTEST_CURRENT_TEST", ""))
    return found.group(1).upper() if found else "other"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """A worker of pytest-xdist has ended and says what it counted."""
    output = getattr(node, "workeroutput", {})
    if "faults" in output:
        tried, survived = output["faults"]
        TRIED.update(tried)
        SURVIVED.update(survived)


def pytest_sessionfinish(session, exitstatus):
    """In a worker hand the counts over; else fail the run if a fault was not survived or too few were tried."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = (dict(TRIED), dict(SURVIVED))
    elif exitstatus == 0 and (TRIED != SURVIVED or lacking(session.config)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def lacking(config) -> list[str]:
    """Kinds of which fewer were tried than are listed, where the whole folder ran."""
    if not _whole(config):
        return []
    return [k for k, (least, most, _) in LISTED.items() if TRIED[k] < (most if NIGHTLY else least)]


def _whole(config) -> bool:
    option = config.option
    chosen = option.keyword or option.markexpr not in ("", "not slow") or getattr(option, "lf", False)
    places = {str(arg).rstrip("/").rsplit("/", 1)[-1] for arg in config.args}
    return not chosen and bool(places & {"tests", "faults"})


def pytest_terminal_summary(terminalreporter, config):
    """``faults survived: N of M``, and per kind where something is amiss or the folder ran by itself."""
    if not TRIED:
        return
    amiss = lacking(config)
    if amiss or TRIED != SURVIVED or config.option.verbose > 0:
        for kind in sorted(TRIED | Counter(dict.fromkeys(amiss, 1))):
            least, most, what = LISTED.get(kind, (0, 0, ""))
            listed = most if NIGHTLY else least
            terminalreporter.write_line(f"  {kind}: {SURVIVED[kind]} of {TRIED[kind]}, listed {listed}: {what}")
    for kind in amiss:
        terminalreporter.write_line(f"too few faults of kind {kind} were tried")
    terminalreporter.write_line(f"faults survived: {SURVIVED.total()} of {TRIED.total()}")

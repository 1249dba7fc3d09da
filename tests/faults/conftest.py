"""The closing line: how many faults were tried and how many survived."""

from harness import TALLY


def pytest_terminal_summary(terminalreporter):
    if TALLY["tried"]:
        terminalreporter.write_line(f"faults survived: {TALLY['survived']} of {TALLY['tried']}")

"""``scidyn demo``: the whole way on the Hudson Bay lynx and hare record."""

from __future__ import annotations

from pathlib import Path

__all__ = ["run_demo"]

HOLD_OUT_FROM = 1914.0


def run_demo(out: Path, *, progress: bool) -> None:
    """Fit 1900–1920, judge a forecast of 1914–1920, write the report; an earlier demo is replaced."""
    from scidyn import datasets
    from scidyn.cli.fit import build
    from scidyn.cli.tables import print_dataset
    from scidyn.cli.workflow import fit_and_report

    record = datasets.load("lynx_hare")
    print_dataset(record, "Hudson Bay lynx and hare pelts")
    fit_and_report(
        build("lotka-volterra", noise="auto", seed=0),
        record,
        out,
        hold_out_from=HOLD_OUT_FROM,
        overwrite=True,
        progress=progress,
    )

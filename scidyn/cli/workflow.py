"""What ``fit`` and ``demo`` share: judge the forecast, fit the whole record, save, report, print."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scidyn.data.io import atomic
from scidyn.errors import ArtifactError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["fit_and_report"]


def fit_and_report(
    model: Any,
    record: xr.Dataset,
    out: Path,
    *,
    hold_out_from: float | None,
    overwrite: bool,
    progress: bool,
    checkpoint: Path | None = None,
) -> None:
    """Fit ``model`` to ``record``, judge it on held-out times, and leave everything in ``out``.

    Both fits are kept in ``checkpoint``, from which the same call goes on after a kill.
    """
    from scidyn import data, sysid, viz
    from scidyn.cli.tables import print_forecast_errors, print_parameters
    from scidyn.training.progress import Progress

    spare_threads()
    with Progress("scidyn fit", enabled=progress) as bar:
        bar.stage("judge the forecast on held-out times")
        first, second = (None, None) if checkpoint is None else (checkpoint / "forecast", checkpoint / "whole")
        trial = sysid.backtest(model, record, at=hold_out_from, checkpoint=first, progress=bar)
        bar.stage("fit the whole record")
        model.fit(record, checkpoint=second, progress=bar)
        bar.stage("write the report")
        make_folder(out)
        model.save(out / "model", overwrite=overwrite)
        data.save(model.fitted_, out / "fitted.csv", overwrite=overwrite)
        write_table(trial.errors, out / "forecast-errors.csv")
        if getattr(model, "parameters_", None) is not None:
            write_table(model.parameters_, out / "parameters.csv")
        report = viz.report(model, record, out / "report.html", backtest=trial, overwrite=overwrite)
    print_parameters(model)
    print_forecast_errors(trial.errors)
    print(f"\nreport: {report}\nmodel:  {out / 'model'}")


def spare_threads() -> None:
    """Use one thread unless the user set a number: the matrices are small, and threads only wait for each other."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)


def make_folder(out: Path) -> None:
    """Make the folder of results."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{out} could not be made: {error}.") from error


def write_table(table: xr.Dataset, path: Path) -> None:
    """A table of results as CSV, one row per entry."""
    atomic.write_bytes(path, table.to_dataframe().to_csv().encode())

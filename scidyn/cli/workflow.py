"""What ``fit`` and ``demo`` share: judge the forecast, fit the whole record, save, report, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
) -> None:
    """Fit ``model`` to ``record``, judge it on held-out times, and leave everything in ``out``."""
    from scidyn import data, sysid, viz
    from scidyn.cli.tables import print_forecast_errors, print_parameters
    from scidyn.training.progress import Progress

    with Progress("scidyn fit", enabled=progress) as bar:
        bar.stage("judge the forecast on held-out times")
        trial = sysid.backtest(model, record, at=hold_out_from)
        bar.stage("fit the whole record")
        model.fit(record)
        bar.stage("write the report")
        out.mkdir(parents=True, exist_ok=True)
        model.save(out / "model", overwrite=overwrite)
        data.save(model.fitted_, out / "fitted.csv", overwrite=overwrite)
        report = viz.report(model, record, out / "report.html", backtest=trial)
    print_parameters(model)
    print_forecast_errors(trial)
    print(f"\nreport: {report}\nmodel:  {out / 'model'}")

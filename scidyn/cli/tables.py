"""The short tables that commands end with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["print_dataset", "print_forecast_errors", "print_parameters"]


def _table(title: str, *columns: str) -> Table:
    if title:
        Console().print(f"\n[bold]{title}[/bold]", highlight=False)
    table = Table(box=None, pad_edge=False)
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else "right", no_wrap=True)
    return table


def _short(x: float) -> str:
    return "–" if x != x else f"{x:.3g}"


def print_parameters(model: Any) -> None:
    """Estimates with intervals, one row a parameter; silent for models without parameters."""
    table_of = getattr(model, "parameters_", None)
    if table_of is None:
        return
    percent = round(100 * model.confidence)
    table = _table(f"Parameters ({model.noise_model_} noise)", "", "estimate", "s.e.", f"{percent} % interval", "units")
    for name in table_of["parameter"].values:
        row = table_of.sel(parameter=name)
        table.add_row(
            str(name),
            _short(float(row["estimate"])),
            _short(float(row["stderr"])),
            f"{_short(float(row['lower']))} to {_short(float(row['upper']))}",
            str(row["units"].item()),
        )
    Console().print(table)


def print_forecast_errors(errors: xr.Dataset) -> None:
    """Forecast errors of the model and of the naive baselines, best of each column marked."""
    rmse = errors["rmse"]
    variables = [str(v) for v in rmse["variable"].values]
    table = _table("Forecast error (RMSE on held-out times)", "", *variables)
    best = rmse.min("model")
    for name in rmse["model"].values:
        row = rmse.sel(model=name)
        cells = [
            _short(float(row.sel(variable=v)))
            + (" *" if float(row.sel(variable=v)) == float(best.sel(variable=v)) else "  ")
            for v in variables
        ]
        table.add_row(str(name), *cells)
    Console().print(table)
    Console().print("* best of its column", style="dim")


def print_dataset(dataset: xr.Dataset, source: str) -> None:
    """Structure, sampling, and every variable with units, role, counts and range, for all kinds."""
    from scidyn.data.accessor import structure, summary

    kind = dataset.attrs.get("scidyn_kind", "Dataset")
    first, *more = structure(dataset)
    for line in (f"{source}: {kind}, {first}" if kind not in first else f"{source}: {first}", *more):
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
    table = _table("", "variable", "units", "role", "observed", "missing", "range")
    for name, units, observed, missing, span, role in summary(dataset):
        table.add_row(*(escape(str(v)) for v in (name, units, role, observed, missing, span)))
    Console().print(table)
    for key in ("history", "license"):
        if key in dataset.attrs:
            Console().print(f"{key}: {dataset.attrs[key]}", highlight=False, markup=False, soft_wrap=True)

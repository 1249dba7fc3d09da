"""The short tables that commands end with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
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
    """Variables with units, counts and ranges; sampling; gaps."""
    from scidyn.data import state_variables

    states = state_variables(dataset)
    sizes = ", ".join(f"{n} {d}" for d, n in dataset.sizes.items())
    Console().print(f"{source}: {dataset.attrs.get('scidyn_kind', 'Dataset')} ({sizes})", highlight=False)
    time = dataset["time"]
    low, high = float(time.min()), float(time.max())
    steps = time.diff(time.dims[-1])
    spacing = (
        f"every {_short(float(steps.min()))}"
        if float(steps.max() - steps.min()) < 1e-9 * max(abs(high), 1)
        else (f"steps {_short(float(steps.min()))} to {_short(float(steps.max()))}")
    )
    Console().print(f"time: {low:g} to {high:g} {time.attrs.get('units', '?')}, {spacing}", highlight=False)
    table = _table("", "variable", "units", "observed", "missing", "smallest", "largest")
    for name in dataset.data_vars:
        values = dataset[name]
        if values.dtype.kind not in "fiu":
            continue
        observed = int(values.notnull().sum())
        role = "" if name in states else f" ({values.attrs.get('role', 'other')})"
        table.add_row(
            f"{name}{role}",
            str(values.attrs.get("units", "?")),
            str(observed),
            str(values.size - observed),
            _short(float(values.min())),
            _short(float(values.max())),
        )
    Console().print(table)

"""``scidyn forecast``: a saved model's future, with bands."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scidyn._check.values import number
from scidyn.errors import ArtifactError, OptionError

__all__ = ["model_folder", "run_forecast"]


def model_folder(path: Path) -> Path:
    """The model folder itself, given it or the results folder of ``scidyn fit``."""
    inside = path / "model"
    return inside if (inside / "manifest.json").is_file() and not (path / "manifest.json").exists() else path


def run_forecast(
    path: Path, *, until: float, step: float | None, interval: float, out: Path | None, overwrite: bool
) -> None:
    """Load the model, forecast from the end of its record, print or write the table."""
    number("--interval", interval, above=0, below=1)
    if step is not None:
        number("--step", step, above=0)
    if out is not None and out.exists() and not overwrite:
        raise ArtifactError(f"{out} exists; nothing was changed. Name another --out or pass --overwrite.")

    from scidyn import data
    from scidyn.model_files import load

    model = load(model_folder(path))
    observed = model.times_
    last = float(observed[-1])
    number("--until", until)
    spacing = float(np.median(np.diff(observed))) if step is None else step
    if until <= last:
        raise OptionError(f"--until must lie after the record's last time {last:g}; got {until:g}.")
    times = np.arange(last + spacing, until + 1e-9 * spacing, spacing)
    if times.size == 0 or times[-1] < until - 1e-9 * spacing:
        times = np.append(times, until)
    future = model.predict(times, interval=interval)
    if out is None:
        _print(future, interval)
    else:
        data.save(future, out, overwrite=overwrite)
        print(f"forecast: {out}")


def _print(future: object, interval: float) -> None:
    import xarray as xr
    from rich.console import Console
    from rich.table import Table

    ds: xr.Dataset = future  # type: ignore[assignment]
    names = [str(n) for n in ds.data_vars if not str(n).endswith(("_lower", "_upper"))]
    band = f"{round(100 * interval)} %"
    table = Table(box=None, pad_edge=False)
    table.add_column(f"time\n({ds['time'].attrs.get('units', '1')})", justify="right", no_wrap=True)
    for name in names:
        table.add_column(f"{name}\n({ds[name].attrs.get('units', '1')})", justify="right", no_wrap=True)
        table.add_column(band, justify="right", no_wrap=True)
    trajectories = range(ds.sizes["trajectory"]) if "trajectory" in ds.dims else [None]
    for k in trajectories:
        one = ds if k is None else ds.isel(trajectory=k)
        if k is not None:
            table.add_row(f"trajectory {one['trajectory'].item()}")
        for i, t in enumerate(one["time"].values):
            row = [f"{t:g}"]
            for name in names:
                row.append(f"{float(one[name][i]):.3g}")
                row.append(f"{float(one[f'{name}_lower'][i]):.3g} to {float(one[f'{name}_upper'][i]):.3g}")
            table.add_row(*row)
    Console().print(table)

"""``scidyn inspect``: what a data file or a model folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scidyn.cli.fit import parse_units
from scidyn.cli.forecast import model_folder
from scidyn.errors import ArtifactError

__all__ = ["run_inspect"]


def run_inspect(
    path: Path, *, time: str | None, trajectory: str | None, units: Sequence[str], plot: Path | None
) -> None:
    """Print structure and problems; draw the record if asked."""
    from scidyn.cli.tables import print_dataset, print_parameters

    if path.is_dir() and not _is_data(path):
        from scidyn.model_files import load

        model = load(model_folder(path))
        print(f"{path}: {model!r}")
        print(model.equations())
        print_parameters(model)
        return

    from scidyn import data

    hints: dict[str, Any] = {"units": parse_units(units), "time": time, "id": trajectory}
    if plot is not None and plot.exists():
        raise ArtifactError(f"{plot} exists; nothing was changed. Name another file with --plot.")
    record = data.open(path, **{k: v for k, v in hints.items() if v})
    print_dataset(record, str(path))
    for warning in data.validate(record).warnings:
        print(f"look at: {warning}")
    if plot is not None:
        from scidyn import viz

        series = not set(record.dims) - {"trajectory", "time", "obs", "feature"}
        axes = viz.plot_record(record) if series else record.scidyn.plot()
        print(f"plot: {viz.save_figure(axes, plot)}")


def _is_data(folder: Path) -> bool:
    """A folder of shards or a Zarr store, not a model."""
    return any((folder / name).is_file() for name in ("shards.json", "zarr.json", ".zgroup"))

"""``scidyn fit``: from a data file to a saved model, its tables and its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scidyn._check.values import choice
from scidyn.errors import ArtifactError, OptionError

__all__ = ["MODELS", "run_fit"]

MODELS = ("lotka-volterra", "neural-ode", "hybrid")
OUTPUTS = ("model", "report.html", "parameters.csv", "forecast-errors.csv", "fitted.csv")


def build(model: str, *, noise: str, seed: int) -> Any:
    """The estimator behind a name of :data:`MODELS`."""
    from scidyn import sysid, systems

    if model == "neural-ode":
        return sysid.NeuralODE(noise=noise, seed=seed)
    if model == "hybrid":
        return sysid.HybridODE(systems.LotkaVolterra(), noise=noise, seed=seed)
    return sysid.MechanisticODE(systems.LotkaVolterra(), noise=noise, seed=seed)


def parse_units(pairs: Sequence[str]) -> dict[str, str]:
    """``["hare=thousand pelts"]`` as a mapping."""
    units = {}
    for pair in pairs:
        name, equals, unit = pair.partition("=")
        if not equals or not name.strip() or not unit.strip():
            raise OptionError(f"--units takes NAME=UNITS, for example --units 'hare=thousand pelts'; got {pair!r}.")
        units[name.strip()] = unit.strip()
    return units


def free_place(out: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Refuse, before any work, to write over results that are there or below what is no folder."""
    if out.exists() and not out.is_dir():
        raise ArtifactError(f"{out} is a file; nothing was changed. Name a folder with --out.")
    taken = [name for name in names if (out / name).exists()]
    if taken and not overwrite:
        raise ArtifactError(f"{out / taken[0]} exists; nothing was changed. Name another --out or pass --overwrite.")


def run_fit(
    data: Path,
    *,
    model: str,
    out: Path,
    time: str | None,
    values: str | None,
    trajectory: str | None,
    units: Sequence[str],
    hold_out_from: float | None,
    noise: str,
    seed: int,
    overwrite: bool,
    progress: bool,
    checkpoint: Path | None = None,
) -> None:
    """Open, fit, judge the forecast, save, report."""
    choice("--model", model, MODELS)
    choice("--noise", noise, ("auto", "normal", "lognormal"))
    hints: dict[str, Any] = {"units": parse_units(units)}
    if time is not None:
        hints["time"] = time
    if trajectory is not None:
        hints["id"] = trajectory
    if values is not None:
        hints["values"] = [name.strip() for name in values.split(",")]
    free_place(out, OUTPUTS, overwrite=overwrite)
    if checkpoint is not None and checkpoint.exists() and not checkpoint.is_dir():
        raise ArtifactError(f"{checkpoint} is a file; nothing was changed. Name a folder with --checkpoint.")

    from scidyn import data as data_room
    from scidyn.cli.workflow import fit_and_report

    record = data_room.open(data, **{k: v for k, v in hints.items() if v})
    fit_and_report(
        build(model, noise=noise, seed=seed),
        record,
        out,
        hold_out_from=hold_out_from,
        overwrite=overwrite,
        progress=progress,
        checkpoint=checkpoint,
    )

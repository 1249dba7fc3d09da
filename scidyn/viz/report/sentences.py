"""What the report says in words, each sentence from the numbers it speaks of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.viz.series import mean_names, time_label, trajectories

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "heading",
    "held_in_band",
    "join",
    "noise_sentence",
    "number",
    "span",
    "spread",
    "verdict",
    "what_was_fitted",
]


def number(x: float, digits: int = 3) -> str:
    """A number as a person writes it; a dash for NaN."""
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if math.isnan(x):
        return "–"
    text = f"{x:.{digits}g}"
    if "e" in text and 1e-5 < abs(x) < 1e6:
        text = f"{x:.0f}" if abs(x) >= 1 else f"{x:.{digits + 4}f}".rstrip("0")
    return text.replace("-", "−")


def join(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def heading(model: Any) -> str:
    """The report's title."""
    system = getattr(model, "system", None)
    kind = type(model).__name__ if system is None else f"{type(system).__name__} ({type(model).__name__})"
    return f"{kind} fitted to {join([str(v) for v in model.variables_])}"


def span(record: xr.Dataset) -> str:
    """First and last time with units."""
    times = np.asarray(record["time"].values, dtype=float)
    low, high = float(np.nanmin(times)), float(np.nanmax(times))
    units = str(record["time"].attrs.get("units", ""))
    label = time_label(record)
    return f"{label} {low:g} to {high:g}" if label == label.partition(" (")[0] else f"{low:g} to {high:g} {units}"


def what_was_fitted(model: Any, record: xr.Dataset) -> str:
    """One sentence: which model, how many observations, which times."""
    count = sum(int(record[n].notnull().sum()) for n in model.variables_)
    many = len(trajectories(record))
    where = f" in {many} trajectories" if many > 1 else ""
    return f"{type(model).__name__} was fitted to {count} observations{where}, {span(record)}."


def noise_sentence(model: Any, record: xr.Dataset) -> str:
    """Which noise model was assumed, and why."""
    lognormal = model.noise_model_ == "lognormal"
    asked = _asked_noise(model)
    what = (
        "Measurement noise is taken as log-normal: values scatter in proportion to their size"
        if lognormal
        else "Measurement noise is taken as normal: values scatter by the same amount everywhere"
    )
    if asked not in ("auto", ""):
        return f"{what}. This was asked for."
    positive = all(bool((record[n] > 0).where(record[n].notnull(), True).all()) for n in mean_names(record))
    if lognormal:
        why = "This was chosen because every observed value is positive"
    elif not positive:
        why = "This was chosen because not every observed value is positive"
    else:
        why = "This was chosen by the model"
    return f"{what}. {why}; another noise model would move the estimates."


def _asked_noise(model: Any) -> str:
    if hasattr(model, "get_params"):
        return str(model.get_params().get("noise", ""))
    return str(getattr(model, "noise", ""))


def spread(model: Any, name: str) -> str:
    """Size of the noise of one variable: a factor with log-normal noise, else in units."""
    table = model.noise_std_
    sigma = float(table.sel(variable=name)) if "variable" in table.dims else float(table[name])
    if model.noise_model_ == "lognormal":
        return f"×/÷ {number(math.exp(sigma))}"
    return f"± {number(sigma)} {model.units_.get(name, '')}".strip()


def verdict(errors: xr.Dataset) -> str:
    """Who forecast best, variable by variable, said also where a naive forecast wins."""
    rmse = errors["rmse"]
    own, *naive = [str(m) for m in rmse["model"].values]
    if not naive:
        return "No naive baseline was computed, so this forecast is not judged."
    wins, losses = [], []
    for variable in map(str, rmse["variable"].values):
        mine = float(rmse.sel(model=own, variable=variable))
        others = {n: float(rmse.sel(model=n, variable=variable)) for n in naive}
        rival = min(others, key=lambda n: others[n] if math.isfinite(others[n]) else math.inf)
        pair = f"(RMSE {number(mine)} against {number(others[rival])})"
        if mine < others[rival]:
            wins.append(f"{variable} better than {rival} {pair}")
        elif mine == others[rival]:
            losses.append(f"{variable} as well as the model {pair}: {rival}")
        else:
            losses.append(f"{variable} better than the model {pair}: {rival}")
    parts = []
    if wins:
        parts.append(f"On held-out times the model forecasts {'; '.join(wins)}.")
    if losses:
        parts.append(f"A naive forecast predicts {'; '.join(losses)}.")
    return " ".join(parts)


def held_in_band(coverage: xr.DataArray, confidence: float) -> str:
    """Which share of the held-out values the band held."""
    shares = [f"{round(100 * float(coverage.sel(variable=v)))} % of {v}" for v in map(str, coverage["variable"].values)]
    return f"The band that should hold {round(100 * confidence)} % of the held-out values held {join(shares)}."

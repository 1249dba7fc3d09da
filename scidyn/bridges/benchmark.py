"""Held-out snapshots by one fixed protocol, beside baselines that cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import choice, integer
from scidyn.bridges.baselines import METRICS, evaluate_cloud, interpolate_clouds
from scidyn.bridges.snapshots import Snapshots
from scidyn.errors import OptionError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["leave_one_out"]

BASELINES = ("interpolation", "previous", "next", "floor")


def leave_one_out(
    snapshots: Any,
    times: Any = None,
    methods: Mapping[str, Callable[[int], Any]] | None = None,
    *,
    metric: str | Sequence[str] = "w1",
    seeds: int = 5,
    cells: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> xr.Dataset:
    """Leave out every inner snapshot in turn, predict it, measure the distance.

    ``one_step`` moves the cells of the snapshot before the held-out one; ``rollout`` moves those of
    the first snapshot all the way. Nothing of the held-out snapshot is seen: not by the fit, not by a
    scale. Distances are between clouds of equal size. A method that is not ahead of
    ``interpolation`` has learned nothing.

    Parameters
    ----------
    snapshots : Snapshots, xarray.Dataset or sequence of array_like of shape (cell, feature)
        See :meth:`Snapshots.of`; at least three.
    times : array_like, shape (time,), optional
        Needed with a sequence of clouds.
    methods : mapping of str to callable
        Name to a function from a seed to an unfitted object with ``fit(snapshots)`` and
        ``push(x, start, stop)``.
    metric : str or sequence of str
        ``"w1"``, ``"w2"``: exact Wasserstein distance of order 1 or 2, Euclidean ground cost; ``"sliced"``: sliced
        Wasserstein distance of order 2; ``"mmd"``: maximum mean discrepancy; ``"energy"``: energy distance. Several
        are measured on the same fits.
    seeds : int
        Repetitions; each draws cells, fits and moves them anew.
    cells : int, optional
        Largest number of cells per snapshot; default all.
    progress : callable, optional
        Told the finished fraction.

    Returns
    -------
    xarray.Dataset
        ``distance`` with dims ``model, start, time, seed``, and ``metric`` if several were given; the methods
        ``interpolation``, ``previous``, ``next`` (copies of the neighbours) and ``floor`` (two halves of the
        held-out snapshot) stand beside yours.

    Raises
    ------
    scidyn.errors.DataError
        If there are fewer than three snapshots.
    scidyn.errors.OptionError
        If an option is not allowed.

    Examples
    --------
    >>> import numpy as np
    >>> from scidyn.bridges import SinkhornBridge, leave_one_out
    >>> rng = np.random.default_rng(0)
    >>> clouds = [k + 0.3 * rng.normal(size=(40, 2)) for k in range(3)]
    >>> table = leave_one_out(clouds, [0, 1, 2], {"bridge": lambda seed: SinkhornBridge(0.2)}, seeds=2)
    >>> mean = table["distance"].sel(start="one_step").mean(["time", "seed"])
    >>> bool(mean.sel(model="bridge") < mean.sel(model="previous"))
    True
    """
    import xarray as xr

    metrics = [metric] if isinstance(metric, str) else list(metric)
    for name in metrics or [""]:
        choice("metric", name, METRICS)
    count = integer("seeds", seeds, at_least=1)
    whole, methods = Snapshots.of(snapshots, times, least=3), dict(methods or {})
    taken = [n for n in methods if n in BASELINES]
    if taken:
        raise OptionError(f"{taken[0]!r} is the name of a baseline; name your method otherwise.")
    names, held = [*methods, *BASELINES], range(1, len(whole) - 1)
    values = np.full((len(names), 2, len(held), count, len(metrics)), np.nan)
    for r in range(count):
        generator = torch.Generator().manual_seed(r)
        drawn = whole.subsample(cells or max(whole.sizes), generator)
        for h, k in enumerate(held):
            scores = _one(drawn, k, methods, metrics, r, generator)
            for m, name in enumerate(names):
                values[m, :, h, r] = scores[name]
            if progress is not None:
                progress((r * len(held) + h + 1) / (count * len(held)))
    table = xr.Dataset(
        {"distance": (("model", "start", "time", "seed", "metric"), values)},
        coords={
            "model": names,
            "start": ["one_step", "rollout"],
            "time": ("time", whole.times[1:-1].numpy(), {"units": whole.time_units}),
            "seed": np.arange(count),
            "metric": metrics,
        },
        attrs={
            "metric": ", ".join(metrics),
            "cells": [min(n, cells or n) for n in whole.sizes],
            "features": whole.dim,
        },
    )
    return table.isel(metric=0, drop=True) if isinstance(metric, str) else table


def _one(
    s: Snapshots,
    k: int,
    methods: Mapping[str, Callable[[int], Any]],
    metrics: Sequence[str],
    seed: int,
    generator: torch.Generator,
) -> dict[str, tuple[list[float], list[float]]]:
    """Both distances of every method and baseline from snapshot ``k``."""
    seen = s.select([j for j in range(len(s)) if j != k])
    t, target = float(s.times[k]), s.clouds[k]
    share = (t - float(s.times[k - 1])) / float(s.times[k + 1] - s.times[k - 1])
    one: dict[str, Tensor] = {
        "interpolation": interpolate_clouds(s.clouds[k - 1], s.clouds[k + 1], share, generator),
        "previous": s.clouds[k - 1],
        "next": s.clouds[k + 1],
    }
    long = dict(one)
    for name, make in methods.items():
        model = make(seed).fit(seen)
        one[name] = model.push(s.clouds[k - 1], float(s.times[k - 1]), t)
        long[name] = one[name] if k == 1 else model.push(s.clouds[0], float(s.times[0]), t)
    first = evaluate_cloud(one, target, metrics, generator)
    second = evaluate_cloud(long, target, metrics, generator)
    return {name: (first[name], second[name] if name in methods else first[name]) for name in first}

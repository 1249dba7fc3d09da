"""Judge a bridge on times it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from scidyn._check.values import choice
from scidyn.bridges.benchmark import leave_one_out
from scidyn.bridges.flow_matching import FlowMatching
from scidyn.bridges.sc.tl.cells import snapshots
from scidyn.bridges.sinkhorn_bridge import SinkhornBridge
from scidyn.errors import NotFittedError, OptionError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["evaluate"]


def evaluate(
    adata: Any,
    *,
    key: str = "bridge",
    holdout: str | Sequence[float] = "all",
    metrics: Sequence[str] = ("w1",),
    seeds: int = 3,
    cells: int | None = 1000,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """Held-out scores of the bridge beside baselines: every inner time is left out in turn.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge.
    key : str
        Key of the bridge.
    holdout : "all" or sequence of float
        The inner times whose scores are averaged.
    metrics : sequence of str
        ``"w1"``, ``"w2"`` (exact Wasserstein distances), ``"sliced"``, ``"mmd"``, ``"energy"``.
    seeds : int
        Repetitions.
    cells : int, optional
        Largest number of cells per time.
    progress : callable, optional
        Told the finished fraction.

    Returns
    -------
    pandas.DataFrame
        One row per method: ``bridge``, and ``interpolation``, ``previous``, ``next``, ``floor`` (two halves of
        the held-out cells). Mean and standard deviation over seeds of ``one_step`` and ``rollout``, for each
        metric if there are several.

    Raises
    ------
    scidyn.errors.NotFittedError
        If there is no bridge.
    scidyn.errors.OptionError
        If a held-out time is no inner time, or a metric is not known.

    Notes
    -----
    Growth rates given as ``growth_key`` are not used here: what a cell of a held-out time would have grown
    is not known to the fit.

    Examples
    --------
    >>> from scidyn.bridges import sc
    >>> cells = sc.example_cells()
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> sc.tl.evaluate(cells, seeds=1).columns.tolist()
    ['one_step', 'rollout', 'one_step_std', 'rollout_std']
    """
    if key not in adata.uns:
        raise NotFittedError(f"uns has no bridge {key!r}; run sc.tl.bridge(adata, key_added={key!r}) first.")
    s = adata.uns[key]
    clouds, _ = snapshots(adata, time_key=s["time_key"], use_rep=s["use_rep"], n_dims=int(s["n_dims"]))
    sigma = s["sigma"] if s["sigma"] == "auto" else float(s["sigma"])

    def make(seed: int) -> Any:
        if s["solver"] == "sinkhorn":
            return SinkhornBridge(sigma, tau=float(s["tau"]), seed=seed)
        if s["solver"] == "flow":
            return FlowMatching(seed=seed)
        return FlowMatching(coupling="sinkhorn", sigma=sigma, seed=seed)

    table = leave_one_out(
        clouds, methods={"bridge": make}, metric=list(metrics), seeds=seeds, cells=cells, progress=progress
    )
    each = _held(table["distance"], holdout).mean("time")
    parts = []
    for metric in metrics:
        one = each.sel(metric=metric)
        mean, spread = one.mean("seed").to_pandas(), one.std("seed").to_pandas()
        part = mean.join(spread, rsuffix="_std")
        parts.append(part if len(metrics) == 1 else part.add_prefix(f"{metric}_"))
    return parts[0].join(parts[1:])


def _held(distance: xr.DataArray, holdout: str | Sequence[float]) -> xr.DataArray:
    """The held-out times that were asked for."""
    if isinstance(holdout, str):
        choice("holdout", holdout, ("all",))
        return distance
    known = distance["time"].values.tolist()
    for t in holdout:
        if float(t) not in known:
            raise OptionError(f"holdout={float(t):g} is no inner time of the cells; those are {known}.")
    return distance.sel(time=[float(t) for t in holdout])

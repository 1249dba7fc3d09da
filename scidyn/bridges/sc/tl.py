"""Compute: bridges, couplings, fates, velocities, interpolated cells, held-out scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scidyn._check.values import choice, integer
from scidyn.bridges.benchmark import leave_one_out
from scidyn.bridges.coupling import systematic
from scidyn.bridges.flow_matching import FlowMatching
from scidyn.bridges.sinkhorn_bridge import SinkhornBridge
from scidyn.bridges.snapshots import Snapshots, numeric_times
from scidyn.errors import DataError, NonFiniteError, NotFittedError, OptionError, TimeGridError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["bridge", "couplings", "evaluate", "fate", "interpolate", "snapshots", "velocity"]

SOLVERS = ("sinkhorn", "flow", "sf2m")


def snapshots(
    adata: Any, *, time_key: str = "day", use_rep: str = "X_pca", n_dims: int | None = None
) -> tuple[Snapshots, list[np.ndarray]]:
    """Cells of each time, and their rows in ``adata``.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a time per cell in ``obs`` and a representation in ``obsm``.
    time_key : str
        Column of ``obs``: numbers, or text or categories that read as numbers.
    use_rep : str
        Entry of ``obsm``.
    n_dims : int, optional
        Use only the first columns of the representation.

    Returns
    -------
    tuple of Snapshots and list of ndarray of int

    Raises
    ------
    scidyn.errors.DataError
        If the column or the representation is missing, or a time has one cell.
    scidyn.errors.TimeGridError
        If times are not numbers.
    scidyn.errors.NonFiniteError
        If the representation has NaN.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scidyn.bridges import sc
    >>> cells = sc.CellTable(pd.DataFrame({"day": [0, 0, 1, 1]}), {"X_pca": np.eye(4)})
    >>> sc.tl.snapshots(cells, n_dims=2)[0].sizes
    (2, 2)
    """
    if time_key not in adata.obs:
        raise DataError(f"obs has no column {time_key!r}; its columns are {[str(c) for c in adata.obs.columns]}.")
    if use_rep not in adata.obsm:
        raise DataError(f"obsm has no representation {use_rep!r}; it holds {sorted(adata.obsm)}.")
    when = numeric_times(np.asarray(adata.obs[time_key]))
    if not np.isfinite(when).all():
        row = int(np.flatnonzero(~np.isfinite(when))[0])
        raise TimeGridError(f"obs[{time_key!r}] of cell {row} is {when[row]}; drop the cells without a time.")
    x = np.asarray(adata.obsm[use_rep], dtype=float)
    x = x if n_dims is None else x[:, : integer("n_dims", n_dims, at_least=1)]
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise NonFiniteError(f"obsm[{use_rep!r}] of cell {row} is not finite; drop such cells.")
    times = np.unique(when)
    rows = [np.flatnonzero(when == t) for t in times]
    return Snapshots.of([x[r] for r in rows], times), rows


def bridge(
    adata: Any,
    *,
    time_key: str = "day",
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    solver: str = "sinkhorn",
    sigma: float | str = "auto",
    growth_key: str | None = None,
    tau: float = 1.0,
    key_added: str = "bridge",
    random_state: int = 0,
) -> SinkhornBridge | FlowMatching:
    """Fit a bridge through the snapshots.

    Parameters
    ----------
    adata : AnnData or CellTable
        Cells; ``uns[key_added]`` receives the settings.
    time_key : str
        Column of ``obs`` with the times.
    use_rep : str
        Entry of ``obsm``.
    n_dims : int, optional
        Use only the first columns of the representation.
    solver : {"sinkhorn", "flow", "sf2m"}
        Without training; deterministic flow matching; score and flow matching.
    sigma : float or "auto"
        Diffusion in state/√time.
    growth_key : str, optional
        Column of ``obs`` with net growth rates, 1/time (only ``"sinkhorn"``).
    tau : float
        Below 1 cells may grow or die at a price (only ``"sinkhorn"``).
    key_added : str
        Key of the settings.
    random_state : int
        Seed of everything random.

    Returns
    -------
    SinkhornBridge or FlowMatching
        Fitted; pass it to the other functions to spare them the refit.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scidyn.bridges import sc
    >>> rng = np.random.default_rng(0)
    >>> day = np.repeat([0, 1, 2], 30)
    >>> cells = sc.CellTable(pd.DataFrame({"day": day}), {"X_pca": day[:, None] + 0.2 * rng.normal(size=(90, 3))})
    >>> fitted = sc.tl.bridge(cells)
    >>> sc.tl.velocity(cells)
    >>> bool(cells.obsm["bridge_velocity"].mean() > 0.8)
    True
    """
    choice("solver", solver, SOLVERS)
    if solver != "sinkhorn" and (growth_key is not None or tau < 1):
        raise OptionError("growth_key and tau are for solver='sinkhorn'.")
    cells, rows = snapshots(adata, time_key=time_key, use_rep=use_rep, n_dims=n_dims)
    settings = {
        "time_key": time_key, "use_rep": use_rep, "n_dims": cells.dim, "solver": solver, "sigma": sigma,
        "growth_key": growth_key or "", "tau": float(tau), "random_state": int(random_state),
    }  # fmt: skip
    if solver == "sinkhorn":
        rates = None
        if growth_key is not None:
            if growth_key not in adata.obs:
                raise DataError(f"obs has no column {growth_key!r}; run sc.pp.growth_prior first.")
            values = np.asarray(adata.obs[growth_key], dtype=float)
            rates = [values[r] for r in rows]
        fitted: SinkhornBridge | FlowMatching = SinkhornBridge(sigma, tau=tau, seed=random_state).fit(
            cells, growth=rates
        )
    elif solver == "flow":
        fitted = FlowMatching(seed=random_state).fit(cells)
    else:
        fitted = FlowMatching(coupling="sinkhorn", sigma=sigma, seed=random_state).fit(cells)
    settings["sigma_fitted"] = float(fitted.sigma_)
    adata.uns[key_added] = settings
    return fitted


def _again(adata: Any, key: str, fitted: Any) -> tuple[Any, Snapshots, list[np.ndarray]]:
    """The bridge behind ``key``: the one given, or the one that the stored settings lead to."""
    if key not in adata.uns:
        raise NotFittedError(f"uns has no bridge {key!r}; run sc.tl.bridge(adata, key_added={key!r}) first.")
    s = adata.uns[key]
    cells, rows = snapshots(adata, time_key=s["time_key"], use_rep=s["use_rep"], n_dims=int(s["n_dims"]))
    if fitted is None:
        fitted = bridge(
            adata,
            time_key=s["time_key"],
            use_rep=s["use_rep"],
            n_dims=int(s["n_dims"]),
            solver=s["solver"],
            sigma=s["sigma"] if s["solver"] == "flow" else float(s["sigma_fitted"]),
            growth_key=s["growth_key"] or None,
            tau=float(s["tau"]),
            key_added=key,
            random_state=int(s["random_state"]),
        )
    return fitted, cells, rows


def _sinkhorn(adata: Any, key: str, fitted: Any) -> tuple[SinkhornBridge, Snapshots, list[np.ndarray]]:
    model, cells, rows = _again(adata, key, fitted)
    if not isinstance(model, SinkhornBridge):
        raise OptionError(f"Couplings and fates need solver='sinkhorn'; the bridge {key!r} has another.")
    return model, cells, rows


def couplings(adata: Any, *, key: str = "bridge", topk: int = 50, fitted: Any = None) -> list[Any]:
    """Likely descendants of every cell: one sparse matrix per interval, rows summing to one.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge.
    key : str
        Key of the bridge.
    topk : int
        Descendants kept per cell.
    fitted : SinkhornBridge, optional
        What :func:`bridge` returned.

    Returns
    -------
    list of scipy.sparse.csr_array, each of shape (cells of one time, cells of the next)
        Also kept in ``uns[key]["couplings"]``, named ``"0"``, ``"1"``, …

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scidyn.bridges import sc
    >>> day = np.repeat([0, 1, 2], 20)
    >>> table = pd.DataFrame({"day": day, "cell_type": np.tile(["left", "right"], 30)})
    >>> side = np.where(table["cell_type"] == "right", 1.0, -1.0)
    >>> cells = sc.CellTable(table, {"X_pca": np.column_stack([side * (1 + day), day])})
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> links = sc.tl.couplings(cells, topk=3, fitted=fitted)
    >>> len(links), links[0].shape, links[0].nnz
    (2, (20, 20), 60)
    """
    from scipy.sparse import csr_array

    model, cells, _ = _sinkhorn(adata, key, fitted)
    count, out = integer("topk", topk, at_least=1), []
    for k in range(len(cells) - 1):
        plan = model.link(k).plan
        column, value, _ = plan.topk(count)
        value = value / value.sum(dim=1, keepdim=True)
        row = np.repeat(np.arange(len(value)), value.shape[1])
        out.append(csr_array((value.reshape(-1).numpy(), (row, column.reshape(-1).numpy())), shape=plan.shape))
    adata.uns[key] = {**adata.uns[key], "couplings": {str(k): m for k, m in enumerate(out)}}
    return out


def fate(
    adata: Any,
    *,
    key: str = "bridge",
    groups: str = "cell_type",
    terminal: Sequence[str] | None = None,
    fitted: Any = None,
) -> pd.DataFrame:
    """Probability that a cell's descendants at the last time belong to each group.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge.
    key : str
        Key of the bridge.
    groups : str
        Column of ``obs`` with the groups.
    terminal : sequence of str, optional
        Groups to follow; default all that the last time has.
    fitted : SinkhornBridge, optional
        What :func:`bridge` returned.

    Returns
    -------
    pandas.DataFrame
        Cells × groups; also in ``obsm[key + "_fate"]``, and the entropy in ``obs[key + "_entropy"]``.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scidyn.bridges import sc
    >>> day = np.repeat([0, 1, 2], 20)
    >>> table = pd.DataFrame({"day": day, "cell_type": np.tile(["left", "right"], 30)})
    >>> side = np.where(table["cell_type"] == "right", 1.0, -1.0)
    >>> cells = sc.CellTable(table, {"X_pca": np.column_stack([side * (1 + day), day])})
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> table = sc.tl.fate(cells, fitted=fitted)
    >>> [float(p) for p in table.iloc[0].round(2)]
    [1.0, 0.0]
    """
    import pandas as pd

    model, cells, rows = _sinkhorn(adata, key, fitted)
    if groups not in adata.obs:
        raise DataError(f"obs has no column {groups!r}; its columns are {[str(c) for c in adata.obs.columns]}.")
    labels = np.asarray(adata.obs[groups]).astype(str)
    known = sorted(set(labels[rows[-1]]))
    wanted = known if terminal is None else [str(g) for g in terminal]
    absent = [g for g in wanted if g not in known]
    if absent:
        raise OptionError(f"No cell of the last time belongs to {absent[0]!r}; its groups are {known}.")
    p = torch.as_tensor((labels[rows[-1]][:, None] == np.array(wanted)[None]).astype(float))
    out = np.full((len(labels), len(wanted)), np.nan)
    out[rows[-1]] = p.numpy()
    for k in range(len(cells) - 2, -1, -1):
        p = model.link(k).average(p)
        out[rows[k]] = p.numpy()
    adata.obsm[f"{key}_fate"] = out
    safe = np.clip(out, 1e-300, 1.0)
    adata.obs[f"{key}_entropy"] = -(out * np.log(safe)).sum(axis=1)
    return pd.DataFrame(out, columns=wanted, index=getattr(adata.obs, "index", None))


def velocity(adata: Any, *, key: str = "bridge", fitted: Any = None) -> None:
    """Velocity of every cell at its time, in the representation's units per time.

    Cells of the last time get the velocity at the end of the last interval: their own displacement is
    not observed.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge; ``obsm[key + "_velocity"]`` is written.
    key : str
        Key of the bridge.
    fitted : SinkhornBridge or FlowMatching, optional
        What :func:`bridge` returned.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scidyn.bridges import sc
    >>> day = np.repeat([0, 1, 2], 20)
    >>> table = pd.DataFrame({"day": day, "cell_type": np.tile(["left", "right"], 30)})
    >>> side = np.where(table["cell_type"] == "right", 1.0, -1.0)
    >>> cells = sc.CellTable(table, {"X_pca": np.column_stack([side * (1 + day), day])})
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> sc.tl.velocity(cells, fitted=fitted)
    >>> cells.obsm["bridge_velocity"][0].round(1).tolist()
    [-1.0, 1.0]
    """
    model, cells, rows = _again(adata, key, fitted)
    out = np.full((sum(len(r) for r in rows), cells.dim), np.nan)
    for k, r in enumerate(rows):
        x, t = cells.clouds[k], float(cells.times[k])
        if isinstance(model, FlowMatching):
            out[r] = model.velocity(t, x).numpy()
        elif k < len(rows) - 1:
            out[r] = model.drift(t, x).numpy()
        else:
            plan = model.link(k - 1).plan
            before = plan.transpose_apply(cells.clouds[k - 1]) / plan.column_sums().unsqueeze(1)
            out[r] = ((x - before) / float(cells.times[k] - cells.times[k - 1])).numpy()
    adata.obsm[f"{key}_velocity"] = out


def interpolate(
    adata: Any, *, key: str = "bridge", time: float, n: int | None = None, fitted: Any = None, seed: int = 0
) -> xr.Dataset:
    """Draw cells at a time without a measurement, growing lineages as often as they weigh then.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge.
    key : str
        Key of the bridge.
    time : float
        Time inside the measured range.
    n : int, optional
        Number of cells; default those of the last measurement before.
    fitted : SinkhornBridge or FlowMatching, optional
        What :func:`bridge` returned.
    seed : int
        Seed of the draw.

    Returns
    -------
    xarray.Dataset
        Kind ``snapshots``, in the representation.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scidyn.bridges import sc
    >>> day = np.repeat([0, 1, 2], 20)
    >>> table = pd.DataFrame({"day": day, "cell_type": np.tile(["left", "right"], 30)})
    >>> side = np.where(table["cell_type"] == "right", 1.0, -1.0)
    >>> cells = sc.CellTable(table, {"X_pca": np.column_stack([side * (1 + day), day])})
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> between = sc.tl.interpolate(cells, time=0.5, n=8, fitted=fitted)
    >>> dict(between.sizes)
    {'cell': 8, 'feature': 2}
    """
    model, cells, _ = _again(adata, key, fitted)
    if not float(cells.times[0]) <= float(time) <= float(cells.times[-1]):
        raise OptionError(f"time must lie in [{cells.times[0]:g}, {cells.times[-1]:g}]; got {time:g}.")
    k = min(int(np.searchsorted(cells.times.numpy(), time, side="right")) - 1, len(cells) - 2)
    count = cells.sizes[k] if n is None else integer("n", n, at_least=1)
    weights = cells.weights[k]
    if isinstance(model, SinkhornBridge):
        weights = torch.softmax(weights.log() + model.growth(k) * (float(time) - float(cells.times[k])), dim=0)
    x = cells.clouds[k][systematic(weights, count, torch.Generator().manual_seed(seed))]
    moved = model.push(x, float(cells.times[k]), float(time), seed=seed)
    w = torch.full((len(moved),), 1.0 / len(moved), dtype=torch.float64)
    when = torch.tensor([float(time)], dtype=torch.float64)
    return Snapshots((moved,), when, cells.features, (w,)).to_dataset()


def evaluate(
    adata: Any, *, key: str = "bridge", metric: str = "w1", seeds: int = 3, cells: int | None = 1000
) -> pd.DataFrame:
    """Held-out scores of the bridge beside baselines: every inner time is left out in turn.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge.
    key : str
        Key of the bridge.
    metric : {"w1", "w2"}
        Exact Wasserstein distance of order 1 or 2.
    seeds : int
        Repetitions.
    cells : int, optional
        Largest number of cells per time.

    Returns
    -------
    pandas.DataFrame
        Mean and standard deviation over seeds of ``one_step`` and ``rollout``, one row per method.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scidyn.bridges import sc
    >>> day = np.repeat([0, 1, 2], 20)
    >>> table = pd.DataFrame({"day": day, "cell_type": np.tile(["left", "right"], 30)})
    >>> side = np.where(table["cell_type"] == "right", 1.0, -1.0)
    >>> cells = sc.CellTable(table, {"X_pca": np.column_stack([side * (1 + day), day])})
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> sc.tl.evaluate(cells, seeds=1).columns.tolist()
    ['one_step', 'rollout', 'one_step_std', 'rollout_std']
    """
    if key not in adata.uns:
        raise NotFittedError(f"uns has no bridge {key!r}; run sc.tl.bridge(adata, key_added={key!r}) first.")
    s = adata.uns[key]
    clouds, _ = snapshots(adata, time_key=s["time_key"], use_rep=s["use_rep"], n_dims=int(s["n_dims"]))
    sigma = s["sigma"]

    def make(seed: int) -> Any:
        if s["solver"] == "sinkhorn":
            return SinkhornBridge(sigma, tau=float(s["tau"]), seed=seed)
        if s["solver"] == "flow":
            return FlowMatching(seed=seed)
        return FlowMatching(coupling="sinkhorn", sigma=sigma, seed=seed)

    table = leave_one_out(clouds, methods={"bridge": make}, metric=metric, seeds=seeds, cells=cells)
    each = table["distance"].mean("time")
    mean, spread = each.mean("seed").to_pandas(), each.std("seed").to_pandas()
    return mean.join(spread, rsuffix="_std")

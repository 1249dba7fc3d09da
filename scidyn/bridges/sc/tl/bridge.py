"""Fit a bridge through the snapshots, or find the one that was fitted before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn._check.values import choice
from scidyn.bridges.flow_matching import FlowMatching
from scidyn.bridges.sc.tl.cells import snapshots, writable
from scidyn.bridges.sinkhorn_bridge import SinkhornBridge
from scidyn.bridges.snapshots import Snapshots
from scidyn.errors import DataError, NotFittedError, OptionError

if TYPE_CHECKING:
    from scidyn.training.progress import Progress

__all__ = ["bridge", "stored_bridge", "stored_sinkhorn_bridge"]

SOLVERS = ("sinkhorn", "flow", "sf2m")


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
    progress: Progress | None = None,
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
    progress : scidyn.training.Progress, optional
        Told how far the fit is.

    Returns
    -------
    SinkhornBridge or FlowMatching
        Fitted; pass it to the other functions to spare them the refit.

    Raises
    ------
    scidyn.errors.DataError
        If a column or the representation is missing, a time has one cell, or ``adata`` is a view.
    scidyn.errors.OptionError
        If an option is not known, or does not go with the solver.

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
    writable(adata)
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
            cells, growth=rates, progress=None if progress is None else progress.advance
        )
    elif solver == "flow":
        fitted = FlowMatching(seed=random_state).fit(cells, progress=progress)
    else:
        fitted = FlowMatching(coupling="sinkhorn", sigma=sigma, seed=random_state).fit(cells, progress=progress)
    settings["sigma_fitted"] = float(fitted.sigma_)
    adata.uns[key_added] = settings
    return fitted


def stored_bridge(adata: Any, key: str, fitted: Any) -> tuple[Any, Snapshots, list[np.ndarray]]:
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
        adata.uns[key] = s  # the fit wrote the settings anew, without what was computed from them
    return fitted, cells, rows


def stored_sinkhorn_bridge(adata: Any, key: str, fitted: Any) -> tuple[SinkhornBridge, Snapshots, list[np.ndarray]]:
    """The same, if it can tell couplings."""
    model, cells, rows = stored_bridge(adata, key, fitted)
    if not isinstance(model, SinkhornBridge):
        raise OptionError(f"Couplings and fates need solver='sinkhorn'; the bridge {key!r} has another.")
    return model, cells, rows

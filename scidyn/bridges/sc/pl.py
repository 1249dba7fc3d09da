"""Draw: paths, fates, growth and held-out times over an embedding."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from scidyn.bridges.sc.tl.bridge import stored_bridge, stored_sinkhorn_bridge
from scidyn.errors import DataError

__all__ = ["fate", "growth", "marginals", "paths"]


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(5, 4), layout="constrained")[1]


def _embedding(adata: Any, basis: str) -> np.ndarray:
    name = basis if basis in adata.obsm else f"X_{basis}"
    if name not in adata.obsm:
        raise DataError(f"obsm has no embedding {basis!r}; it holds {sorted(adata.obsm)}.")
    return np.asarray(adata.obsm[name])[:, :2]


def paths(
    adata: Any,
    *,
    key: str = "bridge",
    basis: str | None = None,
    n: int = 30,
    fitted: Any = None,
    seed: int = 0,
    ax: Any = None,
) -> Any:
    """Cells coloured by time and paths of the bridge, over an embedding.

    Over another embedding than the bridge's own representation a path is drawn where its nearest measured
    cells lie, their mean weighted by closeness: a picture, not a path of the embedding.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge.
    key : str
        Key of the bridge.
    basis : str, optional
        Embedding in ``obsm``, such as ``"umap"``; default the first two columns of the representation.
    n : int
        Number of paths.
    fitted : SinkhornBridge or FlowMatching, optional
        What ``tl.bridge`` returned.
    seed : int
        Seed of the draw.
    ax : matplotlib axes, optional
        Where to draw.

    Examples
    --------
    >>> from scidyn.bridges import sc
    >>> cells = sc.example_cells()
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> ax = sc.pl.paths(cells, n=5, fitted=fitted)
    """
    model, cells, rows = stored_bridge(adata, key, fitted)
    ax = _axes(ax)
    when = np.repeat(cells.times.numpy(), cells.sizes)
    everything = np.concatenate([c.numpy() for c in cells.clouds])
    flat = everything[:, :2] if basis is None else _embedding(adata, basis)[np.concatenate(rows)]
    second = 1 if flat.shape[1] > 1 else 0
    dots = ax.scatter(
        flat[:, 0], flat[:, second], c=when, s=4, cmap="viridis", alpha=0.5, linewidths=0, rasterized=True
    )
    rng = np.random.default_rng(seed)
    x = cells.clouds[0][rng.integers(cells.sizes[0], size=n)]
    grid = np.linspace(float(cells.times[0]), float(cells.times[-1]), 41)
    line = [x.numpy()]
    for k, (a, b) in enumerate(itertools.pairwise(grid)):
        x = model.push(x, float(a), float(b), seed=seed + k)
        line.append(x.numpy())
    drawn = np.stack(line, axis=1)
    if basis is not None:
        drawn = _nearby(drawn.reshape(-1, drawn.shape[2]), everything, flat).reshape(*drawn.shape[:2], -1)
    for path in drawn:
        ax.plot(path[:, 0], path[:, second], color="0.15", linewidth=0.7, alpha=0.7)
    ax.set_xlabel(cells.features[0] if basis is None else f"{basis} 1")
    ax.set_ylabel(cells.features[second] if basis is None else f"{basis} 2")
    ax.figure.colorbar(dots, ax=ax, label="time")
    return ax


def _nearby(x: np.ndarray, cells: np.ndarray, shown: np.ndarray, neighbours: int = 10) -> np.ndarray:
    """Where the measured cells closest to ``x`` are shown: their mean with Gaussian weights."""
    from scipy.spatial import cKDTree

    distance, index = cKDTree(cells).query(x, k=min(neighbours, len(cells)))
    weight = np.exp(-0.5 * (distance / np.maximum(distance[:, -1:], 1e-300)) ** 2)
    return (weight[..., None] * shown[index]).sum(axis=1) / weight.sum(axis=1, keepdims=True)


def fate(adata: Any, *, key: str = "bridge", column: int = 0, basis: str = "X_pca", ax: Any = None) -> Any:
    """Cells coloured by the probability of one fate.

    Parameters
    ----------
    adata : AnnData or CellTable
        After ``tl.fate``.
    key : str
        Key of the bridge.
    column : int
        Which group, in the order of ``tl.fate``.
    basis : str
        Embedding in ``obsm``.
    ax : matplotlib axes, optional
        Where to draw.

    Examples
    --------
    >>> from scidyn.bridges import sc
    >>> cells = sc.example_cells()
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> _ = sc.tl.fate(cells, fitted=fitted)
    >>> ax = sc.pl.fate(cells, column=1)
    """
    if f"{key}_fate" not in adata.obsm:
        raise DataError(f"obsm has no {key + '_fate'!r}; run sc.tl.fate first.")
    ax, x = _axes(ax), _embedding(adata, basis)
    dots = ax.scatter(
        x[:, 0], x[:, 1], c=adata.obsm[f"{key}_fate"][:, column], s=4, vmin=0, vmax=1, linewidths=0, rasterized=True
    )
    ax.figure.colorbar(dots, ax=ax, label="fate probability")
    return ax


def growth(adata: Any, *, key: str = "bridge", basis: str = "X_pca", fitted: Any = None, ax: Any = None) -> Any:
    """Cells coloured by their net growth rate relative to the population.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge fitted with ``tau`` below 1 or a growth prior.
    key : str
        Key of the bridge.
    basis : str
        Embedding in ``obsm``.
    fitted : SinkhornBridge, optional
        What ``tl.bridge`` returned.
    ax : matplotlib axes, optional
        Where to draw.

    Examples
    --------
    >>> from scidyn.bridges import sc
    >>> cells = sc.example_cells()
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> ax = sc.pl.growth(cells, fitted=fitted)
    """
    model, cells, rows = stored_sinkhorn_bridge(adata, key, fitted)
    ax, x = _axes(ax), _embedding(adata, basis)
    shown = np.concatenate(rows[:-1])
    rate = np.concatenate([model.growth(k).numpy() for k in range(len(cells) - 1)])
    bound = max(float(np.abs(rate).max()), 1e-9)
    dots = ax.scatter(
        x[shown, 0], x[shown, 1], c=rate, s=4, cmap="coolwarm", vmin=-bound, vmax=bound, linewidths=0, rasterized=True
    )  # fmt: skip
    ax.figure.colorbar(dots, ax=ax, label="relative growth, 1/time")
    return ax


def marginals(adata: Any, *, key: str = "bridge", feature: int = 0, fitted: Any = None, ax: Any = None) -> Any:
    """Measured and interpolated distributions of one feature over time, as medians and central nine tenths.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge.
    key : str
        Key of the bridge.
    feature : int
        Column of the representation.
    fitted : SinkhornBridge or FlowMatching, optional
        What ``tl.bridge`` returned.
    ax : matplotlib axes, optional
        Where to draw.

    Examples
    --------
    >>> from scidyn.bridges import sc
    >>> cells = sc.example_cells()
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> ax = sc.pl.marginals(cells, fitted=fitted)
    """
    model, cells, _ = stored_bridge(adata, key, fitted)
    ax = _axes(ax)
    grid, bands = [], []
    for k in range(len(cells) - 1):
        a, b = float(cells.times[k]), float(cells.times[k + 1])
        for t in np.linspace(a, b, 8):
            cloud = cells.clouds[k] if t == a else model.push(cells.clouds[k], a, float(t))
            grid.append(t)
            bands.append(np.quantile(cloud[:, feature].numpy(), [0.05, 0.5, 0.95]))
    low, middle, high = np.array(bands).T
    ax.fill_between(grid, low, high, alpha=0.25, linewidth=0)
    ax.plot(grid, middle)
    for t, cloud in zip(cells.times.tolist(), cells.clouds, strict=True):
        q = np.quantile(cloud[:, feature].numpy(), [0.05, 0.5, 0.95])
        ax.errorbar([t], [q[1]], yerr=[[q[1] - q[0]], [q[2] - q[1]]], fmt="o", color="0.15")
    ax.set_xlabel("time")
    ax.set_ylabel(cells.features[feature])
    return ax

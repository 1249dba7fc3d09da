"""Distances between sets of points; each result says which one it is and how it was found."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scidyn._check.values import choice, integer, number
from scidyn.errors import DataError
from scidyn.transport.arguments import as_points, as_weights, point_clouds
from scidyn.transport.cost import tiles
from scidyn.transport.distance import Distance
from scidyn.transport.divergence import sinkhorn_divergence
from scidyn.transport.exact import check_p, exact_transport
from scidyn.transport.one_dimensional import quantile_costs

__all__ = ["energy_distance", "mmd", "sampling_floor", "sliced_wasserstein", "wasserstein"]

EXACT_POINTS = 3000
SPLITS = 3


def sampling_floor(distance: Callable[..., Distance], y: Any, *, seed: int = 0, splits: int = SPLITS) -> float:
    """Mean distance between two random halves of one set: what a perfect model would score.

    Halves hold half the points, so for full-size sets this is an upper bound of the floor.

    Parameters
    ----------
    distance : callable ``(x, y) -> Distance``
        Any function of this module, with its options bound.
    y : array_like, shape (m, d)
        Points, m ≥ 2.
    seed : int
        Of the random splits.
    splits : int
        Number of splits averaged.

    Returns
    -------
    float

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import energy_distance, sampling_floor
    >>> y = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    >>> floor = sampling_floor(energy_distance, y)
    >>> floor < float(energy_distance(y + 0.5, y))
    True
    """
    points = as_points("y", y).detach()
    if len(points) < 2:
        raise DataError("a sampling floor needs at least two points in y; got one.")
    generator = torch.Generator().manual_seed(integer("seed", seed))
    half = len(points) // 2
    total = 0.0
    for _ in range(integer("splits", splits, at_least=1)):
        order = torch.randperm(len(points), generator=generator).to(points.device)
        total += float(distance(points[order[:half]], points[order[half : 2 * half]]))
    return total / splits


def _with_floor(found: Distance, distance: Callable[..., Distance], y: Tensor, floor: bool, seed: int) -> Distance:
    if not floor:
        return found
    return Distance(found.value, found.kind, sampling_floor(distance, y, seed=seed), found.exact)


def wasserstein(
    x: Any,
    y: Any,
    p: int = 2,
    *,
    a: Any = None,
    b: Any = None,
    method: str = "auto",
    epsilon_relative: float = 0.01,
    floor: bool = False,
    seed: int = 0,
) -> Distance:
    r"""Wasserstein distance ``W_p`` with the Euclidean distance as ground distance.

    .. math:: W_p(\mu, \nu) = \Big(\min_\pi \sum_{ij} \pi_{ij} |x_i - y_j|^p\Big)^{1/p}

    Parameters
    ----------
    x, y : array_like, shapes (n, d) and (m, d)
        Points.
    p : {1, 2}
        Order. W1 and W2 are both called "EMD" in the literature; the result says which one it holds.
    a, b : array_like, shapes (n,) and (m,), optional
        Weights that sum to 1; default uniform.
    method : {"auto", "exact", "entropic"}
        ``"auto"`` is exact up to 3,000 points (in one dimension: always), and beyond that the p-th root of the
        Sinkhorn divergence.
    epsilon_relative : float
        Regularisation of the entropic method, as a share of the median cost.
    floor : bool
        Also compute the distance between halves of ``y``, see :func:`sampling_floor`.
    seed : int
        Of the halves.

    Returns
    -------
    Distance
        In the units of the points; ``.kind`` names order and method.

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import wasserstein
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> print(wasserstein(x, x + torch.tensor([3.0, 4.0]), p=1))
    5 (W1, exact: linear assignment, SciPy)
    """
    p = check_p(p)
    choice("method", method, ("auto", "exact", "entropic"))
    x, y = point_clouds(x, y)

    def distance(x: Tensor, y: Tensor, a: Any = None, b: Any = None) -> Distance:
        if x.shape[1] == 1 and method != "entropic":
            return _on_a_line(x, y, a, b, p)
        if method == "exact" or (method == "auto" and max(len(x), len(y)) <= EXACT_POINTS):
            plan = exact_transport(x, y, a, b, cost="euclidean" if p == 1 else "sqeuclidean")
            return Distance(_root(plan.value, p), f"W{p}, exact: {plan.solver}")
        kind = "euclidean" if p == 1 else "sqeuclidean"
        found = sinkhorn_divergence(x, y, a, b, cost=kind, epsilon_relative=epsilon_relative, tolerance=1e-3)
        name = f"W{p}, entropic: debiased, epsilon {epsilon_relative:g} of the median cost"
        return Distance(_root(found.value, p), name, exact=False)

    return _with_floor(distance(x, y, a, b), distance, y, floor, seed)


def _root(value: Tensor, p: int) -> Tensor:
    """The p-th root, with derivative zero at zero."""
    if p == 1:
        return value
    return torch.where(value > 0, value.clamp_min(torch.finfo(value.dtype).tiny).sqrt(), 0.0)


def _on_a_line(x: Tensor, y: Tensor, a: Any, b: Any, p: int) -> Distance:
    weights = [None if w is None else as_weights(k, w, len(z), z.device) for k, w, z in (("a", a, x), ("b", b, y))]
    return Distance(_root(quantile_costs(x.T, y.T, *weights, p=p)[0], p), f"W{p}, exact: sorted points on a line")


def sliced_wasserstein(
    x: Any, y: Any, p: int = 2, *, projections: int = 128, seed: int = 0, floor: bool = False
) -> Distance:
    r"""Mean over directions of the one-dimensional transport cost, ``(mean_θ W_p^p(θ·x, θ·y))^{1/p}``.

    Parameters
    ----------
    x, y : array_like, shapes (n, d) and (m, d)
        Points, equally weighted.
    p : {1, 2}
        Order.
    projections : int
        Random directions, uniform on the sphere.
    seed : int
        Of the directions and of the halves.
    floor : bool
        Also compute the distance between halves of ``y``.

    Returns
    -------
    Distance
        In the units of the points; smaller than W_p by about √d for p = 2.

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import sliced_wasserstein
    >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> round(float(sliced_wasserstein(x, x + 1.0, projections=4000)), 1)      # |shift| / √d = 1
    1.0

    References
    ----------
    N. Bonneel et al. (2015), Sliced and Radon Wasserstein barycenters of measures, J. Math. Imaging Vis. 51.
    """
    p, count = check_p(p), integer("projections", projections, at_least=1)
    x, y = point_clouds(x, y)
    generator = torch.Generator().manual_seed(integer("seed", seed))
    directions = torch.randn(count, x.shape[1], generator=generator, dtype=torch.float64)
    directions = (directions / directions.norm(dim=1, keepdim=True)).to(x)

    def distance(x: Tensor, y: Tensor) -> Distance:
        value = quantile_costs(directions @ x.T, directions @ y.T, p=p).mean()
        return Distance(_root(value, p), f"sliced W{p}, {count} random directions", exact=False)

    return _with_floor(distance(x, y), distance, y, floor, seed)


def _pair_mean(x: Tensor, y: Tensor, function: Callable[[Tensor], Tensor], *, same: bool = False) -> Tensor:
    """Mean of ``function(|x_i - y_j|)`` over pairs, without the diagonal if ``same``; in tiles, with their graph."""

    def part(block: Tensor, other: Tensor) -> Tensor:
        return function(torch.cdist(block, other)).sum(dtype=torch.float64 if x.device.type != "mps" else None)

    graph = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    total = x.new_zeros((), dtype=torch.float64 if x.device.type != "mps" else x.dtype)
    for rows in tiles(len(x), len(y)):
        total = total + (checkpoint(part, x[rows], y, use_reentrant=False) if graph else part(x[rows], y))
    if not same:
        return (total / (len(x) * len(y))).to(x.dtype)
    diagonal = len(x) * float(function(x.new_zeros(1)))
    return ((total - diagonal) / (len(x) * (len(x) - 1))).to(x.dtype)


def energy_distance(x: Any, y: Any, *, floor: bool = False, seed: int = 0) -> Distance:
    r"""Energy distance ``2 E|x - y| - E|x - x'| - E|y - y'|``, a statistic that is never negative.

    Parameters
    ----------
    x, y : array_like, shapes (n, d) and (m, d)
        Points, equally weighted.
    floor : bool
        Also compute the distance between halves of ``y``.
    seed : int
        Of the halves.

    Returns
    -------
    Distance
        The squared distance, in the units of the points; pairs of a point with itself count.

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import energy_distance
    >>> float(energy_distance(torch.zeros(2, 1), torch.ones(2, 1)))
    2.0

    References
    ----------
    G. J. Székely, M. L. Rizzo (2013), Energy statistics, J. Stat. Plan. Inference 143.
    """
    x, y = point_clouds(x, y)

    def distance(x: Tensor, y: Tensor) -> Distance:
        mean = 0.5 * (x.mean(0) + y.mean(0)).detach()
        x, y = x - mean, y - mean

        def length(r: Tensor) -> Tensor:
            return r

        value = 2 * _pair_mean(x, y, length) - _pair_mean(x, x, length) - _pair_mean(y, y, length)
        return Distance(value.clamp_min(0.0), "energy distance (squared)")

    return _with_floor(distance(x, y), distance, y, floor, seed)


def mmd(
    x: Any, y: Any, *, bandwidth: float | None = None, unbiased: bool = False, floor: bool = False, seed: int = 0
) -> Distance:
    r"""Maximum mean discrepancy with a Gaussian kernel ``exp(-|x - y|² / (2 h²))``.

    Parameters
    ----------
    x, y : array_like, shapes (n, d) and (m, d)
        Points, equally weighted.
    bandwidth : float, optional
        h, in the units of the points; default the median distance within ``y`` (over at most 512 points).
    unbiased : bool
        Leave out the pairs of a point with itself and give the squared estimate, which may be negative;
        otherwise the root of the biased one.
    floor : bool
        Also compute the distance between halves of ``y``.
    seed : int
        Of the halves.

    Returns
    -------
    Distance
        Dimensionless; ``.kind`` holds the bandwidth.

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import mmd
    >>> round(float(mmd(torch.zeros(1, 1), torch.ones(1, 1), bandwidth=1.0)), 4)      # √(2 - 2 exp(-1/2))
    0.8871

    References
    ----------
    A. Gretton et al. (2012), A kernel two-sample test, JMLR 13.
    """
    x, y = point_clouds(x, y)
    if unbiased and min(len(x), len(y)) < 2:
        raise DataError("the unbiased estimate needs two points in each set.")
    h = _median_distance(y) if bandwidth is None else number("bandwidth", bandwidth, above=0.0)

    def kernel(r: Tensor) -> Tensor:
        return torch.exp((-0.5 / h**2) * r.square())

    def distance(x: Tensor, y: Tensor) -> Distance:
        cross = _pair_mean(x, y, kernel)
        own = _pair_mean(x, x, kernel, same=unbiased) + _pair_mean(y, y, kernel, same=unbiased)
        squared = own - 2 * cross
        name = f"MMD, Gaussian kernel of bandwidth {h:.4g}"
        if unbiased:
            return Distance(squared, f"{name}, squared and unbiased")
        return Distance(_root(squared.clamp_min(0.0), 2), name)

    return _with_floor(distance(x, y), distance, y, floor, seed)


def _median_distance(y: Tensor) -> float:
    step = math.ceil(len(y) / 512)
    some = y.detach()[::step]
    median = float(torch.pdist(some.double().cpu()).median()) if len(some) > 1 else 0.0
    if median <= 0:
        raise DataError("the median distance within y is 0, so it cannot serve as a bandwidth: pass bandwidth.")
    return median

"""Errors of forecasts against data, with masks for what was not observed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scidyn.errors import ShapeError

__all__ = ["coverage", "crps_normal", "log_score", "mae", "rmse"]


def _observed(data: Tensor, mask: Tensor | None, *others: Tensor) -> Tensor:
    for other in others:
        if torch.broadcast_shapes(other.shape, data.shape) != data.shape:
            raise ShapeError(f"a forecast of shape {tuple(other.shape)} does not fit data of {tuple(data.shape)}.")
    seen = torch.isfinite(data)
    if mask is None:
        return seen
    if mask.shape != data.shape:
        raise ShapeError(f"mask has shape {tuple(mask.shape)}, the data have {tuple(data.shape)}.")
    return seen & mask


def _mean(value: Tensor, seen: Tensor, dim: int | tuple[int, ...] | None) -> Tensor:
    axes = tuple(range(value.ndim)) if dim is None else dim
    total = torch.where(seen, value, 0.0).sum(dim=axes)
    count = seen.sum(dim=axes)
    return torch.where(count > 0, total / count.clamp_min(1), torch.nan)


def rmse(
    forecast: Tensor, data: Tensor, mask: Tensor | None = None, dim: int | tuple[int, ...] | None = None
) -> Tensor:
    r"""Root mean square error ``√(mean (ŷ − y)²)`` over observed values.

    Parameters
    ----------
    forecast, data : Tensor, same shape
        Values in the same units; NaN in ``data`` means missing.
    mask : Tensor of bool, shape of ``data``, optional
        True where a value was observed.
    dim : int or tuple of int, optional
        Axes to average over; default all.

    Returns
    -------
    Tensor
        In the units of the data; NaN where nothing was observed or the forecast is NaN.

    Raises
    ------
    scidyn.errors.ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> from scidyn.metrics import rmse
    >>> rmse(torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")]))
    tensor(0.)
    """
    return _mean((forecast - data) ** 2, _observed(data, mask, forecast), dim).sqrt()


def mae(
    forecast: Tensor, data: Tensor, mask: Tensor | None = None, dim: int | tuple[int, ...] | None = None
) -> Tensor:
    r"""Mean absolute error ``mean |ŷ − y|`` over observed values.

    Parameters
    ----------
    forecast, data : Tensor, same shape
        Values in the same units; NaN in ``data`` means missing.
    mask : Tensor of bool, shape of ``data``, optional
        True where a value was observed.
    dim : int or tuple of int, optional
        Axes to average over; default all.

    Returns
    -------
    Tensor
        In the units of the data.

    Raises
    ------
    scidyn.errors.ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> from scidyn.metrics import mae
    >>> mae(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0]))
    tensor(1.)
    """
    return _mean((forecast - data).abs(), _observed(data, mask, forecast), dim)


def coverage(
    lower: Tensor,
    upper: Tensor,
    data: Tensor,
    mask: Tensor | None = None,
    dim: int | tuple[int, ...] | None = None,
) -> Tensor:
    """Share of observed values inside a band, ends included.

    Parameters
    ----------
    lower, upper : Tensor, shape of ``data``
        The band.
    data : Tensor
        Values; NaN means missing.
    mask : Tensor of bool, shape of ``data``, optional
        True where a value was observed.
    dim : int or tuple of int, optional
        Axes to average over; default all.

    Returns
    -------
    Tensor
        From 0 to 1.

    Raises
    ------
    scidyn.errors.ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> from scidyn.metrics import coverage
    >>> coverage(torch.zeros(4), torch.ones(4), torch.tensor([0.5, 0.2, 3.0, -1.0]))
    tensor(0.5000)
    """
    inside = ((data >= lower) & (data <= upper)).to(lower.dtype)
    return _mean(inside, _observed(data, mask, lower, upper), dim)


def log_score(
    forecast: Tensor, data: Tensor, std: Tensor, mask: Tensor | None = None, *, lognormal: bool = False
) -> Tensor:
    r"""Mean log-density per observed value: ``−½ log 2πσ² − (y − ŷ)²/2σ²``, or log-normal with median ``ŷ``.

    Parameters
    ----------
    forecast, data : Tensor, same shape
        Mean (or median) and values.
    std : Tensor, broadcasts to ``data``
        Standard deviation; of the logarithm if ``lognormal``.
    mask : Tensor of bool, shape of ``data``, optional
        True where a value was observed.
    lognormal : bool
        Take logarithms; adds ``−log y``, so that densities refer to ``y``.

    Returns
    -------
    Tensor, shape ()
        In nats; higher is better.

    Raises
    ------
    scidyn.errors.ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> from scidyn.metrics import log_score
    >>> log_score(torch.zeros(2), torch.zeros(2), torch.ones(2))
    tensor(-0.9189)
    """
    seen = _observed(data, mask, forecast)
    y = torch.where(seen, data, 1.0)
    jacobian = torch.zeros_like(y)
    if lognormal:
        jacobian, forecast, y = -y.log(), forecast.log(), y.log()
    z = (y - forecast) / std
    return _mean(-0.5 * z * z - std.log() - 0.5 * math.log(2 * math.pi) + jacobian, seen, None)


def crps_normal(
    mean: Tensor,
    std: Tensor,
    data: Tensor,
    mask: Tensor | None = None,
    dim: int | tuple[int, ...] | None = None,
) -> Tensor:
    r"""Continuous ranked probability score of a normal forecast; lower is better.

    .. math:: σ \left( z (2Φ(z) − 1) + 2φ(z) − π^{-1/2} \right), \quad z = (y − μ)/σ

    Parameters
    ----------
    mean, std : Tensor, broadcast to ``data``
        Of the forecast.
    data : Tensor
        Values; NaN means missing.
    mask : Tensor of bool, shape of ``data``, optional
        True where a value was observed.
    dim : int or tuple of int, optional
        Axes to average over; default all.

    Returns
    -------
    Tensor
        In the units of the data.

    Raises
    ------
    scidyn.errors.ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> from scidyn.metrics import crps_normal
    >>> crps_normal(torch.zeros(1), torch.ones(1), torch.zeros(1))
    tensor(0.2337)

    References
    ----------
    T. Gneiting, A. E. Raftery, Strictly proper scoring rules, prediction, and estimation, JASA 102, 359–378, 2007.
    """
    z = (data - mean) / std
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    distribution = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    score = std * (z * (2 * distribution - 1) + 2 * density - 1 / math.sqrt(math.pi))
    return _mean(score, _observed(data, mask, mean), dim)

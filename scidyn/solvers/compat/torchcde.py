"""torchcde's entry points on this package's paths and solver."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError, ShapeError
from scidyn.solvers.cde.control_path import ControlPath
from scidyn.solvers.cde.cubic_paths import HermiteCubicPath, NaturalCubicPath
from scidyn.solvers.cde.knots import check_knots
from scidyn.solvers.cde.linear_paths import LinearPath, RectilinearPath
from scidyn.solvers.cde.solve import solve_cde

__all__ = [
    "CubicSpline",
    "LinearInterpolation",
    "cdeint",
    "hermite_cubic_coefficients_with_backward_differences",
    "linear_interpolation_coeffs",
    "natural_cubic_coeffs",
]


def _pack(path: ControlPath) -> Tensor:
    """``(a, b, 2c, 3d)`` of every piece side by side, the peer's layout."""
    a, b, c, d = path.coefficients
    return torch.cat([a, b, 2.0 * c, 3.0 * d], dim=-1)


def hermite_cubic_coefficients_with_backward_differences(x: Tensor, t: Tensor | None = None) -> Tensor:
    """Coefficients of :class:`HermiteCubicPath` in torchcde's layout.

    Parameters
    ----------
    x : Tensor, shape (B, K, C)
        Samples; NaN means missing.
    t : Tensor, shape (K,), optional
        Times; default 0, 1, …, K - 1.

    Returns
    -------
    Tensor, shape (B, K - 1, 4 C)
        For :class:`CubicSpline`.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.compat import hermite_cubic_coefficients_with_backward_differences
    >>> hermite_cubic_coefficients_with_backward_differences(torch.rand(1, 10, 2)).shape
    torch.Size([1, 9, 8])
    """
    return _pack(HermiteCubicPath(x, t))


def natural_cubic_coeffs(x: Tensor, t: Tensor | None = None) -> Tensor:
    """Coefficients of :class:`NaturalCubicPath` in torchcde's layout.

    Parameters
    ----------
    x : Tensor, shape (B, K, C)
        Samples; NaN means missing.
    t : Tensor, shape (K,), optional
        Times.

    Returns
    -------
    Tensor, shape (B, K - 1, 4 C)
        For :class:`CubicSpline`.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.compat import natural_cubic_coeffs
    >>> natural_cubic_coeffs(torch.rand(2, 5, 3)).shape
    torch.Size([2, 4, 12])
    """
    return _pack(NaturalCubicPath(x, t))


def linear_interpolation_coeffs(x: Tensor, t: Tensor | None = None, rectilinear: int | None = None) -> Tensor:
    """Values of :class:`LinearPath`, or of :class:`RectilinearPath` if a time channel is named.

    Parameters
    ----------
    x : Tensor, shape (B, K, C)
        Samples; NaN means missing.
    t : Tensor, shape (K,), optional
        Times.
    rectilinear : int, optional
        The channel that is time.

    Returns
    -------
    Tensor, shape (B, K, C) or (B, 2 K - 1, C)
        For :class:`LinearInterpolation`.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.compat import linear_interpolation_coeffs
    >>> linear_interpolation_coeffs(torch.tensor([[[0.0], [float("nan")], [2.0]]]))[0, :, 0].tolist()
    [0.0, 1.0, 2.0]
    """
    if rectilinear is None:
        return LinearPath(x, t).values
    return RectilinearPath(x, t, time_channel=rectilinear).values


class CubicSpline(ControlPath):
    """A path from coefficients in torchcde's layout.

    Parameters
    ----------
    coeffs : Tensor, shape (B, K - 1, 4 C)
        ``(a, b, 2c, 3d)`` of every piece.
    t : Tensor, shape (K,), optional
        Times; default 0, 1, …, K - 1.

    Raises
    ------
    scidyn.errors.ShapeError
        If the last axis is no multiple of four.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.compat import CubicSpline, natural_cubic_coeffs
    >>> x = torch.rand(1, 4, 2)
    >>> torch.allclose(CubicSpline(natural_cubic_coeffs(x)).evaluate(3.0), x[:, 3], atol=1e-6)
    True
    """

    def __init__(self, coeffs: Tensor, t: Tensor | None = None) -> None:
        if coeffs.ndim != 3 or coeffs.shape[-1] % 4:
            raise ShapeError(f"coeffs must have shape (batch, pieces, 4 channels); got {tuple(coeffs.shape)}.")
        a, b, two_c, three_d = coeffs.chunk(4, dim=-1)
        knots = check_knots(t, torch.cat([a, a[:, -1:]], dim=1))
        h = (knots.padded[0, -1] - knots.padded[0, -2]).to(a.dtype)
        end = a[:, -1] + h * (b[:, -1] + h * (two_c[:, -1] / 2 + h * three_d[:, -1] / 3))
        super().__init__(knots, torch.cat([a, end.unsqueeze(1)], dim=1), (a, b, two_c / 2, three_d / 3))


class LinearInterpolation(LinearPath):
    """A piecewise linear path from the values that :func:`linear_interpolation_coeffs` gives.

    Parameters
    ----------
    coeffs : Tensor, shape (B, K, C)
        Values.
    t : Tensor, shape (K,), optional
        Times; default 0, 1, …, K - 1.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.compat import LinearInterpolation
    >>> LinearInterpolation(torch.tensor([[[0.0], [2.0]]])).evaluate(0.5)
    tensor([[1.]])
    """

    def __init__(self, coeffs: Tensor, t: Tensor | None = None) -> None:
        super().__init__(coeffs, t)


def cdeint(
    X: Any,
    func: Any,
    z0: Tensor,
    t: Any,
    adjoint: bool = True,
    backend: str = "torchdiffeq",
    **kwargs: Any,
) -> Tensor:
    """Solve ``dz = func(t, z) dX`` as ``torchcde.cdeint`` does.

    Parameters
    ----------
    X : ControlPath, or an object with ``derivative(t)``
        The path.
    func : callable
        ``func(t, z)`` of shape (B, H, C).
    z0 : Tensor, shape (B, H)
        Initial states.
    t : array_like, shape (T,)
        Times.
    adjoint : bool
        Low memory and the exact gradient of the steps, or all steps kept.
    backend : str
        Accepted for the peer's sake; the solver is this package's.
    **kwargs : object
        ``method``, ``rtol``, ``atol``; ``options={"step_size": h}`` for a fixed step. Settings of the peer's
        adjoint (``adjoint_…``) have nothing to set here.

    Returns
    -------
    Tensor, shape (B, T, H)
        States.

    Raises
    ------
    scidyn.errors.OptionError
        If an option has no counterpart.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.compat import CubicSpline, cdeint, natural_cubic_coeffs
    >>> X = CubicSpline(natural_cubic_coeffs(torch.rand(1, 10, 2)))
    >>> cdeint(X=X, func=lambda t, z: z.unsqueeze(-1).expand(1, 3, 2), z0=torch.ones(1, 3), t=X.interval).shape
    torch.Size([1, 2, 3])
    """
    options = dict(kwargs.pop("options", None) or {})
    chosen = {k: v for k, v in kwargs.items() if not k.startswith("adjoint")}
    step = options.pop("step_size", None)
    options.pop("jump_t", None)  # every kink of a path is known to the solver
    for name, value in options.items():
        raise OptionError(f"options[{name!r}]={value!r} has no counterpart in scidyn: leave it out.")
    extra: dict[str, Any] = {} if step is None else {"dt0": float(step), "stepping": "fixed"}
    kind = "discrete" if adjoint else "direct"
    return solve_cde(func, X, z0, t, route="ode", adjoint=kind, **extra, **chosen).y

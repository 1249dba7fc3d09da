"""``cdeint`` and the interpolations with the signatures of torchcde."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.cde.paths import ControlPath, HermiteCubicPath, LinearPath, NaturalCubicPath, RectilinearPath
from scidyn.solvers.cde.solve import solve_cde

__all__ = [
    "CubicSpline",
    "LinearInterpolation",
    "cdeint",
    "hermite_cubic_coefficients_with_backward_differences",
    "linear_interpolation_coeffs",
    "natural_cubic_coeffs",
]


class _Given:
    """Knots that a path in the form of coefficients is built on."""

    def __init__(self, t: Tensor) -> None:
        self.given, self.padded = t, t.unsqueeze(0)
        self.last = torch.full((1,), len(t) - 1, dtype=torch.long, device=t.device)
        self.shared = True


def _times(t: Tensor | None, x: Tensor) -> Tensor:
    """Times 0, 1, … unless given."""
    return torch.arange(x.shape[-2], dtype=x.dtype, device=x.device) if t is None else t


def natural_cubic_coeffs(x: Tensor, t: Tensor | None = None) -> Tensor:
    """Coefficients (B, K - 1, 4 C) of the natural cubic spline through ``x`` (B, K, C)."""
    return _packed(NaturalCubicPath(x, _times(t, x)))


def hermite_cubic_coefficients_with_backward_differences(x: Tensor, t: Tensor | None = None) -> Tensor:
    """Coefficients (B, K - 1, 4 C) of the Hermite cubics with backward differences through ``x``."""
    return _packed(HermiteCubicPath(x, _times(t, x)))


def _packed(path: ControlPath) -> Tensor:
    """``a, b, 2c, 3d`` side by side."""
    a, b, c, d = path.coefficients
    return torch.cat([a, b, 2 * c, 3 * d], dim=-1)


def linear_interpolation_coeffs(x: Tensor, t: Tensor | None = None, rectilinear: int | None = None) -> Tensor:
    """Values (B, K, C) with gaps filled; ``rectilinear`` names the time channel of a causal staircase."""
    if rectilinear is not None:
        return RectilinearPath(x, time_channel=rectilinear).values
    return LinearPath(x, _times(t, x)).values


class CubicSpline(ControlPath):
    """A cubic path from packed coefficients.

    Parameters
    ----------
    coeffs : Tensor, shape (B, K - 1, 4 C)
        From :func:`natural_cubic_coeffs` or :func:`hermite_cubic_coefficients_with_backward_differences`.
    t : Tensor, shape (K,), optional
        The times used there.
    """

    def __init__(self, coeffs: Tensor, t: Tensor | None = None) -> None:
        pieces = coeffs.shape[-2]
        knots = torch.arange(pieces + 1, dtype=coeffs.dtype, device=coeffs.device) if t is None else t
        a, b, c2, d3 = coeffs.chunk(4, dim=-1)
        c, d = c2 / 2, d3 / 3
        h = (knots[-1] - knots[-2]).to(coeffs.dtype)
        last = a[:, -1] + h * (b[:, -1] + h * (c[:, -1] + h * d[:, -1]))
        super().__init__(_Given(knots), torch.cat([a, last.unsqueeze(1)], dim=1), (a, b, c, d))  # type: ignore[arg-type]

    @property
    def grid_points(self) -> Tensor:
        """The knots."""
        return self.knots


class LinearInterpolation(LinearPath):
    """A piecewise linear path from filled values.

    Parameters
    ----------
    coeffs : Tensor, shape (B, K, C)
        From :func:`linear_interpolation_coeffs`.
    t : Tensor, shape (K,), optional
        The times used there.
    """

    def __init__(self, coeffs: Tensor, t: Tensor | None = None) -> None:
        super().__init__(coeffs, _times(t, coeffs))

    @property
    def grid_points(self) -> Tensor:
        """The knots."""
        return self.knots


def cdeint(
    X: ControlPath,
    func: Callable[..., Tensor],
    z0: Tensor,
    t: Tensor,
    adjoint: bool = True,
    backend: str = "native",
    **kwargs: Any,
) -> Tensor:
    """Solve ``dz = func(t, z) dX`` with torchcde's arguments and result.

    Parameters
    ----------
    X : ControlPath
        The control.
    func : callable
        ``func(t, z)``: (B, H) to (B, H, C).
    z0 : Tensor, shape (B, H)
        Initial states.
    t : Tensor, shape (T,)
        Increasing times.
    adjoint : bool
        True stores no tape, False uses autograd's.
    backend : str
        Accepted for compatibility; the solver is scidyn's.
    **kwargs
        ``method``, ``rtol``, ``atol`` and ``options={"step_size": h}`` are understood; those that start
        with ``adjoint_`` are ignored.

    Returns
    -------
    Tensor, shape (B, T, H)

    Raises
    ------
    scidyn.errors.ScidynError
        As :func:`scidyn.solvers.solve_cde`.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.compat import cde as torchcde
    >>> coeffs = torchcde.hermite_cubic_coefficients_with_backward_differences(torch.rand(1, 10, 2))
    >>> X = torchcde.CubicSpline(coeffs)
    >>> torchcde.cdeint(X=X, func=lambda t, z: z.unsqueeze(-1).repeat(1, 1, 2), z0=torch.ones(1, 3), t=X.interval).shape
    torch.Size([1, 2, 3])
    """
    if backend not in ("native", "torchdiffeq", "torchsde"):
        raise OptionError(f"backend must be 'native', 'torchdiffeq' or 'torchsde'; got {backend!r}.")
    kept = {k: v for k, v in kwargs.items() if not k.startswith("adjoint_") and k not in ("options", "vf_type")}
    size = (kwargs.get("options") or {}).get("step_size")
    gradient = "discrete" if adjoint else "direct"
    method = kept.pop("method", None)
    if X.kinked:
        fixed = method if method in ("euler", "heun", "midpoint", "rk4") else "rk4"
        return solve_cde(func, X, z0, t, method=fixed, dt=size, adjoint=gradient).y
    if method in ("euler", "midpoint", "rk4", "heun") and size is not None:
        return solve_cde(func, X, z0, t, route="increments", method=method, dt=size, adjoint=gradient).y
    return solve_cde(func, X, z0, t, method=method, adjoint=gradient, **kept).y

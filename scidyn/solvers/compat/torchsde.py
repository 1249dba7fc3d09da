"""torchsde's entry points on this package's solver, so that code ports by an import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from scidyn.errors import OptionError
from scidyn.solvers.compat.torchsde_translation import Names, translate_and_solve

__all__ = ["sdeint", "sdeint_adjoint"]


def sdeint(
    sde: Any,
    y0: Tensor,
    ts: Any,
    bm: Any = None,
    method: str | None = None,
    dt: float = 1e-3,
    adaptive: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-4,
    dt_min: float = 1e-5,
    options: Any = None,
    names: Names = None,
    logqp: bool = False,
    seed: int | None = None,
    **unused: Any,
) -> Any:
    """Solve an SDE as ``torchsde.sdeint`` does, with the gradient of the steps through all of them.

    Parameters
    ----------
    sde : object
        With ``f``, ``g`` (and ``h`` for ``logqp``), ``sde_type`` and ``noise_type``.
    y0 : Tensor, shape (B, D)
        Initial states.
    ts : array_like, shape (T,)
        Increasing times.
    bm : BrownianIncrements, BrownianTree or torchsde.BrownianInterval, optional
        Path to use.
    method : str, optional
        torchsde's names; "srk" becomes "sriw1" or, with additive noise, "sra1". Default "srk" (Itô; "euler" for
        general noise) or "midpoint" (Stratonovich).
    dt : float
        Step.
    adaptive : bool
        Choose steps.
    rtol, atol, dt_min : float
        For adaptive steps.
    options : object, optional
        Must be empty.
    names : mapping, optional
        Other names of the methods, such as ``{"drift": "mu", "diffusion": "sigma", "prior_drift": "nu"}``.
    logqp : bool
        Return the path divergence between neighbouring times as well.
    seed : int, optional
        Seed of the path; by default drawn from torch's global generator, as ``torch.manual_seed`` sets it.
    **unused : object
        Refused by name.

    Returns
    -------
    Tensor, shape (T, B, D), or a tuple of it and a Tensor of shape (T - 1, B)
        Times first.

    Raises
    ------
    scidyn.errors.OptionError
        If an option has no counterpart here.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.compat import sdeint
    >>> class Walk:
    ...     noise_type, sde_type = "diagonal", "ito"
    ...     def f(self, t, y): return -y
    ...     def g(self, t, y): return 0.1 * torch.ones_like(y)
    >>> sdeint(Walk(), torch.zeros(3, 1), torch.linspace(0, 1, 5), dt=0.1).shape
    torch.Size([5, 3, 1])
    """
    return translate_and_solve(
        sde, y0, ts, bm, method, dt, adaptive, (rtol, atol, dt_min), options, names, logqp, seed, unused
    )


def sdeint_adjoint(
    sde: Any,
    y0: Tensor,
    ts: Any,
    bm: Any = None,
    method: str | None = None,
    adjoint_method: str | None = None,
    dt: float = 1e-3,
    adaptive: bool = False,
    adjoint_adaptive: bool = False,
    rtol: float = 1e-5,
    adjoint_rtol: float = 1e-5,
    atol: float = 1e-4,
    adjoint_atol: float = 1e-4,
    dt_min: float = 1e-5,
    options: Any = None,
    adjoint_options: Any = None,
    adjoint_params: Sequence[Tensor] | None = None,
    names: Names = None,
    logqp: bool = False,
    seed: int | None = None,
    **unused: Any,
) -> Any:
    """Solve an SDE as ``torchsde.sdeint_adjoint`` does, at low memory and with the exact gradient of the steps.

    The peer solves a continuous adjoint equation, whose gradient is off by the error of its steps.
    Here the same call reruns short segments ("reversible_heun" is undone step by step), so that
    the settings of the adjoint solver have nothing to set: they are accepted and not used.

    Parameters
    ----------
    sde : nn.Module
        As for :func:`sdeint`.
    y0 : Tensor, shape (B, D)
        Initial states.
    ts : array_like, shape (T,)
        Increasing times.
    bm : object, optional
        As for :func:`sdeint`.
    method : str, optional
        As for :func:`sdeint`.
    adjoint_method, adjoint_adaptive, adjoint_rtol, adjoint_atol, adjoint_options : object, optional
        Accepted for the peer's sake.
    dt : float
        Step.
    adaptive : bool
        Choose steps.
    rtol, atol, dt_min : float
        For adaptive steps.
    options : object, optional
        Must be empty.
    adjoint_params : sequence of Tensor, optional
        Tensors that need gradients; found by themselves if not given.
    names : mapping, optional
        As for :func:`sdeint`.
    logqp : bool
        As for :func:`sdeint`.
    seed : int, optional
        As for :func:`sdeint`.
    **unused : object
        Refused by name.

    Returns
    -------
    Tensor, shape (T, B, D), or a tuple of it and a Tensor of shape (T - 1, B)
        Times first.

    Raises
    ------
    scidyn.errors.OptionError
        If ``sde`` is no Module and ``adjoint_params`` is missing, or an option has no counterpart.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.compat import sdeint_adjoint
    >>> class Walk(torch.nn.Module):
    ...     noise_type, sde_type = "diagonal", "stratonovich"
    ...     def f(self, t, y): return -y
    ...     def g(self, t, y): return 0.1 * y
    >>> y0 = torch.ones(3, 1, requires_grad=True)
    >>> sdeint_adjoint(Walk(), y0, [0.0, 1.0], dt=0.1)[-1].sum().backward()
    >>> y0.grad.shape
    torch.Size([3, 1])
    """
    if not isinstance(sde, nn.Module) and adjoint_params is None:
        raise OptionError(f"sde must be a torch.nn.Module, or adjoint_params be given; got {type(sde).__name__}.")
    tolerances = (rtol, atol, dt_min)
    return translate_and_solve(
        sde, y0, ts, bm, method, dt, adaptive, tolerances, options, names, logqp, seed, unused, True, adjoint_params
    )

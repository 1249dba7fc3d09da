"""torchsde's entry points on this package's solver, so that code ports by an import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scidyn._check.values import choice
from scidyn.errors import OptionError
from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.arguments import check_times
from scidyn.solvers.sde.plan import make_grid
from scidyn.solvers.sde.solve import solve_sde

__all__ = ["sdeint", "sdeint_adjoint"]

METHODS = ("euler", "milstein", "srk", "midpoint", "heun", "euler_heun", "reversible_heun", "log_ode")
KNOWN = ("f", "g", "h")
Names = Mapping[str, str] | None


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
    return _solve(sde, y0, ts, bm, method, dt, adaptive, (rtol, atol, dt_min), options, names, logqp, seed, unused)


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
    return _solve(
        sde, y0, ts, bm, method, dt, adaptive, tolerances, options, names, logqp, seed, unused, True, adjoint_params
    )


class _Renamed:
    """A model whose methods have other names."""

    def __init__(self, sde: Any, names: Mapping[str, str]) -> None:
        short = {"drift": "f", "diffusion": "g", "prior_drift": "h"}
        for given, method in names.items():
            own = short.get(given, given)
            choice("names", own, KNOWN)
            if not hasattr(sde, method):
                raise OptionError(f"sde has no method {method!r}, which names calls the {given}.")
            setattr(self, own, getattr(sde, method))
        for own in (*KNOWN, "noise_type", "sde_type"):
            if not hasattr(self, own) and hasattr(sde, own):
                setattr(self, own, getattr(sde, own))


class _PeerPath:
    """A torchsde Brownian motion, called as ``bm(s, t, return_U=True)`` with ``U = ∫ (W_r - W_s) dr``."""

    def __init__(self, bm: Any, grid: list[float], levels: str) -> None:
        self.bm, self.grid, self.levels = bm, grid, levels
        self.shape = tuple(bm.shape)

    def with_levels(self, levels: str) -> _PeerPath:
        """Ask for the time integral as well."""
        return _PeerPath(self.bm, self.grid, levels)

    def block(self, start: int, stop: int) -> Noise:
        """Noise of a range of steps."""
        W, H = [], []
        for s, t in zip(self.grid[start:stop], self.grid[start + 1 : stop + 1], strict=True):
            if self.levels == "W":
                W.append(self.bm(s, t))
                continue
            w, u = self.bm(s, t, return_U=True)
            if u is None:
                raise OptionError(
                    "this method needs the space-time area: make the torchsde path with "
                    "levy_area_approximation='space-time'."
                )
            W.append(w)
            H.append(u / (t - s) - 0.5 * w)
        return Noise(torch.stack(W), torch.stack(H) if H else None)


def _solve(
    sde: Any,
    y0: Tensor,
    ts: Any,
    bm: Any,
    method: str | None,
    dt: float,
    adaptive: bool,
    tolerances: tuple[float, float, float],
    options: Any,
    names: Names,
    logqp: bool,
    seed: int | None,
    unused: Mapping[str, Any],
    adjoint: bool = False,
    params: Sequence[Tensor] | None = None,
) -> Any:
    """Translate and solve."""
    for name, value in {**unused, "options": options}.items():
        if value:
            raise OptionError(f"{name}={value!r} has no counterpart in scidyn: leave it out.")
    model: Any = sde if not names else _Renamed(sde, names)
    noise, calculus = getattr(model, "noise_type", None), getattr(model, "sde_type", None)
    if noise is None or calculus is None:
        raise OptionError("sde must have the attributes noise_type and sde_type.")
    chosen = _translate(method, noise, calculus)
    if bm is None and seed is None:
        seed = int(torch.randint(2**31 - 1, (), device="cpu"))
    if bm is not None and not hasattr(bm, "with_levels") and not hasattr(bm, "increment"):
        grid = make_grid(check_times(ts).tolist(), dt, ())
        bm = _PeerPath(bm, grid, "W")
    kind = "direct"
    if adjoint:
        kind = "reversible" if chosen == "reversible_heun" and not adaptive else "discrete"
    rtol, atol, dt_min = tolerances
    extra: dict[str, Any] = {"rtol": rtol, "atol": atol, "dt_min": dt_min} if adaptive else {}
    solution = solve_sde(
        model.f,
        model.g,
        y0,
        ts,
        noise=noise,
        calculus=calculus,
        method=chosen,
        dt=dt,
        seed=seed,
        bm=bm,
        adaptive=adaptive,
        prior_drift=model.h if logqp else None,
        adjoint=kind,
        params=params,
        **extra,
    )
    y = solution.y.transpose(0, 1)
    return (y, solution.logqp.T) if logqp and solution.logqp is not None else y


def _translate(method: str | None, noise: str, calculus: str) -> str:
    """Name that a torchsde method has here."""
    if method is None:
        method = "midpoint" if calculus == "stratonovich" else "euler" if noise == "general" else "srk"
    choice("method", method, METHODS)
    if method == "log_ode":
        raise OptionError(
            "method 'log_ode' of torchsde draws its areas with a wrong variance: use 'milstein' or 'heun'."
        )
    if method == "srk":
        return "sra1" if noise == "additive" else "sriw1"
    return method

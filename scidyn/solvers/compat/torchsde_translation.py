"""torchsde's models, paths and names in this package's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice
from scidyn.errors import OptionError
from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.arguments import check_times
from scidyn.solvers.sde.plan import make_grid
from scidyn.solvers.sde.solve import solve_sde

__all__ = ["Names", "translate_and_solve"]

METHODS = ("euler", "milstein", "srk", "midpoint", "heun", "euler_heun", "reversible_heun", "log_ode")
KNOWN = ("f", "g", "h")
Names = Mapping[str, str] | None


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


def translate_and_solve(
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

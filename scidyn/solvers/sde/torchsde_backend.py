"""Handing a problem to torchsde: its methods, and its continuous adjoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scidyn.errors import OptionError
from scidyn.solvers.sde.capture import dependencies
from scidyn.solvers.sde.methods import Method
from scidyn.solvers.sde.terms import Terms

__all__ = ["solve_by_torchsde"]

NAMES = {
    "euler_maruyama": "euler",
    "milstein": "milstein",
    "sriw1": "srk",
    "sra1": "srk",
    "heun": "heun",
    "euler_heun": "euler_heun",
    "midpoint": "midpoint",
    "reversible_heun": "reversible_heun",
}


class _Wrapped(nn.Module):
    """The terms as a module that torchsde accepts."""

    def __init__(self, terms: Terms, noise: str, calculus: str, params: Sequence[Tensor]) -> None:
        super().__init__()
        self.noise_type, self.sde_type = noise, calculus
        self.terms = terms
        for i, p in enumerate(params):
            if isinstance(p, nn.Parameter):
                self.register_parameter(f"p{i}", p)

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """Drift."""
        return self.terms.f(t, y)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """Diffusion in torchsde's shapes."""
        g = self.terms.g(t, y)
        if self.terms.matrix or self.noise_type == "diagonal":
            return g
        return torch.diag_embed(g) if self.noise_type == "additive" else g.unsqueeze(-1)


def solve_by_torchsde(
    terms: Terms,
    noise: str,
    calculus: str,
    method: Method,
    y0: Tensor,
    times: list[float],
    dt: float | None,
    seed: int | None,
    bm: Any,
    shape: tuple[int, ...],
    adjoint: str | None,
    functions: list[Any],
) -> Tensor:
    """Solve with fixed steps; shape (batch, T, D)."""
    import torchsde

    if method.name not in NAMES:
        raise OptionError(f"torchsde has no method {method.name!r}; it has {', '.join(sorted(NAMES))}.")
    first = torch.full((), times[0], dtype=y0.dtype, device=y0.device)
    probe = y0.detach()
    params = dependencies((lambda: terms.f(first, probe), lambda: terms.g(first, probe)), functions)
    sde = _Wrapped(terms, noise, calculus, params)
    if bm is None:
        if seed is None:
            raise OptionError("pass seed=<int> or a Brownian path bm, so that the run can be repeated.")
        area = "space-time" if NAMES[method.name] == "srk" else "none"
        channels = (shape[0], shape[1])
        bm = torchsde.BrownianInterval(
            t0=times[0],
            t1=times[-1],
            size=channels,
            dtype=y0.dtype,
            device=y0.device,
            entropy=seed,
            levy_area_approximation=area,
        )
    ts = torch.tensor(times, dtype=y0.dtype, device=y0.device)
    step = (times[1] - times[0]) if dt is None else dt
    options: dict[str, Any] = {"bm": bm, "dt": step, "method": NAMES[method.name]}
    if adjoint == "backsolve":
        leaves = [p for p in params if p.is_leaf]
        if len(leaves) < len(params):
            raise OptionError("backsolve cannot reach tensors computed outside f and g: use adjoint='discrete'.")
        y = torchsde.sdeint_adjoint(sde, y0, ts, adjoint_params=tuple(params), **options)
    else:
        y = torchsde.sdeint(sde, y0, ts, **options)
    result: Tensor = y.transpose(0, 1)
    return result

"""Hand a problem to torchsde: the same equation, its solver and its adjoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scidyn.errors import MissingDependencyError, OptionError
from scidyn.solvers.sde.terms import Terms

__all__ = ["solve_with_torchsde"]

NAMES = {
    "euler": "euler",
    "milstein": "milstein",
    "sriw1": "srk",
    "heun": "heun",
    "euler_heun": "euler_heun",
    "midpoint": "midpoint",
    "reversible_heun": "reversible_heun",
}


class _Model(nn.Module):
    """The terms in torchsde's dress."""

    def __init__(self, terms: Terms, params: Sequence[Tensor]) -> None:
        super().__init__()
        self.noise_type, self.sde_type = terms.noise, terms.calculus
        self.terms, self.known = terms, list(params)
        self.widen = terms.noise == "additive" and not terms.matrix

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """Drift."""
        return self.terms.f(t, y)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """Diffusion."""
        g = self.terms.g(t, y)
        return torch.diag_embed(g) if self.widen else g


def solve_with_torchsde(
    terms: Terms,
    method: str,
    y0: Tensor,
    times: Tensor,
    dt: float,
    seed: int,
    params: Sequence[Tensor],
    adjoint: bool,
    levels: str,
) -> Tensor:
    """States (B, T, D) by ``torchsde.sdeint`` or, with ``adjoint``, ``sdeint_adjoint``."""
    try:
        import torchsde
    except ImportError:
        raise MissingDependencyError("torchsde is not installed: pip install torchsde.") from None
    if method not in NAMES:
        raise OptionError(f"torchsde has no method {method!r}; it has {', '.join(map(repr, NAMES))}.")
    if y0.ndim != 2:
        raise OptionError(f"torchsde needs a state of shape (batch, D); got {tuple(y0.shape)}.")
    model = _Model(terms, params)
    stamps = times.to(device=y0.device, dtype=y0.dtype)
    area = "space-time" if levels != "W" else "none"
    path = torchsde.BrownianInterval(
        float(times[0]),
        float(times[-1]),
        size=(y0.shape[0], *terms.channels),
        dtype=y0.dtype,
        device=y0.device,
        entropy=seed,
        levy_area_approximation=area,
    )
    options: dict[str, Any] = {"bm": path, "method": NAMES[method], "dt": dt}
    if adjoint:
        y = torchsde.sdeint_adjoint(model, y0, stamps, adjoint_params=tuple(params), **options)
    else:
        y = torchsde.sdeint(model, y0, stamps, **options)
    result: Tensor = y.transpose(0, 1)
    return result

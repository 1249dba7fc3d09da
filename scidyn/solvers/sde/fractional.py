"""Equations driven by fractional noise: a step sees the memory of the noise as a constant pull."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.brownian.fractional import MarkovFBM
from scidyn.solvers.brownian.fractional_path import FractionalIncrements
from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.methods.stepper import Advance, Carry, SDEMethod
from scidyn.solvers.sde.terms import Terms

__all__ = ["FractionalSteps", "FractionalTerms", "check_fractional", "driven"]


class FractionalTerms(Terms):
    """Drift and diffusion of the user, with the weights of the noise beside them.

    Its own ``g`` is ``ω̄ g`` with ``ω̄ = Σ_k ω_k``, what multiplies dW.
    """

    def __init__(self, terms: Terms, law: MarkovFBM, like: Tensor) -> None:
        self.plain, self.law = terms, law
        weights = law.omega.to(device=like.device, dtype=like.dtype)
        self.weights = weights

        def diffusion(t: Tensor, y: Tensor) -> Tensor:
            return weights.sum() * terms.g(t, y)

        super().__init__(terms.f, diffusion, None, terms.noise, terms.calculus, terms.matrix, terms.channels)

    def pulled(self, pull: Tensor) -> Terms:
        """Terms of a step: ``dy = (f + g ā) dt + ω̄ g dW``, where ā is the mean of ``-Σ ω_k γ_k Y_k``."""
        plain = self.plain

        def drift(t: Tensor, y: Tensor) -> Tensor:
            return plain.move(plain.f(t, y), plain.g(t, y), pull)

        return Terms(drift, self.g, None, self.noise, self.calculus, self.matrix, self.channels)


class FractionalSteps:
    """Any memoryless method on ``dy = f dt + g dB̂``, ``dB̂ = -Σ_k ω_k γ_k Y_k dt + ω̄ dW``.

    The noise of a step holds the increments of W and of all Y_k. Their weighted sum is that of ``B̂``, which the
    step gets exactly right: the pull is ``ā = (Σ ω_k ΔY_k - ω̄ ΔW) / h``.
    """

    def __init__(self, inner: SDEMethod, like: Tensor, terms: Terms) -> None:
        if inner.begin(terms, torch.zeros((), dtype=like.real.dtype, device=like.device), like):
            raise OptionError(
                f"method {inner.about.name!r} carries evaluations from step to step, while the pull of fractional "
                "noise changes: use method='heun' or 'midpoint'."
            )
        self.inner, self.about = inner, inner.about

    def begin(self, terms: Terms, t: Tensor, y: Tensor) -> Carry:
        """Give nothing."""
        return ()

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        if not isinstance(terms, FractionalTerms):
            raise TypeError("fractional steps need fractional terms.")
        W = noise.W[..., 0].contiguous()
        pull = (noise.W[..., 1:] @ terms.weights - terms.weights.sum() * W) / h
        return self.inner.step(terms.pulled(pull), t, h, y, carry, Noise(W, noise.H))


def driven(
    terms: Terms, method: SDEMethod, bm: MarkovFBM | FractionalIncrements, y0: Tensor
) -> tuple[Terms, SDEMethod]:
    """Equation and method with fractional noise in the place of Brownian motion."""
    fractional = FractionalTerms(terms, bm if isinstance(bm, MarkovFBM) else bm.law, y0)
    return fractional, FractionalSteps(method, y0.detach(), fractional)


def check_fractional(prior: Any, adaptive: bool, backend: str, adjoint: str | None) -> None:
    """Refuse what fractional noise cannot do."""
    if adaptive:
        raise OptionError("fractional noise is drawn on a known grid: use fixed steps, dt=, in place of adaptive=True.")
    if backend == "torchsde" or adjoint == "backsolve":
        raise OptionError("torchsde knows no fractional noise: use the native backend and adjoint='discrete'.")
    if prior is not None:
        raise OptionError(
            "prior_drift= has no meaning with fractional noise: another drift changes the memory of the noise as well."
        )

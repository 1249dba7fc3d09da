"""Equations driven by fractional noise: a step sees the memory of the noise as a constant pull."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.brownian.fractional import MarkovFBM
from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.methods.stepper import Advance, Carry, SDEMethod
from scidyn.solvers.sde.terms import Terms

__all__ = ["FractionalSteps", "FractionalTerms"]


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

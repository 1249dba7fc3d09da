"""Multi-marginal Schrödinger bridges whose reference is refined: paths and parameters from snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import choice, integer, number
from scidyn.bridges.family import Family
from scidyn.bridges.linearised import Noise
from scidyn.bridges.piecewise import PiecewiseBridge
from scidyn.bridges.refine_pairs import refine_on_pairs
from scidyn.bridges.refine_paths import refine_on_paths
from scidyn.bridges.refinement_result import BridgeResult
from scidyn.bridges.sandwich import standard_errors
from scidyn.bridges.snapshots import Snapshots
from scidyn.bridges.starts import matched_start
from scidyn.errors import OptionError

__all__ = ["IterativeReferenceRefinement", "as_noise"]


class IterativeReferenceRefinement:
    """Trajectories through snapshots and the parameters of their dynamics, from a family of drifts.

    Among all processes that pass through every snapshot and all members of the family
    ``R_θ: dX = b(t, X; θ) dt + σ dW``, the pair with the smallest ``KL(P ‖ R_θ)`` is sought by
    turns: the Schrödinger bridge for the present θ, then the θ that is most likely on the paths of
    that bridge. Both turns lower the divergence. ``iterations=0`` is the plain bridge.

    The bridge is exact for linear drifts; for others the transition is the normal law of the
    linear noise around the reference's own flow, which is accurate while σ is small beside the
    scale on which the drift bends. ``bridge="ipf"`` simulates the reference instead, and learns the
    drifts by regression: slower, no linearisation.

    Parameters
    ----------
    reference : scidyn.systems.System, Library or callable
        The family; see :class:`Family`. A system starts at its own values.
    sigma : float, array_like of shape (feature,) or callable
        Diffusion in state/√time, per feature; a callable maps states ``(n, d)`` to ``(n, d)``. It is
        an input: too large blurs the paths, too small matches cells one to one.
    bridge : {"linearised", "ipf"}
        How the bridge for a given θ is found.
    iterations : int
        Largest number of turns.
    n_steps : int
        Steps per interval on which paths are drawn.
    n_paths : int
        Paths per interval in a refinement.
    starts : int
        Starts, the given one and random ones around it, of which the one that carries the mean and spread of
        each snapshot best to those of the next is taken, after steps that lower this misfit; 1 takes the given
        start as it is.
    start : mapping of str to float, optional
        Starting values that replace the reference's own.
    bounds : mapping of str to (float, float), optional
        Bounds that replace the reference's own.
    tolerance : float
        The search ends when no parameter moves by more than this fraction of its size.
    standard_errors : bool
        Compute them (a few more bridges).
    seed : int
        Seed of everything random.

    Raises
    ------
    scidyn.errors.OptionError
        If an option is not allowed.

    Examples
    --------
    >>> import numpy as np
    >>> from scidyn.bridges import IterativeReferenceRefinement
    >>> rng = np.random.default_rng(0)
    >>> times = [0.0, 0.5, 1.0, 1.5]
    >>> clouds = [np.exp(-t) * 2 + 0.1 * rng.normal(size=(60, 1)) for t in times]
    >>> result = IterativeReferenceRefinement(lambda t, x, rate=0.1: -rate * x, sigma=0.1).fit(clouds, times)
    >>> print(f"{float(result.theta['estimate'].sel(parameter='rate')):.1f}")
    1.0

    References
    ----------
    Y. Shen, R. Berlinghieri, T. Broderick, Multi-marginal Schrödinger bridges with iterative reference
    refinement, AISTATS 2025.
    """

    def __init__(
        self,
        reference: Any,
        sigma: Any,
        bridge: str = "linearised",
        *,
        iterations: int = 40,
        n_steps: int = 40,
        n_paths: int = 300,
        starts: int = 128,
        start: Mapping[str, float] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        tolerance: float = 1e-3,
        standard_errors: bool = True,
        seed: int = 0,
    ) -> None:
        self.reference = reference
        self.sigma = sigma
        self.bridge = choice("bridge", bridge, ("linearised", "ipf"))
        self.iterations = integer("iterations", iterations, at_least=0)
        self.n_steps = integer("n_steps", n_steps, at_least=4)
        self.n_paths = integer("n_paths", n_paths, at_least=10)
        self.starts = integer("starts", starts, at_least=1)
        self.family = Family(reference, start=start, bounds=bounds)
        self.tolerance = number("tolerance", tolerance, above=0.0)
        self.standard_errors = bool(standard_errors)
        self.seed = integer("seed", seed)
        as_noise(sigma, None)

    def fit(
        self,
        snapshots: Any,
        times: Any = None,
        *,
        holdout: Sequence[int] = (),
        progress: Callable[[float], None] | None = None,
    ) -> BridgeResult:
        """Find the bridge through the snapshots and the parameters of its reference.

        Parameters
        ----------
        snapshots : Snapshots, xarray.Dataset or sequence of array_like of shape (cell, feature)
            See :meth:`Snapshots.of`.
        times : array_like, shape (time,), optional
            Needed with a sequence of clouds.
        holdout : sequence of int
            Positions of snapshots to keep out of the fit, for :meth:`BridgeResult.score`.
        progress : callable, optional
            Told the finished fraction.

        Returns
        -------
        BridgeResult

        Raises
        ------
        scidyn.errors.DataError
            If the snapshots cannot be used.
        scidyn.errors.FitError
            If the reference cannot be integrated or a coupling is not found.
        """
        whole = Snapshots.of(snapshots, times)
        out = _positions(holdout, len(whole))
        seen = whole.select([k for k in range(len(whole)) if k not in out])
        seen._enough(2)
        noise = as_noise(self.sigma, seen.dim)
        self.family.check(torch.cat(seen.clouds))
        generator = torch.Generator().manual_seed(self.seed)
        state, history = self._run(self.family.start.clone(), seen, noise, generator, progress)
        stderr = np.full(len(self.family.names), np.nan)
        if self.standard_errors and self.iterations > 0 and self.bridge == "linearised":
            stderr = standard_errors(state)
        return BridgeResult(whole, out, state, history, stderr, seed=self.seed, n_steps=self.n_steps)

    def _run(
        self,
        theta: Tensor,
        seen: Snapshots,
        noise: Noise,
        generator: torch.Generator,
        progress: Callable[[float], None] | None,
    ) -> tuple[Any, list[tuple[float, list[float]]]]:
        """Turns until the parameters rest: on paths while they move much, then on pairs."""
        if self.starts > 1 and self.iterations > 0:
            theta = matched_start(self.family, seen, noise, generator, self.starts)
        state = self._bridge(seen, noise, theta, generator)
        history = [(state.value, state.theta.tolist())]
        on_pairs, first = False, state.value
        for turn in range(1, self.iterations + 1):
            before = state
            state = self._turn(before, seen, noise, generator, on_pairs=on_pairs)
            moved = float(((state.theta - before.theta).abs() / state.theta.abs().clamp_min(1e-3)).max())
            gain = before.value - state.value
            if (
                not on_pairs
                and self.bridge == "linearised"
                and (gain < 0.02 * abs(first - state.value) or moved < 0.05)
            ):
                on_pairs = True
                state = before if gain < 0 else state
                moved = np.inf
            history.append((state.value, state.theta.tolist()))
            if progress is not None:
                progress(turn / self.iterations)
            if moved < self.tolerance:
                break
        return state, history

    def _turn(self, before: Any, seen: Snapshots, noise: Noise, generator: torch.Generator, *, on_pairs: bool) -> Any:
        """One refinement and the bridge it leads to."""
        theta = refine_on_pairs(before) if on_pairs else refine_on_paths(before, generator, self.n_paths, self.n_steps)
        return self._bridge(seen, noise, theta, generator, previous=before)

    def _bridge(
        self,
        seen: Snapshots,
        noise: Noise,
        theta: Tensor,
        generator: torch.Generator,
        previous: Any = None,
    ) -> Any:
        if self.bridge == "linearised":
            return PiecewiseBridge.solve(seen, self.family, theta, noise, previous=previous)
        from scidyn.bridges.ipf import IPFBridge

        return IPFBridge.solve(
            seen, self.family, theta, noise, n_paths=self.n_paths, n_steps=self.n_steps, generator=generator
        )


def _positions(holdout: Sequence[int], count: int) -> tuple[int, ...]:
    out = tuple(sorted({integer("a position in holdout", k) for k in holdout}))
    wrong = [k for k in out if not 0 <= k < count]
    if wrong:
        raise OptionError(f"holdout names position {wrong[0]}; there are {count} snapshots, counted from 0.")
    return out


def as_noise(sigma: Any, dim: int | None) -> Noise:
    """``sigma`` as a function from states ``(n, d)`` to diagonal diffusions ``(n, d)``."""
    if callable(sigma):
        return sigma
    value = torch.as_tensor(np.asarray(sigma, dtype=float))
    if value.ndim > 1 or not bool(torch.isfinite(value).all()) or bool((value <= 0).any()):
        raise OptionError(f"sigma must be positive: one number, one per feature, or a function; got {sigma!r}.")
    if dim is not None and value.ndim == 1 and len(value) != dim:
        raise OptionError(f"sigma has {len(value)} entries; the snapshots have {dim} features.")
    return lambda x: value.to(x).expand_as(x)

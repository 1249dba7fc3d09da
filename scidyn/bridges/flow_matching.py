"""One engine for flows and bridges between snapshots: path × coupling × objective, no simulation in training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from scidyn._check.values import choice, integer, number
from scidyn.bridges.chains import COUPLINGS, PATHS, Curve, couple
from scidyn.bridges.snapshots import Snapshots
from scidyn.errors import NotFittedError, OptionError, ShapeError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FlowMatching"]


class FlowMatching:
    """Learn the velocity (and score) of a process through snapshots by regression.

    A chain of cells ``x_0, …, x_K`` is drawn from coupled neighbours, a curve ``m(t)`` is laid through
    it, and noise of the Brownian bridge's size is added: ``x_t = m(t) + σ √(Δ s (1 − s)) z`` with
    ``s`` the fraction of the interval ``Δ``. Networks are fitted to ::

        velocity:  b(t, x) = E[ ṁ + (γγ̇/γ) z | x_t = x ]      denoiser:  η(t, x) = E[ z | x_t = x ]

    so that ``∇ log ρ_t = −η/γ``. Special cases:

    =======================  =============  ===========  =========
    method                   coupling       path         sigma
    =======================  =============  ===========  =========
    flow matching            independent    linear       0
    OT flow matching         exact          linear       0
    score and flow ([SF]²M)  sinkhorn       linear       > 0
    smooth flow matching     exact          momentum     0
    =======================  =============  ===========  =========

    With ``coupling="sinkhorn"`` the linear path is the Schrödinger bridge of the reference ``σ dW``.

    Parameters
    ----------
    coupling : {"exact", "sinkhorn", "independent", "paired"}
        How cells of neighbouring snapshots are paired.
    path : {"linear", "momentum"}
        Straight lines between neighbours, or curves without corners through all snapshots.
    sigma : float or "auto"
        Diffusion in state/√time; 0 gives an ordinary differential equation. "auto" takes the noise that
        explains a fifth of the mean squared displacement of the optimal coupling.
    hidden : sequence of int
        Widths of the networks.
    iterations : int
        Steps of Adam (cosine schedule).
    batch : int
        Chains per step.
    learning_rate : float
        First step size.
    average : int
        Networks fitted from different seeds and averaged.
    seed : int
        Seed of everything random.

    Raises
    ------
    scidyn.errors.OptionError
        If an option is not allowed.

    Examples
    --------
    >>> import numpy as np
    >>> from scidyn.bridges import FlowMatching
    >>> rng = np.random.default_rng(0)
    >>> clouds = [rng.normal(size=(50, 2)), 3 + rng.normal(size=(50, 2))]
    >>> flow = FlowMatching(hidden=(16,), iterations=150, batch=64, learning_rate=0.02).fit(clouds, [0.0, 1.0])
    >>> ends = flow.push(clouds[0], 0.0, 1.0)
    >>> bool(abs(ends.mean() - 3) < 0.7)
    True

    References
    ----------
    A. Tong et al., Improving and generalizing flow-based generative models with minibatch optimal transport,
    TMLR 2024. A. Tong et al., Simulation-free Schrödinger bridges via score and flow matching, AISTATS 2024.
    """

    def __init__(
        self,
        *,
        coupling: str = "exact",
        path: str = "linear",
        sigma: float | str = 0.0,
        hidden: tuple[int, ...] = (64, 64, 64),
        iterations: int = 2000,
        batch: int = 256,
        learning_rate: float = 2e-3,
        average: int = 1,
        seed: int = 0,
    ) -> None:
        self.coupling = choice("coupling", coupling, COUPLINGS)
        self.path = choice("path", path, PATHS)
        self.sigma = sigma if sigma == "auto" else number("sigma", sigma, at_least=0.0)
        if coupling == "sinkhorn" and sigma == 0:
            raise OptionError("coupling='sinkhorn' needs sigma > 0: the diffusion of the bridge's reference.")
        self.hidden = tuple(integer("a layer size", h, at_least=1) for h in hidden)
        self.iterations = integer("iterations", iterations, at_least=1)
        self.batch = integer("batch", batch, at_least=2)
        self.learning_rate = number("learning_rate", learning_rate, above=0.0)
        self.average = integer("average", average, at_least=1)
        self.seed = integer("seed", seed)

    def fit(self, snapshots: Any, times: Any = None, *, progress: Any = None) -> FlowMatching:
        """Couple the snapshots and fit the networks.

        Parameters
        ----------
        snapshots : Snapshots, xarray.Dataset or sequence of array_like of shape (cell, feature)
            See :meth:`Snapshots.of`.
        times : array_like, shape (time,), optional
            Needed with a sequence of clouds.
        progress : scidyn.training.Progress, optional
            Told how far the fit is.

        Returns
        -------
        FlowMatching
        """
        from scidyn.nn import MLP
        from scidyn.training import Adam, Loss, fit

        self.snapshots_ = s = Snapshots.of(snapshots, times)
        generator = torch.Generator().manual_seed(self.seed)
        everything = torch.cat(s.clouds)
        self.centre_ = everything.mean(dim=0)
        self.scale_ = float((everything - self.centre_).square().mean().sqrt())
        self.sigma_ = automatic_sigma(s, generator) if self.sigma == "auto" else float(self.sigma)
        self.chains_ = couple(s, self.coupling, sigma=max(self.sigma_, 1e-12), generator=generator)
        self._curve = Curve(s.times, self.path)
        self.rate_ = self.scale_ / float(s.times.diff().mean())
        self.networks_ = []
        for k in range(self.average):
            first = torch.Generator().manual_seed(self.seed + 1000 * k)
            outputs = s.dim * (2 if self.sigma_ > 0 else 1)
            net = MLP(s.dim + len(s), outputs, hidden=self.hidden, activation="silu", generator=first)

            def objective(model: nn.Module, batch: tuple[Tensor, ...]) -> Loss:
                x, target = batch
                loss = (model(x) - target).square().mean()
                return Loss(loss, {"regression": loss})

            fit(
                net,
                objective,
                lambda step, g: self._draw(g),
                stages=[Adam(self.iterations, self.learning_rate, schedule="cosine")],
                seed=self.seed + 1000 * k,
                progress=progress,
            )
            self.networks_.append(net.eval())
        return self

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Network inputs and regression targets of one batch, in the networks' units."""
        s = self.snapshots_
        count = len(s) - 1
        chain = torch.stack(self.chains_.draw(self.batch, generator), dim=1)
        k = torch.arange(self.batch * count) % count
        chain = chain.repeat_interleave(count, dim=0)
        share = torch.rand(len(k), generator=generator, dtype=chain.dtype) * 0.998 + 0.001
        gap = s.times.diff()[k]
        t = s.times[k] + gap * share
        w, dw = (torch.as_tensor(v) for v in self._curve.weights(t.numpy()))
        x = (w.unsqueeze(2) * chain).sum(dim=1)
        rate = (dw.unsqueeze(2) * chain).sum(dim=1)
        targets = [rate / self.rate_]
        if self.sigma_ > 0:
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = x + self.sigma_ * (gap * share * (1 - share)).sqrt().unsqueeze(1) * z
            targets = [rate / self.rate_, z]  # the part of γ̇ z is (γ̇/γ) γ η: no network has to learn it
        return self._inputs(t, x, k), torch.cat(targets, dim=1).float()

    def _inputs(self, t: Tensor, x: Tensor, k: Tensor) -> Tensor:
        """State, time in the interval, and which interval: velocities may jump at the snapshots."""
        times = self.snapshots_.times
        fraction = (t - times[k]) / times.diff()[k]
        place = nn.functional.one_hot(k, len(times) - 1)
        return torch.cat([(x - self.centre_) / self.scale_, 2 * fraction.unsqueeze(1) - 1, place], dim=1).float()

    def _evaluate(self, t: float, x: Tensor) -> Tensor:
        if not hasattr(self, "networks_"):
            raise NotFittedError("FlowMatching was used before fit(snapshots, times).")
        if x.ndim != 2 or x.shape[1] != self.snapshots_.dim:
            raise ShapeError(f"x has shape {tuple(x.shape)}; (cell, {self.snapshots_.dim}) is needed.")
        when = torch.full((len(x),), float(t), dtype=torch.float64)
        with torch.no_grad():
            inputs = self._inputs(when, x, self._interval(float(t)).expand(len(x)))
            return torch.stack([net(inputs) for net in self.networks_]).mean(dim=0).double()

    def _interval(self, t: float) -> Tensor:
        """Position of the interval that holds ``t``; a snapshot's time belongs to the one that starts there."""
        times = self.snapshots_.times
        return torch.searchsorted(times, torch.tensor(t, dtype=times.dtype), right=True).sub(1).clamp(0, len(times) - 2)

    def _share(self, t: float) -> tuple[float, float]:
        """Fraction and length of the interval that holds ``t``."""
        times, k = self.snapshots_.times.numpy(), int(self._interval(t))
        gap = float(times[k + 1] - times[k])
        return min(max((t - times[k]) / gap, 1e-3), 1 - 1e-3), gap

    def velocity(self, t: float, x: Tensor) -> Tensor:
        """Velocity of the ordinary differential equation that carries the snapshots.

        Parameters
        ----------
        t : float
            Time.
        x : Tensor, shape (n, d)
            States.

        Returns
        -------
        Tensor, shape (n, d)
        """
        out = self._evaluate(float(t), x.double())
        b = self.rate_ * out[:, : x.shape[1]]
        if self.sigma_ > 0:
            share, gap = self._share(float(t))
            slope = self.sigma_ * (1 - 2 * share) / (2 * math.sqrt(gap * share * (1 - share)))
            b = b + slope * out[:, x.shape[1] :]
        return b

    def score(self, t: float, x: Tensor) -> Tensor:
        """``∇ log ρ_t`` where ``sigma > 0``.

        Parameters
        ----------
        t : float
            Time; within a thousandth of an interval from a snapshot the value there is used.
        x : Tensor, shape (n, d)
            States.

        Returns
        -------
        Tensor, shape (n, d)
        """
        out = self._evaluate(float(t), x.double())
        if self.sigma_ <= 0:
            raise OptionError("The score is learned only with sigma > 0.")
        share, gap = self._share(float(t))
        return -out[:, x.shape[1] :] / (self.sigma_ * math.sqrt(gap * share * (1 - share)))

    def drift(self, t: float, x: Tensor, diffusion: float | None = None) -> Tensor:
        """Drift ``b + ½ g² ∇ log ρ`` of the stochastic equation with diffusion ``g``.

        Parameters
        ----------
        t : float
            Time.
        x : Tensor, shape (n, d)
            States.
        diffusion : float, optional
            ``g`` in state/√time; default ``sigma``, which for the Sinkhorn coupling is the bridge.

        Returns
        -------
        Tensor, shape (n, d)
        """
        g = self.sigma_ if diffusion is None else number("diffusion", diffusion, at_least=0.0)
        b = self.velocity(t, x)
        return b + 0.5 * g**2 * self.score(t, x) if g > 0 else b

    def push(
        self, x: Any, start: float, stop: float, *, diffusion: float = 0.0, n_steps: int = 40, seed: int = 0
    ) -> Tensor:
        """Move cells from one time to another.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Cells at ``start``.
        start, stop : float
            Times; ``stop`` may lie before ``start`` if ``diffusion`` is 0.
        diffusion : float
            0 follows the velocity; positive simulates the stochastic equation.
        n_steps : int
            Steps per interval between snapshots.
        seed : int
            Seed of the noise.

        Returns
        -------
        Tensor, shape (n, d)
        """
        _, states = self.trace(x, [start, stop], diffusion=diffusion, n_steps=n_steps, seed=seed)
        return states[:, -1]

    def trace(
        self, x: Any, times: Any, *, diffusion: float = 0.0, n_steps: int = 40, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Move cells and keep their states at ``times``.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Cells at the first time.
        times : array_like, shape (time,)
            Monotone times.
        diffusion : float
            0 follows the velocity; positive simulates the stochastic equation.
        n_steps : int
            Steps per interval between snapshots; snapshot times are always ends of steps.
        seed : int
            Seed of the noise.

        Returns
        -------
        tuple of Tensor, shapes (time,) and (n, time, d)
        """
        from scidyn.solvers import solve_ode

        x = torch.as_tensor(np.asarray(x), dtype=torch.float64)
        wanted = torch.as_tensor(np.asarray(times, dtype=float))
        g = number("diffusion", diffusion, at_least=0.0)
        down = bool(wanted[-1] < wanted[0])
        if g > 0 and down:
            raise OptionError("A stochastic path runs forward in time; use diffusion=0 to go back.")
        generator = torch.Generator().manual_seed(seed)
        states, at = [x], wanted[0]
        for goal in wanted[1:]:
            inner = [b for b in self.snapshots_.times if min(at, goal) < b < max(at, goal)]
            for point in [*(reversed(inner) if down else inner), goal]:
                h = float(self.snapshots_.times.diff().min()) / n_steps
                count = max(1, math.ceil(abs(float(point - at)) / h - 1e-9))
                if g == 0:
                    f = lambda t, y, m=(at + point) / 2: self._inside(t, y, m)  # noqa: E731
                    pair = torch.stack([at, point])
                    with torch.no_grad():
                        y = solve_ode(
                            f, x, pair, method="rk4", stepping="fixed", dt0=float(abs(point - at)) / count, adjoint=None
                        ).y
                    x = y[:, -1]
                else:
                    x = self._euler(x, float(at), float(point), count, g, generator)
                at = point
            states.append(x)
        return wanted, torch.stack(states, dim=1)

    def _inside(self, t: Tensor, y: Tensor, middle: Tensor) -> Tensor:
        """The velocity, with a time at a snapshot taken as belonging to the interval of ``middle``."""
        nudge = 1e-9 * float(self.snapshots_.times[-1] - self.snapshots_.times[0])
        when = float(t.reshape(-1)[0])
        return self.velocity(when + nudge * (1 if float(middle) > when else -1), y)

    def _euler(self, x: Tensor, start: float, stop: float, count: int, g: float, generator: torch.Generator) -> Tensor:
        h = (stop - start) / count
        for k in range(count):
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = x + h * self.drift(start + k * h, x, g) + g * math.sqrt(h) * z
        return x

    def reflow(self, x: Any, **settings: Any) -> FlowMatching:
        """Straighten the flow: fit another to the pairs that this one joins.

        Between two snapshots, the new flow has the same ends and its paths are nearly straight lines, so
        that a few Euler steps suffice; no convex transport cost grows.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Cells at the first time, as many as you can draw.
        **settings
            Arguments of :class:`FlowMatching` that differ from this flow's.

        Returns
        -------
        FlowMatching
            Fitted, with ``coupling="paired"`` and ``path="linear"``.
        """
        s = self.snapshots_
        start = torch.as_tensor(np.asarray(x), dtype=torch.float64)
        end = self.push(start, float(s.times[0]), float(s.times[-1]))
        own = {k: getattr(self, k) for k in ("hidden", "iterations", "batch", "learning_rate", "average", "seed")}
        ends = Snapshots.of([start, end], s.times[[0, -1]], features=s.features, time_units=s.time_units)
        return FlowMatching(**{**own, "coupling": "paired", "path": "linear", "sigma": 0.0, **settings}).fit(ends)

    def straightness(self, x: Any, *, n_times: int = 20) -> float:
        """``∫ E|ẋ|² dt − E|x_1 − x_0|² / T``: zero if and only if cells move on straight lines at constant speed.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Cells at the first time.
        n_times : int
            Midpoints of the time integral.

        Returns
        -------
        float
        """
        times = self.snapshots_.times
        start, stop = float(times[0]), float(times[-1])
        mid = start + (stop - start) * (np.arange(integer("n_times", n_times, at_least=2)) + 0.5) / n_times
        _, states = self.trace(x, [start, *mid, stop])
        speeds = [float(self.velocity(t, states[:, k + 1]).square().sum(dim=1).mean()) for k, t in enumerate(mid)]
        moved = float((states[:, -1] - states[:, 0]).square().sum(dim=1).mean())
        return float(np.mean(speeds)) * (stop - start) - moved / (stop - start)

    def at(self, t: float, *, diffusion: float = 0.0, seed: int = 0) -> xr.Dataset:
        """Snapshot at time ``t``: the cells of the last snapshot before it, moved on.

        Parameters
        ----------
        t : float
            Time inside the range of the snapshots.
        diffusion : float
            0 follows the velocity; positive simulates the stochastic equation.
        seed : int
            Seed of the noise.

        Returns
        -------
        xarray.Dataset
            Kind ``snapshots``.
        """
        s = self.snapshots_
        when = number("t", t, at_least=float(s.times[0]), at_most=float(s.times[-1]))
        k = int(np.searchsorted(s.times.numpy(), when, side="right")) - 1
        x = (
            s.clouds[k]
            if when == float(s.times[k])
            else self.push(s.clouds[k], float(s.times[k]), when, diffusion=diffusion, seed=seed)
        )
        time = torch.tensor([when], dtype=torch.float64)
        return Snapshots((x,), time, s.features, (s.weights[k],), s.time_units, s.feature_units).to_dataset()


def automatic_sigma(snapshots: Snapshots, generator: torch.Generator, share: float = 0.2) -> float:
    """Diffusion that explains ``share`` of the mean squared displacement per time of optimal couplings."""
    rates = []
    for k in range(len(snapshots) - 1):
        n = min(500, *snapshots.sizes[k : k + 2])
        x, y = (c[torch.randperm(len(c), generator=generator)[:n]] for c in snapshots.clouds[k : k + 2])
        gap = float(snapshots.times[k + 1] - snapshots.times[k])
        rates.append(float(optimal_square(x, y)) / (snapshots.dim * gap))
    return math.sqrt(share * float(np.mean(rates)))


def optimal_square(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared displacement of the optimal assignment."""
    from scidyn.bridges.baselines import optimal_pairs

    return optimal_pairs(x, y)[1].square().mean()

"""What a reference refinement returns: parameters, paths, snapshots at any time, held-out scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import choice, integer, number
from scidyn.bridges.baselines import METRICS, evaluate_cloud, interpolate_clouds
from scidyn.bridges.snapshots import Snapshots
from scidyn.errors import DataError, OptionError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["BridgeResult"]


class BridgeResult:
    """A fitted bridge through snapshots.

    Made by :meth:`IterativeReferenceRefinement.fit`.

    Parameters
    ----------
    snapshots : Snapshots
        All snapshots, held-out ones included.
    holdout : tuple of int
        Positions that the fit did not see.
    state : PiecewiseBridge or IPFBridge
        The bridge at the estimate.
    history : list
        Divergence and parameters, turn by turn.
    stderr : ndarray, shape (parameter,)
        Standard errors.
    seed : int
        Seed of draws.
    n_steps : int
        Steps per interval of :attr:`paths`.

    Examples
    --------
    >>> import numpy as np
    >>> from scidyn.bridges import IterativeReferenceRefinement
    >>> rng = np.random.default_rng(0)
    >>> clouds = [np.exp(-t) + 0.05 * rng.normal(size=(30, 1)) for t in (0.0, 0.5, 1.0)]
    >>> result = IterativeReferenceRefinement(lambda t, x, k=1.0: -k * x, 0.05).fit(
    ...     clouds, [0.0, 0.5, 1.0], holdout=[1])
    >>> result.at(0.25).sizes["cell"]
    30
    >>> score = result.score()
    >>> bool((score["bridge"] < score["previous"]).all())
    True
    """

    def __init__(
        self,
        snapshots: Snapshots,
        holdout: tuple[int, ...],
        state: Any,
        history: list[tuple[float, list[float]]],
        stderr: np.ndarray,
        *,
        seed: int,
        n_steps: int,
    ) -> None:
        self.snapshots, self.holdout, self.state = snapshots, holdout, state
        self.seed, self.n_steps = seed, n_steps
        self._history, self._stderr = history, stderr

    def __repr__(self) -> str:
        named = ", ".join(
            f"{n}={v:.4g}±{s:.2g}" for n, v, s in zip(self.names, self.state.theta.tolist(), self._stderr, strict=True)
        )
        return f"BridgeResult({named}; {len(self._history) - 1} turns)"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return self.state.family.names

    @property
    def theta(self) -> xr.Dataset:
        """Estimates with standard errors and 90 % intervals, along ``parameter``."""
        import xarray as xr

        estimate = self.state.theta.numpy()
        reach = 1.6448536 * self._stderr
        columns = {
            "estimate": estimate, "stderr": self._stderr, "lower": estimate - reach, "upper": estimate + reach,
        }  # fmt: skip
        return xr.Dataset({k: ("parameter", v) for k, v in columns.items()}, coords={"parameter": list(self.names)})

    @property
    def history(self) -> xr.Dataset:
        """Divergence ``KL(P ‖ R_θ)`` (up to a constant) and parameters after every turn."""
        import xarray as xr

        return xr.Dataset(
            {
                "objective": ("iteration", [v for v, _ in self._history]),
                "theta": (("iteration", "parameter"), np.array([p for _, p in self._history])),
            },
            coords={"iteration": np.arange(len(self._history)), "parameter": list(self.names)},
        )

    @property
    def paths(self) -> xr.Dataset:
        """Two hundred paths through one cell per fitted snapshot."""
        return self.sample_paths(200)

    def sample_paths(self, n: int, *, seed: int | None = None) -> xr.Dataset:
        """Draw whole paths.

        Parameters
        ----------
        n : int
            Number of paths.
        seed : int, optional
            Seed; default that of the fit.

        Returns
        -------
        xarray.Dataset
            ``state`` with dims ``trajectory, time, feature``.
        """
        import xarray as xr

        count = integer("n", n, at_least=1)
        times, states = self.state.paths(count, self.n_steps, self._generator(seed))
        return xr.Dataset(
            {"state": (("trajectory", "time", "feature"), states.numpy(), {"units": self.snapshots.feature_units})},
            coords={
                "trajectory": np.arange(count),
                "time": ("time", times.numpy(), {"units": self.snapshots.time_units}),
                "feature": list(self.snapshots.features),
            },
        )

    def at(self, t: float, n: int | None = None, *, seed: int | None = None) -> xr.Dataset:
        """Draw a snapshot at any time between the first and the last fitted one.

        Parameters
        ----------
        t : float
            Time.
        n : int, optional
            Number of cells; default as many as the nearest snapshot has.
        seed : int, optional
            Seed; default that of the fit.

        Returns
        -------
        xarray.Dataset
            Kind ``snapshots``.

        Raises
        ------
        scidyn.errors.OptionError
            If ``t`` lies outside the fitted times.
        """
        cloud = self._cloud(t, n, seed)
        one = torch.tensor([float(t)], dtype=torch.float64)
        s = self.snapshots
        w = torch.full((len(cloud),), 1.0 / len(cloud), dtype=torch.float64)
        return Snapshots((cloud,), one, s.features, (w,), s.time_units, s.feature_units).to_dataset()

    def score(self, metric: str = "w1") -> xr.Dataset:
        """Distance of the bridge from every held-out snapshot, beside forecasts that cost nothing.

        Parameters
        ----------
        metric : {"w1", "w2", "sliced", "mmd", "energy"}
            Wasserstein distance with the Euclidean ground cost, of order 1 or 2, between clouds of
            equally many cells.

        Returns
        -------
        xarray.Dataset
            Along ``time``: ``bridge``; ``interpolation`` (optimal transport between the neighbours);
            ``previous`` and ``next`` (their copies); ``floor`` (two halves of the held-out snapshot).

        Raises
        ------
        scidyn.errors.DataError
            If nothing was held out or a held-out time lies outside the fitted times.
        """
        import xarray as xr

        choice("metric", metric, METRICS)
        if not self.holdout:
            raise DataError("Nothing was held out; pass holdout=[…] to fit.")
        s, rows, when = self.snapshots, [], []
        seen = [k for k in range(len(s)) if k not in self.holdout]
        for k in self.holdout:
            before, after = [j for j in seen if j < k], [j for j in seen if j > k]
            if not before or not after:
                raise DataError(
                    f"The held-out snapshot {k} has no fitted neighbour on both sides; it cannot be scored."
                )
            generator = torch.Generator().manual_seed(self.seed + 7919 * (k + 1))
            t, target = float(s.times[k]), s.clouds[k]
            low, high = before[-1], after[0]
            share = float((s.times[k] - s.times[low]) / (s.times[high] - s.times[low]))
            between = interpolate_clouds(s.clouds[low], s.clouds[high], share, generator)
            guess = {
                "bridge": self._cloud(t, len(target), None),
                "interpolation": between, "previous": s.clouds[low], "next": s.clouds[high],
            }  # fmt: skip
            found = evaluate_cloud(guess, target, [metric], generator)
            rows.append({name: values[0] for name, values in found.items()})
            when.append(t)
        return xr.Dataset(
            {name: ("time", [r[name] for r in rows]) for name in rows[0]},
            coords={"time": ("time", when, {"units": s.time_units})},
            attrs={"metric": metric},
        )

    def _cloud(self, t: float, n: int | None, seed: int | None) -> Tensor:
        times = self.state.snapshots.times
        where = number("t", t)
        if not float(times[0]) <= where <= float(times[-1]):
            raise OptionError(f"t must lie in the fitted times [{times[0]:g}, {times[-1]:g}]; got {where:g}.")
        nearest = int((self.snapshots.times - where).abs().argmin())
        count = self.snapshots.sizes[nearest] if n is None else integer("n", n, at_least=1)
        return self.state.at(where, count, self._generator(seed))

    def _generator(self, seed: int | None) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed if seed is None else integer("seed", seed))

"""Fit the parameters of a named equation to a record, with intervals."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from scidyn._check.values import integer, number
from scidyn.errors import DataError, FitWarning, OptionError
from scidyn.sysid.bands import draw, mixture_quantile, padded_times
from scidyn.sysid.coordinates import Coordinates, coordinates_of
from scidyn.sysid.estimator import Estimator, progress_of
from scidyn.sysid.noise import Noise, known_noise
from scidyn.sysid.observations import Observations, match_variables, observe
from scidyn.sysid.profiles import Profiles, deviance_threshold, profile_estimate
from scidyn.sysid.search import search
from scidyn.sysid.shooting import Shooting, solve_states
from scidyn.sysid.summaries import (
    history_dataset,
    initial_dataset,
    parameter_dataset,
    parameter_text,
    profile_dataset,
    unbounded,
)
from scidyn.sysid.units import state_scale
from scidyn.training import GaussNewtonResult, Progress

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from scidyn.systems import System

__all__ = ["MechanisticODE"]

DRAWS = 256


class MechanisticODE(Estimator):
    r"""Fit ``dy/dt = f(t, y; θ)`` to one or many trajectories by maximum likelihood.

    .. math:: g(y_{ij}) = g(u_j(t_i; θ, u_0)) + σ_j ε_{ij}, \qquad ε \sim N(0, 1)

    with ``g`` the logarithm (log-normal noise) or the identity (normal noise). Parameters, the initial
    state of every trajectory and the noise are estimated together by Gauss–Newton steps on forward
    sensitivities; parameters bounded below by zero are fitted on the logarithm. Starts are rescaled to
    the data, matched to the record's increments, and varied; windows that grow to the whole record
    (multiple shooting) lead each of them in.

    Parameters
    ----------
    system : scidyn.systems.System
        The equation; its values are one of the starts.
    noise : {"auto", "normal", "lognormal"}
        Noise of the measurements; "auto" is log-normal where all observed values are positive.
    variables : mapping of str to str, optional
        State of the system to variable of the record, for example ``{"prey": "hare"}``; states left out
        are hidden. Default: by name if all agree, else by order.
    noise_std : float or mapping of str to float, optional
        Known standard deviation of the noise (of logarithms if log-normal); default: estimated.
    shared_noise : bool, optional
        True: one standard deviation for all variables. Default: variables in the same units share one
        under normal noise, which is ordinary least squares; under log-normal noise each has its own.
    confidence : float
        Probability of the intervals in ``parameters_``.
    starts : int
        Number of starting points.
    profile : bool
        Compute profile-likelihood intervals; False gives intervals from standard errors.
    rtol : float
        Relative tolerance of the solver.
    seed : int
        Seed of the varied starts and of the draws behind bands.

    Attributes
    ----------
    parameters_ : xarray.Dataset
        ``estimate``, ``stderr``, ``lower``, ``upper``, ``units`` over ``parameter``.
    initial_ : xarray.Dataset
        ``estimate`` and ``stderr`` of the state at the first time, over ``trajectory`` and ``state``.
    profiles_ : xarray.Dataset
        ``value`` and ``deviance`` over ``parameter`` and ``point``; attribute ``threshold``.
    log_likelihood_ : float
        At the estimate, of the data on the scale of the noise.

    Raises
    ------
    scidyn.errors.OptionError
        For an option that does not exist; values are checked by ``fit``.

    Notes
    -----
    An interval holds the values that a likelihood-ratio test does not reject. Where the noise is
    estimated, the threshold is ``N log(1 + t²/(N − P))``, which is exact for linear models and tends to
    ``χ²₁`` for many data. A side that the data do not close is infinite (or the parameter's bound).

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.sysid import MechanisticODE
    >>> from scidyn.systems import LotkaVolterra
    >>> model = MechanisticODE(LotkaVolterra(), profile=False).fit(scidyn.datasets.load("lynx_hare"))
    >>> model.noise_model_, round(float(model.parameters_["estimate"].sel(parameter="alpha")), 2)
    ('lognormal', 0.54)

    References
    ----------
    H. G. Bock, Recent advances in parameter identification techniques for ODE, 1983 (multiple shooting).
    A. Raue et al., Structural and practical identifiability analysis by exploiting the profile
    likelihood, Bioinformatics 25, 1923–1929, 2009.
    """

    kind: ClassVar[str] = "mechanistic"

    def __init__(
        self,
        system: System,
        noise: str = "auto",
        variables: Mapping[str, str] | None = None,
        noise_std: float | Mapping[str, float] | None = None,
        shared_noise: bool | None = None,
        confidence: float = 0.9,
        starts: int = 8,
        profile: bool = True,
        rtol: float = 1e-7,
        seed: int = 0,
    ) -> None:
        self.system = system
        self.noise = noise
        self.variables = variables
        self.noise_std = noise_std
        self.shared_noise = shared_noise
        self.confidence = confidence
        self.starts = starts
        self.profile = profile
        self.rtol = rtol
        self.seed = seed

    # ---- fitting -------------------------------------------------------------------------------

    def fit(
        self, ds: xr.Dataset, *, checkpoint: str | Path | None = None, progress: Progress | bool | None = None
    ) -> MechanisticODE:
        """Estimate parameters, initial states and noise.

        Parameters
        ----------
        ds : xarray.Dataset
            Kind ``trajectories`` or ``irregular``; NaN means missing.
        checkpoint : str or Path, optional
            Accepted by all estimators; this fit takes seconds and, being deterministic, is redone instead.
        progress : Progress or bool, optional
            Show how far the fit has come.

        Returns
        -------
        MechanisticODE
            Itself.

        Raises
        ------
        scidyn.errors.DataError
            If the record cannot be used, or has too few values for the number of parameters.
        scidyn.errors.OptionError
            If an option has a value that is not allowed.
        scidyn.errors.FitError
            If the equation cannot be solved from any start.
        """
        with self._all_or_nothing():
            self._fit(ds, progress)
        return self

    def _fit(self, ds: xr.Dataset, progress: Progress | bool | None) -> None:
        obs = self._observe(ds)
        with progress_of(progress, f"fit {type(self.system).__name__}") as bar:
            shooting, result = self._estimate(obs, bar)
            threshold = self._threshold(shooting)
            profiles = None
            if self.profile:
                bar.stage("profile likelihoods")
                profiles, result = profile_estimate(shooting, result, self._noise, threshold, bar.advance)
        if not bool(result.converged):
            warnings.warn("The fit stopped before it converged; try more starts.", FitWarning, stacklevel=2)
        self._forget()
        self._remember(obs, shooting, result, profiles, threshold)

    def _observe(self, ds: xr.Dataset) -> Observations:
        """Check options and record before any work."""
        from scidyn.systems import System

        if not isinstance(self.system, System):
            raise OptionError(f"system must be a scidyn.systems.System, for example LotkaVolterra(); got {self.system}")
        number("confidence", self.confidence, above=0, below=1)
        number("rtol", self.rtol, above=0, at_most=0.1)
        integer("starts", self.starts, at_least=1)
        integer("seed", self.seed, at_least=0)
        obs = observe(ds, self.noise)
        self._columns = match_variables(self.system, obs.names, self.variables)
        known_noise(self.noise_std, obs)
        parameters, states = len(self.system.parameters), len(self.system.states)
        per_row = obs.batch.mask.flatten(1).sum(dim=1)
        short = (per_row < states).nonzero().flatten().tolist()
        if short:
            raise DataError(
                f"trajectory {short[0]} has {int(per_row[short[0]])} observed values, fewer than the {states} of its "
                "initial state; drop it or observe more."
            )
        unknown, total = parameters + len(per_row) * states, int(per_row.sum())
        if total <= unknown:
            raise DataError(
                f"The record has {total} observed values for {unknown} unknowns ({parameters} parameters and "
                f"{states} initial values for each of {len(per_row)} trajectories); it is too short for "
                f"{type(self.system).__name__}: add times or trajectories."
            )
        return obs

    def _estimate(self, obs: Observations, bar: Progress) -> tuple[Shooting, GaussNewtonResult]:
        scale = state_scale(self.system, obs, self._columns)
        coordinates = coordinates_of(self.system, obs, self._columns, scale)
        self._noise = Noise.of(obs, self.noise_std, self.shared_noise)
        sigma = self._noise.known

        def shooting(batch: Any) -> Shooting:
            return Shooting(
                self.system,
                batch,
                self._columns,
                coordinates,
                lognormal=obs.noise == "lognormal",
                rtol=self.rtol,
                state_scale=scale,
                sigma=sigma,
            )

        result = search(
            self.system,
            obs,
            self._columns,
            coordinates,
            scale,
            shooting,
            group_of=self._noise.group if sigma is None else None,
            floor=self._noise.floor,
            count=self.starts,
            seed=self.seed,
            bar=bar,
        )
        return shooting(obs.batch), result

    def _threshold(self, shooting: Shooting) -> float:
        count, states = shooting.coordinates.sizes
        unknowns = count + shooting.rows * states
        return deviance_threshold(
            self.confidence, len(shooting.target), unknowns, known_noise=shooting.sigma is not None
        )

    # ---- results -------------------------------------------------------------------------------

    def _remember(
        self,
        obs: Observations,
        shooting: Shooting,
        result: GaussNewtonResult,
        profiles: Profiles | None,
        threshold: float,
    ) -> None:
        self._remember_record(obs)
        freedom = len(shooting.target) - len(result.estimate)
        std, factor = self._noise.estimate(result.residuals, shooting.variable, freedom)
        covariance = result.covariance * factor
        self._keep(result.estimate, covariance, shooting.coordinates, shooting.atol)
        self.noise_std_ = self._per_variable(std)
        self.log_likelihood_ = self._noise.log_likelihood(float(result.cost), shooting.variable)
        self._remember_parameters(profiles, threshold, freedom)
        _, y0 = self._coords.unpack(self._z)
        self.initial_ = initial_dataset(self.system.state_names, obs, y0, covariance, self._coords)
        self.history_ = history_dataset(result.history)
        self._remember_fit(obs)
        self.provenance_ = self._provenance(obs)
        open_ = unbounded(self.parameters_, profiles)
        if open_:
            warnings.warn(
                f"The data do not bound {', '.join(open_)} at {100 * self.confidence:.0f} %; fix or combine "
                "parameters, or observe more.",
                FitWarning,
                stacklevel=3,
            )

    def _remember_parameters(self, profiles: Profiles | None, threshold: float, freedom: int) -> None:
        names, units = list(self.system.parameter_names), self._parameter_units()
        self.parameters_ = parameter_dataset(
            names, units, self.system, self._z, self._covariance, self._coords, profiles, self.confidence, freedom
        )
        self.profiles_ = profile_dataset(names, units, self._coords, profiles, threshold, self.confidence)

    def _keep(self, z: Tensor, covariance: Tensor, coordinates: Coordinates, atol: Tensor) -> None:
        self._z, self._covariance = z.contiguous().clone(), covariance.contiguous().clone()
        self._coords, self._atol = coordinates, atol

    def _parameter_units(self) -> list[str]:
        by_state = dict.fromkeys(range(len(self.system.states)), "")
        by_state |= {c: self.units_[n] for c, n in zip(self._columns, self.variables_, strict=True)}
        own = [by_state[k] or name for k, name in enumerate(self.system.state_names)]
        return list(self.system.parameter_units(self.units_["time"], own))

    # ---- prediction ----------------------------------------------------------------------------

    def _solve(self, z: Tensor, t: Tensor) -> Tensor:
        """Variables (problem, trajectory, time, variable) for coordinates (problem, P)."""
        grid, column, valid = padded_times(self._starts, t)
        theta, y0 = self._coords.unpack(z)
        problems, rows = y0.shape[:2]
        y = solve_states(
            self.system,
            theta.repeat_interleave(rows, dim=0),
            y0.flatten(0, 1),
            grid.repeat(problems, 1),
            rtol=self.rtol,
            atol=self._atol,
        ).unflatten(0, (problems, rows))
        index = column[None, :, :, None].expand(problems, -1, -1, y.shape[-1])
        y = torch.where(valid[None, :, :, None], y.gather(2, index), torch.nan)
        return y[..., list(self._columns)]

    def _predict(self, t: Tensor, interval: float | None) -> dict[str, Tensor]:
        obs = self._observations
        y = self._solve(self._z[None], t)[0]
        values = {n: y[..., k] for k, n in enumerate(obs.names)}
        if interval is None:
            return values
        draws = obs.link(self._solve(draw(self._z, self._covariance, DRAWS, self.seed), t))
        std = torch.as_tensor(self.noise_std_.values)
        for side, probability in (("lower", 0.5 - interval / 2), ("upper", 0.5 + interval / 2)):
            edge = mixture_quantile(draws, std, probability)
            edge = edge.exp() if obs.noise == "lognormal" else edge
            values |= {f"{n}_{side}": edge[..., k] for k, n in enumerate(obs.names)}
        return values

    def _state_index(self) -> list[int]:
        return list(self._columns)

    def _initial_states(self) -> Tensor:
        return self._coords.unpack(self._z)[1]

    def _states_from_variables(self, y: Tensor) -> Tensor:
        y = super()._states_from_variables(y)
        states = self._initial_states()[:1].expand(y.shape[0], -1).clone()
        states[:, list(self._columns)] = y.to(states)
        return states

    def _simulate(self, y0: Tensor, t: Tensor) -> Tensor:
        theta, _ = self._coords.unpack(self._z)
        y = solve_states(
            self.system, theta.expand(y0.shape[0], -1), y0, t, rtol=self.rtol, atol=self._atol, on_failure="raise"
        )
        return y[..., list(self._columns)]

    def equations(self) -> str:
        """The equation, and the estimates with their units.

        Returns
        -------
        str
        """
        self._require_fitted("equations")
        values = parameter_text(self.parameters_, self.system)
        meaning = ", ".join(
            f"{self.system.state_names[c]} = {n}" for c, n in zip(self._columns, self.variables_, strict=True)
        )
        return f"{self.system.equation}  with {values}; {meaning}"

    def vector_field(self, t: Any, y: Any) -> Tensor:
        """Evaluate dy/dt of the fitted equation in physical units; shapes as in :class:`Estimator`."""
        self._require_fitted("vector_field")
        state = torch.as_tensor(y, dtype=self._z.dtype)
        theta, _ = self._coords.unpack(self._z)
        return self.system(torch.as_tensor(t, dtype=state.dtype), state, theta)

    # ---- files ---------------------------------------------------------------------------------

    def _extra_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        c = self._coords
        return {"columns": list(self._columns), "log_likelihood": self.log_likelihood_}, {
            "coordinates": self._z,
            "covariance": self._covariance,
            "atol": self._atol,
            "log_parameters": c.log_parameters,
            "log_states": c.log_states,
            "lower": c.lower,
            "upper": c.upper,
        }

    def _restore_extra(self, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self._columns = tuple(int(c) for c in values["columns"])
        self.log_likelihood_ = float(values["log_likelihood"])
        coordinates = Coordinates(*(tensors[n] for n in ("log_parameters", "log_states", "lower", "upper")))
        self._keep(tensors["coordinates"], tensors["covariance"], coordinates, tensors["atol"])

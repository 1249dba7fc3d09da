"""A mechanism plus a network for what it leaves over."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scidyn.data import Batch, Scaling
from scidyn.errors import DataError, FitError, FitWarning, OptionError
from scidyn.sysid.mechanistic import MechanisticODE
from scidyn.sysid.network_field import NetworkField
from scidyn.sysid.network_model import NetworkModel
from scidyn.sysid.observations import Observations, match_variables
from scidyn.sysid.summaries import parameter_text

if TYPE_CHECKING:
    import xarray as xr

    from scidyn.systems import System
    from scidyn.training import Progress

__all__ = ["HybridODE"]


class HybridODE(NetworkModel):
    r"""Fit ``dy/dt = f(t, y; θ) + network(y)``, the network kept as small as the data allow.

    In scaled coordinates the loss is the mean squared error plus ``network_penalty`` times the mean of
    ``‖network‖²`` over the visited states, without which ``θ`` would not be determined. The fit starts
    at the mechanistic one with a network near zero.

    Parameters
    ----------
    system : scidyn.systems.System
        The mechanism; all its states must be in the record.
    hidden : sequence of int
        Widths of the hidden layers.
    noise : {"auto", "normal", "lognormal"}
        Noise of the measurements; "auto" is log-normal where all observed values are positive.
    variables : mapping of str to str, optional
        State of the system to variable of the record.
    network_penalty : float
        Factor of the mean squared network.
    max_iterations : int
        Steps of Adam; a tenth as many steps of L-BFGS follow.
    learning_rate : float
        Step size of Adam.
    weight_decay : float
        Penalty on the sum of squared weights, in units of the noise variance.
    validation : float
        Share of the times, at the end of each trajectory, kept for early stopping; 0 for none.
    refit : bool
        After early stopping, go on from the chosen weights on the whole record; False keeps the chosen ones.
    activation : str
        Activation of the network.
    adjoint : {None, "discrete", "direct"}
        Gradient of the solver; None is the solver's default.
    rtol : float
        Tolerance of the solver in scaled coordinates.
    confidence : float
        Probability of the intervals and bands.
    seed : int
        Seed of the initial weights.

    Attributes
    ----------
    parameters_ : xarray.Dataset
        ``estimate``, ``stderr``, ``lower``, ``upper``, ``units`` over ``parameter``; the attribute
        ``interval`` says that they hold given the network penalty.
    network_share_ : xarray.DataArray
        Part of the rate that the network carries along the fit, from 0 to 1, per variable:
        ``Σ|network| / Σ(|mechanism| + |network|)``.

    Raises
    ------
    scidyn.errors.OptionError
        For an option that does not exist; values are checked by ``fit``.

    Notes
    -----
    Intervals come from a linearised Laplace approximation over parameters, weights and initial states
    together, so they include what the network could take over, given its penalties.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.sysid import HybridODE
    >>> from scidyn.systems import LotkaVolterra
    >>> model = HybridODE(LotkaVolterra(), hidden=(4,), max_iterations=10, refit=False)
    >>> model = model.fit(scidyn.datasets.load("lynx_hare"))
    >>> bool((model.network_share_ < 0.5).all())
    True

    References
    ----------
    C. Rackauckas et al., Universal differential equations for scientific machine learning, arXiv 2001.04385.
    """

    kind: ClassVar[str] = "hybrid"

    def __init__(
        self,
        system: System,
        hidden: Sequence[int] = (16,),
        noise: str = "auto",
        variables: Mapping[str, str] | None = None,
        network_penalty: float = 1.0,
        max_iterations: int = 100,
        learning_rate: float = 5e-3,
        weight_decay: float = 1e-2,
        validation: float = 0.2,
        refit: bool = True,
        activation: str = "tanh",
        adjoint: str | None = None,
        rtol: float = 1e-3,
        confidence: float = 0.9,
        seed: int = 0,
    ) -> None:
        self.system = system
        self.hidden = hidden
        self.noise = noise
        self.variables = variables
        self.network_penalty = network_penalty
        self.max_iterations = max_iterations
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation = validation
        self.refit = refit
        self.activation = activation
        self.adjoint = adjoint
        self.rtol = rtol
        self.confidence = confidence
        self.seed = seed

    def fit(
        self, ds: xr.Dataset, *, checkpoint: str | Path | None = None, progress: Progress | bool | None = None
    ) -> HybridODE:
        """Train parameters and network on a record.

        Parameters
        ----------
        ds : xarray.Dataset
            Kind ``trajectories`` or ``irregular``; NaN means missing.
        checkpoint : str or Path, optional
            Folder in which the state of the training is kept; a killed fit goes on from it.
        progress : Progress or bool, optional
            Show how far the fit has come.

        Returns
        -------
        HybridODE
            Itself.

        Raises
        ------
        scidyn.errors.DataError
            If the record cannot be used, is too short, or lacks a state.
        scidyn.errors.SplitError
            If the validation stretch would be empty.
        scidyn.errors.FitError
            If training does not stay finite.
        """
        with self._all_or_nothing():
            self._fit(ds, checkpoint, progress)
            self._remember_parameters()
        return self

    def _check_record(self, obs: Observations) -> None:
        from scidyn.systems import System

        if not isinstance(self.system, System):
            raise OptionError(f"system must be a scidyn.systems.System, for example LotkaVolterra(); got {self.system}")
        super()._check_record(obs)
        self._columns = match_variables(self.system, obs.names, self.variables)
        if sorted(self._columns) != list(range(len(self.system.states))):
            raise DataError(
                f"HybridODE needs every state of {type(self.system).__name__} in the record; "
                f"{list(self.system.state_names)} are needed, {list(obs.names)} are there."
            )

    @property
    def _order(self) -> list[int]:
        """Variable that each state is."""
        return [self._columns.index(k) for k in range(len(self.system.states))]

    def _make_field(self, ds: xr.Dataset, obs: Observations, scaling: Scaling, whole: Batch, bar: Any) -> NetworkField:
        start = MechanisticODE(
            self.system,
            noise=obs.noise,
            variables=self.variables,
            profile=False,
            starts=4,
            seed=self.seed,
            rtol=1e-5,
        )
        counts = self._stretch(obs)
        part = self._training_part(ds, obs, counts)
        if obs.batch.t.shape[0] == 1 and obs.single:
            part = part.isel({part["time"].dims[0]: slice(0, int(counts[0]))})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)
                start.fit(part, progress=bar)
            theta = torch.as_tensor(start.parameters_["estimate"].values)
        except (FitError, DataError):
            theta = self.system.theta()
        log = self._log_parameters()
        return NetworkField(
            self._nodes(whole),
            tuple(self.hidden),
            scaling,
            solver=self._solver(),
            generator=torch.Generator().manual_seed(self.seed),
            activation=self.activation,
            system=self.system,
            order=self._order,
            theta=torch.where(log, torch.where(log, theta, 1.0).log(), theta),
            log_parameters=log,
        )

    def _log_parameters(self) -> Tensor:
        return torch.tensor([p.lower == 0.0 for p in self.system.parameters])

    def _remember_parameters(self) -> None:
        """Estimates with conditional intervals, and the network's share."""
        import xarray as xr
        from scipy import stats

        field = self._field
        weights = sum(w.numel() for w in field.weights())
        count = len(self.system.parameters)
        basis = torch.zeros(self._factor.shape[0], count, dtype=self._factor.dtype)
        basis[weights : weights + count] = torch.eye(count, dtype=basis.dtype)
        deviation = torch.linalg.solve_triangular(self._factor, basis, upper=False).square().sum(0).sqrt().numpy()
        z, log = field.theta.detach().numpy(), self._log_parameters().numpy()  # type: ignore[union-attr]
        width = stats.norm.ppf(0.5 + self.confidence / 2) * deviation
        back = [np.where(log, np.exp(np.where(log, v, 0.0)), v) for v in (z, z - width, z + width)]
        states = [self.units_[self.variables_[k]] for k in self._order]
        self.parameters_ = xr.Dataset(
            {
                "estimate": ("parameter", back[0]),
                "stderr": ("parameter", np.where(log, back[0], 1.0) * deviation),
                "lower": ("parameter", back[1]),
                "upper": ("parameter", back[2]),
                "units": ("parameter", np.array(self.system.parameter_units(self.units_["time"], states), dtype=str)),
            },
            coords={
                "parameter": list(self.system.parameter_names),
                "description": ("parameter", [p.description for p in self.system.parameters]),
            },
            attrs={"confidence": self.confidence, "interval": "conditional on the network penalty"},
        )
        batch = self._observations.batch
        inside = torch.isfinite(batch.t)
        with torch.no_grad():
            s = self._scaling.time(batch.t)
            z_fit = field.solve(field.nodes[:, 0], s, adjoint=None)[inside]
            network, mechanism = field.network(z_fit).abs(), field.mechanism(s[inside], z_fit).abs()
        share = network.sum(0) / (network + mechanism).sum(0).clamp_min(1e-300)
        self.network_share_ = self._per_variable(share, name="network_share")

    def equations(self) -> str:
        """The mechanism with its estimates, and the share of the rate that the network carries.

        Returns
        -------
        str
        """
        self._require_fitted("equations")
        values = parameter_text(self.parameters_, self.system)
        shares = ", ".join(f"{100 * float(self.network_share_.sel(variable=v)):.0f} % of {v}" for v in self.variables_)
        return f"{self.system.equation}, plus a network;  {values}; the network carries {shares}"

    def _extra_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        values, tensors = super()._extra_state()
        return {**values, "columns": list(self._columns)}, tensors

    def _restore_extra(self, values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self._columns = tuple(int(c) for c in values["columns"])
        super()._restore_extra(values, tensors)

    def _empty_field(self, nodes: Tensor, values: dict[str, Any]) -> NetworkField:
        return NetworkField(
            nodes,
            tuple(self.hidden),
            self._scaling,
            solver=self._solver(),
            activation=self.activation,
            system=self.system,
            order=self._order,
            theta=torch.zeros(len(self.system.parameters), dtype=nodes.dtype),
            log_parameters=self._log_parameters(),
        )

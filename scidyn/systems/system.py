"""What every named equation offers: states, parameters with units and bounds, a vector field, simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from scidyn._check.values import known_keys, number
from scidyn.errors import OptionError, ShapeError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Parameter", "StateVariable", "System"]


@dataclass(frozen=True)
class StateVariable:
    """One component of the state.

    Attributes
    ----------
    name : str
        Name in the equations, for example ``"prey"``.
    description : str
        What it measures, for people.
    positive : bool
        True if the quantity cannot be negative (an abundance, a concentration).
    """

    name: str
    description: str = ""
    positive: bool = False


@dataclass(frozen=True)
class Parameter:
    """One parameter of an equation.

    Attributes
    ----------
    name : str
        Name in the constructor, for example ``"alpha"``.
    value : float
        A good value to start from.
    lower, upper : float
        Bounds that a fit respects; ``lower=0`` makes a fit work on the logarithm.
    units : mapping of str to int
        Powers of ``"time"`` and of state names, so ``{"time": -1, "prey": -1}`` is
        "per time per prey" in whatever units the data have.
    symbol : str
        How a textbook prints it, for example ``"α"``.
    description : str
        What it means, for people.
    """

    name: str
    value: float
    lower: float = -float("inf")
    upper: float = float("inf")
    units: Mapping[str, int] = field(default_factory=dict)
    symbol: str = ""
    description: str = ""


class System:
    """A named ordinary differential equation ``dy/dt = f(t, y; θ)``.

    A subclass states :attr:`states` and :attr:`parameters` and implements
    :meth:`vector_field`. The constructor takes the parameter values by name, in the order
    of :attr:`parameters`. An instance is itself a vector field: ``system(t, y)`` uses its
    own values, ``system(t, y, theta)`` those given.

    Parameters
    ----------
    *values, **named : float
        Parameter values, in order or by name; those left out keep their good values.

    Raises
    ------
    scidyn.errors.OptionError
        If a parameter is unknown, given twice, or not a finite number.

    Attributes
    ----------
    states : tuple of StateVariable
        Components of the state, in order; the state has shape ``(*batch, len(states))``.
    parameters : tuple of Parameter
        Parameters, in the order of the last axis of ``theta``.
    initial : tuple of float
        A good initial state, in the units of :attr:`parameters`' values.
    equation : str
        The equation as a textbook prints it.
    reference : str
        Where the equation comes from.
    """

    states: ClassVar[tuple[StateVariable, ...]] = ()
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    initial: ClassVar[tuple[float, ...]] = ()
    equation: ClassVar[str] = ""
    reference: ClassVar[str] = ""

    def __init__(self, *values: float, **named: float) -> None:
        names = [p.name for p in self.parameters]
        if len(values) > len(names):
            raise OptionError(f"{type(self).__name__} takes {len(names)} parameters {names}; got {len(values)}.")
        known_keys(type(self).__name__, named, names)
        given = dict(zip(names, values, strict=False))
        twice = set(given) & set(named)
        if twice:
            raise OptionError(f"{type(self).__name__} got {sorted(twice)[0]!r} twice.")
        given.update(named)
        self.values = {p.name: number(p.name, given.get(p.name, p.value)) for p in self.parameters}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v:g}' for k, v in self.values.items())})"

    def vector_field(self, t: Tensor, y: Tensor, theta: Tensor) -> Tensor:
        """Evaluate dy/dt.

        Parameters
        ----------
        t : Tensor, shape () or (*batch,)
            Time.
        y : Tensor, shape (*batch, state)
            State.
        theta : Tensor, shape (parameter,) or (*batch, parameter)
            Parameter values.

        Returns
        -------
        Tensor, shape (*batch, state)
        """
        raise NotImplementedError(f"{type(self).__name__} must implement vector_field(t, y, theta)")

    def __call__(self, t: Tensor, y: Tensor, args: Tensor | None = None) -> Tensor:
        """Evaluate dy/dt with ``args`` as parameters, or with the system's own values."""
        if y.shape[-1] != len(self.states):
            raise ShapeError(
                f"{type(self).__name__} has {len(self.states)} states {self.state_names}; "
                f"the last axis of y has {y.shape[-1]}."
            )
        return self.vector_field(t, y, self.theta(y.dtype, y.device) if args is None else args)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state variables, in order."""
        return tuple(s.name for s in self.states)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(p.name for p in self.parameters)

    def theta(self, dtype: torch.dtype = torch.float64, device: Any = None) -> Tensor:
        """The system's own parameter values as a tensor of shape ``(parameter,)``."""
        return torch.tensor([self.values[n] for n in self.parameter_names], dtype=dtype, device=device)

    def parameter_units(self, time_units: str, state_units: Sequence[str]) -> tuple[str, ...]:
        """Units of each parameter for data in the given units.

        Parameters
        ----------
        time_units : str
            Units of time, for example ``"year"``.
        state_units : sequence of str
            Units of each state variable.

        Returns
        -------
        tuple of str
            For example ``("1/year", "1/(year * thousand pelts)")``.

        Examples
        --------
        >>> from scidyn.systems import LotkaVolterra
        >>> LotkaVolterra().parameter_units("year", ["pelts", "pelts"])[1]
        '1/(year * pelts)'
        """
        if len(state_units) != len(self.states):
            raise ShapeError(f"{type(self).__name__} has {len(self.states)} states; got {len(state_units)} units.")
        symbols = {"time": time_units, **dict(zip(self.state_names, state_units, strict=True))}
        return tuple(_compose(p.units, symbols) for p in self.parameters)

    def simulate(
        self,
        times: Any,
        initial: Any = None,
        *,
        parameters: Any = None,
        time_units: str = "1",
        units: Sequence[str] | None = None,
        **solver: Any,
    ) -> xr.Dataset:
        """Solve the equation from ``initial`` and return a Dataset with one variable per state.

        Parameters
        ----------
        times : array_like, shape (time,)
            Strictly increasing times; the first is the time of ``initial``.
        initial : array_like, shape (state,) or (trajectory, state), optional
            Initial state; default :attr:`initial`.
        parameters : array_like, shape (parameter,) or (trajectory, parameter), optional
            Parameter values; default the system's own.
        time_units : str
            Units of ``times``, stored on the result.
        units : sequence of str, optional
            Units of each state; default dimensionless ``"1"``.
        **solver
            Passed to :func:`scidyn.solvers.solve_ode` (method, rtol, atol, …).

        Returns
        -------
        xarray.Dataset
            Dims ``time``, or ``trajectory, time`` if ``initial`` or ``parameters`` has two axes.

        Raises
        ------
        scidyn.errors.TimeGridError
            If ``times`` do not increase strictly.
        scidyn.errors.SolverError
            If the solve does not reach the last time.

        Examples
        --------
        >>> from scidyn.systems import LotkaVolterra
        >>> LotkaVolterra().simulate([0.0, 1.0, 2.0]).sizes["time"]
        3
        """
        from scidyn.solvers import solve_ode

        t = torch.as_tensor(times, dtype=torch.float64)
        y0 = torch.as_tensor(self.initial if initial is None else initial, dtype=torch.float64)
        theta = self.theta() if parameters is None else torch.as_tensor(parameters, dtype=torch.float64)
        single = y0.ndim == 1 and theta.ndim == 1
        batch = torch.broadcast_shapes(y0.shape[:-1], theta.shape[:-1]) or (1,)
        y0 = y0.expand(*batch, y0.shape[-1])
        solution = solve_ode(self, y0, t, args=theta, **({"adjoint": None} | solver))
        dataset = solution.to_xarray(
            names=self.state_names, units=units or ["1"] * len(self.states), time_units=time_units
        )
        dataset.attrs["source"] = f"simulated: {self!r}"
        return dataset.isel(trajectory=0) if single else dataset


def _compose(powers: Mapping[str, int], symbols: Mapping[str, str]) -> str:
    """Multiply unit strings with integer powers: ``1/(year * pelts)``."""

    def term(symbol: str, power: int) -> str:
        text = f"({symbol})" if any(c in symbol for c in "*/") else symbol
        return text if power == 1 else f"{text}^{power}"

    known = [(symbols[k], p) for k, p in powers.items() if p and symbols[k] not in ("", "1")]
    above = " * ".join(term(s, p) for s, p in known if p > 0)
    below = [term(s, -p) for s, p in known if p < 0]
    if not below:
        return above or "1"
    under = below[0] if len(below) == 1 else "(" + " * ".join(below) + ")"
    return f"{above or '1'}/{under}"

"""Solvers of ordinary, stochastic and controlled differential equations and of Markov jump processes."""

from __future__ import annotations

from scidyn.solvers.brownian import (
    BrownianIncrements,
    BrownianTree,
    FractionalIncrements,
    MarkovFBM,
    Noise,
    join,
    levy_area,
)
from scidyn.solvers.cde import (
    ControlPath,
    HermiteCubicPath,
    LinearPath,
    NaturalCubicPath,
    RectilinearPath,
    log_ode,
    solve_cde,
    with_time,
)
from scidyn.solvers.compat.ode import odeint, odeint_adjoint, odeint_event
from scidyn.solvers.controller import Controller
from scidyn.solvers.ctmc import (
    JumpSolution,
    JumpStatus,
    RateMatrix,
    ReactionNetwork,
    path_kl,
    path_kl_estimate,
    path_log_ratio,
    rate_kl,
    simulate_ssa,
    simulate_tau_leaping,
)
from scidyn.solvers.events import Event, EventRecord
from scidyn.solvers.fixed_point import fixed_point
from scidyn.solvers.implicit import SteadyState
from scidyn.solvers.ode import solve_ode
from scidyn.solvers.penalties import LocalError, Regularization, Stiffness
from scidyn.solvers.phi import phi_functions
from scidyn.solvers.predictive import Gustafsson
from scidyn.solvers.sde import LangevinSolution, SDESolution, solve_langevin, solve_sde
from scidyn.solvers.sensitivity import sol_jacobian, solve_sensitivities
from scidyn.solvers.solution import Solution, Stats
from scidyn.solvers.split import SemilinearField, SeparableField, SplitField
from scidyn.solvers.status import Status
from scidyn.solvers.steady import solve_steady_state
from scidyn.solvers.time_axis import batch_time, expand_time

__all__ = [
    "BrownianIncrements",
    "BrownianTree",
    "ControlPath",
    "Controller",
    "Event",
    "EventRecord",
    "FractionalIncrements",
    "Gustafsson",
    "HermiteCubicPath",
    "JumpSolution",
    "JumpStatus",
    "LangevinSolution",
    "LinearPath",
    "LocalError",
    "MarkovFBM",
    "NaturalCubicPath",
    "Noise",
    "RateMatrix",
    "ReactionNetwork",
    "RectilinearPath",
    "Regularization",
    "SDESolution",
    "SemilinearField",
    "SeparableField",
    "Solution",
    "SplitField",
    "Stats",
    "Status",
    "SteadyState",
    "Stiffness",
    "batch_time",
    "expand_time",
    "fixed_point",
    "join",
    "levy_area",
    "log_ode",
    "odeint",
    "odeint_adjoint",
    "odeint_event",
    "path_kl",
    "path_kl_estimate",
    "path_log_ratio",
    "phi_functions",
    "rate_kl",
    "simulate_ssa",
    "simulate_tau_leaping",
    "sol_jacobian",
    "solve_cde",
    "solve_langevin",
    "solve_ode",
    "solve_sde",
    "solve_sensitivities",
    "solve_steady_state",
    "with_time",
]

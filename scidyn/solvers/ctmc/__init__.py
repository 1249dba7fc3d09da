"""Continuous-time Markov chains: rate matrices, reaction networks, simulation, path divergence."""

from __future__ import annotations

from scidyn.solvers.ctmc.path_kl import path_kl, path_kl_estimate, path_log_ratio, rate_kl
from scidyn.solvers.ctmc.rates import RateMatrix
from scidyn.solvers.ctmc.reaction_network import ReactionNetwork
from scidyn.solvers.ctmc.solution import JumpSolution, JumpStatus
from scidyn.solvers.ctmc.ssa import simulate_ssa
from scidyn.solvers.ctmc.tau_leaping import simulate_tau_leaping

__all__ = [
    "JumpSolution",
    "JumpStatus",
    "RateMatrix",
    "ReactionNetwork",
    "path_kl",
    "path_kl_estimate",
    "path_log_ratio",
    "rate_kl",
    "simulate_ssa",
    "simulate_tau_leaping",
]

"""Trajectories from snapshots: Schrödinger bridges, flows, and references whose parameters are fitted."""

from scidyn.bridges.benchmark import leave_one_out as leave_one_out
from scidyn.bridges.family import Family as Family
from scidyn.bridges.family import Library as Library
from scidyn.bridges.flow_matching import FlowMatching as FlowMatching
from scidyn.bridges.gaussian_bridge import GaussianBridge as GaussianBridge
from scidyn.bridges.kinetic_optimal import KineticOptimalPath as KineticOptimalPath
from scidyn.bridges.kinetic_optimal import kinetic_optimal_path as kinetic_optimal_path
from scidyn.bridges.linear_gaussian import LinearGaussianReference as LinearGaussianReference
from scidyn.bridges.mixture import MixtureInterpolant as MixtureInterpolant
from scidyn.bridges.refinement import IterativeReferenceRefinement as IterativeReferenceRefinement
from scidyn.bridges.refinement_result import BridgeResult as BridgeResult
from scidyn.bridges.schedules import Schedule as Schedule
from scidyn.bridges.schedules import schedule as schedule
from scidyn.bridges.sinkhorn_bridge import SinkhornBridge as SinkhornBridge
from scidyn.bridges.snapshots import Snapshots as Snapshots

__all__ = [
    "BridgeResult",
    "Family",
    "FlowMatching",
    "GaussianBridge",
    "IterativeReferenceRefinement",
    "KineticOptimalPath",
    "Library",
    "LinearGaussianReference",
    "MixtureInterpolant",
    "Schedule",
    "SinkhornBridge",
    "Snapshots",
    "kinetic_optimal_path",
    "leave_one_out",
    "schedule",
]

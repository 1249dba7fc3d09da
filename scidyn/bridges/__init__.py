"""Trajectories from snapshots: Schrödinger bridges, flows, and references whose parameters are fitted."""

from scidyn.bridges.family import Family as Family
from scidyn.bridges.family import Library as Library
from scidyn.bridges.gaussian_bridge import GaussianBridge as GaussianBridge
from scidyn.bridges.linear_gaussian import LinearGaussianReference as LinearGaussianReference
from scidyn.bridges.refinement import IterativeReferenceRefinement as IterativeReferenceRefinement
from scidyn.bridges.refinement_result import BridgeResult as BridgeResult
from scidyn.bridges.snapshots import Snapshots as Snapshots

__all__ = [
    "BridgeResult",
    "Family",
    "GaussianBridge",
    "IterativeReferenceRefinement",
    "Library",
    "LinearGaussianReference",
    "Snapshots",
]

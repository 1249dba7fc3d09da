"""Optimal transport between point clouds: entropic plans, divergences, exact references and closed forms."""

from scidyn.transport.distance import Distance
from scidyn.transport.distances import energy_distance, mmd, sampling_floor, sliced_wasserstein, wasserstein
from scidyn.transport.divergence import sinkhorn_divergence
from scidyn.transport.entropic import sinkhorn
from scidyn.transport.exact import ExactPlan, exact_transport
from scidyn.transport.memory import MemoryEstimate, estimate_memory
from scidyn.transport.plan import EntropicPlan, Pairs, TopEntries
from scidyn.transport.status import SinkhornStatus

__all__ = [
    "Distance",
    "EntropicPlan",
    "ExactPlan",
    "MemoryEstimate",
    "Pairs",
    "SinkhornStatus",
    "TopEntries",
    "energy_distance",
    "estimate_memory",
    "exact_transport",
    "mmd",
    "sampling_floor",
    "sinkhorn",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "wasserstein",
]

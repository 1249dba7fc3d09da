"""Compute: bridges, couplings, fates, velocities, interpolated cells, held-out scores."""

from scidyn.bridges.sc.tl.bridge import bridge as bridge
from scidyn.bridges.sc.tl.cells import snapshots as snapshots
from scidyn.bridges.sc.tl.descendants import couplings as couplings
from scidyn.bridges.sc.tl.descendants import fate as fate
from scidyn.bridges.sc.tl.evaluate import evaluate as evaluate
from scidyn.bridges.sc.tl.motion import interpolate as interpolate
from scidyn.bridges.sc.tl.motion import velocity as velocity

__all__ = ["bridge", "couplings", "evaluate", "fate", "interpolate", "snapshots", "velocity"]

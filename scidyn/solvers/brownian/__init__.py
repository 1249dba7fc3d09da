"""Brownian motion: increments on fixed grids, exact trees for any times, Lévy areas, fractional noise."""

from __future__ import annotations

from scidyn.solvers.brownian.fractional import MarkovFBM
from scidyn.solvers.brownian.fractional_path import FractionalIncrements
from scidyn.solvers.brownian.increments import BrownianIncrements
from scidyn.solvers.brownian.levy import levy_area
from scidyn.solvers.brownian.noise import Noise, join
from scidyn.solvers.brownian.tree import BrownianTree

__all__ = ["BrownianIncrements", "BrownianTree", "FractionalIncrements", "MarkovFBM", "Noise", "join", "levy_area"]

"""Named data: ``load(name)`` for records that ship with the package and for simulated ones."""

from scidyn.datasets.catalogue import available as available
from scidyn.datasets.catalogue import load as load

__all__ = ["available", "load"]

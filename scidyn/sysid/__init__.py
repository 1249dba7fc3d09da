"""Identify systems from records: mechanistic, neural and hybrid equations, judged on held-out times."""

from scidyn.sysid.mechanistic import MechanisticODE as MechanisticODE

__all__ = ["MechanisticODE"]

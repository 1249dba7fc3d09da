"""Identify systems from records: mechanistic, neural and hybrid equations, judged on held-out times."""

from scidyn.sysid.backtest import Backtest as Backtest
from scidyn.sysid.backtest import backtest as backtest
from scidyn.sysid.mechanistic import MechanisticODE as MechanisticODE

__all__ = ["Backtest", "MechanisticODE", "backtest"]

"""Identify systems from records: mechanistic, neural and hybrid equations, judged on held-out times."""

from scidyn.sysid.backtest import Backtest as Backtest
from scidyn.sysid.backtest import backtest as backtest
from scidyn.sysid.hybrid import HybridODE as HybridODE
from scidyn.sysid.mechanistic import MechanisticODE as MechanisticODE
from scidyn.sysid.neural import NeuralODE as NeuralODE

__all__ = ["Backtest", "HybridODE", "MechanisticODE", "NeuralODE", "backtest"]

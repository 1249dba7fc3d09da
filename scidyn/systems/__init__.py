"""Named equations: each knows its vector field, its parameters with units and bounds, and good values."""

from scidyn.systems.lorenz import Lorenz63 as Lorenz63
from scidyn.systems.lotka_volterra import LotkaVolterra as LotkaVolterra
from scidyn.systems.repressilator import Repressilator as Repressilator
from scidyn.systems.system import Parameter as Parameter
from scidyn.systems.system import StateVariable as StateVariable
from scidyn.systems.system import System as System
from scidyn.systems.van_der_pol import VanDerPol as VanDerPol

__all__ = ["Lorenz63", "LotkaVolterra", "Parameter", "Repressilator", "StateVariable", "System", "VanDerPol"]

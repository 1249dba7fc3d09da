"""Ways in which real records go wrong, drawn on purpose: to see whether a model knows what it does not know."""

from scidyn.data.corruptions.kinds import ActuatorNoise as ActuatorNoise
from scidyn.data.corruptions.kinds import Blackout as Blackout
from scidyn.data.corruptions.kinds import Corruption as Corruption
from scidyn.data.corruptions.kinds import HideState as HideState
from scidyn.data.corruptions.kinds import ProcessNoise as ProcessNoise
from scidyn.data.corruptions.kinds import Quantise as Quantise
from scidyn.data.corruptions.kinds import RegimeSwitch as RegimeSwitch
from scidyn.data.corruptions.kinds import SensorNoise as SensorNoise
from scidyn.data.corruptions.report import robustness_report as robustness_report
from scidyn.data.corruptions.run import corrupt as corrupt
from scidyn.data.corruptions.run import simulate_corrupted as simulate_corrupted

__all__ = [
    "ActuatorNoise",
    "Blackout",
    "Corruption",
    "HideState",
    "ProcessNoise",
    "Quantise",
    "RegimeSwitch",
    "SensorNoise",
    "corrupt",
    "robustness_report",
    "simulate_corrupted",
]

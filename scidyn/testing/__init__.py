"""What outside authors can run on their own parts: strategies for Datasets and checks of contracts."""

from scidyn.testing.contracts import check_reader as check_reader
from scidyn.testing.contracts import check_round_trip as check_round_trip
from scidyn.testing.strategies import datasets as datasets
from scidyn.testing.strategies import time_grids as time_grids

__all__ = ["check_reader", "check_round_trip", "datasets", "time_grids"]

"""Pure functions on tensors that judge forecasts."""

from scidyn.metrics.errors import coverage as coverage
from scidyn.metrics.errors import crps_normal as crps_normal
from scidyn.metrics.errors import log_score as log_score
from scidyn.metrics.errors import mae as mae
from scidyn.metrics.errors import rmse as rmse

__all__ = ["coverage", "crps_normal", "log_score", "mae", "rmse"]

"""Figures of records, fits and forecasts, and the one-file HTML report.

Every ``plot_…`` function draws into the axes it is given (``ax=``) or makes a figure of its own,
and returns the axes. None changes matplotlib's global settings.
"""

from scidyn.viz.convergence import plot_convergence as plot_convergence
from scidyn.viz.files import save_figure as save_figure
from scidyn.viz.fit import plot_fit as plot_fit
from scidyn.viz.forecast import plot_forecast as plot_forecast
from scidyn.viz.phase_plane import plot_phase_plane as plot_phase_plane
from scidyn.viz.profiles import plot_profiles as plot_profiles
from scidyn.viz.record import plot_record as plot_record
from scidyn.viz.report import cells_report as cells_report
from scidyn.viz.report import report as report
from scidyn.viz.residuals import plot_residuals as plot_residuals

__all__ = [
    "cells_report",
    "plot_convergence",
    "plot_fit",
    "plot_forecast",
    "plot_phase_plane",
    "plot_profiles",
    "plot_record",
    "plot_residuals",
    "report",
    "save_figure",
]

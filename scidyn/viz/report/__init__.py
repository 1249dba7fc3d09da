"""The reports: one HTML file each that needs nothing else."""

from scidyn.viz.report.cells import cells_report as cells_report
from scidyn.viz.report.page import report as report

__all__ = ["cells_report", "report"]

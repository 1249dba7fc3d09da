"""The report: one HTML file that needs nothing else."""

from scidyn.viz.report.page import report as report

__all__ = ["report"]

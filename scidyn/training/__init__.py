"""One fit loop for all domains, schedules, least squares, checkpoints and progress."""

from scidyn.training.fit import FitResult as FitResult
from scidyn.training.fit import Loss as Loss
from scidyn.training.fit import fit as fit
from scidyn.training.gauss_newton import GaussNewtonResult as GaussNewtonResult
from scidyn.training.gauss_newton import gauss_newton as gauss_newton
from scidyn.training.progress import Progress as Progress
from scidyn.training.schedules import Windows as Windows
from scidyn.training.schedules import growing_horizon as growing_horizon
from scidyn.training.schedules import shooting_lengths as shooting_lengths
from scidyn.training.schedules import shooting_windows as shooting_windows
from scidyn.training.stages import LBFGS as LBFGS
from scidyn.training.stages import Adam as Adam
from scidyn.training.weights import ExponentialDecay as ExponentialDecay

__all__ = [
    "LBFGS",
    "Adam",
    "ExponentialDecay",
    "FitResult",
    "GaussNewtonResult",
    "Loss",
    "Progress",
    "Windows",
    "fit",
    "gauss_newton",
    "growing_horizon",
    "shooting_lengths",
    "shooting_windows",
]

"""Every exception and warning that scidyn raises on purpose.

Each class is a :class:`ScidynError` and also the built-in class that Python users would
catch, so ``except ValueError`` keeps working. A message is one sentence that says what was
wrong, where, which value was found, and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "DataError",
    "DataWarning",
    "FitError",
    "FitWarning",
    "MissingDependencyError",
    "NonFiniteError",
    "NotFittedError",
    "OptionError",
    "ScidynError",
    "ScidynWarning",
    "ShapeError",
    "SolverError",
    "SolverWarning",
    "SplitError",
    "TimeGridError",
    "UnitsError",
]


class ScidynError(Exception):
    """The root of the family; catch it to catch everything scidyn raises on purpose."""


class OptionError(ScidynError, ValueError):
    """An argument has a value that is not allowed (unknown method, negative tolerance)."""


class ShapeError(ScidynError, ValueError):
    """A tensor or Dataset has other dims, shape, dtype or device than its consumer needs."""


class DataError(ScidynError, ValueError):
    """Data cannot be used as they are: unreadable table, too few rows, unknown variable."""


class NonFiniteError(DataError):
    """NaN or infinity where a number is required; the first index and the count are named."""


class TimeGridError(DataError):
    """Times are unsorted, duplicated, missing or infinite; the row and both values are named."""


class UnitsError(DataError):
    """Units are missing or do not fit; both units are named."""


class SplitError(DataError):
    """A split is empty, overlaps another, or would leak the future into training."""


class SolverError(ScidynError, RuntimeError):
    """A solve did not reach its last time.

    Attributes
    ----------
    solution : scidyn.solvers.Solution or None
        What was computed until the failure; rows not reached are NaN.
    """

    def __init__(self, message: str, solution: object | None = None) -> None:
        super().__init__(message)
        self.solution = solution


class FitError(ScidynError, RuntimeError):
    """A fit could not continue: the objective is not finite, or every start failed."""


class NotFittedError(ScidynError, ValueError, AttributeError):
    """An estimator was used before ``fit``."""


class ArtifactError(ScidynError, OSError):
    """A file is missing, truncated, corrupted, unsafe to open, or could not be written."""


class MissingDependencyError(ScidynError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


class ScidynWarning(UserWarning):
    """The root of scidyn's warnings."""


class DataWarning(ScidynWarning):
    """Data are usable, but a person should look at them."""


class SolverWarning(ScidynWarning):
    """A solve succeeded in part, or with settings other than those asked for."""


class FitWarning(ScidynWarning):
    """A fit ended without meeting its convergence test, or an estimate sits on a bound."""

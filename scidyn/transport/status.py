"""How a Sinkhorn run ended; each member carries the sentence a person reads."""

from __future__ import annotations

import enum

__all__ = ["SinkhornStatus"]


class SinkhornStatus(enum.Enum):
    """Outcome of a Sinkhorn run.

    Attributes
    ----------
    sentence : str
        What happened.
    cure : str
        What to do about it; empty for a success.

    Examples
    --------
    >>> from scidyn.transport import SinkhornStatus
    >>> SinkhornStatus.MAX_ITERATIONS.sentence
    'the largest number of iterations was reached before the marginals fitted'
    """

    CONVERGED = "converged", "the marginals of the plan fit the weights within the tolerance", ""
    MAX_ITERATIONS = (
        "max_iterations",
        "the largest number of iterations was reached before the marginals fitted",
        "raise max_iterations, epsilon or tolerance",
    )
    PRECISION_REACHED = (
        "precision_reached",
        "the marginal error stopped falling at the rounding errors of the kernel",
        "pass dtype=torch.float64, or raise tolerance or epsilon",
    )
    NON_FINITE = (
        "non_finite",
        "a potential became NaN or infinite",
        "check the scale of the cost against epsilon, and pass dtype=torch.float64",
    )

    sentence: str
    cure: str

    def __new__(cls, code: str, sentence: str = "", cure: str = "") -> SinkhornStatus:
        """Make a member whose value is ``code``."""
        member = object.__new__(cls)
        member._value_ = code
        member.sentence = sentence
        member.cure = cure
        return member

    @property
    def success(self) -> bool:
        """True if the tolerance was met."""
        return self is SinkhornStatus.CONVERGED

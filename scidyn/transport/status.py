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

    CONVERGED = "the marginals of the plan fit the weights within the tolerance", ""
    MAX_ITERATIONS = (
        "the largest number of iterations was reached before the marginals fitted",
        "raise max_iterations, epsilon or tolerance",
    )
    PRECISION_REACHED = (
        "the marginal error stopped falling at the rounding errors of the kernel",
        "pass dtype=torch.float64, or raise tolerance or epsilon",
    )
    NON_FINITE = (
        "a potential became NaN or infinite",
        "check the scale of the cost against epsilon, and pass dtype=torch.float64",
    )

    sentence: str
    cure: str

    def __init__(self, sentence: str, cure: str) -> None:
        self.sentence = sentence
        self.cure = cure

    @property
    def success(self) -> bool:
        """True if the tolerance was met."""
        return self is SinkhornStatus.CONVERGED

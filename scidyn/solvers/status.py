"""How a sample's solve ended; each member carries the sentence a person reads."""

from __future__ import annotations

import enum

__all__ = ["Status"]


class Status(enum.IntEnum):
    """Outcome of one sample of a solve.

    Attributes
    ----------
    sentence : str
        What happened.
    cure : str
        What to do about it; empty for a success.

    Examples
    --------
    >>> from scidyn.solvers import Status
    >>> Status.MAX_STEPS.sentence
    'the largest number of steps was reached'
    >>> bool(Status.SUCCESS.success)
    True
    """

    RUNNING = 0, "the solve has not finished", ""
    SUCCESS = 1, "the last time was reached", ""
    MAX_STEPS = (
        2,
        "the largest number of steps was reached",
        "raise max_steps, loosen rtol and atol, or shorten the time span",
    )
    STEP_UNDERFLOW = (
        3,
        "the step became too small for the resolution of time",
        "look for a discontinuity or a singularity of f near this time, or loosen rtol and atol",
    )
    NON_FINITE_STATE = (
        4,
        "the state became NaN or infinite",
        "use a smaller dt0 or an adaptive method, and check the sign of growth terms",
    )
    NON_FINITE_RHS = (
        5,
        "f returned NaN or infinity",
        "check logarithms, roots and divisions in f, and the parameters passed to it",
    )
    BLOW_UP = (
        6,
        "the state grew without bound while the step shrank",
        "the solution probably does not exist beyond this time: shorten the span or check the parameters",
    )
    STIFFNESS_SUSPECTED = (
        7,
        "the step is held at the stability limit of an explicit method",
        "the problem looks stiff: use method='auto', 'kvaerno5' or 'rodas5p', rescale the fast variable, "
        "or raise max_steps",
    )
    EVENT = 8, "a terminal event was met", ""
    EVENT_GRAZING = (
        9,
        "the solution touches the event's surface without crossing it, so the event's time has no gradient",
        "move the surface, or choose an event function that changes along the solution",
    )
    NEWTON_FAILED = (
        10,
        "Newton's iteration for the stages of the implicit method did not converge at any step size",
        "look for a discontinuity or a kink of f near this time, check that autograd can differentiate f, "
        "or use method='rodas5p'",
    )
    LINEAR_SOLVE_FAILED = (
        11,
        "a linear system of the implicit method was singular, or its iteration did not converge, at any step size",
        "check the Jacobian of f near this time for NaN and infinity; without a matrix, give a preconditioner "
        "or solve with method='kvaerno5' and the default linear algebra",
    )

    EVENT_STUCK = (
        12,
        "a jump left the state on the surface of its event, where it does not move away",
        "let the jump leave the surface, or end there with terminal=True or max_count",
    )

    sentence: str
    cure: str

    def __new__(cls, code: int, sentence: str = "", cure: str = "") -> Status:
        """Make a member whose integer value is ``code``."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        member.cure = cure
        return member

    @property
    def success(self) -> bool:
        """True if the last time, or a terminal event, was reached."""
        return self in (Status.SUCCESS, Status.EVENT)

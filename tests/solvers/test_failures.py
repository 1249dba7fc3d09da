"""Bad input and failing solves end with their sentence, in a plain and in an optimised interpreter, and none hangs."""

import math
import re
import subprocess
import sys
import time

import pytest
import torch

from scidyn.errors import NonFiniteError, OptionError, ScidynError, ShapeError, SolverError, TimeGridError
from scidyn.solvers import Status, odeint, solve_ode

F64 = torch.float64
LIMIT = 60.0


def decay(t, y):
    return -y


def step(t, y):
    """Cross a jump of a bounded rate: Newton's iteration has no solution near it."""
    return torch.where(y > 0.5, -1.0, 1.0) * 1e6 + 0 * y


def jagged(t, y):
    """A slope that says nothing about the next value, at any size of step."""
    return 1e20 * torch.sin(1e20 * y)


def with_nan():
    y0 = torch.ones(4, 2, dtype=F64)
    y0[3, 1] = math.nan
    return y0


ONE, PAIR = torch.ones(1, 1, dtype=F64), torch.ones(4, 2, dtype=F64)
# what is wrong: (call, class of the error, what its sentence says)
ROWS = {
    "NaN initial state": (lambda: solve_ode(decay, with_nan(), [0, 1]), NonFiniteError, r"y0\[3, 1\] is nan"),
    "NaN initial state, fixed steps": (
        lambda: solve_ode(decay, with_nan(), [0, 1], method="rk4"),
        NonFiniteError,
        r"y0\[3, 1\] is nan",
    ),
    "NaN initial state in a leaf": (
        lambda: solve_ode(lambda t, y: {"a": -y["a"]}, {"a": with_nan()}, [0, 1]),
        NonFiniteError,
        r"y0\['a'\]\[3, 1\] is nan",
    ),
    "NaN initial state, ported name": (
        lambda: odeint(decay, with_nan(), torch.tensor([0.0, 1.0])),
        NonFiniteError,
        "y0",
    ),
    "unsorted times": (
        lambda: solve_ode(decay, PAIR, [0.0, 2.0, 1.0, 3.0]),
        TimeGridError,
        "row 2 turns from 2 to 1",
    ),
    "unknown method": (
        lambda: solve_ode(decay, PAIR, [0, 1], method="dopri6"),
        OptionError,
        "one of.*Did you mean 'dopri",
    ),
    "wrong shape from rhs": (
        lambda: solve_ode(lambda t, y: torch.zeros(3, dtype=F64), torch.ones(2, dtype=F64), [0, 1]),
        ShapeError,
        r"f returned shape \(3,\), the state has shape \(2,\)",
    ),
    "blow-up": (lambda: solve_ode(lambda t, y: y**2, ONE, [0, 2]), SolverError, r"stopped at t=(1|0\.99).*BLOW_UP"),
    "stiff, explicit method": (
        lambda: solve_ode(lambda t, y: -1e9 * (y - torch.cos(t)), 0.5 * ONE, [0, 1], max_steps=500),
        SolverError,
        "STIFFNESS_SUSPECTED.*method='auto', 'kvaerno5' or 'rodas5p'",
    ),
    "negative rtol": (lambda: solve_ode(decay, PAIR, [0, 1], rtol=-1e-3), OptionError, "rtol must be a finite number"),
    "dt of zero": (lambda: solve_ode(decay, PAIR, [0, 1], dt0=0.0), OptionError, "dt0 must be a finite number > 0"),
    "negative dt": (lambda: solve_ode(decay, PAIR, [0, 1], dt0=-0.1, method="rk4"), OptionError, "dt0"),
    "unknown option": (lambda: solve_ode(decay, PAIR, [0, 1], r_tol=1e-3), TypeError, "r_tol"),
    "Newton fails": (
        lambda: solve_ode(jagged, ONE, [1, 2], method="kvaerno5"),
        SolverError,
        "NEWTON_FAILED, Newton's iteration.*did not converge.*Cure: look for a discontinuity",
    ),
    "NaN region": (
        lambda: solve_ode(lambda t, y: torch.sqrt(y) - 2.0, ONE, [0, 2]),
        SolverError,
        "NON_FINITE_RHS, f returned NaN or infinity.*Cure: check logarithms",
    ),
    "NaN region, implicit method": (
        lambda: solve_ode(lambda t, y: torch.sqrt(y) - 2.0, ONE, [0, 2], method="kvaerno3"),
        SolverError,
        "NON_FINITE_RHS",
    ),
    "too few steps": (
        lambda: solve_ode(lambda t, y: torch.cos(99 * t) + 0 * y, ONE, [0, 9], max_steps=9),
        SolverError,
        "after 9 steps.*MAX_STEPS.*Cure: raise max_steps",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_gives_its_sentence(row):
    call, error, sentence = ROWS[row]
    begin = time.monotonic()
    with pytest.raises(error) as caught:
        call()
    assert re.search(sentence, str(caught.value), re.DOTALL)
    assert time.monotonic() - begin < LIMIT
    if isinstance(caught.value, SolverError):
        solution = caught.value.solution
        late = torch.as_tensor(solution.t) > solution.stats.reached[0]
        assert bool(late.any())
        assert bool(solution.y[0, late].isnan().all())
    elif isinstance(caught.value, ScidynError):
        assert "\n" not in str(caught.value)


def test_duplicate_times_report_the_state_twice():
    y = solve_ode(decay, PAIR, [0.0, 1.0, 1.0]).y
    assert torch.equal(y[:, 1], y[:, 2])


def test_the_same_sentences_without_asserts():
    program = (
        "import re, sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_failures as t\n"
        "assert False\n"  # proves that assertions are off
        "for name, (call, error, sentence) in t.ROWS.items():\n"
        "    try:\n        call()\n"
        "    except error as e:\n"
        "        if not re.search(sentence, str(e), re.DOTALL): sys.exit(f'{name}: {e}')\n"
        "    else: sys.exit(f'{name}: no error')\n"
        "print(len(t.ROWS))\n"
    )
    command = [sys.executable, "-O", "-W", "ignore", "-c", program, str(__file__).rsplit("/", 1)[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(ROWS)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_a_linear_system_that_cannot_be_solved_has_its_own_status(stepping):
    from scidyn.solvers.linear.choice import LinearAlgebra
    from scidyn.solvers.methods.rosenbrock import Rodas
    from scidyn.solvers.stiff_tableaus import RODAS5P

    def useless(t, y, shift, v):
        return torch.zeros_like(v)

    method = Rodas(LinearAlgebra("krylov", preconditioner=useless), tableau=RODAS5P)
    solution = solve_ode(
        lambda t, y: -1e3 * y,
        torch.ones(2, 3, dtype=F64),
        [1.0, 2.0],
        method=method,
        on_failure="return",
        stepping=stepping,
    )
    assert solution.status == (Status.LINEAR_SOLVE_FAILED,) * 2


@pytest.mark.parametrize("method", ["kvaerno5", "kencarp4"])
def test_fixed_steps_name_the_equations_that_were_not_solved(method):
    from scidyn.solvers import SplitField

    field = SplitField(lambda t, y: 0 * y, step) if method == "kencarp4" else step
    y0 = torch.tensor([[1.0], [-9e9]], dtype=F64)
    solution = solve_ode(
        field, y0, [0.0, 1.0], method=method, stepping="fixed", dt0=0.25, on_failure="return", adjoint=None
    )
    assert solution.status == (Status.NEWTON_FAILED, Status.SUCCESS)
    assert bool(solution.y[0, 1].isnan().all())


CALM = {
    "zero rhs": (lambda t, y: 0 * y, ONE, {}),
    "constant zero state without atol": (lambda t, y: -y, 0 * ONE, {"atol": 0.0}),
    "jump of the rhs": (lambda t, y: torch.where(t < 0.3, 1.0, -1.0) + 0 * y, ONE, {"max_steps": 20000}),
}


@pytest.mark.parametrize("case", CALM)
@pytest.mark.parametrize("method", ["tsit5", "kvaerno5", "rodas5p", "auto"])
def test_edge_cases_succeed(case, method):
    f, y0, options = CALM[case]
    begin = time.monotonic()
    solution = solve_ode(f, y0, [0.0, 1.0], method=method, adjoint=None, **options)
    assert solution.success
    assert bool(solution.y.isfinite().all())
    assert time.monotonic() - begin < LIMIT

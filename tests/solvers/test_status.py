"""Every failure ends with its status, NaN in the rows not reached, and no hang."""

import pytest
import torch

from scidyn.errors import SolverError, SolverWarning
from scidyn.solvers import Status, solve_ode

F64 = torch.float64


def square(t, y):
    return y * y


def root(t, y):
    return torch.sqrt(y) - 2.0


def stiff(t, y):
    return -1e9 * (y - torch.cos(t).unsqueeze(-1)) if t.ndim else -1e9 * (y - torch.cos(t))


CASES = {
    "blow-up": (square, 1.0, {}, Status.BLOW_UP),
    "rhs becomes NaN": (root, 1.0, {}, Status.NON_FINITE_RHS),
    "rhs NaN at the start": (lambda t, y: torch.log(-y), 1.0, {}, Status.NON_FINITE_RHS),
    "too few steps": (
        lambda t, y: 20 * torch.cos(20 * t).reshape(-1, 1) + 0 * y,
        1.0,
        {"max_steps": 5},
        Status.MAX_STEPS,
    ),
    "stiff": (stiff, 0.5, {"max_steps": 300}, Status.STIFFNESS_SUSPECTED),
    "singular time": (
        lambda t, y: (1.0 / (t - 1.0).abs()).reshape(-1, 1) * torch.ones_like(y),
        1.0,
        {"rtol": 1e-8},
        Status.STEP_UNDERFLOW,
    ),
}


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
@pytest.mark.parametrize("case", CASES)
def test_status_and_unreached_rows(case, stepping):
    f, start, options, status = CASES[case]
    y0 = torch.full((2, 1), start, dtype=F64)
    times = torch.linspace(0.0, 2.0, 9, dtype=F64)
    solution = solve_ode(f, y0, times, stepping=stepping, on_failure="return", adjoint=None, **options)
    assert solution.status == (status, status)
    assert not solution.success
    late = times > solution.stats.reached[0]
    assert bool(late.any())
    assert bool(torch.isnan(solution.y[:, late]).all())
    assert bool(torch.isfinite(solution.y[:, ~late]).all())


def test_one_failed_sample_leaves_the_others_alone():
    y0 = torch.tensor([[0.1], [2.0], [0.2]], dtype=F64)
    solution = solve_ode(square, y0, [0.0, 0.4, 2.0], stepping="per_sample", on_failure="return", adjoint=None)
    assert solution.status == (Status.SUCCESS, Status.BLOW_UP, Status.SUCCESS)
    exact = y0 / (1 - y0 * torch.tensor([0.0, 0.4, 2.0], dtype=F64))
    torch.testing.assert_close(solution.y[[0, 2], :, 0], exact[[0, 2]], rtol=1e-5, atol=1e-6)
    assert solution.y[1, :, 0].isnan().tolist() == [False, False, True]


@pytest.mark.parametrize("method", ["rk4", "tsit5"])
def test_fixed_steps_stop_at_the_first_non_finite_state(method):
    y0 = torch.tensor([[0.1], [5.0]], dtype=F64)
    solution = solve_ode(
        lambda t, y: y**5,
        y0,
        torch.linspace(0, 4, 9, dtype=F64),
        method=method,
        stepping="fixed",
        dt0=0.25,
        on_failure="return",
        adjoint=None,
    )
    assert solution.status[0] is Status.SUCCESS
    assert solution.status[1] in (Status.BLOW_UP, Status.NON_FINITE_STATE)
    assert bool(solution.y[1, -1].isnan().all())
    assert bool(solution.y[0].isfinite().all())


def test_the_error_names_samples_times_causes_and_cure():
    y0 = torch.linspace(0.1, 2.0, 12, dtype=F64).unsqueeze(1)
    with pytest.raises(SolverError, match=r"sample 6 stopped at t=0\.\d+ after \d+ steps .*BLOW_UP") as caught:
        solve_ode(square, y0, [0.0, 1.0], stepping="per_sample", adjoint=None)
    message = str(caught.value)
    assert message.startswith("6 of 12 samples failed")
    assert "1 more" in message
    assert message.count("stopped at") == 5
    assert "Cure: " in message
    assert caught.value.solution.status[0] is Status.SUCCESS


def test_warning_instead_of_error():
    with pytest.warns(SolverWarning, match="MAX_STEPS"):
        solve_ode(
            lambda t, y: 20 * torch.cos(20 * t) + 0 * y,
            torch.ones(1, 1),
            [0.0, 5.0],
            max_steps=3,
            on_failure="warn",
            adjoint=None,
        )


def test_members_carry_their_sentence():
    for status in Status:
        assert status.sentence
        assert status.success == (status in (Status.SUCCESS, Status.EVENT))
        assert bool(status.cure) == (status not in (Status.SUCCESS, Status.EVENT, Status.RUNNING))

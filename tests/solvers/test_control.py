"""Step control: controllers, bounds on the step, norms, independence from batch mates."""

import math

import pytest
import torch

from scidyn.errors import OptionError
from scidyn.solvers import Controller, Status, solve_ode

F64 = torch.float64


def swing(t, y):
    return torch.stack([y[..., 1], -torch.sin(y[..., 0]) * 4 + 0.1 * y[..., 1] * torch.cos(y[..., 0])], dim=-1)


Y0 = torch.tensor([[0.5, 0.0], [1.0, 2.0], [2.5, -1.0], [0.1, 0.3], [3.0, 1.0]], dtype=F64)
TIMES = torch.linspace(0, 6, 13, dtype=F64)


@pytest.mark.parametrize("controller", ["i", "pi", "pid", Controller(0.2, 0.4, 0.0, safety=0.8, grow=4.0)])
def test_every_controller_meets_the_tolerance(controller):
    got = solve_ode(swing, Y0, TIMES, controller=controller, rtol=1e-8, atol=1e-8, adjoint=None)
    exact = solve_ode(swing, Y0, TIMES, rtol=1e-12, atol=1e-12, adjoint=None)
    torch.testing.assert_close(got.y, exact.y, rtol=0, atol=2e-6)
    assert int(got.stats.n_rejected.max()) < 0.3 * int(got.stats.n_accepted.max())


def test_an_exactly_integrated_field_lets_the_step_grow_tenfold():
    # the error estimate of a constant rate is rounding, so the steps are 0.001, 0.01, 0.1 and the rest
    solution = solve_ode(lambda t, y: 0 * y + 2, torch.zeros(1, 1, dtype=F64), [0.0, 1.0], controller="i", dt0=1e-3)
    torch.testing.assert_close(solution.y[0, -1], torch.full((1,), 2.0, dtype=F64), rtol=1e-14, atol=0)
    assert int(solution.stats.n_accepted[0]) == 4


def test_bad_controllers_and_norms_are_refused():
    for options, sentence in [
        ({"controller": "pidd"}, "Did you mean 'pid'"),
        ({"controller": 3}, "name, a Controller or"),
        ({"norm": "maxi"}, "Did you mean 'max'"),
        ({"norm": "rms_all", "stepping": "per_sample"}, "needs stepping='shared'"),
        ({"dt_min": 0.0}, "dt_min"),
    ]:
        with pytest.raises(OptionError, match=sentence):
            solve_ode(swing, Y0, TIMES, **options)
    for values in [{"integral": 0.0}, {"safety": 1.0}, {"shrink": 2.0}, {"grow": 1.0}, {"proportional": math.nan}]:
        with pytest.raises(OptionError):
            Controller(**values)


def test_step_bounds():
    largest = solve_ode(swing, Y0, TIMES, dt_max=0.01, adjoint=None)
    assert int(largest.stats.n_accepted[0]) >= 600
    short = solve_ode(swing, Y0, TIMES, dt_min=0.5, rtol=1e-10, on_failure="return", adjoint=None)
    assert set(short.status) == {Status.STEP_UNDERFLOW}


def test_worst_sample_decides_unless_the_norm_joins_them():
    quiet = torch.zeros(63, 2, dtype=F64)
    y0 = torch.cat([quiet, Y0[2:3]])
    exact = solve_ode(swing, y0, TIMES, rtol=1e-12, atol=1e-12, adjoint=None).y
    errors = {
        norm: (solve_ode(swing, y0, TIMES, norm=norm, rtol=1e-7, atol=1e-7, adjoint=None).y - exact).abs().max()
        for norm in ("max", "rms_all")
    }
    assert 3 * errors["max"] < errors["rms_all"]


def test_a_sample_does_not_depend_on_its_batch_mates():
    options = {"stepping": "per_sample", "adjoint": None, "dense": True}
    full = solve_ode(swing, Y0, TIMES, **options)
    for rows in ([2], [4, 0], [3, 2, 1]):
        part = solve_ode(swing, Y0[rows], TIMES, **options)
        assert torch.equal(part.y, full.y[rows])
        assert torch.equal(part.dense([0.123, 5.4]), full.dense([0.123, 5.4])[rows])


def test_progress_is_reported():
    seen = []
    solve_ode(swing, Y0, TIMES, dt_max=0.02, adjoint=None, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0

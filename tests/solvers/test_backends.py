"""The same problem through torchdiffeq."""

import pytest
import torch

from scidyn.errors import OptionError, SolverError
from scidyn.solvers import Status, solve_ode

F64 = torch.float64
TIMES = torch.tensor([0.0, 0.7, 0.7, 2.0], dtype=F64)
WEIGHT = torch.tensor([[[1.0, -2.0]], [[0.5, 3.0]]], dtype=F64)


def gradient(**options):
    a = torch.tensor([[-0.5, 2.0], [-1.0, -0.2]], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.5], [0.3, -1.0]], dtype=F64, requires_grad=True)
    t = TIMES.clone().requires_grad_()
    solution = solve_ode(lambda s, y: torch.sin(y @ a.T) * torch.cos(s), y0, t, rtol=1e-10, atol=1e-10, **options)
    return solution, torch.autograd.grad((solution.y * WEIGHT).sum(), [a, y0, t])


@pytest.mark.parametrize("adjoint", ["direct", "discrete", "backsolve"])
def test_solutions_and_gradients_agree(adjoint):
    native, expected = gradient(method="dopri5")
    other, got = gradient(method="dopri5", backend="torchdiffeq", adjoint=adjoint)
    torch.testing.assert_close(other.y, native.y, rtol=1e-8, atol=1e-9)
    assert other.success
    assert other.y.shape == native.y.shape
    assert other.stats.nfe > 6 * int(other.stats.n_accepted[0]) > 0
    for have, want in zip(got, expected, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-6, atol=1e-7)


def test_fixed_steps_and_decreasing_times():
    y0 = torch.ones(1, 1, dtype=F64)
    there = solve_ode(lambda t, y: -y, y0, [1.0, 0.0], method="rk4", dt0=0.01, backend="torchdiffeq")
    torch.testing.assert_close(there.y[0, -1], torch.exp(torch.ones(1, dtype=F64)), rtol=1e-8, atol=0)
    still = solve_ode(lambda t, y: -y, y0, [1.0], method="dopri5", backend="torchdiffeq")
    torch.testing.assert_close(still.y[:, 0], y0, rtol=0, atol=0)


def test_failures_have_a_status():
    y0 = torch.ones(1, 1, dtype=F64)
    options = {"method": "dopri5", "backend": "torchdiffeq"}
    solution = solve_ode(lambda t, y: -y, y0, [0.0, 9.0], max_steps=2, on_failure="return", **options)
    assert solution.status == (Status.MAX_STEPS,)
    assert bool(solution.y[:, 1].isnan().all())
    with pytest.raises(SolverError, match="STEP_UNDERFLOW"):
        solve_ode(lambda t, y: y * y, y0, [0.0, 2.0], **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "tsit5"}, "no method 'tsit5'"),
        ({"stepping": "per_sample"}, "per_sample"),
        ({"dense": True}, "dense=True"),
        ({"compile": True}, "compile=True"),
        ({"controller": "pi"}, "controller"),
    ],
)
def test_what_it_cannot_do_is_refused(options, sentence):
    with pytest.raises(OptionError, match=sentence):
        solve_ode(
            lambda t, y: -y, torch.ones(1, 1), [0.0, 1.0], **({"method": "dopri5", "backend": "torchdiffeq"} | options)
        )


def test_an_adjoint_that_the_backend_lacks_is_refused():
    with pytest.raises(OptionError, match="does not go with backend='scipy'"):
        solve_ode(lambda t, y: -y, torch.ones(1, 1), [0.0, 1.0], method="BDF", backend="scipy", adjoint="reversible")

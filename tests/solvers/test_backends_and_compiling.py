"""torchdiffeq behind the same call, and the compiled step beside the plain one."""

import shutil

import numpy as np
import pytest
import torch

from scidyn.errors import OptionError, SolverWarning
from scidyn.solvers import Status, solve_ode
from scidyn.systems import LotkaVolterra

F64 = torch.float64
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.mark.parametrize(("method", "options"), [("dopri5", {}), ("rk4", {"dt0": 0.01})])
def test_torchdiffeq_gives_the_same_solution(method, options):
    y0 = torch.tensor([[30.0, 4.0], [20.0, 10.0]], dtype=F64)
    t = torch.linspace(0, 10, 21, dtype=F64)
    call = {"method": method, "rtol": 1e-9, "atol": 1e-9, "adjoint": None, **options}
    native = solve_ode(LotkaVolterra(), y0, t, **call)
    peer = solve_ode(LotkaVolterra(), y0, t, backend="torchdiffeq", **call)
    torch.testing.assert_close(peer.y, native.y, rtol=1e-6, atol=1e-6)
    assert peer.success
    assert peer.stats.evaluations > 100
    assert peer.stats.reached.tolist() == [10.0, 10.0]


def test_torchdiffeq_backwards_in_time_and_with_a_gradient():
    rate = torch.tensor(0.5, dtype=F64, requires_grad=True)
    y0 = torch.ones(1, 1, dtype=F64)
    y = solve_ode(lambda t, y: -rate * y, y0, [1.0, 0.0], method="dopri5", backend="torchdiffeq", rtol=1e-9).y
    assert y[0, -1].item() == pytest.approx(np.exp(0.5), rel=1e-8)
    y[0, -1].backward()
    assert rate.grad.item() == pytest.approx(np.exp(0.5), rel=1e-7)


def test_torchdiffeq_failures_are_statuses():
    y0 = torch.ones(1, 1, dtype=F64)
    call = {"method": "dopri5", "backend": "torchdiffeq", "adjoint": None, "on_failure": "return"}
    blown = solve_ode(lambda t, y: y * y, y0, [0.0, 2.0], **call)
    assert not blown.success
    assert torch.isnan(blown.y[:, -1]).all()
    short = solve_ode(lambda t, y: torch.cos(50 * t) * y, y0, [0.0, 20.0], max_steps=20, **call)
    assert short.status == (Status.MAX_STEPS,)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"method": "tsit5"}, "tsit5"),
        ({"method": "dopri5", "stepping": "per_sample"}, "per_sample"),
        ({"method": "dopri5", "dense": True}, "dense"),
    ],
)
def test_what_torchdiffeq_lacks_is_refused(options, word):
    with pytest.raises(OptionError, match=word):
        solve_ode(lambda t, y: -y, torch.ones(1, 1, dtype=F64), [0.0, 1.0], backend="torchdiffeq", **options)


@needs_compiler
@pytest.mark.parametrize("stepping", ["shared", pytest.param("per_sample", marks=pytest.mark.slow)])
def test_compiled_equals_plain_and_new_numbers_compile_nothing(stepping):
    y0 = torch.tensor([[30.0, 4.0], [20.0, 10.0], [5.0, 5.0]], dtype=F64)
    theta = LotkaVolterra().theta().requires_grad_()

    def f(t, y, p):
        prey, predator = y.unbind(-1)
        return torch.stack([prey * (p[0] - p[1] * predator), predator * (p[3] * prey - p[2])], dim=-1)

    torch._dynamo.reset()
    counter = torch._dynamo.utils.counters
    counter.clear()
    frames = []
    for end, rtol in ((10.0, 1e-7), (17.0, 1e-5), (3.0, 1e-8)):
        t = torch.linspace(0.0, end, 9, dtype=F64)
        plain, compiled = (
            solve_ode(f, y0, t, args=theta, stepping=stepping, rtol=rtol, dt_max=2.0, compile=c) for c in (False, True)
        )
        torch.testing.assert_close(compiled.y, plain.y, rtol=1e-10, atol=1e-10)
        (a,) = torch.autograd.grad(compiled.y.sum(), theta)
        (b,) = torch.autograd.grad(plain.y.sum(), theta)
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
        frames.append(counter["stats"]["unique_graphs"])
    assert frames[0] > 0
    assert frames[0] == frames[1] == frames[2]


def test_a_field_that_cannot_be_compiled_runs_plain_after_one_warning():
    def f(t, y):
        return -y * float(np.cos(y.detach().sum().item()) * 0 + 1)

    y0 = torch.ones(1, 1, dtype=F64)
    with pytest.warns(SolverWarning, match="compiled"):
        first = solve_ode(f, y0, [0.0, 1.0], adjoint=None, compile=True)
    second = solve_ode(f, y0, [0.0, 1.0], adjoint=None, compile=True)
    assert first.y[0, -1].item() == second.y[0, -1].item() == pytest.approx(np.exp(-1), rel=1e-5)

"""Code written for torchdiffeq gives the same results after a change of import."""

import pytest
import torch

from scidyn.errors import OptionError
from scidyn.solvers import odeint, odeint_adjoint, odeint_event

torchdiffeq = pytest.importorskip("torchdiffeq")
F64 = torch.float64


class Constant(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.2, dtype=F64))
        self.b = torch.nn.Parameter(torch.tensor(3.0, dtype=F64))
        self.y0 = torch.tensor([3.1, 3.1], dtype=F64)

    def forward(self, t, y):
        return self.a + (y - (self.a * t + self.b)) ** 5


class Sine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(2.0, dtype=F64))
        self.y0 = torch.tensor([[0.4], [0.5]], dtype=F64)

    def forward(self, t, y):
        return self.a * y / (t + 1.0) + t**4 * torch.sin(2 * t) - t**2 + 4 * t**3


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.A = torch.nn.Parameter(0.5 * torch.randn(4, 4, dtype=F64, generator=generator))
        self.y0 = torch.ones(4, dtype=F64)

    def forward(self, t, y):
        return y @ self.A.T


def values_and_gradients(solve, problem, t, **options):
    y0 = problem.y0.clone().requires_grad_()
    y = solve(problem, y0, t, **options)
    inputs = [y0, *problem.parameters()]
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=F64).reshape(y.shape)
    return y.detach(), torch.autograd.grad((y * weights).sum(), inputs)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3"])
@pytest.mark.parametrize("problem", [Constant, Sine, Linear])
@pytest.mark.parametrize("backwards", [False, True])
def test_same_solution_and_gradients(problem, method, backwards):
    t = torch.linspace(0.0, 1.0, 4, dtype=F64)
    t = t.flip(0) if backwards else t
    ours = values_and_gradients(odeint, problem(), t, method=method, rtol=1e-7, atol=1e-9)
    # one accurate reference for the three methods
    theirs = values_and_gradients(torchdiffeq.odeint, problem(), t, method="dopri5", rtol=1e-9, atol=1e-11)
    assert ours[0].shape == theirs[0].shape
    torch.testing.assert_close(ours[0], theirs[0], rtol=2e-5, atol=1e-7)
    for mine, reference in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, reference, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_fixed_steps_agree_to_rounding(method):
    t = torch.linspace(0.0, 1.0, 11, dtype=F64)
    ours = values_and_gradients(odeint, Sine(), t, method=method)
    theirs = values_and_gradients(torchdiffeq.odeint, Sine(), t, method=method)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-12)
    for mine, reference in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12)


def test_tuple_states_and_adjoint():
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    start = (torch.ones(2, 3, dtype=F64), torch.tensor(1.0, dtype=F64))
    t = torch.linspace(0.0, 1.0, 3, dtype=F64)
    y, area = odeint_adjoint(lambda t, s: (-rate * s[0], s[0].sum()), start, t, adjoint_params=(rate,))
    assert (y.shape, area.shape) == ((3, 2, 3), (3,))
    torch.testing.assert_close(y[-1], torch.exp(-rate).detach().expand(2, 3), rtol=1e-6, atol=0)
    torch.testing.assert_close(area[-1], 1 + 6 * (1 - torch.exp(-rate)).detach() / rate.detach(), rtol=1e-6, atol=0)
    (slope,) = torch.autograd.grad(y[-1, 0, 0], rate)
    torch.testing.assert_close(slope, -torch.exp(-rate).detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("interface", [odeint, odeint_adjoint])
def test_bouncing_ball_time_and_its_derivative(interface):
    gravity = torch.tensor(9.81, dtype=F64, requires_grad=True)
    height = torch.tensor(10.0, dtype=F64, requires_grad=True)
    t0 = torch.tensor(0.5, dtype=F64, requires_grad=True)
    start = (height, torch.zeros((), dtype=F64))
    time, (position, velocity) = odeint_event(
        lambda t, s: (s[1], -gravity),
        start,
        t0,
        event_fn=lambda t, s: s[0],
        odeint_interface=interface,
    )
    fall = torch.sqrt(2 * height / gravity).detach()
    torch.testing.assert_close(time.detach(), 0.5 + fall, rtol=1e-9, atol=0)
    assert abs(position[1].item()) < 1e-9
    found = torch.autograd.grad(time, (height, gravity, t0), retain_graph=True)
    exact = (fall / (2 * height), -fall / (2 * gravity), torch.ones((), dtype=F64))
    torch.testing.assert_close(torch.stack(found), torch.stack(exact).detach(), rtol=1e-8, atol=1e-9)
    (speed,) = torch.autograd.grad(velocity[1], height)
    torch.testing.assert_close(speed, -(gravity / (2 * height)).sqrt().detach(), rtol=1e-8, atol=0)


def test_event_backwards_in_time():
    start = torch.ones(1, dtype=F64)
    time, y = odeint_event(
        lambda t, y: -y, start, torch.tensor(0.0, dtype=F64), event_fn=lambda t, y: y - 20.0, reverse_time=True
    )
    assert abs(time.item() + torch.log(torch.tensor(20.0, dtype=F64)).item()) < 1e-7
    assert y.shape == (2, 1)


def test_what_has_no_counterpart_is_refused_with_a_cure():
    y0, t = torch.ones(1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    with pytest.raises(OptionError, match="step_size"):
        odeint(lambda t, y: -y, y0, t, method="rk4", options={"stepsize": 0.1})
    with pytest.raises(OptionError, match="bosh3"):
        odeint(lambda t, y: -y, y0, t, method="fehlberg2")
    with pytest.raises(OptionError, match="dopri5"):
        odeint(lambda t, y: -y, y0, t, method="dopri4")
    with pytest.raises(OptionError, match="zero at the start"):
        odeint_event(lambda t, y: -y, y0, t[0], event_fn=lambda t, y: y - 1.0)

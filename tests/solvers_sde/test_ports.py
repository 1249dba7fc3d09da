"""The peers' first examples run through the ported names, and agree with the peers on the peers' own path."""

import pytest
import torch
import torchsde

from scidyn.errors import OptionError
from scidyn.solvers.compat import (
    CubicSpline,
    cdeint,
    hermite_cubic_coefficients_with_backward_differences,
    sdeint,
    sdeint_adjoint,
)

F64 = torch.float64


class SDE(torch.nn.Module):
    """The model of torchsde's introduction."""

    noise_type = "general"
    sde_type = "ito"

    def __init__(self, state_size=3, brownian_size=2):
        super().__init__()
        torch.manual_seed(0)
        self.state_size, self.brownian_size = state_size, brownian_size
        self.mu = torch.nn.Linear(state_size, state_size)
        self.sigma = torch.nn.Linear(state_size, state_size * brownian_size)

    def f(self, t, y):
        return self.mu(y)

    def g(self, t, y):
        return self.sigma(y).view(-1, self.state_size, self.brownian_size)


def test_torchsde_introduction():
    sde = SDE()
    y0 = torch.full((32, 3), 0.1)
    ts = torch.linspace(0, 1, 100)
    ys = sdeint(sde, y0, ts)
    assert ys.shape == (100, 32, 3)
    ys = sdeint_adjoint(sde, y0, ts, dt=1e-2)
    ys[-1].sum().backward()
    assert all(p.grad.isfinite().all() for p in sde.parameters())


class Diagonal(torch.nn.Module):
    def __init__(self, calculus):
        super().__init__()
        self.noise_type, self.sde_type = "diagonal", calculus
        self.rate = torch.nn.Parameter(torch.tensor(0.8, dtype=F64))

    def f(self, t, y):
        return -self.rate * torch.sin(y)

    def g(self, t, y):
        return 0.3 * torch.cos(y)

    def h(self, t, y):
        return torch.zeros_like(y)


@pytest.mark.parametrize(
    ("method", "calculus"),
    [
        ("euler", "ito"),
        ("milstein", "ito"),
        ("milstein", "stratonovich"),
        ("heun", "stratonovich"),
        ("midpoint", "stratonovich"),
        ("euler_heun", "stratonovich"),
        ("reversible_heun", "stratonovich"),
    ],
)
def test_same_numbers_as_torchsde_on_its_path(method, calculus):
    y0, ts = torch.ones(4, 2, dtype=F64), torch.linspace(0, 1, 5, dtype=F64)
    path = torchsde.BrownianInterval(0.0, 1.0, size=(4, 2), dtype=F64, entropy=3)
    model = Diagonal(calculus)
    theirs = torchsde.sdeint(model, y0, ts, bm=path, method=method, dt=0.05)
    ours = sdeint(model, y0, ts, bm=path, method=method, dt=0.05)
    assert torch.allclose(ours, theirs, rtol=1e-9)


def test_strong_order_three_halves_agrees_with_torchsde_up_to_its_error():
    y0, ts = torch.ones(50, 2, dtype=F64), torch.linspace(0, 1, 3, dtype=F64)
    path = torchsde.BrownianInterval(0.0, 1.0, size=(50, 2), dtype=F64, entropy=3, levy_area_approximation="space-time")
    model = Diagonal("ito")
    theirs = torchsde.sdeint(model, y0, ts, bm=path, method="srk", dt=0.005)
    ours = sdeint(model, y0, ts, bm=path, method="srk", dt=0.005)
    assert (ours - theirs).abs().max() < 2e-4


def test_logqp_agrees_with_torchsde():
    y0, ts = torch.ones(4, 2, dtype=F64), torch.linspace(0, 1, 5, dtype=F64)
    path = torchsde.BrownianInterval(0.0, 1.0, size=(4, 3), dtype=F64, entropy=3)

    class Used:  # the peer adds an idle channel for the divergence
        shape = (4, 2)

        def __call__(self, s, t):
            return path(s, t)[:, :2]

    model = Diagonal("ito")
    _, theirs = torchsde.sdeint(model, y0, ts, bm=path, method="euler", dt=0.05, logqp=True)
    _, ours = sdeint(model, y0, ts, bm=Used(), method="euler", dt=0.05, logqp=True)
    assert ours.shape == (4, 4)
    assert torch.allclose(ours, theirs, rtol=1e-9)


def test_adjoint_gradient_is_that_of_the_steps():
    ts = torch.linspace(0, 1, 3, dtype=F64)
    for method in ("midpoint", "reversible_heun"):
        model = Diagonal("stratonovich")
        found = []
        for solve in (sdeint, sdeint_adjoint):
            y0 = torch.ones(4, 2, dtype=F64, requires_grad=True)
            y = solve(model, y0, ts, method=method, dt=0.02, seed=0)
            found.append(torch.autograd.grad(y[-1].sum(), [y0, model.rate]))
        assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(*found, strict=True))


def test_names_and_the_global_generator():
    class Other:
        noise_type, sde_type = "diagonal", "ito"

        def mu(self, t, y):
            return -y

        def sigma(self, t, y):
            return 0.1 * y

    runs = []
    for _ in range(2):
        torch.manual_seed(4)
        runs.append(sdeint(Other(), torch.ones(2, 1), [0.0, 1.0], dt=0.1, names={"drift": "mu", "diffusion": "sigma"}))
    assert torch.equal(*runs)


def test_torchcde_introduction():
    torch.manual_seed(0)
    batch, length, channels, hidden = 1, 10, 2, 3
    t = torch.linspace(0, 1, length, dtype=torch.float64)
    x = torch.cat([t.view(1, -1, 1), torch.rand(batch, length, channels - 1, dtype=torch.float64)], dim=2)
    X = CubicSpline(hermite_cubic_coefficients_with_backward_differences(x))

    class F(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(hidden, hidden * channels, dtype=torch.float64)

        def forward(self, t, z):
            return self.linear(z).view(batch, hidden, channels)

    func, z0 = F(), torch.rand(batch, hidden, dtype=torch.float64)
    z = cdeint(X=X, func=func, z0=z0, t=X.interval, rtol=1e-8, atol=1e-8)
    assert z.shape == (1, 2, 3)
    z[:, -1].sum().backward()
    assert func.linear.weight.grad.abs().sum() > 0
    rough = cdeint(X=X, func=func, z0=z0, t=X.interval, method="rk4", options={"step_size": 1 / 36})
    assert torch.allclose(rough, z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sdeint(Diagonal("ito"), torch.ones(2, 1, dtype=F64), [0, 1], method="log_ode"), "variance"),
        (lambda: sdeint(Diagonal("ito"), torch.ones(2, 1, dtype=F64), [0, 1], extra=True), "extra"),
        (lambda: sdeint(object(), torch.ones(2, 1), [0, 1]), "noise_type"),
        (lambda: sdeint_adjoint(object(), torch.ones(2, 1), [0, 1]), "Module"),
        (lambda: sdeint(Diagonal("ito"), torch.ones(2, 1, dtype=F64), [0, 1], dt=0.0), "dt"),
    ],
)
def test_what_has_no_counterpart_is_named(call, words):
    with pytest.raises(OptionError, match=words):
        call()

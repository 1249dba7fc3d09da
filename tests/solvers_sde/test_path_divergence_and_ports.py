"""Path divergence against a closed form; torchsde's README example through the ported names."""

import math

import pytest
import torch
import torchsde
from torch import nn

from scidyn.errors import OptionError
from scidyn.solvers import solve_sde
from scidyn.solvers.compat.sde import sdeint, sdeint_adjoint

F64 = torch.float64


@pytest.mark.parametrize("matrix", [False, True])
def test_divergence_of_ornstein_uhlenbeck_processes(matrix):
    """Drifts -a y and -b y, one g: KL = (a - b)² / (2 g²) ∫ E y² dt, a Gaussian integral."""
    a, b, g, rows = 1.0, 2.5, 0.5, 20000

    def diffusion(t, y):
        return torch.diag_embed(torch.full_like(y, g)) if matrix else torch.full_like(y, g)

    s = solve_sde(
        lambda t, y: -a * y,
        diffusion,
        torch.ones(rows, 1, dtype=F64),
        [0.0, 1.0],
        noise="general" if matrix else "additive",
        method="heun",
        calculus="stratonovich",
        prior_drift=lambda t, y: -b * y,
        dt=0.02,
        seed=0,
        adjoint=None,
    )
    stationary = g * g / (2 * a)
    integral = stationary + (1 - stationary) * (1 - math.exp(-2 * a)) / (2 * a)
    exact = (a - b) ** 2 / (2 * g * g) * integral
    mean, error = s.log_ratio[:, -1].mean().item(), s.log_ratio[:, -1].std().item() / rows**0.5
    assert abs(mean - exact) < 4 * error + 2e-3 * exact


class SDE(nn.Module):
    """The model of torchsde's README."""

    noise_type = "general"
    sde_type = "ito"

    def __init__(self, batch_size=32, state_size=3, brownian_size=2):
        super().__init__()
        self.batch_size, self.state_size, self.brownian_size = batch_size, state_size, brownian_size
        self.mu = nn.Linear(state_size, state_size)
        self.sigma = nn.Linear(state_size, state_size * brownian_size)

    def f(self, t, y):
        return self.mu(y)

    def g(self, t, y):
        return self.sigma(y).view(self.batch_size, self.state_size, self.brownian_size)


def test_readme_example_of_torchsde():
    torch.manual_seed(0)
    sde = SDE()
    y0, ts = torch.full((32, 3), 0.1), torch.linspace(0, 1, 100)
    with torch.no_grad():
        ys = sdeint(sde, y0, ts)
    assert ys.shape == (100, 32, 3)
    sdeint_adjoint(sde, y0, ts[:3], method="euler", adjoint_method="euler").sum().backward()
    assert sde.mu.weight.grad is not None


@pytest.mark.parametrize("method", ["euler", "srk", "milstein"])
def test_same_path_same_solution_as_torchsde(method):
    class Diagonal:
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, y):
            return torch.sin(y)

        def g(self, t, y):
            return 0.3 * y

    y0, ts = torch.ones(4, 2, dtype=F64), torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    bm = torchsde.BrownianInterval(
        t0=0.0, t1=1.0, size=(4, 2), dtype=F64, entropy=1, levy_area_approximation="space-time"
    )
    ours = sdeint(Diagonal(), y0, ts, bm=bm, method=method, dt=1 / 64)
    theirs = torchsde.sdeint(Diagonal(), y0, ts, bm=bm, method=method, dt=1 / 64)
    # srk: another tableau of the same order, so equal up to the error of both
    assert (ours - theirs).abs().max() < (2e-3 if method == "srk" else 1e-10)


def test_logqp_and_names():
    class Model(nn.Module):
        noise_type, sde_type = "diagonal", "stratonovich"

        def drift(self, t, y):
            return -y

        def g(self, t, y):
            return 0.5 + 0 * y

        def h(self, t, y):
            return 0 * y

    ys, ratio = sdeint(Model(), torch.ones(3, 2), torch.linspace(0, 1, 5), names={"drift": "drift"}, logqp=True, dt=0.1)
    assert ys.shape == (5, 3, 2)
    assert ratio.shape == (4, 3)
    assert (ratio > 0).all()
    with pytest.raises(OptionError, match="needs methods 'f' and 'g'"):
        sdeint(Model(), torch.ones(3, 2), [0.0, 1.0])


def test_torchsde_as_backend():
    y = solve_sde(
        lambda t, y: -y, lambda t, y: 0.0 * y, torch.ones(2, 1, dtype=F64), [0.0, 1.0], dt=0.001, seed=0,
        backend="torchsde", method="euler_maruyama",
    ).y  # fmt: skip
    assert abs(y[0, -1, 0].item() - math.exp(-1)) < 1e-3

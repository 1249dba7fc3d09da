"""The method that switches between an explicit and an implicit formula."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from scidyn.solvers import solve_ode
from scidyn.solvers.methods import METHODS
from scidyn.solvers.methods.automatic import Automatic

F64 = torch.float64


def van_der_pol(mu):
    def f(t, y):
        x, v = y.unbind(-1)
        return torch.stack([v, mu * (1 - x * x) * v - x], dim=-1)

    return f


def oscillator(t, y):
    return torch.stack([y[..., 1], -y[..., 0]], dim=-1)


class Watched(Automatic):
    """Counts the samples in each mode at the start of every step."""

    modes: ClassVar[list] = []

    def step(self, rate, t, h, y, carry, tolerance):
        self.modes.append(carry[1].tolist())
        return super().step(rate, t, h, y, carry, tolerance)


def test_no_switch_on_a_problem_that_is_not_stiff():
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64)
    options = {"rtol": 1e-8, "atol": 1e-8, "adjoint": None}
    auto, plain = (solve_ode(oscillator, y0, [0.0, 20.0], method=m, **options) for m in ("auto", "tsit5"))
    torch.testing.assert_close(auto.y, plain.y, rtol=1e-12, atol=1e-13)
    assert auto.stats.n_steps == plain.stats.n_steps


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_switch_there_and_back_on_van_der_pol(stepping):
    f, y0, times = van_der_pol(200.0), [2.0, 0.0], [0.0, 50.0, 100.0, 250.0]

    def rate(t, y):
        return f(t, torch.as_tensor(y)).numpy()

    exact = solve_ivp(rate, (0, 250), y0, "Radau", times, rtol=1e-10, atol=1e-12).y.T
    method = Watched()
    method.modes.clear()
    options = {"rtol": 1e-6, "atol": 1e-8, "adjoint": None, "stepping": stepping}
    got = solve_ode(f, torch.tensor([y0], dtype=F64), times, method=method, **options)
    np.testing.assert_allclose(got.y[0, :, 0].numpy(), exact[:, 0], rtol=1e-4)
    modes = np.array(method.modes)[:, 0]
    turns = np.flatnonzero(np.diff(modes.astype(int)))
    # explicit at first, implicit on the slow parts; an explicit method alone would need ten thousand steps
    assert not modes[0]
    assert len(turns) >= 2
    assert got.stats.n_steps.item() < 1000


def test_samples_switch_on_their_own():
    rates = torch.tensor([[1.0], [1e5], [10.0]], dtype=F64)
    y0 = torch.zeros(3, 1, dtype=F64)
    options = {"method": "auto", "stepping": "per_sample", "adjoint": None}
    together = solve_ode(lambda t, y: -rates * (y - torch.cos(t)[:, None]), y0, [0.0, 3.0], **options)
    for i in range(3):
        alone = solve_ode(lambda t, y, i=i: -rates[i] * (y - torch.cos(t)[:, None]), y0[:1], [0.0, 3.0], **options)
        assert torch.equal(alone.y[0], together.y[i])
    exact = (rates**2 * np.cos(3) + rates * np.sin(3)) / (rates**2 + 1)
    exact = exact - rates**2 / (rates**2 + 1) * torch.exp(-3 * rates)
    torch.testing.assert_close(together.y[:, -1], exact, rtol=1e-5, atol=1e-5)
    assert together.stats.n_steps.max() < 300


def test_derivatives_of_mixed_batches():
    method = METHODS["auto"]
    y = torch.tensor([[0.3, 1.0], [0.5, -0.2]], dtype=F64, requires_grad=True)
    theta = torch.tensor([1.0, 500.0], dtype=F64, requires_grad=True)
    t, h = torch.zeros(2, dtype=F64), torch.tensor([0.1, 0.1], dtype=F64)

    def step(y, theta):
        def rate(t, y):
            return -theta[:, None] * torch.sin(y) + y.flip(-1)

        taken = method.replay(rate, t, h, y)
        return taken.y1, torch.stack(taken.coef)

    assert torch.autograd.gradcheck(step, (y, theta), atol=1e-6)
    assert torch.autograd.gradgradcheck(lambda *x: step(*x)[0], (y, theta), atol=1e-5)

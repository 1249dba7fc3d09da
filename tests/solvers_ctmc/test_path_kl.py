"""Path divergences against closed forms, quadrature and simulated likelihood ratios."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.testing import assert_close

from scidyn.errors import OptionError, ShapeError
from scidyn.solvers import (
    RateMatrix,
    ReactionNetwork,
    path_kl,
    path_kl_estimate,
    path_log_ratio,
    rate_kl,
    simulate_ssa,
)

F64 = torch.float64


def pair(size=4):
    g = torch.Generator().manual_seed(0)
    return (torch.rand(size, size, generator=g, dtype=F64) + 0.1 for _ in range(2))


def law(size=4):
    p0 = torch.arange(1.0, size + 1, dtype=F64)
    return p0 / p0.sum()


def test_two_poisson_processes_differ_by_the_textbook_formula():
    p, q = torch.tensor([2.0, 0.0, 1.5], dtype=F64), torch.tensor([3.0, 0.5, 1.5], dtype=F64)
    assert_close(rate_kl(p, q), torch.tensor(2 * math.log(2 / 3) - 2 + 3 + 0.5, dtype=F64))
    assert torch.isinf(rate_kl(torch.ones(1), torch.zeros(1)))
    assert rate_kl(torch.zeros(1), torch.zeros(1)) == 0


def test_constant_rates_equal_quadrature_of_the_master_equation():
    a, b = pair()
    p, q = RateMatrix.from_rates(a), RateMatrix.from_rates(b)
    cost = np.array(
        [
            sum(p.Q[i, j] * math.log(p.Q[i, j] / q.Q[i, j]) - p.Q[i, j] + q.Q[i, j] for j in range(4) if j != i)
            for i in range(4)
        ]
    )
    Q = p.Q.numpy()
    truth = solve_ivp(
        lambda _, y: np.append(y[:4] @ Q, y[:4] @ cost), (0, 2.5), np.append(law().numpy(), 0.0), rtol=1e-11, atol=1e-13
    ).y[4, -1]
    assert_close(path_kl(p, q, law(), 2.5), torch.tensor(truth, dtype=F64), rtol=1e-9, atol=0.0)
    stepped = path_kl(p, lambda s: b, law(), 2.5, steps=100)
    assert_close(stepped, torch.tensor(truth, dtype=F64), rtol=1e-8, atol=0.0)


def test_time_dependent_rates_converge_at_third_order_to_quadrature():
    a, b = (m.numpy() for m in pair())

    def p(s):
        return torch.from_numpy(a) * (1.0 + torch.sin(3.0 * s)) + 0.2

    def q(s):
        return torch.from_numpy(b) * (1.5 + torch.cos(s))

    def rhs(s, y):
        one, two = a * (1 + math.sin(3 * s)) + 0.2, b * (1.5 + math.cos(s))
        for m in (one, two):
            np.fill_diagonal(m, 0.0)
        ratio = np.divide(one, two, out=np.ones_like(one), where=two > 0)
        cost = (one * np.log(ratio) - one + two).sum(1)
        return np.append(y[:4] @ one - y[:4] * one.sum(1), y[:4] @ cost)

    truth = solve_ivp(rhs, (0, 2), np.append(law().numpy(), 0.0), rtol=1e-12, atol=1e-14).y[4, -1]
    errors = [abs(float(path_kl(p, q, law(), 2.0, steps=n)) - truth) for n in (20, 40, 80)]
    assert errors[-1] < 1e-8
    assert math.log2(errors[0] / errors[1]) > 2.8
    assert math.log2(errors[1] / errors[2]) > 2.8


def test_different_starts_add_their_own_divergence():
    a, b = pair()
    p, q = RateMatrix.from_rates(a), RateMatrix.from_rates(b)
    q0 = torch.full((4,), 0.25, dtype=F64)
    extra = (law() * torch.log(law() / q0)).sum()
    assert_close(path_kl(p, q, law(), 1.0, q0=q0) - path_kl(p, q, law(), 1.0), extra)


def test_jumps_that_the_other_chain_cannot_make_cost_infinity():
    p = RateMatrix.birth_death(torch.ones(2, dtype=F64), torch.ones(2, dtype=F64))
    q = RateMatrix.birth_death(torch.tensor([1.0, 0.0], dtype=F64), torch.ones(2, dtype=F64))
    start = torch.tensor([1.0, 0.0, 0.0], dtype=F64)
    assert torch.isinf(path_kl(p, q, start, 1.0))
    assert torch.isfinite(path_kl(q, p, start, 1.0))


def test_divergence_is_differentiable_in_both_rates():
    a, b = (m.requires_grad_() for m in pair(3))

    def run(one, two):
        return path_kl(RateMatrix.from_rates(one), RateMatrix.from_rates(two), law(3), 0.9)

    assert torch.autograd.gradcheck(run, (a, b))


def test_estimates_from_trajectories_have_the_exact_mean_and_the_ratio_the_exact_normaliser():
    a, b = pair()
    p, q = RateMatrix.from_rates(a), RateMatrix.from_rates(b)
    sol = simulate_ssa(p, torch.tensor(1), torch.tensor([0.0, 1.5], dtype=F64), trajectories=8000, seed=0, record=True)
    exact = float(path_kl(p, q, torch.eye(4, dtype=F64)[1], 1.5))
    ratio, smooth = path_log_ratio(p, q, sol), path_kl_estimate(p, q, sol)
    for sample in (
        ratio,
        smooth,
    ):
        assert abs(float(sample.mean()) - exact) < 4 * float(sample.std()) / math.sqrt(8000)
    assert smooth.std() < 0.5 * ratio.std()
    weight = torch.exp(-ratio)  # E_P[dQ/dP] = 1
    assert abs(float(weight.mean()) - 1) < 4 * float(weight.std()) / math.sqrt(8000)


def test_networks_ratio_is_that_of_their_master_equation_paths():
    p = ReactionNetwork.parse({"0 -> A": 3.0, "A -> 0": 1.0})
    q = ReactionNetwork.parse({"0 -> A": 2.0, "A -> 0": 0.8})
    sol = simulate_ssa(
        p, torch.tensor([1.0]), torch.tensor([0.0, 1.0], dtype=F64), trajectories=8000, seed=1, record=True
    )
    _, one = p.master_equation([40])
    _, two = q.master_equation([40])
    exact = float(path_kl(one, two, torch.eye(41, dtype=F64)[1], 1.0))
    sample = path_kl_estimate(p, q, sol)
    assert abs(float(sample.mean()) - exact) < 4 * float(sample.std()) / math.sqrt(8000)


def test_bad_requests_are_refused_in_one_sentence():
    a, b = pair()
    p = RateMatrix.from_rates(a)
    with pytest.raises(OptionError, match="t must be"):
        path_kl(p, RateMatrix.from_rates(b), law(), 0.0)
    with pytest.raises(ShapeError, match="same states"):
        path_kl(p, RateMatrix.from_rates(torch.ones(3, 3, dtype=F64)), law(), 1.0)
    with pytest.raises(OptionError, match="record=True"):
        path_log_ratio(p, p, simulate_ssa(p, torch.tensor([0]), torch.tensor([0.0, 1.0]), seed=0))

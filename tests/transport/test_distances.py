"""Distances against SciPy, linear programming, sorting and closed forms."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.spatial.distance
import scipy.stats
import torch

from scidyn.errors import DataError, MissingDependencyError, OptionError
from scidyn.transport import (
    energy_distance,
    exact,
    exact_transport,
    mmd,
    sampling_floor,
    sliced_wasserstein,
    wasserstein,
)

DOUBLE = torch.float64


def clouds(n, m, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=DOUBLE), torch.randn(m, d, generator=g, dtype=DOUBLE) + 0.5


def weights(n, seed):
    w = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE) + 0.05
    return w / w.sum()


@pytest.mark.parametrize("p", [1, 2])
def test_assignment_is_scipys(p):
    x, y = clouds(80, 80, 3)
    C = scipy.spatial.distance.cdist(x, y) ** p
    i, j = scipy.optimize.linear_sum_assignment(C)
    found = wasserstein(x, y, p)
    assert float(found) == pytest.approx(C[i, j].mean() ** (1 / p), rel=1e-12)
    assert found.exact
    assert found.kind.startswith(f"W{p}, exact")


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("solver", ["POT", "SciPy"])
def test_unequal_problems_meet_the_dual_bound(p, solver, monkeypatch):
    if solver == "POT":
        pytest.importorskip("ot")
    else:
        monkeypatch.setattr(exact.importlib.util, "find_spec", lambda name: None)
    x, y = clouds(23, 31, 2)
    a, b = weights(23, 1), weights(31, 2)
    plan = exact_transport(x, y, a, b, cost="euclidean" if p == 1 else "sqeuclidean")
    assert solver in plan.solver
    dense = torch.zeros(23, 31, dtype=DOUBLE).index_put_((plan.source, plan.target), plan.mass)
    torch.testing.assert_close(dense.sum(1), a, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(dense.sum(0), b, rtol=1e-9, atol=1e-12)
    C = torch.cdist(x, y) ** p
    # Kantorovich's dual by another program: max a·f + b·g under f_i + g_j <= C_ij
    eye_n, eye_m = np.eye(23), np.eye(31)
    A = np.concatenate([np.repeat(eye_n, 31, 0), np.tile(eye_m, (23, 1))], 1)
    dual = scipy.optimize.linprog(-np.concatenate([a, b]), A_ub=A, b_ub=C.numpy().ravel(), bounds=(None, None))
    assert float(plan.value) == pytest.approx(-dual.fun, rel=1e-8)


def test_line_is_exact_for_any_weights():
    x, y = clouds(40, 57, 1)
    a, b = weights(40, 1), weights(57, 2)
    expected = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0], a, b)
    assert float(wasserstein(x, y, 1, a=a, b=b)) == pytest.approx(expected, rel=1e-12)
    program = exact_transport(x, y, a, b)
    assert float(wasserstein(x, y, 2, a=a, b=b)) == pytest.approx(math.sqrt(program.value), rel=1e-9)


@pytest.mark.parametrize("p", [1, 2])
def test_entropic_distance_is_near_the_exact_one_and_says_so(p):
    x, y = clouds(400, 400, 2)
    exact_one = wasserstein(x, y, p)
    found = wasserstein(x, y, p, method="entropic")
    assert "entropic" in found.kind
    assert not found.exact
    assert float(found) == pytest.approx(float(exact_one), rel=0.01)


def test_sliced_distance_averages_sorted_projections():
    x, y = clouds(50, 70, 3)
    found = float(sliced_wasserstein(x, y, 1, projections=5, seed=4))
    directions = torch.randn(5, 3, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)
    directions /= directions.norm(dim=1, keepdim=True)
    expected = np.mean([scipy.stats.wasserstein_distance(x @ t, y @ t) for t in directions])
    assert found == pytest.approx(expected, rel=1e-12)


def test_energy_distance_on_a_line_is_scipys_squared():
    x, y = clouds(60, 45, 1)
    expected = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert float(energy_distance(x, y)) == pytest.approx(expected, rel=1e-9)


def test_mmd_of_gaussians_has_a_closed_form():
    g = torch.Generator().manual_seed(0)
    n, d, h, shift = 2000, 3, 1.3, 0.7
    x = torch.randn(n, d, generator=g, dtype=DOUBLE)
    y = torch.randn(n, d, generator=g, dtype=DOUBLE)
    y[:, 0] += shift
    scale = (h**2 / (h**2 + 2)) ** (d / 2)
    expected = 2 * scale * (1 - math.exp(-(shift**2) / (2 * (h**2 + 2))))
    found = mmd(x, y, bandwidth=h, unbiased=True)
    assert float(found) == pytest.approx(expected, abs=6e-3)
    assert "unbiased" in found.kind
    K = torch.exp(-(torch.cdist(x[:50], y[:40]) ** 2) / (2 * h**2)).mean()
    own = [torch.exp(-(torch.cdist(z, z) ** 2) / (2 * h**2)).mean() for z in (x[:50], y[:40])]
    assert float(mmd(x[:50], y[:40], bandwidth=h)) ** 2 == pytest.approx(float(sum(own) - 2 * K), rel=1e-6)


@pytest.mark.parametrize(
    "distance",
    [
        lambda x, y: wasserstein(x, y, 1),
        lambda x, y: wasserstein(x, y, 2),
        lambda x, y: sliced_wasserstein(x, y, 2, projections=8),
        energy_distance,
        lambda x, y: mmd(x, y, bandwidth=1.0),
    ],
)
def test_gradients_and_floors(distance):
    x, y = clouds(12, 15, 2)
    z = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: distance(z, y).value, (z,), atol=1e-6)
    x, y = clouds(300, 300, 2)
    floor = sampling_floor(distance, y)
    assert 0 < floor < float(distance(x + 1.0, y))
    assert floor == sampling_floor(distance, y)


def test_floor_is_shown_beside():
    x, y = clouds(100, 100, 2)
    found = wasserstein(x, y, 1, floor=True)
    assert found.floor == pytest.approx(sampling_floor(lambda x, y: wasserstein(x, y, 1), y))
    assert "halves of y" in str(found)


def test_refusals(monkeypatch):
    x, y = clouds(30, 40, 2)
    with pytest.raises(OptionError, match="p must be one of 1, 2"):
        wasserstein(x, y, 3)
    with pytest.raises(OptionError, match="max_points"):
        exact_transport(x, y, max_points=10)
    with pytest.raises(DataError, match="at least two points"):
        sampling_floor(energy_distance, y[:1])
    with pytest.raises(DataError, match="bandwidth"):
        mmd(x, torch.zeros(5, 2, dtype=DOUBLE))
    with pytest.raises(DataError, match="two points"):
        mmd(x[:1], y, bandwidth=1.0, unbiased=True)
    monkeypatch.setattr(exact.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(exact, "SMALL_PROGRAM", 100)
    with pytest.raises(MissingDependencyError, match=r"scidyn\[transport\]"):
        exact_transport(x, y)

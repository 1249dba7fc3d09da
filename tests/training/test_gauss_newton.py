"""Levenberg–Marquardt against SciPy and closed forms."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares, minimize

from scidyn.errors import FitError, OptionError, ShapeError
from scidyn.training import gauss_newton

F64 = torch.float64
T = torch.linspace(0, 5, 40, dtype=F64)
NOISE = torch.randn(40, dtype=F64, generator=torch.Generator().manual_seed(1))
DATA = 2.0 * torch.exp(-0.7 * T) + 0.5 + 0.05 * NOISE


def decay(p):
    """``a exp(−k t) + c`` for (problem, 3) or (3,)."""
    a, k, c = p.unbind(-1)
    e = torch.exp(-k[..., None] * T)
    r = a[..., None] * e + c[..., None] - DATA
    return r, torch.stack([e, -a[..., None] * T * e, torch.ones_like(e)], dim=-1)


def scipy_fit(start, **bounds):
    return least_squares(lambda p: decay(torch.tensor(p, dtype=F64))[0].numpy(), start, xtol=1e-14, gtol=1e-14, **bounds)


def test_agrees_with_scipy():
    expected = scipy_fit([1.0, 1.0, 0.0])
    result = gauss_newton(decay, torch.tensor([1.0, 1.0, 0.0], dtype=F64))
    assert bool(result.converged)
    np.testing.assert_allclose(result.estimate, expected.x, rtol=1e-6)
    assert float(result.cost) == pytest.approx(expected.cost, rel=1e-10)
    variance = 2 * expected.cost / (40 - 3)
    np.testing.assert_allclose(result.covariance, variance * np.linalg.inv(expected.jac.T @ expected.jac), rtol=1e-4)
    assert bool((result.history[1:] <= result.history[:-1]).all())


def test_bounds_as_scipy_has_them():
    expected = scipy_fit([1.0, 1.0, 0.0], bounds=([0, 0, -1], [1.5, 5, 0.2]))
    low, high = torch.tensor([0.0, 0, -1], dtype=F64), torch.tensor([1.5, 5, 0.2], dtype=F64)
    result = gauss_newton(decay, torch.tensor([1.0, 1.0, 0.0], dtype=F64), low, high)
    np.testing.assert_allclose(result.estimate, expected.x, rtol=1e-4)
    assert result.estimate[0] == 1.5 or result.estimate[2] == pytest.approx(0.2)


def test_equal_bounds_hold_a_parameter():
    start = torch.tensor([1.0, 0.9, 0.0], dtype=F64)
    low, high = torch.full_like(start, -torch.inf), torch.full_like(start, torch.inf)
    low[1] = high[1] = 0.9
    result = gauss_newton(decay, start, low, high)
    e = np.exp(-0.9 * T.numpy())
    a, c = np.linalg.lstsq(np.column_stack([e, np.ones(40)]), DATA.numpy(), rcond=None)[0]
    np.testing.assert_allclose(result.estimate, [a, 0.9, c], rtol=1e-8)
    assert float(result.covariance[1].abs().max()) == 0.0


def test_many_problems_are_independent():
    starts = torch.tensor([[1.0, 1.0, 0.0], [3.0, 0.2, 1.0], [0.5, 2.0, 0.3]], dtype=F64)
    together = gauss_newton(decay, starts)
    for k in range(3):
        alone = gauss_newton(decay, starts[k])
        torch.testing.assert_close(together.estimate[k], alone.estimate, rtol=1e-9, atol=1e-12)
        assert int(together.iterations[k]) == int(alone.iterations)


def test_groups_maximise_the_likelihood_with_unknown_variances():
    groups = (torch.arange(40) >= 20).long()

    def negative(p):
        r = decay(torch.tensor(p, dtype=F64))[0].numpy()
        return 10 * np.log((r[:20] ** 2).mean()) + 10 * np.log((r[20:] ** 2).mean())

    expected = minimize(negative, [2, 0.7, 0.5], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    result = gauss_newton(decay, torch.tensor([1.0, 1.0, 0.0], dtype=F64), groups=groups)
    assert float(result.cost) == pytest.approx(expected.fun, abs=1e-8)
    np.testing.assert_allclose(result.estimate, expected.x, rtol=1e-5)


def test_a_direction_without_information_is_infinite():
    def product(p):
        r, j = decay(torch.stack([p[0] * p[1], p[2], p[0] * 0 + 0.5]))
        return r, torch.stack([j[:, 0] * p[1], j[:, 0] * p[0], j[:, 1]], dim=-1)

    result = gauss_newton(product, torch.tensor([1.0, 1.0, 0.5], dtype=F64))
    deviation = result.covariance.diagonal()
    assert bool(torch.isinf(deviation[:2]).all())
    assert float(deviation[2]) < 0.01


def test_points_that_cannot_be_evaluated_are_not_stepped_to():
    def guarded(p):
        r, j = decay(p)
        return (r * torch.nan, j) if float(p[1]) > 1.2 else (r, j)

    result = gauss_newton(guarded, torch.tensor([1.0, 1.19, 0.0], dtype=F64))
    np.testing.assert_allclose(result.estimate, scipy_fit([1.0, 1.0, 0.0]).x, rtol=1e-5)


def test_bad_input():
    start = torch.ones(3, dtype=F64)
    with pytest.raises(OptionError, match="parameter 1 lies above"):
        gauss_newton(decay, start, torch.tensor([0.0, 2.0, 0.0]), torch.tensor([1.0, 1.0, 1.0]))
    with pytest.raises(FitError, match="not finite at any start"):
        gauss_newton(lambda p: (decay(p)[0] * torch.nan, decay(p)[1]), start)
    with pytest.raises(ShapeError, match="needed"):
        gauss_newton(lambda p: (decay(p)[0], decay(p)[1][:, :2]), start)

"""Error measures against NumPy, SciPy and numerical integrals."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from scidyn.errors import ShapeError
from scidyn.metrics import coverage, crps_normal, log_score, mae, rmse

F64 = torch.float64


def sample():
    g = torch.Generator().manual_seed(0)
    y, f = torch.rand(2, 3, 4, 2, dtype=F64, generator=g) + 0.5
    mask = torch.rand(3, 4, 2, generator=g) > 0.3
    return f, y, mask


def test_errors_over_observed_values():
    f, y, mask = sample()
    missing = torch.where(mask, y, torch.nan)
    d = np.where(mask.numpy(), (f - y).numpy(), np.nan)
    np.testing.assert_allclose(rmse(f, y, mask, dim=(0, 1)), np.sqrt(np.nanmean(d**2, axis=(0, 1))), rtol=1e-12)
    np.testing.assert_allclose(mae(f, missing), np.nanmean(np.abs(d)), rtol=1e-12)
    inside = (y >= f - 0.2) & (y <= f + 0.2)
    assert float(coverage(f - 0.2, f + 0.2, y, mask)) == pytest.approx(inside[mask].double().mean().item())


def test_scores():
    f, y, mask = sample()
    std = torch.tensor([0.3, 0.7], dtype=F64)
    s = np.broadcast_to(std.numpy(), y.shape)[mask.numpy()]
    expected = stats.norm.logpdf(y[mask].numpy(), f[mask].numpy(), s).mean()
    assert float(log_score(f, y, std, mask)) == pytest.approx(expected)
    expected = stats.lognorm.logpdf(y[mask].numpy(), s, scale=f[mask].numpy()).mean()
    assert float(log_score(f, y, std, mask, lognormal=True)) == pytest.approx(expected)
    value = integrate.quad(lambda x: (stats.norm.cdf(x, 1.0, 0.4) - (x >= 1.7)) ** 2, -3, 5, points=[1.7])[0]
    one = torch.ones(1, dtype=F64)
    assert float(crps_normal(one, 0.4 * one, 1.7 * one)) == pytest.approx(value, abs=1e-6)


def test_nothing_observed_and_wrong_shapes():
    assert torch.isnan(rmse(torch.zeros(2), torch.full((2,), torch.nan)))
    assert torch.isnan(rmse(torch.full((2,), torch.nan), torch.zeros(2)))
    with pytest.raises(ShapeError, match="mask"):
        rmse(torch.zeros(2), torch.zeros(2), torch.ones(3, dtype=torch.bool))

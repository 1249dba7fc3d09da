"""Scaling: constants against NumPy, dynamics back to physical units against closed forms."""

import json
import math

import numpy as np
import pytest
import torch

import scidyn
from scidyn.data import Scaling, from_arrays
from scidyn.errors import DataWarning, NonFiniteError, OptionError, SplitError


@pytest.fixture
def ds():
    generator = np.random.default_rng(3)
    y = np.exp(generator.normal(size=(4, 30, 2))) * [5.0, 1e-3]
    y[0, 3, 0] = np.nan
    return from_arrays(y, 10 + 0.5 * np.arange(30), names=["a", "b"], units=["m", "mol/L"], time_units="h")


def test_constants_are_those_of_numpy(ds):
    scaling = Scaling.fit(ds, log=["b"])
    a, b = ds["a"].values, np.log(ds["b"].values)
    assert scaling.mean == pytest.approx((np.nanmean(a), b.mean()), rel=1e-12)
    assert scaling.scale == pytest.approx((np.nanstd(a), b.std()), rel=1e-12)
    assert (scaling.start, scaling.span) == (10.0, 0.5)
    assert (scaling.names, scaling.units, scaling.time_units) == (("a", "b"), ("m", "mol/L"), "h")


def test_transform_inverse_and_json(ds):
    scaling = Scaling.fit(ds, log=["b"])
    y = torch.tensor([[3.0, 2e-3], [0.1, 5e-4]], dtype=torch.float64)
    torch.testing.assert_close(scaling.inverse(scaling.transform(y)), y, rtol=1e-13, atol=0)
    t = torch.tensor([10.0, 17.0], dtype=torch.float64)
    assert scaling.time(t).tolist() == [0, 14]
    torch.testing.assert_close(scaling.inverse_time(scaling.time(t)), t)
    again = Scaling.from_config(json.loads(json.dumps(scaling.to_config())))
    assert again == scaling


@pytest.mark.parametrize("log", [False, True, ["b"]])
def test_dynamics_return_to_physical_units(ds, log):
    """If y' = f(t, y), then the scaled path's own finite difference must give the scaled field."""
    scaling = Scaling.fit(ds, log=log)
    rate = torch.tensor([-0.3, 0.7], dtype=torch.float64)

    def field(t, y):
        return rate * y * (1 + 0.1 * torch.sin(t))

    def exact(t):  # solution of the field from (4, 2e-3) at t = 10
        growth = rate * ((t - 10) + 0.1 * (math.cos(10) - math.cos(t)))
        return torch.tensor([4.0, 2e-3], dtype=torch.float64) * growth.exp()

    t0, step = 11.3, 1e-4
    s0 = scaling.time(torch.tensor(t0, dtype=torch.float64))
    z0 = scaling.transform(exact(t0))
    ahead, behind = (scaling.transform(exact(t0 + sign * step)) for sign in (1, -1))
    slope = (ahead - behind) / (2 * step / scaling.span)
    torch.testing.assert_close(scaling.scaled_vector_field(field)(s0, z0), slope, rtol=1e-7, atol=1e-9)
    back = scaling.physical_vector_field(scaling.scaled_vector_field(field))
    t = torch.tensor(t0, dtype=torch.float64)
    torch.testing.assert_close(back(t, exact(t0)), field(t, exact(t0)), rtol=1e-12, atol=0)


def test_log_det_is_that_of_the_jacobian(ds):
    scaling = Scaling.fit(ds, log=["b"])
    y = torch.tensor([3.0, 2e-3], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(scaling.transform, y)
    torch.testing.assert_close(scaling.log_abs_det(y), torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-12, atol=0)


def test_refusals(ds):
    with pytest.raises(NonFiniteError, match="'a' has values <= 0 and no logarithm"):
        Scaling.fit(ds.assign(a=ds["a"] - 3), log=["a"])
    with pytest.raises(OptionError, match=r"log names \['c'\]"):
        Scaling.fit(ds, log=["c"])
    marked = ds.assign_coords(split=("trajectory", ["train", "train", "test", "test"]))
    with pytest.raises(SplitError, match="fitted on one split only"):
        Scaling.fit(marked)
    Scaling.fit(marked.isel(trajectory=[0, 1]))


def test_a_variable_that_does_not_vary(ds):
    with pytest.warns(DataWarning, match="'a' does not vary"):
        scaling = Scaling.fit(ds.assign(a=ds["a"] * 0 + 7.0))
    assert scaling.scale[0] == 1
    assert scaling.mean[0] == 7


def test_the_record_that_ships():
    scaling = Scaling.fit(scidyn.datasets.load("lynx_hare"))
    assert scaling.mean == pytest.approx((34.080952, 20.166667), abs=1e-6)  # means of the printed table
    assert scaling.span == 1


def test_time_is_scaled_by_the_median_step():
    uneven = from_arrays(np.arange(6.0), [0, 1, 2, 5, 7, 100], units=["m"], time_units="s")
    assert Scaling.fit(uneven).span == 2  # steps 1, 1, 3, 2, 93


def test_zero_has_no_logarithm():
    with pytest.raises(NonFiniteError, match="'y0' has values <= 0"):
        Scaling.fit(from_arrays([1.0, 0.0, 2.0], [0, 1, 2], units=["m"], time_units="s"), log=True)

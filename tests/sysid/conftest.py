"""Fitted models that several tests look at."""

import pytest
import torch

import scidyn
from scidyn.data import from_arrays
from scidyn.sysid import HybridODE, MechanisticODE, NeuralODE
from scidyn.systems import LotkaVolterra

F64 = torch.float64


@pytest.fixture(scope="session")
def record():
    return scidyn.datasets.load("lynx_hare")


@pytest.fixture(scope="session")
def lynx_hare_fit(record):
    return MechanisticODE(LotkaVolterra(3.0, 1.0, 0.1, 2.0)).fit(record)


@pytest.fixture(scope="session")
def fits(record, lynx_hare_fit):
    return {
        "mechanistic": lynx_hare_fit,
        "neural": NeuralODE(hidden=(8,), max_iterations=20).fit(record),
        "hybrid": HybridODE(LotkaVolterra(), hidden=(8,), max_iterations=10).fit(record),
    }


@pytest.fixture(scope="session")
def predator_prey():
    """Three noisy trajectories of a known predator–prey system, with gaps and times of their own."""
    truth = LotkaVolterra(1.1, 0.04, 0.9, 0.03)
    generator = torch.Generator().manual_seed(3)
    times = torch.sort(12 * torch.rand(3, 24, dtype=F64, generator=generator), dim=1).values
    times[:, 0] = 0.0
    times[2, 18:] = torch.nan
    starts = torch.tensor([[30.0, 10.0], [50.0, 25.0], [20.0, 40.0]], dtype=F64)
    y = scidyn.solvers.solve_ode(truth, starts, times, adjoint=None, stepping="per_sample", rtol=1e-9).y
    y = y * (0.1 * torch.randn(y.shape, dtype=F64, generator=generator)).exp()
    y[0, 5:8, 1] = torch.nan
    y[1, 3, 0] = torch.nan
    return truth, from_arrays(y.numpy(), times.numpy(), names=["u", "v"], units=["mg/L", "mg/L"], time_units="h")

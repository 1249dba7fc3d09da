"""Controlled equations on a device without values: nothing mixes devices and no step is read by the host."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scidyn.solvers import HermiteCubicPath, LinearPath, NaturalCubicPath, log_ode, solve_cde, with_time
from scidyn.solvers.cde.increments import apply_field
from scidyn.solvers.cde.signature import log_signature
from scidyn.solvers.cde.steps import STEPS, walk

READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2")


class HostReads(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in READS
        return func(*args, **(kwargs or {}))


def field(t, z):
    return torch.stack([torch.sin(z.roll(1, 1)) - z, torch.cos(z)], dim=-1)


@pytest.mark.parametrize("method", sorted(STEPS))
def test_steps_along_increments_stay_on_a_fake_device(method, fake_device):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.no_grad():
        z, dx = torch.ones(4, 3, device=fake_device), torch.ones(4, 2, device=fake_device)
        end = walk(method, lambda theta, z: apply_field(field(theta, z), dx), z, 3)
        assert end.device.type == fake_device.type


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_log_signatures_stay_on_a_fake_device(depth, fake_device):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        steps = torch.ones(4, 6, 3, device=fake_device)
        assert {x.device.type for x in log_signature(steps, depth)} == {fake_device.type}


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("kind", [LinearPath, HermiteCubicPath, NaturalCubicPath])
def test_paths_are_evaluated_on_a_fake_device(kind, ragged, fake_device):
    from torch._subclasses.fake_tensor import FakeTensorMode

    t = torch.linspace(0, 1, 6).expand(3, 6) if ragged else torch.linspace(0, 1, 6)
    path = kind(torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0)), t)

    def there(x):
        return torch.zeros(x.shape, dtype=x.dtype, device=fake_device)

    with FakeTensorMode(), torch.no_grad():
        path.__dict__.update({k: there(v) for k, v in vars(path).items() if isinstance(v, torch.Tensor)})
        path._knots = type(path._knots)(*map(there, path._knots))
        now = torch.zeros((), device=fake_device)
        assert path.evaluate(now).device.type == fake_device.type
        assert path.derivative(now).device.type == fake_device.type


@pytest.mark.parametrize("solve", ["increments", "log_ode"])
def test_the_number_of_reads_does_not_grow_with_the_number_of_steps(solve):
    counts = []
    for knots in (17, 65):
        t = torch.linspace(0, 1, knots, dtype=torch.float64)
        X = LinearPath(with_time(torch.sin(6 * t).view(1, -1, 1), t), t)
        z0 = torch.ones(1, 2, dtype=torch.float64)
        with HostReads() as reads, torch.no_grad():
            if solve == "increments":
                solve_cde(field, X, z0, adjoint=None)
            else:
                log_ode(field, X, z0, window=4, depth=2, adjoint=None)
        counts.append(reads.count)
    assert counts[0] == counts[1]

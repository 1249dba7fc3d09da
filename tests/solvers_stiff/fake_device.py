"""Run by a test in a process of its own: steps of every method on a device without values."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from scidyn.solvers import SemilinearField, SplitField
from scidyn.solvers.controller import Tolerance
from scidyn.solvers.linear import LinearAlgebra
from scidyn.solvers.methods import METHODS
from scidyn.solvers.methods.esdirk import ESDIRK
from scidyn.solvers.methods.rosenbrock import Rodas
from scidyn.solvers.stiff_tableaus import KVAERNO3, RODAS5P

DEVICE = "fakegpu"
SPECIAL = [
    ESDIRK(KVAERNO3, LinearAlgebra("banded", (1, 1))),
    Rodas(tableau=RODAS5P, algebra=LinearAlgebra("banded", (1, 1))),
]


def field_for(method, device):
    if method.name == "kencarp4":
        return SplitField(lambda t, y: torch.sin(y), lambda t, y: -30.0 * y)
    if method.name == "etdrk4":
        return SemilinearField(torch.full((4,), -3.0, device=device), lambda t, y: torch.sin(y))
    return lambda t, y: -y + 0.1 * torch.roll(y, 1, dims=-1)


def check(method, dtype, device):
    with FakeTensorMode(), torch.no_grad():
        y = torch.ones(3, 4, device=device, dtype=dtype)
        t = torch.zeros(3, device=device, dtype=torch.float64)
        h = torch.full((3,), 0.1, device=device, dtype=torch.float64)
        rtol = torch.full((), 1e-4, device=device, dtype=dtype)
        rate = field_for(method, device)
        if method.name == "etdrk4":
            rate.diagonal = rate.diagonal.to(dtype)
        carry = method.begin(rate, t, y, rate(t, y))
        taken = method.step(rate, t, h, y, carry, Tolerance(rtol, rtol, False))
        again = method.step(rate, t + h, h, taken.y1, taken.carry, Tolerance(rtol, rtol, False))
        assert again.y1.device.type == device
        assert again.y1.dtype == dtype
        assert [c.dtype for c in carry] == [c.dtype for c in again.carry]
        assert [c.shape for c in taken.carry] == [c.shape for c in again.carry]
        assert (taken.err is not None) == method.adaptive


if __name__ == "__main__":
    # before the first backward pass: the engine sizes its queues once
    _setup_privateuseone_for_python_backend(DEVICE)
    for method in (*METHODS.values(), *SPECIAL):
        for dtype in (torch.float32, torch.float64):
            check(method, dtype, DEVICE)
            print(method.name, dtype)

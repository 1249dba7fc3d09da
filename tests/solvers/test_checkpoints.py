"""The bound on kept states: the same gradient, and no more numbers than allowed."""

import pytest
import torch

from scidyn.errors import OptionError
from scidyn.solvers import solve_ode
from scidyn.solvers.adjoint import discrete

F64 = torch.float64
TIMES = torch.linspace(0, 6, 9, dtype=F64)


def gradient(checkpoints, numbers=None, width=3, **options):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(width, width, dtype=F64, generator=generator).requires_grad_()
    y0 = torch.randn(4, width, dtype=F64, generator=generator).requires_grad_()

    def note(x):
        if numbers is not None and x.ndim == 3 and x.shape[1:] == y0.shape:
            numbers.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        y = solve_ode(lambda t, y: torch.tanh(y @ weight) - 0.2 * y, y0, TIMES, checkpoints=checkpoints, **options).y
    return [y.detach(), *torch.autograd.grad((y**2).sum() + y[0, 3].sum(), [y0, weight])]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"rtol": 1e-9},
        {"rtol": 1e-8, "stepping": "per_sample"},
        {"method": "rk4", "dt0": 0.1},
    ],
    ids=["shared", "per sample", "fixed"],
)
def test_the_gradient_is_the_same_and_the_bound_holds(options, together, monkeypatch):
    if not together:
        monkeypatch.setattr(discrete, "worthwhile", lambda problem, steps: False)
    free, bound = [], []
    expected = gradient(None, free, **options)
    for got, want in zip(gradient(3, bound, **options), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)
    assert 0 < sum(bound) <= 3 * 4 * 3
    assert sum(free) > 5 * sum(bound)


@pytest.mark.parametrize("limit", [2, 5, 64])
def test_any_bound_holds(limit):
    numbers = []
    gradient(limit, numbers, method="rk4", dt0=0.05)
    assert limit // 4 <= sum(numbers) / 12 <= limit


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"adjoint": "reversible"}, "adjoint='discrete'"),
        ({"checkpoints": 1}, "checkpoints"),
    ],
)
def test_what_it_does_not_go_with_is_refused(options, sentence):
    with pytest.raises(OptionError, match=sentence):
        solve_ode(lambda t, y: -y, torch.ones(1, 1), [0.0, 1.0], **({"checkpoints": 4} | options))

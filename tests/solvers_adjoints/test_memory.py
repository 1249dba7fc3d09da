"""What a solve keeps for its gradient and needs on the way, counted in allocated bytes."""

import contextlib
import gc
import itertools
import tracemalloc

import pytest
import torch
from pendulums import F64

from scidyn.solvers import solve_ode


class Bytes:
    """Allocated less released bytes: ``net`` at the end, ``most`` on the way."""

    net = most = 0


@contextlib.contextmanager
def counted():
    """Count the bytes that torch allocates and releases."""
    found = Bytes()
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield found
        gc.collect()
    changes = [(e.start_ns(), e.nbytes()) for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = list(itertools.accumulate(size for _, size in sorted(changes, key=lambda x: x[0])))
    found.net, found.most = (total[-1], max(total)) if total else (0, 0)


def spiral(batch, width):
    generator = torch.Generator().manual_seed(0)
    weight = (0.5 * torch.randn(width, width, dtype=F64, generator=generator)).requires_grad_()
    y0 = torch.randn(batch, width, dtype=F64, generator=generator).requires_grad_()
    return weight, y0, lambda t, y: torch.tanh(y @ weight) * torch.cos(9 * t).reshape(-1, 1) - 0.1 * y


@pytest.mark.parametrize("method", ["tsit5", "rodas5p", "auto", "rkc2"])
def test_the_discrete_adjoint_keeps_times_sizes_and_states(method):
    batch, width = 32, 6
    weight, y0, f = spiral(batch, width)
    y0 = y0[:1].expand(batch, -1)  # the same steps for all
    kept = []

    def note(x):
        kept.append(x)
        return x

    rtol = 1e-2 if method == "rkc2" else 1e-7
    setup = {"method": method, "stepping": "per_sample", "rtol": rtol, "atol": rtol, "params": [weight]}
    with torch.no_grad():
        steps = int(solve_ode(f, y0, [0.0, 1.5], **setup).stats.n_accepted.max())
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        y = solve_ode(f, y0, [0.0, 1.5], **setup).y
    records = [x.untyped_storage() for x in kept if x.ndim > 1 and len(x) in (steps, steps + 1)]
    sizes = {x.data_ptr(): x.nbytes() for x in records}
    assert steps > 9
    assert y.requires_grad
    # the end of the last step, and a small mark where a method has two formulas
    assert sum(sizes.values()) / 8 == pytest.approx((steps * (width + 2) + 1) * batch, rel=0.05)


@pytest.mark.parametrize(
    ("method", "stepping", "steps"),
    [
        ("rk4", "fixed", (30, 90)),
        pytest.param("tsit5", "shared", (64, 128), marks=pytest.mark.slow),
        pytest.param("rodas5p", "fixed", (30, 60), marks=pytest.mark.slow),
    ],
)
def test_checkpoints_bound_what_is_needed_on_the_way(method, stepping, steps):
    batch, width, limit = 30, 40, 8
    weight, y0, f = spiral(batch, width)
    most = []
    for count in steps:
        setup = {"method": method, "stepping": stepping, "dt0": 0.01, "dt_max": 0.01}
        with counted() as found:
            y = solve_ode(f, y0, [0.0, 0.01 * count], checkpoints=limit, params=[weight], **setup).y
            y[:, -1].sum().backward()
        most.append(found.most / 8)
        del y
    # times and sizes of the steps, of each sample if steps are fixed, and no more states
    grid = 4 * (steps[1] - steps[0]) * (batch if stepping == "fixed" else 1)
    assert most[1] - most[0] < grid + limit * batch * width
    assert most[1] - most[0] < 0.5 * (steps[1] - steps[0]) * batch * width


def test_checkpoints_take_a_step_again_as_often_as_the_binomial_schedule_says():
    """In s + 1 places and r repetitions: C(s + r + 1, r) steps (Griewank and Walther, 2000)."""
    y0 = torch.ones(1, 1, dtype=F64, requires_grad=True)
    calls = []

    def f(t, y):
        calls.append(1)
        return -y

    def evaluations(limit, steps):
        y = solve_ode(f, y0, [0.0, 1.0], method="euler", dt0=1.0 / steps, checkpoints=limit).y
        calls.clear()
        y[:, -1].sum().backward()
        return len(calls)

    # one for the sweep of each step; those between are taken again at most r times
    for limit, repeats, steps in ((2, 3, 10), (4, 2, 15), (20, 1, 20)):
        assert steps <= evaluations(limit, steps) <= steps * (repeats + 1)


def trainer(options):
    """Give a function that trains for some steps."""
    weight, y0, f = spiral(4, 2)
    optimiser = torch.optim.SGD([weight], lr=1e-3)

    def train(count):
        for _ in range(count):
            optimiser.zero_grad()
            solve_ode(f, y0, [0.0, 0.3], method="rk4", dt0=0.3, **options).y.square().sum().backward()
            optimiser.step()
        gc.collect()

    return train


def alive():
    """Count the tensors that are alive, and their bytes; what a failed transform left has no storage."""
    found = [x for x in gc.get_objects() if type(x) is torch.Tensor]
    stored = [x for x in found if not torch._C._functorch.is_functorch_wrapped_tensor(x)]
    return len(found), sum(x.untyped_storage().nbytes() for x in stored)


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 200), ({"checkpoints": 2}, 30), ({"adjoint": "timeparallel"}, 30), ({"adjoint": "reversible"}, 30)],
)
def test_training_leaves_no_tensor(options, steps):
    train = trainer(options)
    train(5)
    before = alive()
    train(steps)
    assert alive() == before


def test_training_leaves_no_object():
    train = trainer({})
    train(10)
    tracemalloc.start()
    train(10)
    start = tracemalloc.get_traced_memory()[0]
    train(10)
    grown = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    # objects are reused unevenly; the graph or the records of one step alone take far more
    assert grown < 10 * 4000

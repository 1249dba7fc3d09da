"""States that are dicts, tuples and lists: the same numbers as in one tensor, and errors that name the leaf."""

from typing import NamedTuple

import pytest
import torch

from scidyn.errors import NonFiniteError, OptionError, ShapeError, SolverError
from scidyn.solvers import Event, SplitField, solve_ode

F64 = torch.float64
TIMES = torch.linspace(0, 2, 5, dtype=F64)
OMEGA = torch.tensor([1.0, 2.0, 3.0], dtype=F64)


class Phase(NamedTuple):
    """Position and momentum."""

    q: torch.Tensor
    p: torch.Tensor


def spring(t, y):
    return {"v": -(OMEGA**2) * y["x"], "x": y["v"]}


def exact(times):
    angle = times.reshape(1, -1, 1) * OMEGA
    return torch.cos(angle), -OMEGA * torch.sin(angle)


X0 = torch.ones(2, 3, dtype=F64)
START = {"x": X0, "v": torch.zeros(2, 3, dtype=F64)}


@pytest.mark.parametrize("stepping", ["shared", "per_sample", "fixed"])
def test_a_dict_follows_the_closed_form(stepping):
    solution = solve_ode(spring, START, TIMES, stepping=stepping, dt0=0.02, rtol=1e-8, atol=1e-9, adjoint=None)
    for got, want in zip((solution.y["x"], solution.y["v"]), exact(TIMES), strict=True):
        torch.testing.assert_close(got, want.expand(2, -1, -1), rtol=0, atol=2e-6)
    assert solution.mask.shape == (2, 5)
    assert bool(solution.mask.all())


def test_leaves_of_all_shapes_and_containers():
    seen = []

    def f(t, y):
        seen.append([tuple(x.shape) for x in (y.q, y.p[0], y.p[1])])
        return Phase(-y.q, (-2.0 * y.p[0], [-3.0 * y.p[1]][0]))

    y0 = Phase(torch.ones(4, dtype=F64), (torch.ones(4, 2, 3, dtype=F64), torch.ones(4, 5, dtype=F64)))
    y = solve_ode(f, y0, [0.0, 1.0], rtol=1e-9, atol=1e-11, adjoint=None).y
    assert isinstance(y, Phase)
    assert isinstance(y.p, tuple)
    assert [tuple(x.shape) for x in (y.q, *y.p)] == [(4, 2), (4, 2, 2, 3), (4, 2, 5)]
    assert set(map(tuple, seen)) == {((4,), (4, 2, 3), (4, 5))}
    for leaf, rate in zip((y.q, *y.p), (1.0, 2.0, 3.0), strict=True):
        torch.testing.assert_close(leaf[:, 1], torch.full_like(leaf[:, 1], -rate).exp(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("adjoint", ["discrete", "direct", "reversible", "interpolating", "backsolve"])
def test_gradients_equal_those_of_one_tensor(adjoint):
    options = {"adjoint": adjoint, "rtol": 1e-6, "atol": 1e-7}
    stiffness, x0 = (torch.tensor(v, dtype=F64, requires_grad=True) for v in ([1.0, 4.0], [[1.0, 0.5], [0.2, -1.0]]))
    tree = solve_ode(
        lambda t, y: {"x": y["v"], "v": -stiffness * y["x"]},
        {"x": x0, "v": torch.zeros_like(x0)},
        [0.0, 1.0, 2.0],
        **options,
    ).y
    by_tree = torch.autograd.grad((tree["x"][:, 1:] ** 2).sum() + tree["v"][:, -1].sum(), [stiffness, x0])
    flat = solve_ode(
        lambda t, y: torch.cat([y[:, 2:], -stiffness * y[:, :2]], dim=1),
        torch.cat([x0, torch.zeros_like(x0)], dim=1),
        [0.0, 1.0, 2.0],
        adjoint="direct",
        rtol=1e-6,
        atol=1e-7,
    ).y
    by_flat = torch.autograd.grad((flat[:, 1:, :2] ** 2).sum() + flat[:, -1, 2:].sum(), [stiffness, x0])
    close = 1e-7 if adjoint in ("discrete", "direct") else 1e-3
    for got, want in zip(by_tree, by_flat, strict=True):
        torch.testing.assert_close(got, want, rtol=close, atol=close)


def test_the_worst_leaf_decides_about_a_step():
    # a quiet leaf of many numbers would hide the error of one number in a mean over both
    y0 = (torch.ones(1, 1, dtype=F64), torch.zeros(1, 999, dtype=F64))

    def f(t, y):
        return torch.cos(8 * t) * 8 * y[0], 0.0 * y[1]

    alone = solve_ode(lambda t, y: torch.cos(8 * t) * 8 * y, y0[0], [0.0, 4.0], adjoint=None)
    both = solve_ode(f, y0, [0.0, 4.0], adjoint=None)
    joined = solve_ode(
        lambda t, y: torch.cat(f(t, (y[:, :1], y[:, 1:])), 1), torch.cat(y0, 1), [0.0, 4.0], adjoint=None
    )
    assert torch.equal(both.stats.n_steps, alone.stats.n_steps)
    torch.testing.assert_close(both.y[0], alone.y, rtol=1e-12, atol=0)
    assert int(joined.stats.n_steps) < 0.8 * int(both.stats.n_steps)


def test_tolerances_leaf_by_leaf():
    seen = []

    def steps(atol):
        return int(solve_ode(spring, START, TIMES, rtol=1e-14 / 1e-1, atol=atol, adjoint=None).stats.n_steps[0])

    for atol in ({"x": 1e-4, "v": 1e-4}, {"x": 1e-4, "v": torch.tensor([1e-9, 1e-9, 1e-9])}, 1e-4):
        seen.append(steps(atol))
    assert seen[0] == seen[2] < 0.6 * seen[1]
    with pytest.raises(ShapeError, match=r"atol has shape \(2,\) at y\['v'\]"):
        steps({"x": 1e-4, "v": torch.ones(2)})
    with pytest.raises(ShapeError, match="atol has"):
        steps({"x": 1e-4})


def test_real_and_complex_leaves():
    y0 = {"z": torch.ones(2, 1, dtype=torch.complex128), "r": torch.ones(2, 3, dtype=F64)}
    seen = set()

    def f(t, y):
        seen.add((y["z"].dtype, y["r"].dtype))
        return {"z": 1j * y["z"], "r": -y["r"]}

    y = solve_ode(f, y0, [0.0, 1.0], rtol=1e-10, atol=1e-12, adjoint=None).y
    assert seen == {(torch.complex128, F64)}
    assert y["r"].dtype == F64
    torch.testing.assert_close(y["z"][0, 1, 0], torch.exp(torch.tensor(1j, dtype=torch.complex128)), rtol=1e-9, atol=0)
    torch.testing.assert_close(y["r"][:, 1], torch.full((2, 3), -1.0, dtype=F64).exp(), rtol=1e-9, atol=0)


def test_dense_output_events_jumps_and_parts():
    options = {"rtol": 1e-8, "atol": 1e-9, "adjoint": None}
    dense = solve_ode(spring, START, TIMES, dense=True, **options).dense([0.3])
    torch.testing.assert_close(dense["x"][0], exact(torch.tensor([0.3], dtype=F64))[0][0], rtol=0, atol=1e-5)
    fall = {"x": torch.tensor([[1.0], [4.0]], dtype=F64), "v": torch.zeros(2, 1, dtype=F64)}
    ground = Event(lambda t, y: y["x"][:, 0], direction=-1)
    met = solve_ode(
        lambda t, y: {"x": y["v"], "v": -2.0 + 0 * y["x"]},
        fall,
        [0.0, 5.0],
        stepping="per_sample",
        events=ground,
        **options,
    )
    torch.testing.assert_close(met.events.t[:, 0], torch.tensor([1.0, 2.0], dtype=F64), rtol=1e-8, atol=0)
    torch.testing.assert_close(
        met.events.before["v"][:, 0], torch.tensor([[-2.0], [-4.0]], dtype=F64), rtol=1e-8, atol=0
    )
    dose = solve_ode(
        lambda t, y: {"c": 0 * y["c"]},
        {"c": torch.ones(1, 1, dtype=F64)},
        [0.0, 1.0, 2.0],
        jump_times=[0.5],
        jump=lambda t, y: {"c": y["c"] + 3.0},
        **options,
    )
    assert dose.y["c"].flatten().tolist() == [1.0, 4.0, 4.0]
    parts = SplitField(lambda t, y: {"c": torch.cos(t) + 0 * y["c"]}, lambda t, y: {"c": -1e4 * y["c"]})
    start = {"c": torch.zeros(1, 1, dtype=F64)}
    stiff = solve_ode(parts, start, [0.0, 1.0], method="kencarp4", rtol=1e-3, atol=1e-6, adjoint=None)
    assert stiff.y["c"][0, 1, 0].item() == pytest.approx(1e-4 * 0.5403, rel=1e-2)


def test_parameters_of_a_module_receive_gradients():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = torch.nn.Parameter(torch.tensor(0.5, dtype=F64))
            self.unused = torch.nn.Parameter(torch.tensor(0.5, dtype=F64))

        def forward(self, t, y):
            return {"a": -self.rate * y["a"]}

    net = Net()
    solve_ode(net, {"a": torch.ones(1, 1, dtype=F64)}, [0.0, 1.0], rtol=1e-10).y["a"][0, 1, 0].backward()
    assert net.rate.grad.item() == pytest.approx(-0.6065306597, rel=1e-8)


def test_dataset_names_the_leaves():
    solution = solve_ode(spring, START, TIMES, adjoint=None)
    assert list(solution.to_xarray()) == ["x0", "x1", "x2", "v0", "v1", "v2"]
    swapped = solve_ode(spring, START, TIMES, adjoint=None, time_first=True).to_xarray()
    assert swapped.identical(solution.to_xarray())


BAD = {
    "missing key": (lambda t, y: {"x": y["v"]}, START, ShapeError, r"has \['x'\] at y, the state has the keys"),
    "another structure": (lambda t, y: y["x"], START, ShapeError, "has Tensor at y"),
    "wrong shape": (
        lambda t, y: {"x": y["v"], "v": y["x"][:, :2]},
        START,
        ShapeError,
        r"shape \(2, 2\) at y\['v'\]",
    ),
    "wrong dtype": (lambda t, y: {"x": y["v"], "v": y["x"].float()}, START, ShapeError, r"at y\['v'\] has dtype"),
    "not a tensor": (lambda t, y: {"x": y["v"], "v": 1.0}, START, ShapeError, r"float at y\['v'\]"),
    "in place": (lambda t, y: {"x": y["v"].mul_(2), "v": y["x"]}, {"x": X0, "v": X0}, OptionError, "in place"),
    "nan": (spring, {"x": X0 * torch.nan, "v": X0}, NonFiniteError, r"y0\['x'\]\[0, 0\] is nan"),
    "integer": (spring, {"x": X0.long(), "v": X0}, ShapeError, "float"),
    "batch": (spring, {"x": X0, "v": X0[:1]}, ShapeError, r"\(1, 3\) at y\['v'\] and \(2, 3\) at y\['x'\]"),
    "precision": (spring, {"x": X0, "v": X0.float()}, ShapeError, "one precision"),
    "scalar leaf": (spring, {"x": X0, "v": torch.tensor(1.0, dtype=F64)}, ShapeError, "first axis of every leaf"),
    "no leaf": (spring, {}, ShapeError, "holds no tensor"),
    "string": (spring, {"x": "a"}, ShapeError, r"got str at y0\['x'\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_structures_are_refused_with_the_name_of_the_leaf(case):
    f, y0, error, sentence = BAD[case]
    with pytest.raises(error, match=sentence):
        solve_ode(f, y0, TIMES)


def test_the_solution_of_a_failure_has_the_structure():
    with pytest.raises(SolverError) as caught:
        solve_ode(lambda t, y: {"a": y["a"] ** 2}, {"a": torch.ones(1, 1, dtype=F64)}, [0.0, 0.5, 2.0])
    y = caught.value.solution.y["a"]
    assert y[0, 1, 0].item() == pytest.approx(2.0, rel=1e-4)
    assert caught.value.solution.mask.tolist() == [[True, True, False]]


def test_events_with_jumps_and_args_see_the_structure():
    keeps = torch.tensor(0.5, dtype=F64, requires_grad=True)
    start = {"x": torch.tensor([[1.0], [4.0]], dtype=F64), "v": torch.zeros(2, 1, dtype=F64)}
    events = [
        Event(lambda t, y: y["x"][:, 0], -1, jump=lambda t, y, keeps: {"x": y["x"], "v": -keeps * y["v"]}),
        Event(lambda t, y, keeps: y["v"][:, 0], -1, terminal=False),
    ]
    solution = solve_ode(
        lambda t, y, keeps: {"x": y["v"], "v": -2.0 + 0 * y["x"]},
        start,
        [0.0, 2.2],
        args=keeps,
        stepping="per_sample",
        events=events,
    )
    impacts, tops = solution.events
    assert [r.count.tolist() for r in solution.events] == [[2, 1], [1, 0]]
    torch.testing.assert_close(impacts.t[0], torch.tensor([1.0, 2.0], dtype=F64), rtol=1e-8, atol=0)
    torch.testing.assert_close(impacts.after["v"][0, :, 0], torch.tensor([1.0, 0.5], dtype=F64), rtol=1e-8, atol=0)
    torch.testing.assert_close(tops.before["x"][0, 0, 0].item(), 0.25)
    (slope,) = torch.autograd.grad(impacts.t[0, 1], keeps)
    torch.testing.assert_close(slope.item(), 2.0)

"""Steps that land on times, predictive control, what is reported, helpers for the time axis."""

import io
import itertools

import pytest
import torch

from scidyn.errors import NonFiniteError, OptionError, ShapeError
from scidyn.solvers import Gustafsson, batch_time, expand_time, solve_ode
from scidyn.solvers.controller import Trial
from scidyn.solvers.progress import Bar
from scidyn.systems import VanDerPol

F64 = torch.float64


def swing(t, y):
    return torch.stack([y[..., 1], -4 * torch.sin(y[..., 0])], dim=-1)


Y0 = torch.tensor([[0.5, 0.0], [1.0, 2.0], [2.5, -1.0]], dtype=F64)


@pytest.mark.parametrize("stepping", ["shared", "per_sample", "fixed"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_steps_land_on_step_times(stepping, sign):
    landings = [0.1234567, 0.5, 1.75, 9.0]  # the last is outside of the span
    solution = solve_ode(
        swing,
        Y0,
        [0.0, 2.0 * sign],
        stepping=stepping,
        dt0=0.3,
        step_times=[sign * x for x in reversed(landings)],
        save="steps",
        adjoint=None,
    )
    rows = solution.t if solution.t.ndim == 2 else solution.t.unsqueeze(0)
    for row in rows:
        nodes = set(row[~row.isnan()].tolist())
        assert {sign * x for x in landings[:3]} <= nodes
        assert sign * 9.0 not in nodes
        assert max(abs(x) for x in nodes) == 2.0


def test_the_step_goes_on_after_a_landing():
    plain = solve_ode(swing, Y0, [0.0, 6.0], adjoint=None)
    landed = solve_ode(swing, Y0, [0.0, 6.0], adjoint=None, step_times=[1.0, 2.0001, 3.0, 3.0001, 4.5])
    # five landings cost about a step each, not a new start
    assert 0 <= int(landed.stats.n_steps[0]) - int(plain.stats.n_steps[0]) <= 10


def test_each_sample_has_its_own_landings():
    landings = torch.tensor([[0.3], [0.7], [1.1]], dtype=F64)
    solution = solve_ode(
        swing, Y0, [0.0, 2.0], stepping="per_sample", step_times=landings, save="steps", adjoint=None
    )
    for row, own in zip(solution.t, landings[:, 0].tolist(), strict=True):
        assert [x for x in landings[:, 0].tolist() if x in row.tolist()] == [own]


def test_a_kink_costs_no_rejections_if_a_step_ends_there():
    def kinked(t, y):
        return torch.abs(t - 1.0) + 0 * y

    options = {"rtol": 1e-8, "atol": 1e-10, "adjoint": None}
    y0 = torch.zeros(1, 1, dtype=F64)
    blind = solve_ode(kinked, y0, [0.0, 3.0], **options)
    landed = solve_ode(kinked, y0, [0.0, 3.0], step_times=[1.0], **options)
    assert int(landed.stats.n_rejected[0]) == 0 < int(blind.stats.n_rejected[0])
    assert landed.y[0, -1, 0].item() == pytest.approx(2.5, abs=1e-13)


def test_times_given_as_numbers_are_not_rounded_to_single_precision():
    y0 = torch.zeros(1, 1, dtype=F64)
    for jumps in (None, [0.05]):
        solution = solve_ode(lambda t, y: 1.0 + 0 * y, y0, [0.0, 0.1], jump_times=jumps, adjoint=None)
        assert solution.t[1].item() == 0.1
        assert solution.y[0, 1, 0].item() == pytest.approx(0.1, abs=1e-14)


def test_step_to_ends_steps_on_the_reported_times():
    times = torch.linspace(0, 2, 41, dtype=F64)
    nodes = solve_ode(swing, Y0, times, save="steps", step_times=times, adjoint=None)
    solution = solve_ode(swing, Y0, times, save="step_to", adjoint=None)
    assert set(times.tolist()) <= set(nodes.t.tolist())
    index = torch.searchsorted(nodes.t, times)
    torch.testing.assert_close(solution.y, nodes.y[:, index], rtol=1e-13, atol=1e-13)
    exact = solve_ode(swing, Y0, times, rtol=1e-11, atol=1e-12, adjoint=None).y
    by_polynomial = solve_ode(swing, Y0, times, adjoint=None).y
    assert (solution.y - exact).abs().max() < (by_polynomial - exact).abs().max()


@pytest.mark.parametrize("adjoint", ["discrete", "direct", "interpolating", "backsolve"])
def test_gradients_with_landings_equal_the_closed_form(adjoint):
    rate = torch.tensor(0.7, dtype=F64, requires_grad=True)
    options = {"step_times": [0.3, 0.9], "adjoint": adjoint, "rtol": 1e-9, "atol": 1e-11}
    y = solve_ode(lambda t, y: -rate * y, torch.ones(1, 1, dtype=F64), [0.0, 1.0], **options).y[0, -1, 0]
    y.backward()
    assert rate.grad.item() == pytest.approx(-torch.exp(torch.tensor(-0.7, dtype=F64)).item(), rel=1e-7)


@pytest.mark.parametrize("stepping", ["shared", "per_sample", "fixed"])
def test_saved_steps_have_the_gradient_of_the_solution(stepping):
    rate = torch.tensor([0.4, 3.0], dtype=F64, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=F64)
    solution = solve_ode(
        lambda t, y: -rate.unsqueeze(1) * y, y0, [0.0, 2.0], stepping=stepping, save="steps", dt0=0.02, rtol=1e-9
    )
    t = solution.t.expand(2, -1)
    known = solution.mask
    assert torch.equal(known, ~t.isnan())
    assert torch.equal(known.sum(dim=1) - 1, solution.stats.n_accepted.long())
    exact = torch.exp(-rate.unsqueeze(1) * t.nan_to_num())
    torch.testing.assert_close(solution.y[..., 0][known], exact[known], rtol=1e-6, atol=1e-8)
    weight = torch.linspace(-1, 1, int(known.sum()), dtype=F64)
    (got,) = torch.autograd.grad((solution.y[..., 0][known] * weight).sum(), rate)
    (want,) = torch.autograd.grad((exact[known] * weight).sum(), rate)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)


def test_save_fn_time_first_and_mask():
    def energy(t, y):
        return 0.5 * y[:, 1] ** 2 - 4 * torch.cos(y[:, 0])

    times = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.5, torch.nan], [0.0, 1.5, 3.0]], dtype=F64)
    y0 = Y0.clone().requires_grad_()
    plain = solve_ode(swing, y0, times, stepping="per_sample")
    saved = solve_ode(swing, y0, times, stepping="per_sample", save_fn=energy, time_first=True)
    assert saved.y.shape == saved.mask.shape == (3, 3)
    assert torch.equal(saved.mask.T, ~times.isnan())
    assert torch.equal(plain.mask, ~times.isnan())
    want = energy(None, plain.y.reshape(-1, 2)).reshape(3, 3)
    torch.testing.assert_close(saved.y.T, want, rtol=0, atol=0, equal_nan=True)
    (got,) = torch.autograd.grad(saved.y.nan_to_num().sum(), y0)
    # energy is conserved: two or three reported values of each sample
    torch.testing.assert_close(got[:, 1], Y0[:, 1] * torch.tensor([3.0, 2.0, 3.0], dtype=F64), rtol=0, atol=1e-4)
    with pytest.raises(ShapeError, match="the batch, is needed"):
        solve_ode(swing, Y0, [0.0, 1.0], save_fn=lambda t, y: y.sum())


def test_formula_of_the_predictive_controller():
    control, one = Gustafsson(), torch.ones(1, dtype=F64)
    trial = Trial(0.5 * one, one > 0, 0.1 * one, 4, 6 * one.int(), 10)
    fac = 0.9 * 21 / 26
    first = control.factor(trial, control.begin(one))
    assert first.item() == pytest.approx(1 / (0.5**0.25 / fac))
    memory = control.remember(trial, control.begin(one))
    assert [m.item() for m in memory] == [0.5, 0.1]
    # the error grew with the same step: the trend asks for a smaller step than the error alone
    later = Trial(0.9 * one, one > 0, 0.1 * one, 4, 1 * one.int(), 10)
    trend = 0.9 / (0.81 / 0.5) ** 0.25
    assert trend < 0.9 / 0.9**0.25
    assert control.factor(later, memory).item() == pytest.approx(trend)
    refused = later._replace(ratio=40 * one, accepted=one < 0)
    assert control.factor(refused, memory).item() == pytest.approx(0.9 / 40**0.25)
    assert [m.item() for m in control.remember(refused, memory)] == [0.5, 0.1]
    tiny = control.remember(Trial(1e-9 * one, one > 0, one, 4), memory)
    assert tiny[0].item() == pytest.approx(1e-2)
    assert control.factor(Trial(0 * one, one > 0, one, 4), memory).item() == pytest.approx(8.0)
    assert control.factor(Trial(torch.inf * one, one < 0, one, 4), memory).item() == pytest.approx(0.2)


def test_prediction_saves_rejections_on_a_stiff_oscillator():
    system = VanDerPol(30.0)
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64)
    options = {"method": "kvaerno5", "rtol": 1e-5, "atol": 1e-7, "adjoint": None}
    found = {c: solve_ode(system, y0, [0.0, 40.0], controller=c, **options) for c in ("i", "pi", "gustafsson")}
    rejected = {c: int(s.stats.n_rejected[0]) for c, s in found.items()}
    assert rejected["gustafsson"] < 0.3 * min(rejected["i"], rejected["pi"])
    assert found["gustafsson"].stats.nfe < 0.9 * min(found["i"].stats.nfe, found["pi"].stats.nfe)
    # a time between the jumps, where the error of their times does not show
    torch.testing.assert_close(found["gustafsson"].y, found["i"].y, rtol=1e-3, atol=1e-3)


def test_helpers_for_the_time_axis():
    def one(t, y):
        return torch.stack([y[1] * torch.cos(t), -y[0]])

    def whole(t, y):
        return torch.stack([y[:, 1:] * torch.cos(expand_time(t, y)), -y[:, :1]], dim=1)[..., 0]

    for stepping in ("shared", "per_sample", "fixed"):
        options = {"stepping": stepping, "adjoint": None, "dt0": 0.1}
        got = solve_ode(batch_time(one), Y0, [0.0, 1.0], **options).y
        torch.testing.assert_close(got, solve_ode(whole, Y0, [0.0, 1.0], **options).y, rtol=1e-12, atol=1e-12)
    tree = batch_time(lambda t, y, a: {"x": -a * y["x"] * t})(torch.tensor([1.0, 2.0]), {"x": torch.ones(2, 3)}, 2.0)
    assert torch.equal(tree["x"], torch.tensor([[-2.0] * 3, [-4.0] * 3]))


def test_the_bar(monkeypatch):
    clock = itertools.count(step=0.6)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream in (Terminal(), io.StringIO()):
        bar = Bar(stream)
        for part in (0.1, 0.3, 0.6, 1.0):
            bar(part)
        text = stream.getvalue()
        assert text.endswith("100%\n")
        assert "10%" not in text.replace("100%", "")
        assert "60%" in text
    solve_ode(swing, Y0, [0.0, 1.0], progress=True, adjoint=None)


def test_statistics_of_an_implicit_method():
    calls = []

    def f(t, y):
        calls.append(1)
        return -50.0 * (y - torch.cos(t))

    y0 = torch.ones(2, 1, dtype=F64)
    stats = solve_ode(f, y0, [0.0, 1.0], method="kvaerno5", adjoint=None).stats
    assert stats.nfe == len(calls)
    steps = int(stats.n_steps[0])
    assert stats.n_lu.shape == stats.n_jac.shape == (2,)
    assert steps <= int(stats.n_lu[0]) <= 2 * steps
    assert 1 <= int(stats.n_jac[0]) < steps
    calls.clear()
    assert solve_ode(f, y0, [0.0, 1.0], rtol=1e-8, adjoint=None).stats.nfe == len(calls)
    calls.clear()
    fixed = solve_ode(f, y0, [0.0, 1.0], method="rk4", dt0=0.01, adjoint=None).stats
    assert fixed.nfe == len(calls)
    assert fixed.n_jac is None


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"step_times": ["a"]}, ShapeError, "step_times must be a sequence"),
        ({"step_times": torch.zeros(2, 2, 2)}, ShapeError, "step_times must have shape"),
        ({"step_times": [float("nan")]}, NonFiniteError, "step_times"),
        ({"step_times": [0.5], "backend": "scipy", "method": "BDF"}, OptionError, "backend='native'"),
        ({"save": "step"}, OptionError, "save must be one of"),
        ({"save": "steps", "checkpoints": 3}, OptionError, "reports every state"),
        ({"save": "steps", "jump_times": [0.5]}, OptionError, "does not go with"),
        ({"norm": "rms"}, OptionError, "norm must be one of"),
        ({"controller": "gustavsson"}, OptionError, "Did you mean 'gustafsson'"),
    ],
)
def test_what_does_not_go_together_is_refused(options, error, sentence):
    with pytest.raises(error, match=sentence):
        solve_ode(swing, Y0, [0.0, 1.0], **options)
    for values in ({"safety": 1.0}, {"shrink": 0.0}, {"grow": 1.0}):
        with pytest.raises(OptionError):
            Gustafsson(**values)

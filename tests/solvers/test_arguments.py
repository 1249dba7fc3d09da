"""Bad input is refused with one sentence before the first step."""

import pytest
import torch

from scidyn.errors import NonFiniteError, OptionError, ShapeError, SolverWarning, TimeGridError
from scidyn.solvers import solve_ode

Y0 = torch.ones(4, 2, dtype=torch.float64)
TIMES = [0.0, 1.0, 2.0]


def decay(t, y):
    return -y


def with_nan():
    y0 = Y0.clone()
    y0[3, 1] = torch.nan
    return y0


def in_place(t, y):
    y *= -1
    return y


CASES = {
    "nan state": (decay, with_nan(), TIMES, {}, NonFiniteError, r"y0\[3, 1\] is nan"),
    "unsorted times": (decay, Y0, [0.0, 2.0, 1.0, 3.0], {}, TimeGridError, "row 2 turns from 2 to 1"),
    "nan time": (decay, Y0, [0.0, float("nan"), 1.0], {}, NonFiniteError, r"t\[1\] is nan"),
    "infinite time": (decay, Y0, [0.0, float("inf")], {}, NonFiniteError, r"t\[1\] is inf"),
    "no times": (decay, Y0, [], {}, ShapeError, "shape"),
    "times of objects": (decay, Y0, ["a"], {}, ShapeError, "sequence of numbers"),
    "three axes of time": (decay, Y0, torch.zeros(1, 1, 2), {}, ShapeError, "shape"),
    "rows of times, shared": (decay, Y0, torch.zeros(4, 2), {}, OptionError, "per_sample"),
    "wrong rows of times": (
        decay,
        Y0,
        torch.tensor([[0.0, 1.0]] * 3),
        {"stepping": "per_sample"},
        ShapeError,
        "3 rows",
    ),
    "hole in times": (
        decay,
        Y0,
        torch.tensor([[0.0, float("nan"), 1.0]] * 4),
        {"stepping": "per_sample"},
        TimeGridError,
        "NaN may only pad the end",
    ),
    "method": (decay, Y0, TIMES, {"method": "tsit6"}, OptionError, "Did you mean 'tsit5'"),
    "stepping": (decay, Y0, TIMES, {"stepping": "persample"}, OptionError, "Did you mean 'per_sample'"),
    "adjoint": (decay, Y0, TIMES, {"adjoint": "discret"}, OptionError, "Did you mean 'discrete'"),
    "backend": (decay, Y0, TIMES, {"backend": "torchdifeq"}, OptionError, "Did you mean 'torchdiffeq'"),
    "on_failure": (decay, Y0, TIMES, {"on_failure": "rise"}, OptionError, "Did you mean 'raise'"),
    "compile": (decay, Y0, TIMES, {"compile": "always"}, OptionError, "compile must be one of"),
    "rk4 adaptive": (
        decay,
        Y0,
        TIMES,
        {"method": "rk4", "stepping": "shared"},
        OptionError,
        "no error estimate",
    ),
    "negative rtol": (decay, Y0, TIMES, {"rtol": -1e-3}, OptionError, "rtol must be a finite number > 0"),
    "zero rtol": (decay, Y0, TIMES, {"rtol": 0.0}, OptionError, "rtol"),
    "nan rtol": (decay, Y0, TIMES, {"rtol": float("nan")}, OptionError, "rtol"),
    "negative atol": (decay, Y0, TIMES, {"atol": -1.0}, OptionError, "atol"),
    "negative atol entry": (decay, Y0, TIMES, {"atol": torch.tensor([1.0, -1.0])}, OptionError, "atol"),
    "atol shape": (decay, Y0, TIMES, {"atol": torch.ones(3)}, ShapeError, "atol has shape"),
    "zero dt0": (decay, Y0, TIMES, {"dt0": 0.0}, OptionError, "dt0"),
    "negative dt_max": (decay, Y0, TIMES, {"dt_max": -1.0}, OptionError, "dt_max"),
    "no steps": (decay, Y0, TIMES, {"max_steps": 0}, OptionError, "max_steps"),
    "part of a step": (decay, Y0, TIMES, {"max_steps": 1.5}, OptionError, "whole number"),
    "integer state": (decay, torch.ones(4, 2, dtype=torch.int64), TIMES, {}, ShapeError, "floating dtype"),
    "half precision": (decay, Y0.half(), TIMES, {}, ShapeError, "too coarse"),
    "state not a tensor": (decay, [1.0, 2.0], TIMES, {}, ShapeError, "y0 must be a tensor"),
    "empty state": (decay, torch.ones(0, 2), TIMES, {}, ShapeError, "holds no number"),
    "f not callable": (3.0, Y0, TIMES, {}, OptionError, "f must be a callable"),
    "rate of wrong shape": (lambda t, y: y[0], Y0, TIMES, {}, ShapeError, r"returned shape \(2,\)"),
    "rate of wrong dtype": (lambda t, y: y.float(), Y0, TIMES, {}, ShapeError, "dtype torch.float32"),
    "rate on another device": (lambda t, y: y.to("meta"), Y0, TIMES, {}, ShapeError, "on meta"),
    "rate is a list": (lambda t, y: [y[..., 0], y[..., 1]], Y0, TIMES, {}, ShapeError, r"torch\.stack"),
    "rate in place": (in_place, Y0, TIMES, {}, OptionError, "in place"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_the_first_step(case):
    f, y0, t, options, error, sentence = CASES[case]
    calls = []

    def counted(*inputs):
        calls.append(1)
        return f(*inputs)

    with pytest.raises(error, match=sentence):
        solve_ode(counted if callable(f) else f, y0, t, **options)
    assert len(calls) <= 1


def test_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="r_tol"):
        solve_ode(decay, Y0, TIMES, r_tol=1e-3)


def test_tolerance_below_the_dtype_is_raised_with_a_warning():
    with pytest.warns(SolverWarning, match="below the resolution"):
        solve_ode(decay, Y0.float(), TIMES, rtol=1e-9)


def test_duplicate_and_single_times_are_accepted():
    twice = solve_ode(decay, Y0, [0.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(twice.y[:, 1], Y0, rtol=0, atol=0)
    torch.testing.assert_close(twice.y[:, 2], twice.y[:, 3], rtol=0, atol=0)
    for t in ([0.5], [0.5, 0.5]):
        still = solve_ode(decay, Y0, t)
        assert still.success
        torch.testing.assert_close(still.y, Y0.unsqueeze(1).expand(-1, len(t), -1), rtol=0, atol=0)

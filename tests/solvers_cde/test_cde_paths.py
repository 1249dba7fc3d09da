"""Control paths against SciPy's interpolants and against formulas written out by hand."""

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline, CubicSpline
from torch.testing import assert_close

from scidyn.errors import DataError, NonFiniteError, OptionError, ShapeError, TimeGridError
from scidyn.solvers import HermiteCubicPath, LinearPath, NaturalCubicPath, RectilinearPath, with_time

NAN = float("nan")
ALL = [LinearPath, HermiteCubicPath, NaturalCubicPath]


def record(rows=3, length=9, channels=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    t = torch.rand(rows, length, generator=g, dtype=torch.float64).cumsum(1) + 0.1
    return t, torch.randn(rows, length, channels, generator=g, dtype=torch.float64)


def queries(t, n=57):
    return torch.linspace(float(t[0]), float(t[-1]), n, dtype=torch.float64)


@pytest.mark.parametrize("length", [2, 3, 4, 9, 33])
def test_natural_spline_equals_scipy(length):
    t, x = record(length=length)
    q = queries(t[0])
    path = NaturalCubicPath(x, t[0])
    want = CubicSpline(t[0].numpy(), x.numpy(), axis=1, bc_type="natural")
    assert_close(path.evaluate(q), torch.from_numpy(want(q.numpy())), rtol=1e-11, atol=1e-11)
    assert_close(path.derivative(q), torch.from_numpy(want(q.numpy(), 1)), rtol=1e-10, atol=1e-10)


def test_natural_spline_with_gaps_goes_through_each_channels_own_points():
    t, x = record(length=12)
    x[0, 3:5, 0] = NAN
    x[1, 7, 1] = NAN
    x[2, 1:11, 1] = NAN
    path, q = NaturalCubicPath(x, t[0]), queries(t[0])
    for row in range(3):
        for channel in range(2):
            known = ~torch.isnan(x[row, :, channel])
            want = CubicSpline(t[0][known].numpy(), x[row, known, channel].numpy(), bc_type="natural")
            assert_close(path.evaluate(q)[row, :, channel], torch.from_numpy(want(q.numpy())), rtol=1e-10, atol=1e-10)


def test_hermite_equals_scipys_with_backward_differences():
    t, x = record()
    q = queries(t[0])
    knots, values = t[0].numpy(), x.numpy()
    chord = np.diff(values, axis=1) / np.diff(knots)[:, None]
    want = CubicHermiteSpline(knots, values, np.concatenate([chord[:, :1], chord], axis=1), axis=1)
    path = HermiteCubicPath(x, t[0])
    assert_close(path.evaluate(q), torch.from_numpy(want(q.numpy())), rtol=1e-12, atol=1e-12)
    assert_close(path.derivative(q[:-1]), torch.from_numpy(want(q.numpy()[:-1], 1)), rtol=1e-11, atol=1e-11)


def test_linear_fill_interpolates_between_a_channels_neighbours_and_holds_outwards():
    x = torch.tensor([[NAN, 1.0], [2.0, NAN], [NAN, NAN], [8.0, 4.0], [NAN, 5.0]], dtype=torch.float64)
    t = torch.tensor([0.0, 1.0, 2.0, 4.0, 5.0], dtype=torch.float64)
    want = torch.tensor([[2.0, 1.0], [2.0, 1.75], [4.0, 2.5], [8.0, 4.0], [8.0, 5.0]], dtype=torch.float64)
    assert_close(LinearPath(x, t).values[0], want)
    q = queries(t)
    linear = np.stack([np.interp(q.numpy(), t.numpy(), want[:, c].numpy()) for c in range(2)], axis=-1)
    assert_close(LinearPath(x, t).evaluate(q)[0], torch.from_numpy(linear))


def test_linear_derivative_is_the_chord_and_zero_outside():
    t, x = record()
    path = LinearPath(x, t[0])
    middle = (t[0, 1:] + t[0, :-1]) / 2
    assert_close(path.derivative(middle), (x[:, 1:] - x[:, :-1]) / (t[0, 1:] - t[0, :-1]).unsqueeze(-1))
    assert_close(path.evaluate(float(t[0, -1]) + 3.0), x[:, -1])
    assert torch.count_nonzero(path.derivative(float(t[0, 0]) - 1e-3)) == 0


def test_rectilinear_moves_time_first_then_values():
    x = torch.tensor([[0.0, 1.0, 5.0], [0.4, NAN, 6.0], [1.0, 3.0, NAN]], dtype=torch.float64)
    path = RectilinearPath(x)
    want = torch.tensor([[0.0, 1, 5], [0.4, 1, 5], [0.4, 1, 6], [1.0, 1, 6], [1.0, 3, 6]], dtype=torch.float64)
    assert_close(path.evaluate(path.knots)[0], want)
    assert path.observation_knots.tolist() == [0.0, 2.0, 4.0]


@pytest.mark.parametrize("kind", ALL)
def test_ragged_rows_equal_the_rows_alone_and_stop_at_their_end(kind):
    t, x = record()
    t[1, 6:] = NAN
    x[1, 6:] = 99.0  # whatever stands in the padding is ignored
    x[2, 4, 0] = NAN
    path = kind(x, t)
    alone = kind(x[1, :6], t[1, :6])
    q = queries(t[1, :6])
    assert_close(path.evaluate(q.expand(3, -1))[1], alone.evaluate(q)[0], rtol=1e-12, atol=1e-12)
    assert_close(path.derivative(q.expand(3, -1))[1], alone.derivative(q)[0], rtol=1e-11, atol=1e-11)
    beyond = t[1, 5] + torch.tensor([0.5, 7.0], dtype=torch.float64)
    assert_close(path.evaluate(beyond)[1], x[1, 5].expand(2, -1))
    assert torch.count_nonzero(path.derivative(beyond)[1]) == 0
    assert_close(path.interval[1], t[1, [0, 5]])


@pytest.mark.parametrize("kind", [*ALL, RectilinearPath])
def test_values_and_derivatives_are_differentiable_in_the_data(kind):
    t, x = record(rows=2, length=5)
    x = with_time(x, t[0]).requires_grad_()
    q = torch.tensor([0.7, 1.3], dtype=torch.float64)

    def run(data):
        path = kind(data, t[0])
        return torch.cat([path.evaluate(q), path.derivative(q)])

    assert torch.autograd.gradcheck(run, (x,))


def test_gradient_passes_a_gap_to_the_neighbours_only():
    x = torch.tensor([[0.0], [NAN], [4.0]], dtype=torch.float64, requires_grad=True)
    for kind in ALL:
        (grad,) = torch.autograd.grad(kind(x).evaluate(1.0).sum(), x)
        assert_close(grad[:, 0], torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("kind", ALL)
def test_single_precision_path_with_double_times_stays_single(kind):
    t, x = record()
    path = kind(x.float(), t[0])
    assert path.evaluate(t[0]).dtype == torch.float32
    assert_close(path.evaluate(t[0]), x.float())


def test_derivative_is_the_slope_of_evaluate():
    t, x = record()
    for kind in ALL:
        path = kind(x, t)
        q = torch.linspace(1.3, 1.9, 7, dtype=torch.float64)
        slope = (path.evaluate(q + 1e-6) - path.evaluate(q - 1e-6)) / 2e-6
        assert_close(path.derivative(q), slope, rtol=1e-6, atol=1e-6)


def test_time_channels_are_found():
    t, x = record()
    assert LinearPath(with_time(x, t), t).time_channels() == [0]
    assert LinearPath(x, t).time_channels() == []


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda t, x: LinearPath(x, t[0].flip(0)), TimeGridError, "increase strictly"),
        (lambda t, x: LinearPath(x, t.flip(1)), TimeGridError, "row 0 goes from"),
        (lambda t, x: LinearPath(x, t[:2]), ShapeError, r"shape \(9,\) or \(3, 9\)"),
        (lambda t, x: LinearPath(x[:, :1], t[:, :1]), ShapeError, "at least two times"),
        (lambda t, x: LinearPath(x * torch.tensor([1.0, NAN]), t), DataError, "channel 1 of row 0"),
        (lambda t, x: LinearPath(x / 0.0, t), NonFiniteError, "infinite"),
        (lambda t, x: LinearPath(x.long(), t), ShapeError, "floating dtype"),
        (lambda t, x: LinearPath(x, t).evaluate(t[:2]), ShapeError, r"\(3, N\)"),
        (lambda t, x: RectilinearPath(x, time_channel=5), OptionError, "below the 2 channels"),
        (lambda t, x: RectilinearPath(with_time(-x.abs(), t).flip(1)), TimeGridError, "goes back"),
    ],
)
def test_bad_records_are_refused_in_one_sentence(make, error, text):
    t, x = record()
    with pytest.raises(error, match=text):
        make(t, x)


def test_gaps_inside_the_times_and_rows_of_one_time_are_refused():
    t, x = record()
    t[1, 4] = NAN
    with pytest.raises(TimeGridError, match=r"t\[1, 4\] is NaN"):
        LinearPath(x, t)
    t[2, 1:] = NAN
    with pytest.raises(TimeGridError, match=r"t\[2\] has 1 times"):
        LinearPath(x, t)


def test_a_causal_path_refuses_a_missing_first_value():
    x = torch.tensor([[0.0, NAN], [1.0, 2.0]])
    with pytest.raises(DataError, match=r"x\[0, 0, 1\] is NaN"):
        RectilinearPath(x)


def test_channels_never_observed_may_be_given_a_value():
    t, x = record()
    x[0, :, 1] = NAN
    assert_close(LinearPath(x, t, never_observed=-1.0).values[0, :, 1], torch.full((9,), -1.0, dtype=torch.float64))

"""Every check gives one sentence with name, value and cure."""

import pytest
import torch

from scidyn._check.tensors import finite, floating, increasing
from scidyn._check.values import choice, integer, known_keys, number
from scidyn.errors import NonFiniteError, OptionError, ScidynError, ShapeError, TimeGridError


def test_choice_suggests_the_near_miss():
    assert choice("method", "tsit5", ["tsit5", "dopri5"]) == "tsit5"
    with pytest.raises(
        OptionError, match=r"method must be one of 'tsit5', 'dopri5'; got 'dopri6'. Did you mean 'dopri5'\?"
    ):
        choice("method", "dopri6", ["tsit5", "dopri5"])


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "1", None, True])
def test_number_refuses(bad):
    with pytest.raises(OptionError, match="rtol must be a finite number > 0; got"):
        number("rtol", bad, above=0)


def test_integer_and_keys():
    assert integer("width", 3.0, at_least=1) == 3
    with pytest.raises(OptionError, match="whole number"):
        integer("width", 2.5)
    with pytest.raises(OptionError, match="Did you mean 'rtol'"):
        known_keys("solver", ["rtoll"], ["rtol", "atol"])


def test_finite_names_the_first_entry_and_the_count():
    y = torch.zeros(4, 3)
    y[2, 1] = float("nan")
    y[3, 0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"y0\[2, 1\] is nan \(2 of 12 entries"):
        finite("y0", y)


def test_increasing_names_row_and_values():
    with pytest.raises(TimeGridError, match=r"row 2 goes back from 1 year to 0\.5 year"):
        increasing("time", torch.tensor([0.0, 1.0, 0.5]), " year")
    with pytest.raises(TimeGridError, match="row 1 repeats 3"):
        increasing("time", torch.tensor([3.0, 3.0]))


def test_floating_and_family():
    with pytest.raises(ShapeError, match="int64"):
        floating("y0", torch.zeros(2, dtype=torch.int64))
    assert issubclass(NonFiniteError, ScidynError)
    assert issubclass(NonFiniteError, ValueError)

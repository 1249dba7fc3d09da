"""A weight that decays: its end points, its ratio per step, and what it refuses."""

import itertools

import pytest

from scidyn.errors import OptionError
from scidyn.training import ExponentialDecay


def test_the_ratio_of_neighbours_is_constant():
    weight = ExponentialDecay(start=100.0, end=10.0, steps=50)
    values = [weight(step) for step in range(51)]
    assert values[0] == pytest.approx(100.0)
    assert values[-1] == pytest.approx(10.0)
    ratios = [b / a for a, b in itertools.pairwise(values)]
    assert max(ratios) == pytest.approx(min(ratios))
    assert weight(1000) == values[-1]


@pytest.mark.parametrize(
    ("name", "options"), [("start", (0.0, 1.0, 5)), ("end", (1.0, -1.0, 5)), ("steps", (1.0, 0.1, 0))]
)
def test_what_cannot_decay_is_refused(name, options):
    with pytest.raises(OptionError, match=name):
        ExponentialDecay(*options)

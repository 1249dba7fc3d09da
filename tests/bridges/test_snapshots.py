"""Snapshots: what may enter, and what is refused with its place and cure."""

import numpy as np
import pytest
import torch

from scidyn.bridges import Snapshots
from scidyn.errors import DataError, NonFiniteError, ShapeError, TimeGridError

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(5, 2)), RNG.normal(size=(4, 2))


def test_a_dataset_goes_round():
    first = Snapshots.of([A, B], [2.0, 3.5], features=["u", "v"], time_units="d", weights=[np.arange(1, 6), np.ones(4)])
    second = Snapshots.of(first.to_dataset())
    assert second.features == ("u", "v")
    assert second.time_units == "d"
    for one, two in zip(first.clouds + first.weights, second.clouds + second.weights, strict=True):
        assert torch.equal(one, two)


def test_cells_of_a_dataset_may_come_in_any_order():
    ds = Snapshots.of([A, B], [2.0, 3.5]).to_dataset()
    mixed = ds.isel(cell=RNG.permutation(9))
    assert sorted(map(tuple, Snapshots.of(mixed).clouds[1].tolist())) == sorted(map(tuple, B.tolist()))


def test_subsample_keeps_times_and_draws_without_replacement():
    small = Snapshots.of([A, B], [0, 1]).subsample(3, torch.Generator().manual_seed(1))
    assert small.sizes == (3, 3)
    assert len({tuple(r) for r in small.clouds[0].tolist()}) == 3


def test_numbers_written_as_text_are_numbers():
    assert Snapshots.of([A, B], ["2", "3.5"]).times.tolist() == [2.0, 3.5]


@pytest.mark.parametrize(
    ("data", "times", "error", "words"),
    [
        ([A, B[:1]], [0, 1], DataError, "Snapshot 1 has 1 cell; .* merge it"),
        ([A], [0], DataError, "1 snapshots .* at least 2"),
        ([A, B], ["Day 00-03", "Day 06-09"], TimeGridError, "'Day 00-03' is not a number"),
        ([A, B], [1, 0], TimeGridError, "increase strictly"),
        ([A, B], [0, 0], TimeGridError, "repeats"),
        ([A, B], [0, 1, 2], ShapeError, "one time for each"),
        ([A, B], None, TimeGridError, "times is missing"),
        ([A, B[:, :1]], [0, 1], ShapeError, r"numbers of features \[2, 1\]"),
        ([A, np.where(B.max() == B, np.nan, B)], [0, 1], NonFiniteError, r"snapshot 1\["),
        ([A[:, 0], B], [0, 1], ShapeError, "Snapshot 0 has shape"),
    ],
)
def test_what_cannot_be_used_is_refused(data, times, error, words):
    with pytest.raises(error, match=words):
        Snapshots.of(data, times)


def test_weights_are_checked():
    with pytest.raises(DataError, match="non-negative"):
        Snapshots.of([A, B], [0, 1], weights=[-np.ones(5), np.ones(4)])
    with pytest.raises(ShapeError, match="weights of snapshot 1"):
        Snapshots.of([A, B], [0, 1], weights=[np.ones(5), np.ones(5)])


def test_a_dataset_without_times_or_of_another_kind_is_refused():
    ds = Snapshots.of([A, B], [0, 1]).to_dataset()
    with pytest.raises(TimeGridError, match=r"time\(cell\)"):
        Snapshots.of(ds.drop_vars("time"))
    with pytest.raises(DataError, match="scidyn_kind"):
        Snapshots.of(ds.assign_attrs(scidyn_kind="trajectories"))

"""Splits that do not leak, windows against a brute-force list, batches against slices."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import scidyn
from scidyn.data import Sampler, WindowIndex, check_disjoint, from_arrays, loader, split, windows
from scidyn.errors import DataError, OptionError, SplitError


def ensemble(rows=20, steps=12, seed=0):
    y = np.random.default_rng(seed).normal(size=(rows, steps, 2))
    return from_arrays(y, 0.5 * np.arange(steps), names=["a", "b"], units=["m", "1"], time_units="s")


def irregular(lengths, seed=0):
    generator = np.random.default_rng(seed)
    width = max(lengths)
    t = np.full((len(lengths), width), np.nan)
    y = np.full((len(lengths), width, 1), np.nan)
    for k, n in enumerate(lengths):
        t[k, :n] = np.sort(generator.random(n)) * 10
        y[k, :n, 0] = 100 * k + np.arange(n)
    return from_arrays(y, t, names=["a"], units=["m"], time_units="h")


# --- splits


def test_whole_trajectories():
    ds = ensemble()
    parts = split(ds, fractions=(0.7, 0.15, 0.15), seed=4)
    labels = [set(part["trajectory"].values.tolist()) for part in parts]
    assert [len(x) for x in labels] == [14, 3, 3]
    assert set.union(*labels) == set(range(20))
    for part, name in zip(parts, ("train", "validation", "test"), strict=True):
        assert set(part["split"].values.tolist()) == {name}
        assert part["a"].values.tolist() == ds["a"].sel(trajectory=part["trajectory"]).values.tolist()
    again = split(ds, fractions=(0.7, 0.15, 0.15), seed=4)
    other = split(ds, fractions=(0.7, 0.15, 0.15), seed=5)
    assert again.test.identical(parts.test)
    assert not other.test.identical(parts.test)


def test_time_with_a_gap():
    parts = split(scidyn.datasets.load("lynx_hare"), by="time", fractions=(0.6, 0.2, 0.2), gap=3)
    spans = [(float(p["time"].min()), float(p["time"].max())) for p in parts]
    assert spans == [(1900, 1912), (1915, 1916), (1919, 1920)]
    two = split(scidyn.datasets.load("lynx_hare"), by="time", fractions=(0.7, 0, 0.3))
    assert two.validation is None
    assert two.train.sizes["time"] + two.test.sizes["time"] == 21


def test_time_of_irregular_trajectories():
    ds = irregular([30, 40, 25, 3])
    parts = split(ds, by="time", fractions=(0.5, 0.2, 0.3), gap=0.5)
    last = -np.inf
    for part in parts:
        scidyn.data.validate(part)
        times = part["time"].values
        assert np.nanmin(times) - last >= 0.5
        last = np.nanmax(times)
        for label in part["trajectory"].values:
            row = part.sel(trajectory=label)
            whole = ds.sel(trajectory=label)
            keep = np.isfinite(row["time"].values)
            source = np.isin(whole["time"].values, row["time"].values[keep])
            assert row["a"].values[keep].tolist() == whole["a"].values[source].tolist()


def test_donors_stay_together():
    ds = ensemble().assign_coords(donor=("trajectory", np.arange(20) // 4))
    parts = split(ds, by="donor", fractions=(0.6, 0.2, 0.2))
    donors = [set(part["donor"].values.tolist()) for part in parts]
    assert [len(d) for d in donors] == [3, 1, 1]
    assert not donors[0] & donors[1] | donors[0] & donors[2] | donors[1] & donors[2]
    with pytest.raises(SplitError, match=r"donor \d is in two parts.*split by 'donor'"):
        split(ds, by="trajectory")


def test_equal_parameters_stay_together():
    ds = ensemble()
    ds["k"] = ("trajectory", np.tile([1.0, 2.0, 3.0, 4.0], 5), {"units": "1/s", "role": "parameter"})
    parts = split(ds, by="parameter", fractions=(0.5, 0.25, 0.25))
    values = [set(part["k"].values.tolist()) for part in parts]
    assert [len(v) for v in values] == [2, 1, 1]
    assert len(set.union(*values)) == 4
    with pytest.raises(OptionError, match="needs variables with the role 'parameter'"):
        split(ensemble(), by="parameter")


@pytest.mark.parametrize("by", ["window", "row", "obs"])
def test_random_windows_are_refused(by):
    with pytest.raises(SplitError, match="neighbouring times of one trajectory on both sides"):
        split(ensemble(), by=by)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"fractions": (0.97, 0.02, 0.01)}, SplitError, "The test part .* is empty"),
        ({"fractions": (0, 0.5, 0.5)}, SplitError, "training part is empty"),
        ({"fractions": (0.5, 0.6, 0.1)}, OptionError, "three numbers that add to 1"),
        ({"fractions": (0.5, 0.5)}, OptionError, "three numbers that add to 1"),
        ({"fractions": (1.5, -0.5, 0)}, OptionError, "fractions must be a finite number >= 0"),
        ({"by": "time", "gap": 100}, SplitError, "is empty when splitting by 'time'"),
        ({"by": "time", "gap": -1}, OptionError, "gap must be"),
        ({"gap": 1}, OptionError, "gap is for by='time'"),
        ({"by": "patient"}, OptionError, "is no coordinate along 'trajectory'"),
        ({"by": "timepoint"}, OptionError, "is no coordinate along 'trajectory'"),
        ({"seed": -1}, OptionError, "seed"),
    ],
)
def test_splits_that_cannot_be(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        split(ensemble(), **arguments)


def test_one_record_has_no_trajectories_to_hold_out():
    with pytest.raises(SplitError, match="is one record"):
        split(scidyn.datasets.load("lynx_hare"))


def test_overlap_is_found():
    ds = ensemble()
    with pytest.raises(SplitError, match=r"Two parts hold trajectory 5: one until 5\.5, the other from 0, so they"):
        check_disjoint(ds.isel(trajectory=slice(0, 6)), ds.isel(trajectory=slice(5, 9)))
    early, late = ds.isel(time=slice(0, 6)), ds.isel(time=slice(6, 12))
    check_disjoint(early, late, gap=0.5)
    with pytest.raises(SplitError, match=r"less than the gap 0\.6"):
        check_disjoint(early, late, gap=0.6)
    record = scidyn.datasets.load("lynx_hare")
    with pytest.raises(SplitError, match="Two parts hold the record"):
        check_disjoint(record.isel(time=slice(0, 9)), record.isel(time=slice(8, 21)))


def oscillators(rows=60, steps=100, noise=0.2):
    generator = np.random.default_rng(0)
    omega = generator.uniform(0.5, 6.0, rows)[:, None]
    phase = generator.uniform(0, 2 * np.pi, rows)[:, None]
    size = generator.uniform(0.4, 2.5, rows)[:, None]
    t = 0.1 * np.arange(steps)
    y = size * np.sin(omega * t + phase) + noise * generator.normal(size=(rows, steps))
    return from_arrays(y[..., None], t, names=["x"], units=["1"], time_units="s")


def nearest_neighbour_error(x, target, train, test, k=3):
    distance = (x[test] ** 2).sum(1)[:, None] + (x[train] ** 2).sum(1) - 2 * x[test] @ x[train].T
    near = np.argpartition(distance, k, axis=1)[:, :k]
    return np.sqrt(np.mean((target[train][near].mean(1) - target[test]) ** 2)) / target[test].std()


def test_random_windows_would_flatter_a_forecast():
    """The reason for the refusal: neighbours of a test window lie in the training set."""
    ds = oscillators()
    index = windows(ds, 16, horizon=10)
    batch = next(iter(loader(ds, index, batch=len(index), shuffle="none")))
    x, target, owner = batch.y[:, :16, 0].numpy(), batch.y[:, -1, 0].numpy(), batch.index.numpy()
    rows = np.random.default_rng(1).permutation(len(index))
    leaking = nearest_neighbour_error(x, target, rows[: len(rows) * 7 // 10], rows[len(rows) * 7 // 10 :])
    parts = split(ds, fractions=(0.7, 0, 0.3))
    train = np.flatnonzero(np.isin(owner, parts.train["trajectory"].values))
    honest = nearest_neighbour_error(x, target, train, np.setdiff1d(np.arange(len(index)), train))
    assert leaking < 0.75 * honest  # measured 0.42 against 0.62


# --- windows


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.integers(2, 30), min_size=1, max_size=6),
    length=st.integers(1, 8),
    horizon=st.integers(0, 4),
    stride=st.integers(1, 5),
)
def test_window_index_is_the_brute_force_list(steps, length, horizon, stride):
    index = WindowIndex(np.array(steps), length, horizon, stride)
    listed = [(k, start) for k, n in enumerate(steps) for start in range(0, n, stride) if start + length + horizon <= n]
    assert len(index) == len(listed)
    trajectory, start = index.locate(np.arange(len(index)))
    assert list(zip(trajectory.tolist(), start.tolist(), strict=True)) == listed


def test_windows_that_do_not_fit():
    ds = irregular([10, 4, 8])
    with pytest.raises(DataError, match=r"Trajectory 1 has 4 times, but a window spans 6 \(length 5 \+ horizon 1\)"):
        windows(ds, 5)
    assert len(windows(ds, 5, short="skip")) == 5 + 3
    with pytest.raises(DataError, match="shorten the window"):
        windows(ds, 50, short="skip")
    with pytest.raises(OptionError, match="stride must be"):
        windows(ds, 3, stride=0)
    with pytest.raises(OptionError, match=r"window must lie in \[0, 8\)"):
        windows(ds, 5, short="skip").locate(8)


# --- loader


def test_batches_are_the_slices():
    ds = ensemble(rows=3, steps=9)
    ds["feed"] = ("time", np.arange(9.0), {"units": "g", "role": "control"})
    ds["k"] = ("trajectory", [5.0, 6.0, 7.0], {"units": "1/s", "role": "parameter"})
    index = windows(ds, 3, horizon=1, stride=2)
    seen = 0
    for batch in loader(ds, index, batch=4, shuffle="none"):
        for k in range(len(batch.index)):
            trajectory, start = (int(v) for v in index.locate(seen))
            there = ds.isel(trajectory=trajectory, time=slice(start, start + 4))
            assert batch.index[k] == trajectory
            assert batch.t[k].tolist() == there["time"].values.tolist()
            assert batch.y[k].tolist() == np.stack([there["a"], there["b"]], -1).tolist()
            assert batch.control[k, :, 0].tolist() == there["feed"].values.tolist()
            assert batch.parameter[k].tolist() == [float(there["k"])]
            assert bool(batch.mask[k].all())
            seen += 1
    assert seen == len(index) == 9


def test_irregular_windows_hold_no_padding():
    ds = irregular([7, 3, 5])
    ds["a"][0, 2] = np.nan
    batch = next(iter(loader(ds, windows(ds, 2), batch=100, shuffle="none")))
    assert torch.isfinite(batch.t).all()
    assert batch.y[:, 0, 0].tolist() == [0, 1, 0, 3, 4, 100, 200, 201, 202]  # the missing 2 is zero …
    assert batch.mask[:, 0, 0].tolist() == [True, True, False, *[True] * 6]  # … and masked


def test_whole_trajectories_are_cut_to_the_longest():
    batches = list(loader(irregular([7, 3, 5, 2]), batch=2, shuffle="none"))
    assert [tuple(b.y.shape) for b in batches] == [(2, 7, 1), (2, 5, 1)]
    assert batches[1].mask[:, :, 0].sum(1).tolist() == [5, 2]
    assert torch.isnan(batches[1].t[1, 2:]).all()


def test_order_depends_on_seed_and_epoch_only():
    ds = ensemble()
    index = windows(ds, 4)

    def epochs(seed, n=2):
        batches = loader(ds, index, batch=7, seed=seed)
        return [torch.cat([b.y for b in batches]) for _ in range(n)]

    first, second = epochs(3), epochs(3)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], epochs(4, 1)[0])
    assert torch.equal(first[0].sort(0).values, first[1].sort(0).values)


@pytest.mark.parametrize("taken", [0, 1, 5, 23])
def test_resume_goes_on_with_the_next_batch(taken):
    ds = ensemble()
    index = windows(ds, 4)

    def stream(batches):
        while True:
            yield from batches

    whole = stream(loader(ds, index, batch=9, seed=1))
    expected = [next(whole).y for _ in range(taken + 6)]
    broken = loader(ds, index, batch=9, seed=1)
    running = stream(broken)
    for _ in range(taken):
        next(running)
    state = broken.state()
    fresh = loader(ds, index, batch=9, seed=99)
    fresh.resume(state)
    rest = stream(fresh)
    assert all(torch.equal(next(rest).y, wanted) for wanted in expected[taken:])


def test_state_of_other_data_is_refused():
    state = Sampler(10, 3).state()
    with pytest.raises(OptionError, match="taken with size = 10, here it is 11"):
        Sampler(11, 3).resume(state)
    with pytest.raises(OptionError, match="no entry 'place'"):
        Sampler(10, 3).resume(state | {"place": 1})


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("size", "world", "batch"), [(10, 3, 2), (12, 3, 4), (7, 2, 2), (64, 4, 5)])
def test_ranks_share_an_epoch(size, world, batch, drop_last):
    samplers = [Sampler(size, batch, seed=2, rank=r, world=world, drop_last=drop_last) for r in range(world)]
    drawn = [[b.tolist() for b in s] for s in samplers]
    assert len({len(d) for d in drawn}) == 1  # every rank makes the same number of steps
    flat = [i for d in drawn for b in d for i in b]
    if drop_last:
        assert len(flat) == len(set(flat))
        assert all(len(b) == batch for d in drawn for b in d)
    else:
        assert set(flat) == set(range(size))
        assert len(flat) == -(-size // world) * world


def test_chunk_shuffle_keeps_reads_near():
    blocks = np.repeat(np.arange(64), 10)
    order = Sampler(640, 10, seed=0, shuffle="chunk", blocks=blocks).order(0)
    assert sorted(order.tolist()) == list(range(640))
    assert len(set(blocks[order[:160]].tolist())) == Sampler.group
    assert len(set(blocks[order[:16]].tolist())) > 4
    with pytest.raises(OptionError, match="needs blocks with 640 entries"):
        Sampler(640, 10, shuffle="chunk")


def test_loader_refusals(tmp_path):
    ds = ensemble()
    with pytest.raises(OptionError, match="index was made for 20 trajectories of up to 12 steps; the data have 3 of"):
        loader(ds.isel(trajectory=slice(0, 3)), windows(ds, 4))
    with pytest.raises(DataError, match="drop_last leaves nothing"):
        loader(ds, windows(ds, 4), batch=1000, drop_last=True)
    with pytest.raises(OptionError, match="shuffle must be one of"):
        loader(ds, windows(ds, 4), shuffle="random")
    with pytest.raises(OptionError, match="rank must be below world"):
        loader(ds, windows(ds, 4), rank=2, world=2)


def test_loader_opens_files(tmp_path):
    ds = ensemble().astype(np.float32)
    path = scidyn.save(ds, tmp_path / "ensemble.nc")
    batch = next(iter(loader(path, windows(ds, 4), batch=5, shuffle="none")))
    assert batch.y.dtype == torch.float32
    assert batch.t.dtype == torch.float64
    assert batch.y[0, :, 0].tolist() == ds["a"].values[0, :5].tolist()


def test_time_must_agree_exactly():
    """Float times that differ in the last digit would join to nothing; the batch keeps them apart."""
    ds = ensemble(rows=2, steps=3)
    shifted = ds.assign_coords(time=("time", np.nextafter(ds["time"].values, 9), ds["time"].attrs))
    with xr.set_options(arithmetic_join="exact"), pytest.raises(ValueError, match="exact"):
        _ = ds["a"] + shifted["a"]


@pytest.mark.parametrize("seed", range(5))
def test_first_and_last_snapshots_are_always_for_training(seed):
    cells = xr.Dataset(
        {"pca": (("cell", "feature"), np.arange(24.0).reshape(12, 2), {"units": "1"})},
        {"time": ("cell", np.tile(np.arange(6.0), 2), {"units": "day"})},
        {"scidyn_kind": "snapshots"},
    )
    parts = split(cells, by="timepoint", fractions=(0.5, 0.17, 0.33), seed=seed)
    held = [sorted(set(part["time"].values.tolist())) for part in parts]
    assert held[0][0] == 0
    assert held[0][-1] == 5
    assert [len(times) for times in held] == [3, 1, 2]
    assert set().union(*held) == {0, 1, 2, 3, 4, 5}
    assert [part.sizes["cell"] for part in parts] == [6, 2, 4]

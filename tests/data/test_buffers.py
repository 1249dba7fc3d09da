"""Batches reuse memory only when nobody holds it, and lengths of one batch are alike."""

import gc
import pickle

import numpy as np
import pytest
import torch

import scidyn
from scidyn.data import HDF5Windows, Sampler, loader, windows
from scidyn.errors import OptionError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    y = np.random.default_rng(0).normal(size=(6, 40, 3))
    ds = scidyn.data.from_arrays(y, np.arange(40), units=["m"] * 3, time_units="s")
    path = scidyn.save(ds, tmp_path_factory.mktemp("b") / "r.nc", window=5, checksum=False)
    return HDF5Windows(path, windows(ds, 4, horizon=0)), y


def exact(y, store, numbers):
    trajectory, start = store.index.locate(numbers)
    return np.stack([y[k, s : s + 4] for k, s in zip(trajectory, start, strict=True)])


HOLDERS = {
    "batch": lambda batch: batch,
    "tensor": lambda batch: batch.y,
    "view": lambda batch: batch.y[1:, :, 0],
    "array": lambda batch: batch.y.numpy(),
    "view of array": lambda batch: batch.y.numpy()[1:],
    "storage": lambda batch: batch.y.untyped_storage(),
    "detached": lambda batch: batch.y.detach(),
    "graph": lambda batch: (batch.y * torch.ones((), dtype=torch.float64, requires_grad=True)).sum(),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_is_held_stays(store, holder):
    files, y = store
    numbers = np.arange(8)
    batch = files.gather(numbers)
    place = batch.y.data_ptr()
    held = HOLDERS[holder](batch)
    del batch
    gc.collect()
    others = [files.gather(numbers + 8 + k) for k in range(12)]
    assert place not in [b.y.data_ptr() for b in others]
    truth = exact(y, files, numbers)
    if holder == "batch":
        assert np.array_equal(held.y.numpy(), truth)
    elif holder == "graph":
        assert held.item() == pytest.approx(truth.sum(), rel=1e-12)
    for k, other in enumerate(others):
        assert np.array_equal(other.y.numpy(), exact(y, files, numbers + 8 + k))


def test_memory_that_is_free_is_used_again(store):
    files, y = store
    files = pickle.loads(pickle.dumps(files))
    seen = set()
    for k in range(30):
        batch = files.gather(np.arange(8) + k)
        assert np.array_equal(batch.y.numpy(), exact(y, files, np.arange(8) + k))
        seen.add(batch.y.data_ptr())
    assert len(seen) <= 2  # one is held by the loop while the next is made


def test_prefetched_batches_are_the_windows(store):
    files, y = store
    found = []
    for batch in scidyn.data.Loader(files, Sampler(len(files), 16, shuffle="none"), prefetch=2):
        found.append(batch.y)
    assert np.array_equal(np.concatenate(found), exact(y, files, np.arange(len(files))))


def test_missing_values_are_masked_in_reused_memory(tmp_path):
    y = np.ones((2, 20, 1))
    y[0, 3] = np.nan
    ds = scidyn.data.from_arrays(y, np.arange(20), units=["m"], time_units="s")
    files = HDF5Windows(scidyn.save(ds, tmp_path / "r.nc", checksum=False), windows(ds, 5, horizon=0))
    for number in (0, 8, 0, 16, 1):
        batch = files.gather(np.array([number]))
        assert int((~batch.mask).sum()) == (number < 4)
        assert int((batch.y == 0).sum()) == (number < 4)


def subjects(rows=400, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(20, 81, rows)
    t = np.full((rows, 80), np.nan)
    for k, n in enumerate(lengths):
        t[k, :n] = np.sort(generator.choice(480, n, replace=False)) / 10
    y = np.where(np.isfinite(t), np.arange(rows)[:, None], np.nan)[..., None]
    return scidyn.data.from_arrays(y, t, units=["mg/L"], time_units="h"), lengths


def padding(batches):
    entries = held = 0
    for batch in batches:
        entries += batch.t.numel()
        held += int(torch.isfinite(batch.t).sum())
    return 1 - held / entries


def test_ragged_batches_hold_little_padding():
    ds, lengths = subjects()
    assert padding(loader(ds, batch=32, seed=1, shuffle="full")) > 0.3
    batches = loader(ds, batch=32, seed=1)
    assert padding(batches) < 0.05
    rows = np.concatenate([batch.index.numpy() for batch in batches])  # the second epoch
    assert np.array_equal(np.sort(rows), np.arange(400))
    assert not np.array_equal(np.argsort(lengths, kind="stable"), rows)
    mean = [float(lengths[b.index.numpy()].mean()) for b in batches]
    assert np.abs(np.diff(mean)).max() > 5  # short and long batches alternate


def test_lengths_are_shared_by_ranks_and_resumed():
    ds, _ = subjects(90)
    ranks = [loader(ds, batch=8, seed=2, rank=r, world=3) for r in range(3)]
    for parts in zip(*ranks, strict=True):
        assert np.ptp([b.t.shape[1] for b in parts]) <= 25
    taken = loader(ds, batch=8, seed=5)
    whole = [b.index.tolist() for b in taken]
    taken = loader(ds, batch=8, seed=5)
    stream = iter(taken)
    for _ in range(4):
        next(stream)
    other = loader(ds, batch=8)
    other.resume(taken.state())
    assert [b.index.tolist() for b in other] == whole[4:]


def test_lengths_where_there_are_none():
    record = scidyn.datasets.load("lynx_hare")
    with pytest.raises(OptionError, match="windows are equally long"):
        loader(record, windows(record, 4), shuffle="length")
    with pytest.raises(OptionError, match="needs lengths with 3 entries"):
        Sampler(3, 1, shuffle="length")

"""Files for training: chunks, codecs, shards; windows from the disk against windows from memory."""

import importlib
import json
import multiprocessing
import os
import pickle
import signal
import threading
import time

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

import scidyn
from scidyn.data import HDF5Windows, Moments, ShardWriter, WindowIndex, loader, moments, windows
from scidyn.data.io import codecs, netcdf_writer
from scidyn.data.io.codecs import chunk_shape, round_bits
from scidyn.data.io.mapped_chunks import chunk_offsets
from scidyn.data.io.shards import shard_paths
from scidyn.errors import (
    ArtifactError,
    DataError,
    NonFiniteError,
    OptionError,
    ShapeError,
    SplitError,
    TimeGridError,
    UnitsError,
)


def fields(rows=3, steps=24, side=6, seed=0):
    generator = np.random.default_rng(seed)
    space = {"x": ("x", np.arange(side, dtype=float), {"units": "m"}), "y": ("y", np.arange(4.0), {"units": "m"})}
    shape = (rows, steps, side, 4)
    return xr.Dataset(
        {
            n: (("trajectory", "time", "x", "y"), generator.normal(size=shape).astype(np.float32), {"units": "1"})
            for n in "uv"
        }
        | {
            "drive": ("time", np.arange(steps, dtype=float), {"units": "1", "role": "control"}),
            "nu": ("trajectory", np.arange(rows, dtype=float), {"units": "1", "role": "parameter"}),
        },
        {"time": ("time", 0.5 * np.arange(steps), {"units": "s"}), "trajectory": np.arange(rows), **space},
        {"Conventions": "CF-1.11 scidyn-1", "scidyn_kind": "trajectories"},
    )  # fmt: skip


# --- codecs and chunks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [7, 10, 14])
def test_rounding_keeps_its_promise(dtype, bits):
    generator = np.random.default_rng(bits)
    x = (generator.normal(size=4000) * 10.0 ** generator.integers(-30, 30, 4000)).astype(dtype)
    rounded = round_bits(x, bits)
    assert np.abs(rounded / x - 1).max() <= 2.0 ** -(bits + 1)
    assert np.array_equal(round_bits(rounded, bits), rounded)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype=dtype)
    assert np.array_equal(round_bits(special, bits), special, equal_nan=True)
    ties = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8], dtype=dtype)  # halfway between two neighbours at 7 bits
    assert round_bits(ties, 7).tolist() == [1.0, 1 + 2 * 2.0**-7]


def test_rounding_refuses_nonsense():
    with pytest.raises(OptionError, match="bits must be below 23"):
        round_bits(np.ones(2, np.float32), 23)
    assert round_bits(np.arange(3), 7).tolist() == [0, 1, 2]


def test_chunks():
    assert chunk_shape({"trajectory": 32, "time": 64, "x": 64, "y": 64}, 4, 8) == (1, 8, 64, 64)
    assert chunk_shape({"trajectory": 32, "time": 64, "x": 512, "y": 512}, 4, 8) == (1, 1, 512, 512)
    assert chunk_shape({"trajectory": 4, "time": 5}, 8, None) == (4, 5)
    big = chunk_shape({"trajectory": 1000, "time": 10000}, 8, None)
    assert np.prod(big) * 8 <= 1 << 20


@pytest.mark.parametrize("codec", ["none", "fast", "small"])
def test_codecs(tmp_path, codec):
    ds = fields()
    path = scidyn.save(ds, tmp_path / "f.nc", codec=codec, window=8)
    again = scidyn.open(path)
    if codec == "small":
        assert again["u"].attrs["kept_mantissa_bits"] == 14
        assert float(abs(again["u"] / ds["u"] - 1).max()) <= 2.0**-15
        assert again["nu"].identical(ds["nu"])
    else:
        assert again.identical(ds)
    with h5py.File(path) as file:
        assert file["u"].chunks == (1, 8, 6, 4)
        assert file["u"].fletcher32
    with pytest.raises(OptionError, match="codec must be one of"):
        scidyn.save(ds, tmp_path / "g.nc", codec="zip")


def test_small_is_smaller(tmp_path):
    t = np.linspace(0, 20, 20000)
    ds = scidyn.data.from_arrays(np.sin(t)[:, None], t, units=["m"], time_units="s")
    sizes = [scidyn.save(ds, tmp_path / f"{c}.nc", codec=c, bits=10).stat().st_size for c in ("none", "small")]
    assert sizes[1] < 0.75 * sizes[0]


def test_large_datasets_are_streamed_and_come_back_identical(tmp_path, monkeypatch):
    ds = fields()
    ds["flag"] = ("trajectory", np.array([True, False, True]), {"role": "auxiliary"})
    ds = ds.assign_coords(site=("trajectory", np.array(["a", "bé", ""])))
    whole = scidyn.open(scidyn.save(ds, tmp_path / "memory.nc", window=8))
    monkeypatch.setattr(netcdf_writer, "_IN_MEMORY", 0)
    monkeypatch.setattr(codecs, "_CHUNK_BYTES", 1 << 10)
    streamed = scidyn.open(scidyn.save(ds, tmp_path / "streamed.nc", window=8))
    assert streamed.identical(ds)
    assert whole.identical(ds)


def test_streaming_stops_before_the_disk_is_full(tmp_path, monkeypatch):
    ds = fields()
    monkeypatch.setattr(netcdf_writer, "_IN_MEMORY", 0)
    monkeypatch.setattr(netcdf_writer.shutil, "disk_usage", lambda p: type("usage", (), {"free": 10})())
    with pytest.raises(ArtifactError, match=r"No space left on device \(\d+ bytes are needed, 10 bytes are free\)"):
        scidyn.save(ds, tmp_path / "full.nc")
    assert list(tmp_path.iterdir()) == []


# --- shards


def test_shards_come_back_and_are_continued(tmp_path):
    ds = fields(rows=6)
    with ShardWriter(tmp_path / "e", window=8) as shards:
        shards.write(ds.isel(trajectory=slice(0, 2)))
        shards.write(ds.isel(trajectory=slice(2, 5)))
    with ShardWriter(tmp_path / "e") as shards:
        assert shards.trajectories == 5
        shards.write(ds.isel(trajectory=slice(5, 6)))
        with pytest.raises(ShapeError, match="the first of"):
            shards.write(ds.isel(x=slice(0, 3)))
        with pytest.raises(ArtifactError, match="is being written"), ShardWriter(tmp_path / "e"):
            pytest.fail("two writers")
    assert scidyn.open(tmp_path / "e").identical(ds)


@pytest.mark.parametrize(
    ("unit", "time_unit", "shift", "error", "naming"),
    [
        ("km", "s", 0, UnitsError, "'y0' in km; .* has it in m:"),
        ("m", "min", 0, UnitsError, "'time' in min"),
        ("m", "s", 1, TimeGridError, "times of shard-00001.nc are not"),
    ],
)
def test_shards_of_other_units_or_times_are_refused(tmp_path, unit, time_unit, shift, error, naming):
    def part(unit, time_unit, shift):
        return scidyn.data.from_arrays(np.ones((2, 5, 1)), np.arange(5) + shift, units=[unit], time_units=time_unit)

    first, second = part("m", "s", 0), part(unit, time_unit, shift)
    with ShardWriter(tmp_path / "e") as shards:
        shards.write(first)
    with ShardWriter(tmp_path / "e") as shards, pytest.raises(error, match=naming):
        shards.write(second)
    assert scidyn.open(tmp_path / "e").sizes["trajectory"] == 2
    with pytest.raises(error, match=naming):
        scidyn.data.make_archive([first, second].__getitem__, 2, tmp_path / "a")


def test_shards_of_irregular_times_may_differ(tmp_path):
    times = np.array([[0.0, 1.0, np.nan], [0.0, 2.0, 3.0]])
    ds = xr.Dataset(
        {"u": (("trajectory", "obs"), np.where(np.isnan(times), np.nan, 1.0), {"units": "m"})},
        {"time": (("trajectory", "obs"), times, {"units": "s"}), "trajectory": np.arange(2)},
        {"scidyn_kind": "irregular"},
    )
    with ShardWriter(tmp_path / "e") as shards:
        shards.write(ds.isel(trajectory=[0]))
        shards.write(ds.isel(trajectory=[1]))
    assert np.array_equal(scidyn.open(tmp_path / "e")["time"].values, times, equal_nan=True)


def test_a_killed_run_leaves_a_correct_beginning(tmp_path):
    parts = [fields(rows=2, seed=k) for k in range(400)]
    for trial in range(4):
        folder = tmp_path / str(trial)
        child = os.fork()
        if child == 0:
            with ShardWriter(folder) as shards:
                for part in parts:
                    shards.write(part)
            os._exit(0)
        time.sleep(0.1 + 0.06 * trial)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with ShardWriter(folder) as shards:
            done = shards.trajectories // 2
            shards.write(parts[done])
        again = scidyn.open(folder)
        for k in range(done + 1):
            assert np.array_equal(again["u"].isel(trajectory=slice(2 * k, 2 * k + 2)), parts[k]["u"])


def test_damaged_shards_are_refused(tmp_path):
    with ShardWriter(tmp_path / "e") as shards:
        shards.write(fields())
    file = tmp_path / "e" / "shard-00000.nc"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"shard-00000.nc is damaged: its checksum"):
        scidyn.open(tmp_path / "e")
    file.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=r"shard-00000.nc is truncated"):
        shard_paths(tmp_path / "e")
    manifest = json.loads((tmp_path / "e" / "shards.json").read_text())
    manifest["shards"][0]["file"] = "../secret.nc"
    (tmp_path / "e" / "shards.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="lies outside its folder"):
        scidyn.open(tmp_path / "e")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("words")
    with pytest.raises(ArtifactError, match="holds other files"):
        ShardWriter(tmp_path / "thesis")


# --- windows on the disk


LAYOUTS = {
    "mapped chunks": {"window": 5, "checksum": False},
    "contiguous": {"checksum": False},
    "checksums": {"window": 5},
    "gzip": {"window": 5, "codec": "small", "bits": 22},
}


@pytest.fixture(params=LAYOUTS)
def stored(request, tmp_path):
    ds = fields()
    path = scidyn.save(ds, tmp_path / "f.nc", **LAYOUTS[request.param])
    return (scidyn.open(path) if request.param == "gzip" else ds), path, request.param


def same(first, second):
    return all(
        (a is None and b is None) or (torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) and a.dtype == b.dtype)
        for a, b in zip(first, second, strict=True)
    )


def test_disk_is_memory(stored):
    ds, path, layout = stored
    index = windows(ds, 6, horizon=3, stride=2)
    disk = HDF5Windows(path, index)
    assert disk.mapped == (layout in ("mapped chunks", "contiguous"))
    numbers = np.random.default_rng(0).permutation(len(index))
    memory = scidyn.data.MemoryWindows(ds, index)
    assert same(disk.gather(numbers), memory.gather(numbers))
    assert same(HDF5Windows(path, index, mapped=False).gather(numbers), memory.gather(numbers))


def test_crops(stored):
    ds, path, _ = stored
    index = windows(ds, 6)
    numbers = np.random.default_rng(0).permutation(len(index))
    cut = scidyn.data.MemoryWindows(ds.isel(x=slice(1, 4), y=slice(0, 3)), index)
    assert same(HDF5Windows(path, index, crop={"x": (1, 4), "y": (0, 3)}).gather(numbers), cut.gather(numbers))
    with pytest.raises(OptionError, match=r"crop of 'x' must satisfy 0 <= first < last <= 6; got \(4, 9\)"):
        HDF5Windows(path, index, crop={"x": (4, 9)})
    with pytest.raises(OptionError, match="crop names a dim that must be one of 'x', 'y'; got 'z'"):
        HDF5Windows(path, index, crop={"z": (0, 1)})


@pytest.mark.parametrize("prefetch", [0, 2])
def test_loader_on_disk_resumes(stored, prefetch):
    ds, path, _ = stored
    index = windows(ds, 6)

    def stream(batches):
        while True:
            yield from batches

    def make(seed=1):
        return loader(path, index, batch=5, seed=seed, memory="disk", prefetch=prefetch)

    whole = stream(make())
    expected = [next(whole) for _ in range(20)]
    broken = make()
    running = stream(broken)
    for _ in range(7):
        next(running)
    state = broken.state()
    running.close()
    fresh = make(seed=5)
    fresh.resume(state)
    rest = stream(fresh)
    assert all(same(next(rest), wanted) for wanted in expected[7:])
    epoch = torch.cat([b.y.flatten(1) for b in make()])
    memory = torch.cat([b.y.flatten(1) for b in loader(ds, index, batch=5, shuffle="none")])
    assert torch.equal(epoch.sum(1).sort().values, memory.sum(1).sort().values)


def test_shards_and_irregular_records_on_disk(tmp_path):
    ds = fields(rows=5)
    with ShardWriter(tmp_path / "e", window=4, checksum=False) as shards:
        for k in range(5):
            shards.write(ds.isel(trajectory=slice(k, k + 1)))
    index = windows(ds, 7)
    numbers = np.random.default_rng(1).permutation(len(index))
    assert same(
        HDF5Windows(tmp_path / "e", index).gather(numbers), scidyn.data.MemoryWindows(ds, index).gather(numbers)
    )
    t = np.array([[0.0, 1, 2, 3, 4, 5], [0, 2, 4, 6, np.nan, np.nan]])
    y = np.where(np.isnan(t), np.nan, 10 * t)[..., None]
    y[0, 2] = np.nan
    ragged = scidyn.data.from_arrays(y, t, units=["m"], time_units="s")
    path = scidyn.save(ragged, tmp_path / "r.nc", window=2, checksum=False)
    index = windows(ragged, 3)
    everything = np.arange(len(index))
    batch = HDF5Windows(path, index).gather(everything)
    assert same(batch, scidyn.data.MemoryWindows(ragged, index).gather(everything))
    assert not bool(batch.mask.all())


def checksum_of_batches(store):
    return [float(store.gather(np.arange(k, k + 5)).y.double().sum()) for k in range(0, 40, 5)]


@pytest.mark.parametrize("mapped", [True, False])
def test_forks_pickles_and_threads_read_the_same(tmp_path, mapped):
    ds = fields()
    path = scidyn.save(ds, tmp_path / "f.nc", window=5, checksum=False)
    store = HDF5Windows(path, windows(ds, 4), mapped=mapped)
    expected = checksum_of_batches(store)  # opens the handle before the fork
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(checksum_of_batches, [store] * 4) == [expected] * 4
    assert checksum_of_batches(pickle.loads(pickle.dumps(store))) == expected
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(30):
        HDF5Windows(path, windows(ds, 4), mapped=mapped).gather(np.arange(3))
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after <= before + 1


def test_the_prefetch_thread_ends_and_hands_errors_over(tmp_path):
    ds = fields()
    path = scidyn.save(ds, tmp_path / "f.nc", window=5, checksum=False)
    batches = loader(path, windows(ds, 4), batch=2, memory="disk")
    iterator = iter(batches)
    next(iterator)
    iterator.close()
    assert not [t for t in threading.enumerate() if t.name == "scidyn-prefetch"]
    batches.store.gather = lambda numbers: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(iter(batches))


def test_what_disk_windows_refuse(tmp_path):
    ds = fields()
    path = scidyn.save(ds, tmp_path / "f.nc")
    with pytest.raises(OptionError, match="index was made for 3 trajectories"):
        HDF5Windows(path, WindowIndex(np.array([99, 99, 99]), 4))
    with pytest.raises(OptionError, match="has no windows yet"):
        len(HDF5Windows(path))
    with pytest.raises(OptionError, match="need an index"):
        loader(path, memory="disk")
    with pytest.raises(OptionError, match="needs a path"):
        loader(ds, windows(ds, 4), memory="disk")
    with pytest.raises(OptionError, match="keep the dtype of the file"):
        loader(path, windows(ds, 4), memory="disk", dtype=torch.float64)
    with pytest.raises(OptionError, match="is for windows on disk"):
        loader(ds, windows(ds, 4), shuffle="chunk")
    linked = scidyn.save(ds, tmp_path / "linked.nc")
    with h5py.File(linked, "a") as file:
        file["other"] = h5py.ExternalLink("x.h5", "/x")
    with pytest.raises(ArtifactError, match="links to another file"):
        HDF5Windows(linked, windows(ds, 4))


@pytest.mark.parametrize("checksum", [True, False])
def test_a_replaced_file_is_another_file(tmp_path, checksum):
    ds = fields()
    path = scidyn.save(ds, tmp_path / "f.nc", window=5, checksum=checksum)
    old = HDF5Windows(path, windows(ds, 4))
    scidyn.save(fields(seed=9), path, window=5, checksum=checksum, overwrite=True)
    new = HDF5Windows(path, windows(ds, 4)).gather(np.arange(3))
    assert same(new, scidyn.data.MemoryWindows(fields(seed=9), windows(ds, 4)).gather(np.arange(3)))
    if old.mapped:
        with pytest.raises(ArtifactError, match="was replaced after it was opened"):
            old.gather(np.arange(3))


SPACES = {
    "no space": ((), ()),
    "one dim": ((9,), ((2, 7),)),
    "two dims": ((7, 10), ((1, 6), (0, 10))),
    "three dims": ((4, 5, 6), ((0, 4), (2, 3), (1, 6))),
}


@pytest.mark.parametrize("space", SPACES)
def test_windows_of_any_chunks(tmp_path, space):
    """Contiguous, frames, tiles, chunks over several trajectories, chunks that stick out: the same windows."""
    inner, crop = SPACES[space]
    generator = np.random.default_rng(4)
    shape = (5, 23, *inner)
    names = "xyz"[: len(inner)]
    for trial, kind in enumerate(("f4", "f8", "i2", ">f4")):
        values = generator.integers(-99, 99, (2, *shape)).astype(kind)
        chunks = [tuple(int(generator.integers(n // 3 + 1, n + 1)) for n in shape) for _ in range(2)]
        if trial == 0:
            chunks = [None, (1, 8, *inner)]
        path = tmp_path / f"{trial}.nc"
        with h5py.File(path, "w") as file:
            file.attrs["scidyn_kind"] = "trajectories"
            for d, n in zip(("trajectory", "time", *names), shape, strict=True):
                file[d] = np.arange(float(n))
                file[d].attrs["units"] = "1"
                file[d].make_scale(d)
            for name, value, chunk in zip("ab", values, chunks, strict=True):
                file.create_dataset(name, data=value, chunks=chunk).attrs["units"] = "1"
                for k, d in enumerate(("trajectory", "time", *names)):
                    file[name].dims[k].attach_scale(file[d])
        index = WindowIndex(np.full(5, 23), 7, int(generator.integers(0, 5)))
        numbers = generator.permutation(len(index))[:20]
        store = HDF5Windows(path, index, crop=dict(zip(names, crop, strict=True)))
        assert store.mapped == (kind != ">f4")
        expected = [
            values[(slice(None), n, slice(k, k + index.span), *(slice(*c) for c in crop))]
            for n, k in zip(*index.locate(numbers), strict=True)
        ]
        assert np.array_equal(store.gather(numbers).y, np.moveaxis(np.stack(expected), 1, -1))
        store = HDF5Windows(path, index, crop=dict(zip(names, crop, strict=True)), mapped=False)
        assert np.array_equal(store.gather(numbers).y, np.moveaxis(np.stack(expected), 1, -1))


@pytest.mark.parametrize("mapped", [True, False])
def test_large_numbers_are_no_infinities(tmp_path, mapped):
    """Squares overflow in the quick test for infinities; the values are finite all the same."""
    y = np.full((2, 200, 3), 1e300)
    y[1, 20, 0] = np.nan
    ds = scidyn.data.from_arrays(y, np.arange(200), units=["1"] * 3, time_units="s")
    store = HDF5Windows(scidyn.save(ds, tmp_path / "f.nc", checksum=False), windows(ds, 30), mapped=mapped)
    batch = store.gather(np.arange(len(store)))
    assert same(batch, scidyn.data.MemoryWindows(ds, windows(ds, 30)).gather(np.arange(len(store))))
    assert int((~batch.mask).sum()) == 21


def test_what_was_never_written_is_zero(tmp_path):
    """HDF5 hands over what the memory held before where no fill value is asked for."""
    path = scidyn.save(fields(), tmp_path / "f.nc", window=5)
    with h5py.File(path, "a") as file:
        shape = file["u"].shape
        for name in "uv":
            del file[name]
            a = file.create_dataset(name, shape, "f4", fill_time="never", chunks=(1, 5, *shape[2:]))
            a[0] = 7.0
            for k, d in enumerate(("trajectory", "time", "x", "y")):
                a.dims[k].attach_scale(file[d])
    store = HDF5Windows(path, windows(fields(), 4))
    for _ in range(3):
        batch = store.gather(np.array([0, 25, 1, 50]))
        assert batch.y[[0, 2]].unique().tolist() == [7.0]
        assert batch.y[[1, 3]].unique().tolist() == [0.0]


def test_a_file_cut_short_while_it_is_mapped(tmp_path):
    ds = fields()
    path = scidyn.save(ds, tmp_path / "f.nc", window=5, checksum=False)
    store = HDF5Windows(path, windows(ds, 4))
    store.gather(np.arange(3))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ArtifactError, match="was cut short after it was opened for windows"):
        store.gather(np.arange(3))


def test_a_chunk_that_claims_another_size(tmp_path):
    """A table of chunks that lies about their size, or their place, is refused before anything is mapped."""
    ds = fields()
    path = scidyn.save(ds, tmp_path / "f.nc", window=5, checksum=False)
    for field, lie, sentence in (
        ("size", 8, "is said to have 8 bytes"),
        ("byte_offset", 2**40, "outside the file"),
        ("byte_offset", -8, "outside the file"),
    ):
        with h5py.File(path) as file:
            item = file["u"]

            class Lying:
                def __getattr__(self, name, real=item):
                    return getattr(real, name)

                @property
                def id(self):
                    return self

                def chunk_iter(self, note, real=item.id, field=field, lie=lie):
                    real.chunk_iter(lambda info: note(info._replace(**{field: lie})))

                def get_create_plist(self, real=item.id):
                    return real.get_create_plist()

                def get_num_chunks(self, real=item.id):
                    return real.get_num_chunks()

            with pytest.raises(ArtifactError, match=sentence):
                chunk_offsets(Lying(), path)


def test_a_chunk_said_to_lie_outside(tmp_path):
    ds = fields()
    path = scidyn.save(ds, tmp_path / "f.nc", window=5, checksum=False)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ArtifactError, match="truncated"):
        HDF5Windows(path, windows(ds, 4))


# --- statistics


def test_moments_are_those_of_numpy(tmp_path):
    ds = fields()
    values = ds["u"].values.copy()
    values[0, 3] = np.nan
    ds["u"] = (ds["u"].dims, values * 1e3 + 1e6, ds["u"].attrs)
    path = scidyn.save(ds, tmp_path / "f.nc", window=5, checksum=False)
    for found in (moments(ds), moments(path)):
        for k, name in enumerate("uv"):
            x = ds[name].values.astype(float)
            assert found.count[k] == np.isfinite(x).sum()
            assert found.mean[k] == pytest.approx(np.nanmean(x), rel=1e-12)
            assert found.variance[k] == pytest.approx(np.nanvar(x), rel=1e-10)


def test_merging_is_exact_in_any_order():
    x = np.random.default_rng(0).normal(size=(1000, 2)) + np.array([1e8, 0.0])
    parts = [Moments.of(("a", "b"), p) for p in np.array_split(x, 13)]
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    assert total.variance[0] == pytest.approx(x[:, 0].var(), rel=1e-8)  # the values themselves carry 1e-8
    assert total.variance[1] == pytest.approx(x[:, 1].var(), rel=1e-12)
    empty = Moments.of(("a", "b"), np.full((3, 2), np.nan))
    assert np.array_equal(empty.merge(total).mean, total.mean)
    assert np.isnan(empty.variance).all()


def test_moments_refuse():
    ds = fields().assign_coords(split=("trajectory", ["train", "train", "test"]))
    with pytest.raises(SplitError, match="one split only"):
        moments(ds)
    with pytest.raises(NonFiniteError, match="a has an infinite value in row 1"):
        Moments.of(("a",), np.array([[1.0], [np.inf]]))
    with pytest.raises(ShapeError, match="do not merge"):
        Moments.of(("a",), np.ones((2, 1))).merge(Moments.of(("b",), np.ones((2, 1))))


def test_no_finished_shard(tmp_path):
    with ShardWriter(tmp_path / "e") as shards:
        shards.write(fields())
    (tmp_path / "e" / "shards.json").write_text('{"format": 1, "shards": []}')
    with pytest.raises(DataError, match="no finished shard"):
        scidyn.open(tmp_path / "e")
    with pytest.raises(DataError, match="no finished shard"):
        HDF5Windows(tmp_path / "e")


def test_moments_of_blocks_that_do_not_divide_a_trajectory(tmp_path, monkeypatch):
    module = importlib.import_module("scidyn.data.moments")
    y = np.random.default_rng(4).normal(size=(3, 11, 1)) + 5
    path = scidyn.save(scidyn.data.from_arrays(y, np.arange(11), units=["m"], time_units="s"), tmp_path / "y.nc")
    monkeypatch.setattr(module, "_BLOCK", 4 * 8)  # blocks of 4, 4 and 3 times
    found = moments(path)
    assert found.count[0] == 33
    assert found.mean[0] == pytest.approx(y.mean(), rel=1e-13)
    assert found.variance[0] == pytest.approx(y.var(), rel=1e-12)

"""Reading speed of the data layer beside the peers, in one run: `python benchmarks/data.py`.

Travelling smooth Gaussian fields (32 × 64 × 128 × 128, float32, 134 MB), windows of 8 frames drawn at random.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch
import xarray as xr

import scidyn
from scidyn.data import HDF5Windows, MemoryWindows, WindowIndex, loader, windows
from scidyn.data.loader import Loader
from scidyn.data.sampler import Sampler

LENGTH = 8


def fields(rows=32, steps=64, side=128, seed=0):
    """Fields with spectrum exp(−k²/288), phase speed 0.05 |k| and decay 1e-4 k²."""
    generator = np.random.default_rng(seed)
    k = np.fft.fftfreq(side, 1 / side)
    size = np.hypot(k[:, None], k[None, :])
    noise = generator.normal(size=(rows, side, side)) + 1j * generator.normal(size=(rows, side, side))
    start = noise * np.exp(-(size**2) / 288)
    out = np.empty((rows, steps, side, side), dtype=np.float32)
    for n in range(steps):
        out[:, n] = np.fft.ifft2(start * np.exp((-1e-4 * size**2 - 0.05j * size) * n)).real * side
    coords = {d: (d, np.arange(side, dtype=float), {"units": "1"}) for d in "xy"}
    return xr.Dataset(
        {"u": (("trajectory", "time", "x", "y"), out, {"units": "1"})},
        {"time": ("time", np.arange(float(steps)), {"units": "1"}), "trajectory": np.arange(rows), **coords},
        {"scidyn_kind": "trajectories"},
    )


def interleaved(jobs, repeats, clock=time.perf_counter):
    """Median seconds of every job; each round runs all of them, so that a busy moment hits all alike."""
    times = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(repeats):
        for name, job in jobs.items():
            begin = clock()
            job()
            times[name].append(clock() - begin)
    return {name: statistics.median(t) for name, t in times.items()}


def verdict(label, value, bar, better):
    good = value >= bar if better == "more" else value <= bar
    print(f"  {'holds' if good else 'FALLS SHORT'}: {label}: {value:.3g} (bar {bar:g})")
    return good


def windows_from_disk(folder, repeats, draws=128, batch=16):
    ds = fields()
    path = scidyn.save(ds, folder / "plain.nc", window=LENGTH, checksum=False)
    checked = scidyn.save(ds, folder / "checked.nc", window=LENGTH)
    index = windows(ds, LENGTH, horizon=0)
    order = np.random.default_rng(1).permutation(len(index))[:draws]
    places = list(zip(*(v.tolist() for v in index.locate(order)), strict=True))
    mapped, handle = HDF5Windows(path, index), HDF5Windows(path, index, mapped=False)
    summed = HDF5Windows(checked, index)
    raw = h5py.File(path)["u"]
    lazy = xr.open_dataset(path, engine="h5netcdf")
    target = np.empty((LENGTH, 128, 128), np.float32)
    middle = HDF5Windows(path, index, crop={"x": (32, 96), "y": (32, 96)})
    memory = ds["u"].values

    def batches(store):
        for k in range(0, draws, batch):
            store.gather(order[k : k + batch])

    def epoch(store):
        """A whole epoch with start and end of the thread; longer than the other jobs, see below."""
        for _ in Loader(store, Sampler(len(index), batch, shuffle="chunk", blocks=store.blocks()), prefetch=2):
            pass

    def each(read):
        for trajectory, start in places:
            read(trajectory, start)

    jobs = {
        "numpy copy in memory": lambda: each(lambda n, s: memory[n, s : s + LENGTH].copy()),
        "h5py open handle": lambda: each(lambda n, s: raw[n, s : s + LENGTH]),
        "h5py read_direct": lambda: each(lambda n, s: raw.read_direct(target, np.s_[n, s : s + LENGTH])),
        "xarray isel": lambda: each(lambda n, s: lazy["u"].isel(trajectory=n, time=slice(s, s + LENGTH)).values),
        "scidyn, mapped": lambda: batches(mapped),
        "scidyn, mapped, loader": lambda: epoch(mapped),
        "h5py, cropped to 64 × 64": lambda: each(lambda n, s: raw[n, s : s + LENGTH, 32:96, 32:96]),
        "scidyn, cropped to 64 × 64": lambda: batches(middle),
        "scidyn, handle": lambda: batches(handle),
        "scidyn, checksums": lambda: batches(summed),
    }
    seconds = interleaved(jobs, repeats)
    seconds["scidyn, mapped, loader"] *= draws / len(index)
    volume = draws * target.nbytes / 1e6
    quarter = {"h5py, cropped to 64 × 64", "scidyn, cropped to 64 × 64"}
    print(f"random windows of {LENGTH} frames, {target.nbytes / 1e6:.2f} MB each, warm cache")
    for name, t in seconds.items():
        read = volume / 4 if name in quarter else volume
        print(
            f"  {name:28s} {read / t:8.0f} MB/s   × {seconds['h5py open handle'] / t:5.2f} in time of the h5py handle"
        )
    begin = time.perf_counter()
    next(iter(loader(path, index, batch=batch, memory="disk")))
    first = time.perf_counter() - begin
    base = seconds["h5py open handle"]
    return [
        verdict("loader against the open h5py handle", base / seconds["scidyn, mapped, loader"], 1, "more"),
        verdict(
            "cropped mapped windows against the open h5py handle",
            seconds["h5py, cropped to 64 × 64"] / seconds["scidyn, cropped to 64 × 64"],
            2,
            "more",
        ),
        verdict("loader against xarray isel", seconds["xarray isel"] / seconds["scidyn, mapped, loader"], 5, "more"),
        verdict("seconds to the first batch", first, 0.3, "less"),
    ]


LAYOUTS = {"contiguous": None, "frames": (1, 8, 128, 128), "tiles": (1, 16, 32, 32)}
CUTS = {"32 × 32 crop": (37, 69), "128 × 128": (0, 128)}


def cropped_windows(folder, repeats, draws=256, batch=8, length=10):
    """Windows of 10 × 32 × 32 across the borders of chunks, and whole ones; CPU time, h5py into a ready array."""
    ds = fields()
    held = []
    print(f"CPU ms per window of {length} frames in batches of {batch}, uncompressed, warm cache")
    for layout, chunks in LAYOUTS.items():
        path = folder / f"{layout}.nc"
        ds.to_netcdf(path, engine="h5netcdf", encoding={"u": {"chunksizes": chunks, "contiguous": chunks is None}})
        raw = h5py.File(path)["u"]
        index = windows(ds, length, horizon=0)
        order = np.random.default_rng(1).permutation(len(index))[:draws]
        places = list(zip(*(v.tolist() for v in index.locate(order)), strict=True))
        for label, cut in CUTS.items():
            store = HDF5Windows(path, index, crop={"x": cut, "y": cut})
            side = slice(*cut)
            target = np.empty((batch, length, cut[1] - cut[0], cut[1] - cut[0]), np.float32)

            def peer(raw=raw, places=places, target=target, side=side):
                for k, (n, s) in enumerate(places):
                    target[k % batch] = raw[n, s : s + length, side, side]

            def own(store=store, order=order):
                for k in range(0, draws, batch):
                    store.gather(order[k : k + batch])

            seconds = interleaved({"h5py": peer, "scidyn": own}, 2 * repeats + 1, clock=time.process_time)
            theirs, ours = (1e3 * t / draws for t in seconds.values())
            print(f"  {layout:10s} {label:12s} h5py {theirs:.4f}, scidyn {ours:.4f}, × {theirs / ours:.2f}")
            if label == "32 × 32 crop":
                held.append(verdict(f"cropped windows, {layout}, against the h5py handle", theirs / ours, 2, "more"))
    return held


def windows_in_memory(repeats):
    y = np.random.default_rng(0).normal(size=(400, 200, 4))
    ds = scidyn.data.from_arrays(y, np.arange(200), units=["1"] * 4, time_units="s")
    index = WindowIndex(np.full(400, 200), 16, 4)
    store = MemoryWindows(ds, index)
    numbers = np.random.default_rng(1).permutation(len(index))[:256]
    t = interleaved({"gather": lambda: [store.gather(numbers) for _ in range(50)]}, repeats)["gather"] / 50
    print(f"256 windows of 20 × 4 from memory: {1e3 * t:.3f} ms")
    return [verdict("milliseconds for 256 windows in memory", 1e3 * t, 0.5, "less")]


LIMITED = """
import resource, sys, time
import numpy as np
from scidyn.data import moments
resource.setrlimit(resource.RLIMIT_DATA, (700 << 20, 700 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.perf_counter()
found = moments(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(found.mean[0], found.count[0], time.perf_counter() - begin, (after - before) / 1024)
"""


def larger_than_memory(folder):
    """Mean and variance of 6.7 GB under a limit of 700 MB; most chunks hold the fill value."""
    path = folder / "huge.nc"
    rows, steps, side = 50, 64, 2**19
    with h5py.File(path, "w") as file:
        file.attrs["scidyn_kind"] = "trajectories"
        scales = {"trajectory": np.arange(rows), "time": np.arange(float(steps)), "x": np.arange(float(side))}
        for name, values in scales.items():
            file[name] = values
            file[name].attrs["units"] = "1"
            file[name].make_scale(name)
        a = file.create_dataset("a", (rows, steps, side), "f4", chunks=(1, 1, 2**18), fillvalue=2.0)
        a.attrs["units"] = "1"
        for k, name in enumerate(scales):
            a.dims[k].attach_scale(file[name])
        a[0, 0] = 4.0
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(scidyn.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, env=env, check=False
    )
    if done.returncode:
        print(done.stderr)
        return [verdict("statistics of 6.7 GB under 700 MB", 0, 1, "more")]
    mean, count, seconds, grown = map(float, done.stdout.split())
    exact = (2 * (rows * steps - 1) + 4) / (rows * steps)
    print(f"mean of {count * 4 / 1e9:.1f} GB in {seconds:.1f} s, {grown:.0f} MB more; error {abs(mean - exact):.1e}")
    return [verdict("MB of memory for the statistics of 6.7 GB", grown, 700, "less")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="leave out the file that is larger than memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        held = windows_in_memory(options.repeats) + windows_from_disk(folder, options.repeats)
        held += cropped_windows(folder, options.repeats)
        if not options.quick:
            held += larger_than_memory(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"bars held: {sum(held)} of {len(held)}; peak of this process {peak:.0f} MB")


if __name__ == "__main__":
    main()

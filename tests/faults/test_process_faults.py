"""F03, F04, F25: fits that are killed or told to end and go on with the same bits; readers in other processes."""

import json
import multiprocessing
import os
import pickle
import signal
import threading
import time

import fits
import numpy as np
import pytest
import torch
from fits import STEPS, batches, trained
from harness import NIGHTLY, count, fault, in_child, litter
from makers import record

import scidyn
from scidyn.data import HDF5Windows, windows
from scidyn.training.checkpoint import read_checkpoint


def child(work, *arguments):
    """A process forked from a clean server: autograd cannot fork once a test here has registered a device."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "xarray", "scidyn.training.fit"])
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_f03_killed_fits_end_with_the_same_bits(tmp_path, dtype):
    expected = trained(dtype)
    generator = np.random.default_rng(3)
    for trial in range(count(4, 50)):
        with fault():
            folder = tmp_path / f"{dtype}-{trial}"
            folder.mkdir()
            path = folder / "checkpoint"
            if trial % 2:  # in the middle of writing some checkpoint
                process = child(fits.die_writing, dtype, path, int(generator.integers(1, 40)))
            else:
                process = child(trained, dtype, path, int(generator.integers(1, STEPS)))
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
            assert trained(dtype, path) == expected
            assert not litter(folder)


def test_f04_a_fit_that_is_told_to_end(tmp_path):
    """A handler that raises SystemExit, wherever it strikes, leaves a checkpoint from which the fit goes on."""
    for trial in range(count(2, 10)):
        with fault():
            folder = tmp_path / str(trial)
            folder.mkdir()
            path = folder / "checkpoint"
            process = child(fits.long_fit, path)
            while not path.exists():
                assert process.exitcode is None
                time.sleep(0.01)
            time.sleep(0.05 + 0.02 * trial)
            told = time.monotonic()
            os.kill(process.pid, (signal.SIGTERM, signal.SIGUSR1)[trial % 2])
            process.join(10)
            assert process.exitcode == 75
            assert time.monotonic() - told < 10
            step = read_checkpoint(path)["counters"][2]
            assert step >= 3
            assert not litter(folder)


def test_f25_processes_and_threads(tmp_path):
    """The same bytes as serial reading in forks, forked servers, pools, threads, workers, and no handle left."""
    ds = record()
    path = scidyn.save(ds, tmp_path / "r.nc", window=5)  # checksums: read through h5py handles
    store = HDF5Windows(path, windows(ds, 4))
    expected = batches(store)
    with fault():
        assert in_child(lambda: batches(store)) == ("ok", expected)
    with fault():
        assert pickle.loads(pickle.dumps(store)).gather(np.arange(4)).y.shape == (4, 5, 2)
    with fault(), multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(batches, [store] * 6) == [expected] * 6
    with fault():
        out = tmp_path / "found"
        process = child(fits.batches_to, store, out)
        process.join(60)
        assert process.exitcode == 0
        assert json.loads(out.read_text()) == expected
    with fault():
        found = []
        thread = threading.Thread(target=lambda: found.append(batches(store)))
        thread.start()
        thread.join()
        assert found == [expected]
    with fault():
        rows = torch.utils.data.DataLoader(fits.Rows(store), batch_size=None, num_workers=2)
        assert [float(y.double().sum()) for y in rows] == expected
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(count(6, 100)):  # workers that come and go leave no descriptor behind
        with fault():
            assert in_child(lambda: batches(store)) == ("ok", expected)
            assert len(os.listdir("/proc/self/fd")) <= before  # pools and loaders of above may close theirs late
    if NIGHTLY:
        with fault():
            spawned = multiprocessing.get_context("spawn").Process(target=fits.batches_to, args=(store, out))
            spawned.start()
            spawned.join(60)
            assert json.loads(out.read_text()) == expected

"""F03, F04: fits that are killed or told to end, and go on with the same bits."""

import multiprocessing
import os
import signal
import time

import fits
import numpy as np
import pytest
import torch
from fits import STEPS, trained
from harness import count, fault, litter

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

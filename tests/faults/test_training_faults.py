"""F03, F04: fits that are killed or told to end, and go on with the same bits."""

import hashlib
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch
from harness import count, fault, litter

from scidyn.data.io import atomic
from scidyn.training import LBFGS, Adam, Loss, fit
from scidyn.training.checkpoint import read_checkpoint

STEPS = 24


def network(dtype):
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def trained(dtype, checkpoint=None, die_at=None):
    """A fit with random batches, two kinds of optimiser, validation; SIGKILL as the batch of ``die_at`` is made."""

    def batches(step, generator):
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        x = torch.rand(16, 1, generator=generator, dtype=torch.float64).to(dtype)
        return x, torch.sin(6 * x)

    def objective(model, batch):
        loss = ((model(batch[0]) - batch[1]) ** 2).mean()
        return Loss(loss, {"mse": loss})

    x = torch.linspace(0, 1, 9, dtype=dtype)[:, None]
    stages = [Adam(STEPS - 8, 0.05, schedule="cosine"), LBFGS(8)]
    model = network(dtype)
    result = fit(
        model,
        objective,
        batches,
        stages=stages,
        validation=(x, torch.sin(6 * x)),
        checkpoint=checkpoint,
        checkpoint_every=3,
    )
    return fingerprint(model, result)


def fingerprint(model, result):
    content = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    return hashlib.sha256(content + result.history["loss"].values.tobytes()).hexdigest()


def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


class DeadlyCalls:
    """SIGKILL in the n-th call that touches the disk."""

    def __init__(self, n):
        self.left = n

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in ("replace", "fsync", "open", "write", "unlink"):
            return real

        def call(*arguments, **keywords):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **keywords)

        return call


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
                n = int(generator.integers(1, 40))

                def work(path=path, n=n):
                    atomic.os = DeadlyCalls(n)
                    trained(dtype, path)

            else:
                step = int(generator.integers(1, STEPS))

                def work(path=path, step=step):
                    trained(dtype, path, step)

            status = child(work)
            assert os.WIFSIGNALED(status)
            assert os.WTERMSIG(status) == signal.SIGKILL
            assert trained(dtype, path) == expected
            assert not litter(folder)


def told_to_leave(*_):
    sys.exit(75)


def long_fit(path, patch):
    """A fit that would run for hours, in a process whose handlers raise SystemExit."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, told_to_leave)
    patch.setattr(sys.modules[__name__], "STEPS", 10**6)
    try:
        trained(torch.float64, path)
    except SystemExit as leaving:
        os._exit(leaving.code)


def test_f04_a_fit_that_is_told_to_end(tmp_path, monkeypatch):
    """A handler that raises SystemExit, wherever it strikes, leaves a checkpoint from which the fit goes on."""
    for trial in range(count(2, 10)):
        with fault():
            folder = tmp_path / str(trial)
            folder.mkdir()
            path = folder / "checkpoint"
            pid = os.fork()
            if pid == 0:
                try:
                    long_fit(path, monkeypatch)
                finally:
                    os._exit(1)
            while not path.exists():
                assert os.waitpid(pid, os.WNOHANG)[0] == 0
                time.sleep(0.01)
            time.sleep(0.05 + 0.02 * trial)
            told = time.monotonic()
            os.kill(pid, (signal.SIGTERM, signal.SIGUSR1)[trial % 2])
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
            assert time.monotonic() - told < 10
            step = read_checkpoint(path)["counters"][2]
            assert step >= 3
            assert step > 0  # told to end, a fit checkpoints the step it is in
            assert not litter(folder)

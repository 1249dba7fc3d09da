"""What runs in child processes: a small fit, killed or told to end in several ways, and readers of windows."""

import hashlib
import json
import os
import signal
import sys

import numpy as np
import torch

from scidyn.data.io import atomic
from scidyn.training import LBFGS, Adam, Loss, fit

torch.set_num_threads(1)
STEPS = 24


def network(dtype):
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def trained(dtype, checkpoint=None, die_at=None, steps=STEPS):
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
    stages = [Adam(steps - 8, 0.05, schedule="cosine"), LBFGS(8)]
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


def die_writing(dtype, path, call):
    """Killed in the middle of writing some checkpoint."""
    atomic.os = DeadlyCalls(call)
    trained(dtype, path)


def told_to_leave(*_):
    sys.exit(75)


def long_fit(path):
    """A fit that would run for hours, in a process whose handlers raise SystemExit."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, told_to_leave)
    trained(torch.float64, path, steps=10**6)


def batches(store):
    """Checksums of six batches."""
    return [float(store.gather(np.arange(k, k + 4)).y.double().sum()) for k in range(0, 24, 4)]


def batches_to(store, path):
    """The same, written down for another process."""
    path.write_text(json.dumps(batches(store)))


class Rows(torch.utils.data.Dataset):
    """Six batches for a DataLoader."""

    def __init__(self, store):
        self.store = store

    def __len__(self):
        return 6

    def __getitem__(self, k):
        return self.store.gather(np.arange(4 * k, 4 * k + 4)).y

"""The fit loop: minima, early stopping, and the same bits after a kill."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scidyn.errors import ArtifactError, FitError, OptionError
from scidyn.training import LBFGS, Adam, Loss, fit

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, signal, sys
import torch
from scidyn.training import LBFGS, Adam, Loss, fit

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()

x = torch.linspace(-2, 2, 64, dtype=torch.float64)[:, None]
calls = 0
def objective(model, batch):
    global calls
    calls += 1
    if calls == STOP_AT:
        os.kill(os.getpid(), signal.SIGKILL)
    loss = ((model(batch) - torch.sin(2 * batch)) ** 2).mean()
    return Loss(loss, {"mse": loss})

def batches(step, generator):
    return x if step >= 30 else x[torch.randint(0, 64, (16,), generator=generator)]

model = make()
result = fit(model, objective, batches, stages=[Adam(30, 1e-2, schedule="cosine"), LBFGS(12)], validation=x[::3],
             checkpoint=sys.argv[1], checkpoint_every=4, seed=5)
print(result.history["loss"].values.tobytes().hex())
print(torch.cat([p.flatten() for p in model.parameters()]).detach().numpy().tobytes().hex())
"""


def printed(folder):
    """What the script prints when nothing kills it, run in this process."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", ["-c", str(folder)])
        exec(compile(SCRIPT.replace("STOP_AT", "-1"), "script", "exec"), {"__name__": "script"})
    return said.getvalue()


def test_a_killed_fit_ends_with_the_same_bits(tmp_path):
    whole = printed(tmp_path / "whole")
    for kill in (25, 75):  # within Adam, within L-BFGS
        folder = tmp_path / f"killed-{kill}"
        killed = subprocess.run(
            [sys.executable, "-c", SCRIPT.replace("STOP_AT", str(kill)), str(folder)],
            capture_output=True, text=True, cwd=ROOT, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert (folder / "manifest.json").exists()
        assert printed(folder) == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop_it_leaves_a_checkpoint_and_goes_on_from_there(tmp_path, number, capsys):
    def run(checkpoint, stop_at):
        model, calls = Point(-1.2, 1.0), [0]

        def objective(model, batch):
            calls[0] += 1
            if calls[0] == stop_at:
                os.kill(os.getpid(), number)
            return rosenbrock(model, batch)

        fit(model, objective, None, stages=[Adam(30, 0.05)], checkpoint=checkpoint, checkpoint_every=1000)
        return model.x.detach()

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "fit", 10)
    assert stopped.value.code == 75
    assert "stopped at step 10" in capsys.readouterr().err
    assert signal.getsignal(number) == before
    torch.testing.assert_close(run(tmp_path / "fit", None), run(None, None), rtol=0, atol=0)


class Point(torch.nn.Module):
    def __init__(self, *values):
        super().__init__()
        self.x = torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def rosenbrock(model, batch):
    x, y = model.x
    loss = (1 - x) ** 2 + 100 * (y - x * x) ** 2
    return Loss(loss, {})


def test_lbfgs_finds_the_minimum_of_rosenbrock():
    model = Point(-1.2, 1.0)
    result = fit(model, rosenbrock, None, stages=[LBFGS(200, tolerance=1e-9)])
    torch.testing.assert_close(model.x.detach(), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-7)
    assert result.stopped_by == "tolerance"


def test_early_stopping_keeps_the_best_of_the_validation():
    def objective(model, target):
        loss = ((model.x - target) ** 2).sum()
        return Loss(loss, {})

    model = Point(0.0)
    result = fit(model, objective, 10.0, stages=[Adam(500, 0.1, patience=5)], validation=3.0)
    assert result.stopped_by == "patience"
    assert float(model.x.detach()) == pytest.approx(3.0, abs=0.1)
    assert int(result.history["validation"].values.argmin()) + 1 == result.best_iteration
    assert result.history.sizes["iteration"] == result.best_iteration + 5


def test_adam_agrees_with_torch():
    model, reference = Point(-1.2, 1.0), Point(-1.2, 1.0)
    fit(model, rosenbrock, None, stages=[Adam(20, 0.05)])
    optimiser = torch.optim.Adam(reference.parameters(), lr=0.05)
    for _ in range(20):
        optimiser.zero_grad()
        rosenbrock(reference, None).total.backward()
        optimiser.step()
    assert torch.equal(model.x, reference.x)


def test_bad_input(tmp_path):
    with pytest.raises(OptionError, match="stages must hold"):
        fit(Point(0.0), rosenbrock, None, stages=["adam"])
    with pytest.raises(OptionError, match="Did you mean 'cosine'"):
        Adam(3, schedule="cosin")
    with pytest.raises(FitError, match="the first one"):
        fit(Point(0.0), lambda m, b: Loss(m.x.sum() * torch.nan, {}), None, stages=[Adam(3)])
    fit(Point(0.0, 0.0), rosenbrock, None, stages=[Adam(3)], checkpoint=tmp_path / "c")
    with pytest.raises(ArtifactError, match="another fit"):
        fit(Point(0.0, 0.0), rosenbrock, None, stages=[Adam(4)], checkpoint=tmp_path / "c")
    manifest = tmp_path / "c" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"manifest.json is truncated"):
        fit(Point(0.0, 0.0), rosenbrock, None, stages=[Adam(3)], checkpoint=tmp_path / "c")

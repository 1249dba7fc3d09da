"""Steps of every method on a device without values: nothing mixes devices and nothing is read by the host."""

import os
import subprocess
import sys
from pathlib import Path

from scidyn.solvers.methods import METHODS

ROOT = Path(__file__).parents[2]


def test_steps_read_nothing():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("fake_device.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 2 * (len(METHODS) + 2)

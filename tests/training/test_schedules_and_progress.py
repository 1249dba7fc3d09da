"""Windows cover the record; progress is silent when short and plain off a terminal."""

import pytest
import torch

from scidyn.data import Batch
from scidyn.errors import OptionError
from scidyn.training import Progress, growing_horizon, shooting_lengths, shooting_windows
from scidyn.training import progress as progress_module

NAN = float("nan")


def batch():
    t = torch.tensor([[0.0, 1, 2, 3, 4, 5, 6], [0, 2, 4, 6, NAN, NAN, NAN]], dtype=torch.float64)
    y = torch.nan_to_num(t).unsqueeze(-1) * 10
    mask = torch.isfinite(t).unsqueeze(-1)
    return Batch(t, y, mask, None, None, torch.arange(2))


def test_windows_cover_every_interval_once_and_share_borders():
    windows = shooting_windows(batch(), 3)
    assert windows.batch.index.tolist() == [0, 0, 0, 1, 1]
    assert windows.first.tolist() == [0, 2, 4, 0, 2]
    spans = [row[torch.isfinite(row)].tolist() for row in windows.batch.t]
    assert spans == [[0, 1, 2], [2, 3, 4], [4, 5, 6], [0, 2, 4], [4, 6]]
    assert torch.equal(windows.batch.y[windows.batch.mask], 10 * windows.batch.t.unsqueeze(-1)[windows.batch.mask])


@pytest.mark.parametrize("times", [2, 3, 5, 6, 21, 100, 1000])
def test_lengths_grow_to_the_whole_record(times):
    lengths = shooting_lengths(times)
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == times
    assert (times - 1) / (lengths[0] - 1) <= 33


def test_growing_horizon_and_bad_input():
    assert [b.y.shape[1] for b in growing_horizon(batch(), (0.5, 1.0))] == [4, 7]
    with pytest.raises(OptionError, match="fraction"):
        growing_horizon(batch(), (0.0,))
    with pytest.raises(OptionError, match="length"):
        shooting_windows(batch(), 1)


def test_short_jobs_print_nothing(capsys):
    with Progress("fit") as bar:
        bar.stage("quick")
        bar.advance(1.0)
    assert capsys.readouterr() == ("", "")


def test_long_jobs_print_a_plain_line_per_stage(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    with Progress("fit") as bar:
        now[0] = 3.0
        bar.stage("Adam")
        bar.advance(0.1)
        now[0] = 9.0
        bar.advance(0.5, "loss 0.1")
        bar.stage("L-BFGS")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["fit: Adam", "fit: Adam loss 0.1 50 %, about 6 s left", "fit: L-BFGS"]
    with Progress("fit", enabled=False) as bar:
        now[0] = 99.0
        bar.stage("Adam")
    assert capsys.readouterr().err == ""

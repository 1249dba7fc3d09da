"""The ring of page-locked buffers, with counted pins and waits; and on a GPU where there is one."""

import numpy as np
import pytest
import torch

import scidyn
from scidyn.data import HDF5Windows, Loader, Sampler, windows
from scidyn.data.pinned import PinnedRing

CPU = torch.device("cpu")


class Log:
    """Notes what is locked, marked and waited for, in order."""

    def __init__(self):
        self.lines = []

    def pin(self, shape, dtype):
        buffer = torch.empty(shape, dtype=dtype)
        self.lines.append(("pin", tuple(shape)))
        return buffer

    def event(self):
        log = self

        class Mark:
            def record(self):
                log.lines.append(("mark", id(self)))
                log.marks = [*getattr(log, "marks", []), self]  # kept, so that no id comes twice

            def synchronize(self):
                log.lines.append(("wait", id(self)))

        return Mark()

    def of(self, what):
        return [place for kind, place in self.lines if kind == what]


def ring(depth=3):
    log = Log()
    return PinnedRing(CPU, depth, pin=log.pin, event=log.event), log


def batch(k, rows=4):
    y = torch.full((rows, 5, 2), float(k))
    mask = torch.ones((), dtype=torch.bool).expand(y.shape)
    return scidyn.data.Batch(torch.arange(5.0).repeat(rows, 1) + k, y, mask, None, None, torch.full((rows,), k))


def test_buffers_are_locked_once_and_waited_for():
    way, log = ring(3)
    sent = [way.send(batch(k)) for k in range(10)]
    assert len(log.of("pin")) == 3 * 3  # three turns, the fields t, y and index; the mask is one value
    marks, waits = log.of("mark"), log.of("wait")
    assert len(marks) == 30
    assert waits == marks[: 7 * 3]  # each copy but the last three batches' was waited for, in order
    where = {place: n for n, (kind, place) in enumerate(log.lines) if kind == "mark"}
    for n, (kind, place) in enumerate(log.lines):
        if kind == "wait":
            assert where[place] < n
    for k, found in enumerate(sent):  # what was sent does not change when its buffer is filled again
        for a, b in zip(found, batch(k), strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


def test_sizes_may_change():
    way, log = ring(2)
    for k, rows in enumerate((4, 4, 3, 3, 9, 9, 2)):
        found = way.send(batch(k, rows))
        assert torch.equal(found.y, batch(k, rows).y)
        assert found.mask.shape == found.y.shape
        assert bool(found.mask.all())
    assert len(log.of("pin")) == 2 * 2 * 3  # once small, once for the larger batch; the smaller ones fit
    found = way.send(batch(1)._replace(mask=batch(1).y > 3))
    assert not bool(found.mask.any())


def test_a_copy_of_the_ring_has_its_own_buffers():
    way = PinnedRing(CPU, 2)
    way._slots[0][0] = (torch.ones(3), object())
    assert way.__getstate__()["_slots"] == [{}, {}]


def test_the_loader_sends_through_the_ring(tmp_path):
    y = np.random.default_rng(0).normal(size=(4, 30, 2))
    ds = scidyn.data.from_arrays(y, np.arange(30), units=["m"] * 2, time_units="s")
    store = HDF5Windows(scidyn.save(ds, tmp_path / "r.nc", window=5, checksum=False), windows(ds, 4))

    def loader(device=None):
        return Loader(store, Sampler(len(store), 8, seed=1), prefetch=2, device=device)

    sending = loader("cuda")
    sending._ring, log = ring(3)
    for there, here in zip(sending, loader(), strict=True):
        assert torch.equal(there.y, here.y)
        assert torch.equal(there.t, here.t)
    assert len(log.of("pin")) == 9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu(tmp_path):
    y = np.random.default_rng(0).normal(size=(8, 400, 64)).astype(np.float32)
    ds = scidyn.data.from_arrays(y, np.arange(400), units=["m"] * 64, time_units="s")
    store = HDF5Windows(scidyn.save(ds, tmp_path / "r.nc", window=5, checksum=False), windows(ds, 4))
    sampler = [Sampler(len(store), 64, seed=1) for _ in range(2)]
    sending = Loader(store, sampler[0], prefetch=2, device="cuda")
    kept = list(sending)
    for there, here in zip(kept, Loader(store, sampler[1]), strict=True):
        assert there.y.device.type == "cuda"
        assert torch.equal(there.y.cpu(), here.y)
    assert all(buffer.is_pinned() for slot in sending._ring._slots for buffer, _ in slot.values())

"""Batches on their way to a GPU: a ring of page-locked buffers that are filled and sent in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from scidyn.data.batch import Batch

__all__ = ["PinnedRing"]


class Event(Protocol):
    """A mark in the queue of copies."""

    def record(self) -> None:
        """Set the mark behind all that was asked for so far."""

    def synchronize(self) -> None:
        """Wait until the device has come to the mark."""


class PinnedRing:
    """Copy batches to a device from a few page-locked buffers, each used again once its copy has arrived.

    Page-locking memory takes longer than copying from it, and a pageable copy makes the host wait. The
    ring locks ``depth`` buffers per field once; before a buffer is filled again its last copy is waited for,
    which has long arrived if the ring is deeper than the batches that are made ahead.

    Parameters
    ----------
    device : torch.device
        Where batches go.
    depth : int
        Buffers per field.
    pin : callable, optional
        ``pin(shape, dtype) -> Tensor`` in page-locked memory.
    event : callable, optional
        Makes an :class:`Event`; default those of CUDA.

    Examples
    --------
    >>> import torch
    >>> from scidyn.data.pinned import PinnedRing
    >>> class Arrived:
    ...     def record(self): pass
    ...     def synchronize(self): pass
    >>> ring = PinnedRing(torch.device("cpu"), pin=lambda shape, dtype: torch.empty(shape, dtype=dtype), event=Arrived)
    >>> ring.sent(torch.ones(2), 0).tolist()
    [1.0, 1.0]
    """

    def __init__(
        self,
        device: torch.device,
        depth: int = 3,
        *,
        pin: Callable[[torch.Size, torch.dtype], Tensor] | None = None,
        event: Callable[[], Event] | None = None,
    ) -> None:
        self.device, self.depth = device, depth
        self._pin = pin or _page_locked
        self._event = event or (lambda: _CudaEvent(device))
        self._turn = 0
        self._slots: list[dict[int, tuple[Tensor, Any]]] = [{} for _ in range(depth)]

    def __getstate__(self) -> dict[str, Any]:
        """Page-locked memory and events belong to this process."""
        return self.__dict__ | {"_slots": [{} for _ in range(self.depth)]}

    def send(self, batch: Batch) -> Batch:
        """The batch on the device; the copies may still be under way, in order with what is asked of it next."""
        self._turn = (self._turn + 1) % self.depth
        return Batch(*(None if x is None else self.sent(x, k) for k, x in enumerate(batch)))  # type: ignore[arg-type]

    def sent(self, x: Tensor, field: int) -> Tensor:
        """One field of the batch through the buffer whose turn it is."""
        if x.device == self.device and x.device.type != "cpu":
            return x
        if 0 in x.stride() and x.numel() > 1:  # one value for many, as in a mask that is all True: send it once
            return x[tuple(slice(0, 1) if s == 0 else slice(None) for s in x.stride())].to(self.device).expand(x.shape)
        buffer, arrived = self._slots[self._turn].get(field, (None, None))
        if arrived is not None:
            arrived.synchronize()
        if buffer is None or buffer.dtype != x.dtype or buffer.numel() < x.numel():
            buffer = self._pin(torch.Size([x.numel()]), x.dtype)
        arrived = self._event()
        self._slots[self._turn][field] = (buffer, arrived)
        place = buffer[: x.numel()].view(x.shape)
        place.copy_(x)
        there = torch.empty(x.shape, dtype=x.dtype, device=self.device)
        there.copy_(place, non_blocking=True)
        arrived.record()
        return there


class _CudaEvent:
    """An event in the queue of one device, whichever device is current."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.event = device, torch.cuda.Event()

    def record(self) -> None:
        self.event.record(torch.cuda.current_stream(self.device))

    def synchronize(self) -> None:
        self.event.synchronize()


def _page_locked(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=True)

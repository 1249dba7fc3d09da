"""How much memory a Sinkhorn run takes, told before it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from scidyn._check.values import integer
from scidyn.errors import OptionError
from scidyn.transport.cost import TILE

__all__ = ["MemoryEstimate", "available_memory", "choose_storage", "estimate_memory"]

SHARE = 0.5


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes above those of the points and the cost that are passed in.

    Attributes
    ----------
    stored : int
        Holding the kernel matrix; fastest.
    streamed : int
        Forming the kernel tile by tile in every iteration.
    dense_plan : int
        Of the plan as a matrix, should :meth:`EntropicPlan.to_dense` be called.
    """

    stored: int
    streamed: int
    dense_plan: int


def estimate_memory(n: int, m: int, d: int = 1, dtype: torch.dtype = torch.float32) -> MemoryEstimate:
    """Tell how many bytes :func:`sinkhorn` will allocate for n × m points in d dimensions.

    Parameters
    ----------
    n, m : int
        Numbers of points.
    d : int
        Dimension of the points.
    dtype : torch.dtype
        Of the kernel.

    Returns
    -------
    MemoryEstimate
        Bytes with the kernel stored and streamed.

    Examples
    --------
    >>> from scidyn.transport import estimate_memory
    >>> need = estimate_memory(50_000, 50_000, d=50)
    >>> round(need.stored / 1e9, 1), need.streamed < 2e8
    (10.1, True)
    """
    n, m, d = (integer(k, v, at_least=1) for k, v in (("n", n), ("m", m), ("d", d)))
    size = dtype.itemsize
    vectors = 8 * 30 * (n + m) + 2 * size * d * (n + m)
    tile = 3 * size * max(TILE, n, m)
    sample = size * min(n, max(256, min(n // 8, 6000))) * min(m, max(256, min(m // 8, 6000)))
    return MemoryEstimate(
        stored=size * n * m + vectors + tile + sample, streamed=vectors + tile + sample, dense_plan=size * n * m
    )


def available_memory(device: torch.device) -> int:
    """Bytes free on a device; a cautious 4 GB where it cannot be asked."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4_000_000_000


def choose_storage(need: MemoryEstimate, method: str, limit: float | None, device: torch.device) -> str:
    """``"stored"`` or ``"streamed"``, whichever is asked for or fits; raises if neither does."""
    allowed = SHARE * available_memory(device) if limit is None else limit
    if method == "auto":
        method = "stored" if need.stored <= allowed else "streamed"
    wanted = need.stored if method == "stored" else need.streamed
    if limit is not None and wanted > limit:
        cure = "pass method='streamed'" if need.streamed <= limit else "raise memory_limit or pass fewer points"
        raise OptionError(
            f"method={method!r} needs about {wanted / 1e9:.3g} GB, memory_limit is {limit / 1e9:.3g} GB: {cure}."
        )
    return method

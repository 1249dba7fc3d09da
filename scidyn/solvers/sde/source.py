"""The Brownian path of a solve: made from a seed, or the user's own, with what the method needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scidyn.errors import OptionError, ShapeError
from scidyn.solvers.brownian import BrownianIncrements, BrownianTree, FractionalIncrements, MarkovFBM
from scidyn.solvers.sde.adaptive import TreeOnGrid
from scidyn.solvers.sde.logqp import PaddedNoise
from scidyn.solvers.sde.plan import make_grid
from scidyn.solvers.sde.task import Task, check_seed

__all__ = ["make_source", "make_tree"]


def make_source(task: Task, dt: float | None, seed: int | None, bm: Any, jumps: Sequence[float]) -> Any:
    """Noise on a known grid, with the quantities that the method needs."""
    about, terms = task.method.about, task.terms
    shape = (task.y0.shape[0], *terms.channels)
    area = about.area and terms.noise == "general" and terms.channels[-1] > 1
    if bm is None or isinstance(bm, MarkovFBM):
        if dt is None:
            raise OptionError("a solve with fixed steps needs dt=, the largest step, or bm= with a path on a grid.")
        grid = make_grid(task.times.tolist(), dt, jumps)
        kind: dict[str, Any] = {"dtype": task.y0.dtype, "device": task.y0.device, "seed": check_seed(seed)}
        source: Any = (
            BrownianIncrements(grid, shape, levels=about.levels, **kind)
            if bm is None
            else FractionalIncrements(bm, grid, shape, levels=about.levels, **kind)
        )
    elif isinstance(bm, BrownianTree):
        if dt is None:
            raise OptionError("a solve with fixed steps on a BrownianTree needs dt=, the largest step.")
        if area:
            raise OptionError(
                f"method {about.name!r} with general noise needs Lévy areas, which a BrownianTree lacks: "
                "pass BrownianIncrements(...).with_area(), or use method='euler' or 'heun'."
            )
        _check_levels(bm.levels, about.levels, about.name)
        source = TreeOnGrid(bm, make_grid(task.times.tolist(), dt, jumps))
    elif hasattr(bm, "block"):
        source = bm.with_levels(about.levels) if len(bm.levels) < len(about.levels) else bm
    else:
        raise OptionError(f"bm must be BrownianIncrements, a BrownianTree or a MarkovFBM; got {type(bm).__name__}.")
    if area and getattr(source, "area", None) is None:
        source = source.with_area()
    if bm is not None and tuple(getattr(bm, "shape", shape)) != shape:
        raise ShapeError(f"the Brownian path has increments of shape {tuple(bm.shape)}; the noise needs {shape}.")
    return PaddedNoise(source, source.grid) if task.padded else source


def make_tree(task: Task, seed: int | None, bm: Any, resolution: float) -> Any:
    """A path that can be asked at any times."""
    if bm is not None and not isinstance(bm, BrownianTree):
        raise OptionError("adaptive steps need a path that can be asked anywhere: pass a BrownianTree as bm.")
    about, terms, times = task.method.about, task.terms, task.times.tolist()
    if about.area and terms.noise == "general" and terms.channels[-1] > 1:
        raise OptionError(f"method {about.name!r} with general noise needs Lévy areas, which a BrownianTree lacks.")
    shape = (task.y0.shape[0], *terms.channels)
    kind: dict[str, Any] = {"dtype": task.y0.dtype, "device": task.y0.device}
    tree = bm
    if tree is None:
        tree = BrownianTree(
            times[0], times[-1], shape, seed=check_seed(seed), tol=resolution, levels=about.levels, **kind
        )
    elif tuple(tree.shape) != shape:
        raise ShapeError(f"the Brownian path has increments of shape {tuple(tree.shape)}; the noise needs {shape}.")
    _check_levels(tree.levels, about.levels, about.name)
    return PaddedNoise(tree, times) if task.padded else tree


def _check_levels(have: str, need: str, name: str) -> None:
    """Refuse a path that lacks the space-time area."""
    if len(have) < len(need):
        raise OptionError(
            f"method {name!r} needs the space-time area H, which the Brownian path lacks: make it with levels={need!r}."
        )

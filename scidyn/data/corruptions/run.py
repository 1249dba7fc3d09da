"""Apply corruptions to a record, or simulate one in which they act inside."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from scidyn._check.values import integer
from scidyn.data.corruptions.kinds import Corruption
from scidyn.data.schema import from_arrays
from scidyn.errors import OptionError, ShapeError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["corrupt", "simulate_corrupted"]

Step = Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]


def corrupt(ds: xr.Dataset, corruptions: Sequence[Corruption], *, seed: int) -> xr.Dataset:
    """Corrupt what is seen of a record; kinds are applied in order and noted in the attributes.

    Parameters
    ----------
    ds : xarray.Dataset
        Kind ``trajectories`` or ``irregular``.
    corruptions : sequence of Corruption
        Kinds that act on records: SensorNoise, Quantise, Blackout, HideState.
    seed : int
        Seed; corruption k draws from ``SeedSequence([seed, k])``, so adding one leaves the others as they are.

    Returns
    -------
    xarray.Dataset
        With the attribute ``corruptions``, JSON that names kinds, settings and seed.

    Raises
    ------
    scidyn.errors.OptionError
        If a kind acts inside the dynamics; simulate with :func:`simulate_corrupted` then.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.data.corruptions import Quantise, corrupt
    >>> coarse = corrupt(scidyn.datasets.load("lynx_hare"), [Quantise(10.0)], seed=0)
    >>> coarse["hare"].values[:3].tolist()
    [30.0, 50.0, 70.0]
    """
    inside = [c for c in corruptions if c.inside]
    if inside:
        raise OptionError(
            f"{type(inside[0]).__name__} acts inside the dynamics and cannot be added to a finished record; "
            "use simulate_corrupted."
        )
    return _recorded(ds, corruptions, integer("seed", seed, at_least=0))


def simulate_corrupted(
    laws: Sequence[Step],
    initial: np.ndarray,
    times: np.ndarray,
    corruptions: Sequence[Corruption] = (),
    *,
    controls: np.ndarray | None = None,
    names: Sequence[str],
    units: Sequence[str],
    time_units: str,
    seed: int,
) -> xr.Dataset:
    """Simulate trajectories in which corruptions act, and record them as the last kinds see them.

    Parameters
    ----------
    laws : sequence of callable
        ``law(x, u, t, h) -> x`` one step on, for states (trajectory, state); law 1, where given, is
        what a :class:`RegimeSwitch` changes to.
    initial : numpy.ndarray, shape (trajectory, state)
        States at the first time.
    times : numpy.ndarray, shape (time,)
        Increasing.
    corruptions : sequence of Corruption
        Any kinds.
    controls : numpy.ndarray, shape (trajectory, time, control), optional
        Wanted inputs, held from each time to the next.
    names, units : sequence of str
        States and their units.
    time_units : str
        Units of time.
    seed : int
        Seed of everything random.

    Returns
    -------
    xarray.Dataset
        Kind ``trajectories``; wanted inputs are variables ``u0``, … with the role ``control``.

    Raises
    ------
    scidyn.errors.OptionError
        If a regime switches and only one law is given.
    scidyn.errors.ShapeError
        If shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from scidyn.data.corruptions import ProcessNoise, simulate_corrupted
    >>> ds = simulate_corrupted([lambda x, u, t, h: 0.9 * x], np.ones((3, 1)), np.arange(5.0),
    ...     [ProcessNoise(0.1)], names=["x"], units=["m"], time_units="s", seed=0)
    >>> ds["x"].shape
    (3, 5)
    """
    from scidyn.data.corruptions.kinds import RegimeSwitch

    x = np.array(initial, dtype=float)
    times = np.asarray(times, dtype=float)
    if x.ndim != 2 or x.shape[1] != len(names):
        raise ShapeError(f"initial has shape {x.shape}; (trajectory, {len(names)}) is needed for {list(names)}.")
    u = np.zeros((x.shape[0], times.size, 1)) if controls is None else np.asarray(controls, dtype=float)
    if u.shape[:2] != (x.shape[0], times.size) or u.ndim != 3:
        raise ShapeError(f"controls have shape {u.shape}; ({x.shape[0]}, {times.size}, control) is needed.")
    if any(isinstance(c, RegimeSwitch) for c in corruptions) and len(laws) < 2:
        raise OptionError("RegimeSwitch needs a second law; pass laws=[before, after].")
    seed = integer("seed", seed, at_least=0)
    generators = [np.random.default_rng(np.random.SeedSequence([seed, 1, k])) for k in range(len(corruptions))]
    regime = np.zeros(x.shape[0], dtype=int)
    path = [x]
    for k in range(times.size - 1):
        h = float(times[k + 1] - times[k])
        acting = u[:, k]
        for c, g in zip(corruptions, generators, strict=True):
            regime = c.regime(regime, float(times[k]), h, g)
            acting = c.control(acting, g)
        x = _advance(laws, regime, x, acting, float(times[k]), h)
        for c, g in zip(corruptions, generators, strict=True):
            x = c.state(x, g)
        path.append(x)
    ds = from_arrays(np.stack(path, 1), times, names=names, units=units, time_units=time_units)
    if controls is not None:
        for j in range(u.shape[2]):
            ds[f"u{j}"] = (("trajectory", "time"), u[:, :, j], {"units": "1", "role": "control"})
    return _recorded(ds, corruptions, seed)


def _advance(laws: Sequence[Step], regime: np.ndarray, x: np.ndarray, u: np.ndarray, t: float, h: float) -> np.ndarray:
    if not regime.any():
        return laws[0](x, u, t, h)
    return np.where((regime == 1)[:, None], laws[1](x, u, t, h), laws[0](x, u, t, h))


def _recorded(ds: xr.Dataset, corruptions: Sequence[Corruption], seed: int) -> xr.Dataset:
    for k, corruption in enumerate(corruptions):
        ds = corruption.record(ds, np.random.default_rng(np.random.SeedSequence([seed, k])))
    done = json.loads(str(ds.attrs.get("corruptions", "[]")))
    noted = [*done, {"seed": seed, "kinds": [c.describe() for c in corruptions]}]
    return ds.assign_attrs(corruptions=json.dumps(noted))

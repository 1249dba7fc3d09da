"""``sdeint`` and ``sdeint_adjoint`` with the signatures of torchsde."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.solve import solve_sde

__all__ = ["sdeint", "sdeint_adjoint"]

NAMES = {"euler": "euler_maruyama", "srk": "sriw1", "adjoint_reversible_heun": "reversible_heun"}
DEFAULT = {"diagonal": "srk", "additive": "srk", "scalar": "srk", "general": "euler"}


class _Interval:
    """A path in torchsde's form, ``bm(ta, tb)``, asked as ours are."""

    def __init__(self, bm: Any, dtype: torch.dtype) -> None:
        self.bm, self.dtype = bm, dtype
        area = getattr(bm, "levy_area_approximation", "none")
        self.levels = "W" if area == "none" else "WH"

    def increment(self, s: float, t: float) -> Noise:
        """Noise over ``[s, t]``."""
        if self.levels == "W":
            return Noise(self.bm(s, t))
        W, U = self.bm(s, t, return_U=True)
        return Noise(W, U / (t - s) - 0.5 * W)


def sdeint(
    sde: Any,
    y0: Tensor,
    ts: Any,
    bm: Any = None,
    method: str | None = None,
    dt: float = 1e-3,
    adaptive: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-4,
    dt_min: float = 1e-5,
    options: dict[str, Any] | None = None,
    names: dict[str, str] | None = None,
    logqp: bool = False,
    seed: int | None = None,
    adjoint: str = "direct",
) -> Any:
    """Solve an SDE given as an object, with torchsde's arguments and result.

    Parameters
    ----------
    sde : object
        With methods ``f(t, y)``, ``g(t, y)`` (and ``h`` for ``logqp``), attributes ``noise_type``, ``sde_type``.
    y0 : Tensor, shape (batch, D)
        Initial states.
    ts : array_like, shape (T,)
        Increasing times.
    bm : object, optional
        A scidyn path, or an object called as ``bm(ta, tb)``.
    method : str, optional
        torchsde's or scidyn's name.
    dt, adaptive, rtol, atol, dt_min
        As in :func:`scidyn.solvers.solve_sde`.
    options : dict, optional
        Accepted and ignored.
    names : dict, optional
        Other names of the methods: keys "drift", "diffusion", "prior_drift".
    logqp : bool
        Also return the increments of the path divergence, (T - 1, batch).
    seed : int, optional
        Seed of the path; without it and without ``bm`` one is taken from torch's global generator, so
        that ``torch.manual_seed`` decides as it does for torchsde.
    adjoint : str
        Gradient: see :func:`scidyn.solvers.solve_sde`.

    Returns
    -------
    Tensor, shape (T, batch, D)
        With ``logqp`` a pair with the divergences.

    Raises
    ------
    scidyn.errors.ScidynError
        As :func:`scidyn.solvers.solve_sde`.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.compat.sde import sdeint
    >>> class Decay:
    ...     noise_type, sde_type = "diagonal", "ito"
    ...     def f(self, t, y):
    ...         return -y
    ...     def g(self, t, y):
    ...         return 0.1 * y
    >>> sdeint(Decay(), torch.ones(3, 2), [0.0, 0.5, 1.0], dt=0.1, seed=0).shape
    torch.Size([3, 3, 2])
    """
    given = names or {}
    noise, calculus = getattr(sde, "noise_type", None), getattr(sde, "sde_type", None)
    if noise is None or calculus is None:
        raise OptionError(f"{type(sde).__name__} needs the attributes noise_type and sde_type.")
    drift, diffusion = _functions(sde, given)
    if method is None:
        method = DEFAULT.get(noise, "euler") if calculus == "ito" else "midpoint"
    own = NAMES.get(method, method)
    if own == "sriw1" and noise == "additive":
        own = "sra1"
    if bm is None and seed is None:
        seed = int(torch.randint(2**31 - 1, (), device="cpu"))
    path = bm if bm is None or hasattr(bm, "increment") or hasattr(bm, "block") else _Interval(bm, y0.dtype)
    solution = solve_sde(
        drift,
        diffusion,
        y0,
        ts,
        noise=noise,
        calculus=calculus,
        method=own,
        dt=None if hasattr(path, "block") else dt,
        seed=seed,
        bm=path,
        adaptive=adaptive,
        rtol=rtol,
        atol=atol,
        dt_min=dt_min,
        prior_drift=getattr(sde, given.get("prior_drift", "h")) if logqp else None,
        adjoint=adjoint,
        check=False,
    )
    y = solution.y.transpose(0, 1)
    if logqp and solution.log_ratio is not None:
        return y, solution.log_ratio.transpose(0, 1).diff(dim=0)
    return y


def _functions(sde: Any, names: dict[str, str]) -> tuple[Any, Any]:
    """Drift and diffusion under their own or other names, or from ``f_and_g``."""
    f, g = names.get("drift", "f"), names.get("diffusion", "g")
    if hasattr(sde, f) and hasattr(sde, g):
        return getattr(sde, f), getattr(sde, g)
    if hasattr(sde, "f_and_g"):
        return (lambda t, y: sde.f_and_g(t, y)[0]), (lambda t, y: sde.f_and_g(t, y)[1])
    raise OptionError(f"{type(sde).__name__} needs methods {f!r} and {g!r}, or 'f_and_g'.")


def sdeint_adjoint(sde: Any, y0: Tensor, ts: Any, bm: Any = None, method: str | None = None, **options: Any) -> Any:
    """As :func:`sdeint`, with a gradient that stores no tape.

    The discrete gradient of the steps taken replaces torchsde's continuous adjoint: it is exact, and
    needs neither ``adjoint_method`` nor ``adjoint_params``, which are accepted and ignored.

    Parameters
    ----------
    sde, y0, ts, bm, method
        As in :func:`sdeint`.
    **options
        Other arguments of :func:`sdeint`; those that start with ``adjoint_`` are ignored.

    Returns
    -------
    Tensor, shape (T, batch, D)

    Raises
    ------
    scidyn.errors.ScidynError
        As :func:`scidyn.solvers.solve_sde`.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers.compat.sde import sdeint_adjoint
    >>> class Decay(torch.nn.Module):
    ...     noise_type, sde_type = "diagonal", "stratonovich"
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.rate = torch.nn.Parameter(torch.tensor(1.0))
    ...     def f(self, t, y):
    ...         return -self.rate * y
    ...     def g(self, t, y):
    ...         return 0.1 * y
    >>> model = Decay()
    >>> sdeint_adjoint(model, torch.ones(3, 2), [0.0, 1.0], dt=0.1, seed=0).sum().backward()
    >>> model.rate.grad is not None
    True
    """
    kept = {k: v for k, v in options.items() if not k.startswith("adjoint_")}
    return sdeint(sde, y0, ts, bm, method, adjoint="discrete", **kept)

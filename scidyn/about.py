"""About this installation, and what to cite."""

from __future__ import annotations

import platform
import re
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

from scidyn._check.values import did_you_mean
from scidyn.errors import OptionError

__all__ = ["cite", "show_versions"]

_PACKAGES = (
    "torch", "torchdiffeq", "torchsde", "neuraloperator", "numpy", "scipy", "xarray", "h5py", "h5netcdf",
    "safetensors", "pydantic", "typer", "rich", "matplotlib",
)  # fmt: skip

# What each class or method of the library rests on: keys of references.bib.
_WORKS: dict[str, tuple[str, ...]] = {
    "LotkaVolterra": ("lotka", "volterra"),
    "Lorenz63": ("lorenz",),
    "VanDerPol": ("van_der_pol",),
    "MechanisticODE": ("levenberg_marquardt", "profile_likelihood"),
    "NeuralODE": ("neural_ode", "adam", "bfgs"),
    "HybridODE": ("hybrid_ode", "adam", "bfgs"),
    "Adam": ("adam",),
    "LBFGS": ("bfgs",),
    "tsit5": ("tsit5",),
    "dopri5": ("dopri5",),
    "rk4": ("rk4",),
}


def show_versions() -> None:
    """Print what a report of a fault should contain: versions, machine, threads, accelerators.

    Examples
    --------
    >>> import scidyn
    >>> scidyn.show_versions()
    scidyn ...
    """
    import torch

    import scidyn

    rows = {"scidyn": scidyn.__version__, "python": platform.python_version(), "system": platform.platform()}
    rows |= {name: _version(name) for name in _PACKAGES}
    rows["threads"] = str(torch.get_num_threads())
    rows["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    width = max(map(len, rows))
    sys.stdout.write("".join(f"{name.ljust(width)}  {value}\n" for name, value in rows.items()))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cite(obj: Any = None) -> str:
    """Say in BibTeX what to cite: scidyn, and the works that an object rests on.

    Parameters
    ----------
    obj : estimator, scidyn.systems.System, class or str, optional
        A model (its system and its solver are included), an equation, or a name such as
        ``"tsit5"``; default scidyn alone.

    Returns
    -------
    str
        BibTeX entries, scidyn first.

    Raises
    ------
    scidyn.errors.OptionError
        If a name is unknown, or nothing is known to cite for the object.

    Examples
    --------
    >>> import scidyn
    >>> print(scidyn.cite(scidyn.systems.Lorenz63()))
    @software{scidyn,
    ...
    @article{lorenz,
    ...
    """
    entries = _entries()
    keys = list(dict.fromkeys(_keys(obj))) if obj is not None else []
    return "\n\n".join([_own_entry(), *(entries[key] for key in keys)])


def _keys(obj: Any) -> list[str]:
    if isinstance(obj, str):
        if obj not in _WORKS:
            raise OptionError(
                f"cite knows no work named {obj!r}; known: {', '.join(_WORKS)}.{did_you_mean(obj, _WORKS)}"
            )
        return list(_WORKS[obj])
    kind = obj if isinstance(obj, type) else type(obj)
    own = next((_WORKS[c.__name__] for c in kind.__mro__ if c.__name__ in _WORKS), None)
    parts = {} if isinstance(obj, type) else {n: getattr(obj, n, None) for n in ("system", "method")}
    keys = list(own or ())
    if parts.get("system") is not None:
        keys += _keys(parts["system"])
    if own is not None and kind.__name__.endswith("ODE"):
        method = parts.get("method")
        keys += _WORKS.get(method if isinstance(method, str) else "tsit5", ())
    if not keys:
        if kind.__module__.startswith("scidyn.systems") or getattr(obj, "parameter_names", None) is not None:
            return []
        raise OptionError(f"cite knows no work behind {kind.__name__}; pass a model, an equation or a method's name.")
    return keys


@cache
def _entries() -> dict[str, str]:
    """The entries of references.bib by key."""
    text = files("scidyn").joinpath("references.bib").read_text(encoding="utf-8")
    blocks = [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip()]
    return {block.partition("{")[2].partition(",")[0]: block for block in blocks}


def _own_entry() -> str:
    import scidyn

    return (
        "@software{scidyn,\n  author = {{The scidyn developers}},\n"
        "  title = {scidyn: scientific modeling of dynamical systems and {PDEs} in {PyTorch}},\n"
        f"  version = {{{scidyn.__version__}}}, year = {{2026}}\n}}"
    )

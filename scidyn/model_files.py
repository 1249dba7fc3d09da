"""Model files: a folder of safetensors and JSON that holds a fitted estimator; opening one runs no code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scidyn._check.values import did_you_mean
from scidyn.errors import ArtifactError

if TYPE_CHECKING:
    from scidyn.sysid.estimator import Estimator

__all__ = ["load", "loadable"]


def loadable() -> dict[str, type]:
    """Classes that :func:`load` may build, by the name in a model file; no other name is imported.

    Returns
    -------
    dict of str to type

    Examples
    --------
    >>> from scidyn.model_files import loadable
    >>> "MechanisticODE" in loadable()
    True
    """
    from scidyn import sysid
    from scidyn.sysid.estimator import Estimator

    classes = [getattr(sysid, name) for name in sysid.__all__]
    return {c.__name__: c for c in classes if isinstance(c, type) and issubclass(c, Estimator)}


def load(path: str | Path, *, systems: Sequence[type] = ()) -> Any:
    """Read a fitted model that ``model.save(path)`` wrote; it predicts bit for bit as before.

    Parameters
    ----------
    path : str or Path
        The model's folder.
    systems : sequence of type
        Classes of your own systems that the model may use, beside those of :mod:`scidyn.systems`.

    Returns
    -------
    Estimator
        Fitted.

    Raises
    ------
    scidyn.errors.ArtifactError
        If a file is missing, truncated, altered, oversized, of an unknown version, or names a class
        that is not a model of scidyn; the file is named.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.sysid import MechanisticODE
    >>> from scidyn.systems import LotkaVolterra
    >>> model = MechanisticODE(LotkaVolterra(), profile=False).fit(scidyn.datasets.load("lynx_hare"))
    >>> again = scidyn.load(model.save("lynx-hare"))
    >>> again.predict([1921.0]).identical(model.predict([1921.0]))
    True
    """
    from scidyn.data.io.artefact import read_artefact
    from scidyn.sysid.archive import unpack

    path = Path(path)
    manifest, tensors = read_artefact(path)
    known = loadable()
    name = manifest.get("class")
    if name not in known:
        raise ArtifactError(
            f"{path} holds a {name!r}, which is not a model of scidyn (known: {', '.join(known)})."
            f"{did_you_mean(name, known)}"
        )
    cls: type[Estimator] = known[name]
    try:
        return unpack(cls, manifest, tensors, systems)
    except ArtifactError as error:
        raise ArtifactError(f"{path} cannot be loaded: {error}") from error

"""Options of an estimator: stored by name, copied, changed, written to files."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from scidyn._check.values import known_keys
from scidyn.errors import OptionError

__all__ = ["Options", "plain"]


class Options:
    """A class whose constructor stores its arguments under their names and does nothing else."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Refuse unknown options by name, with the nearest known one."""
        known_keys(cls.__name__, options, cls._option_names())
        return super().__new__(cls)

    @classmethod
    def _option_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Options of the constructor and their values.

        Parameters
        ----------
        deep : bool
            Accepted for compatibility with scikit-learn; nothing is nested.

        Returns
        -------
        dict
        """
        return {name: getattr(self, name) for name in self._option_names()}

    def set_params(self, **options: Any) -> Any:
        """Change options by name; an unknown one raises OptionError with the nearest known name.

        Returns
        -------
        Estimator
            Itself.
        """
        known_keys(type(self).__name__, options, self._option_names())
        for name, value in options.items():
            setattr(self, name, value)
        return self

    def clone(self) -> Any:
        """An unfitted copy with the same options."""
        return type(self)(**self.get_params())

    def __repr__(self) -> str:
        defaults = {k: p.default for k, p in inspect.signature(type(self).__init__).parameters.items()}
        shown = [
            f"{k}={v!r}" if defaults[k] is not inspect.Parameter.empty else repr(v)
            for k, v in self.get_params().items()
            if defaults[k] is inspect.Parameter.empty or v != defaults[k]
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def plain(value: Any) -> Any:
    """A JSON form of an option."""
    from scidyn.systems import System

    if isinstance(value, System):
        return {"system": type(value).__name__, "values": dict(value.values)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    raise OptionError(f"the option value {value!r} cannot be written to a model file; use numbers, strings and lists.")

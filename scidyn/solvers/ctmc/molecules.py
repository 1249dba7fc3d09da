"""Counts of molecules: written reactions, whole numbers, which molecules a reaction takes."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from scidyn._check.tensors import finite, position
from scidyn.errors import OptionError

__all__ = ["not_negative", "read_sides", "slots", "whole"]

_TERM = re.compile(r"^(\d+)?\s*\*?\s*([^\W\d]\w*)$")


def slots(reactants: Tensor) -> tuple[Tensor, Tensor]:
    """Species and number already taken of each reaction's m-th molecule, each (order, R).

    Reactions of lower order point to a column of ones behind the species.
    """
    count, width = reactants.shape
    order = int(reactants.sum(-1).max())
    species = torch.full((order, count), width, dtype=torch.long, device=reactants.device)
    taken = torch.zeros(order, count, dtype=reactants.dtype, device=reactants.device)
    for r, row in enumerate(reactants.long().tolist()):
        molecules = [(s, k) for s, needed in enumerate(row) for k in range(needed)]
        for m, (s, k) in enumerate(molecules):
            species[m, r], taken[m, r] = s, k
    return species, taken


def whole(name: str, value: Tensor) -> Tensor:
    """Return ``value`` in double precision if all entries are whole and not negative."""
    x = torch.as_tensor(value).to(torch.float64)
    finite(name, x)
    not_negative(name, x, "counts cannot be negative")
    part = x != x.round()
    if bool(part.any()):
        first = int(part.reshape(-1).to(torch.uint8).argmax())
        raise OptionError(
            f"{name}{position(first, tuple(x.shape))} is {x.reshape(-1)[first].item():g}; "
            "whole numbers of molecules are needed: round, or multiply concentrations by the volume."
        )
    return x


def not_negative(name: str, value: Tensor, why: str) -> None:
    """Raise OptionError naming the first negative entry."""
    bad = value < 0
    if bool(bad.any()):
        first = int(bad.reshape(-1).to(torch.uint8).argmax())
        entry = value.reshape(-1)[first].item()
        raise OptionError(f"{name}{position(first, tuple(value.shape))} is {entry:g}; {why}.")


def read_sides(text: str) -> tuple[dict[str, int], dict[str, int]]:
    """Molecules on the left and right of one written reaction."""
    halves = text.split("->")
    if len(halves) != 2:
        raise OptionError(f"reaction {text!r} must have one '->', as in 'A + 2 B -> C'.")
    left, right = (_terms(half, text) for half in halves)
    return left, right


def _terms(half: str, text: str) -> dict[str, int]:
    """``A + 2 B`` as {"A": 1, "B": 2}; ``0`` as nothing."""
    found: dict[str, int] = {}
    if half.strip() in {"0", "∅"}:
        return found
    for term in half.split("+"):
        match = _TERM.match(term.strip())
        if match is None:
            raise OptionError(f"cannot read {term.strip()!r} in reaction {text!r}; write '2 A', 'A' or '0'.")
        found[match[2]] = found.get(match[2], 0) + int(match[1] or 1)
    return found

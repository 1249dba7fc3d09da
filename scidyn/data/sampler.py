"""The order in which windows are drawn: seeded per epoch, resumable, sliced over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from scidyn._check.values import choice, integer, known_keys
from scidyn.errors import DataError, OptionError

__all__ = ["Sampler"]


class Sampler:
    """Draw the numbers ``0 … size − 1`` in batches, epoch after epoch.

    The order of epoch e comes from ``SeedSequence(seed, e)`` alone, so it does not depend on threads,
    processes or what was drawn before; rank r of W takes the places r, r + W, … of it.

    Parameters
    ----------
    size : int
        How many things there are.
    batch : int
        How many make a batch.
    seed : int
        Seed of every epoch.
    shuffle : {"full", "chunk", "length", "none"}
        ``chunk`` shuffles blocks and then inside groups of blocks, so that reads stay near each other;
        ``length`` shuffles, sorts by length inside runs of a few batches, and shuffles those batches,
        so that things of one batch need little padding.
    blocks : numpy.ndarray of int, shape (size,), optional
        Block of each thing, for ``shuffle="chunk"``.
    lengths : numpy.ndarray of int, shape (size,), optional
        Length of each thing, for ``shuffle="length"``.
    drop_last : bool
        Leave out a last batch that is not full; with several ranks also what does not divide evenly.
    rank, world : int
        This process and how many share the epoch. Without ``drop_last`` the first things of the epoch
        are drawn again so that all ranks make the same number of batches.

    Examples
    --------
    >>> from scidyn.data import Sampler
    >>> sampler = Sampler(5, batch=2, seed=0, shuffle="none")
    >>> [batch.tolist() for batch in sampler]
    [[0, 1], [2, 3], [4]]
    """

    group = 16
    """Blocks, or batches of all ranks, that are mixed with each other under ``chunk`` or ``length``."""

    def __init__(
        self,
        size: int,
        batch: int = 64,
        *,
        seed: int = 0,
        shuffle: str = "full",
        blocks: np.ndarray | None = None,
        lengths: np.ndarray | None = None,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.size = integer("size", size, at_least=1)
        self.batch = integer("batch", batch, at_least=1)
        self.seed = integer("seed", seed, at_least=0)
        self.shuffle = choice("shuffle", shuffle, ("full", "chunk", "length", "none"))
        self.world = integer("world", world, at_least=1)
        self.rank = integer("rank", rank, at_least=0)
        if self.rank >= self.world:
            raise OptionError(f"rank must be below world = {self.world}; got {rank}.")
        if shuffle == "chunk" and (blocks is None or len(blocks) != size):
            raise OptionError(f"shuffle='chunk' needs blocks with {size} entries.")
        if shuffle == "length" and (lengths is None or len(lengths) != size):
            raise OptionError(f"shuffle='length' needs lengths with {size} entries.")
        self.blocks = blocks
        self.lengths = lengths
        self.drop_last = drop_last
        self.epoch = 0
        self.position = 0
        if drop_last and len(self) == 0:
            raise DataError(
                f"drop_last leaves nothing: {size} windows over {world} ranks make no full batch of {batch}; "
                "take a smaller batch or drop_last=False."
            )

    def __len__(self) -> int:
        mine = self._mine()
        return mine // self.batch if self.drop_last else -(-mine // self.batch)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The rest of the current epoch; the next iteration begins the next epoch."""
        for numbers in self.rest():
            self.advance()
            yield numbers
        self.finish()

    def rest(self) -> list[np.ndarray]:
        """The batches of the current epoch that have not been drawn yet."""
        order = self.order(self.epoch)
        return [order[k * self.batch : (k + 1) * self.batch] for k in range(self.position, len(self))]

    def advance(self) -> None:
        """Count one more batch as drawn."""
        self.position += 1

    def finish(self) -> None:
        """Begin the next epoch."""
        self.epoch, self.position = self.epoch + 1, 0

    def order(self, epoch: int) -> np.ndarray:
        """The numbers that this rank draws in ``epoch``, in their order."""
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, epoch]))
        if self.shuffle == "none":
            order = np.arange(self.size)
        elif self.shuffle == "full":
            order = generator.permutation(self.size)
        elif self.shuffle == "chunk":
            order = self._by_block(generator)
        else:
            order = self._by_length(generator)
        even = self._mine() * self.world
        return np.resize(order, even)[self.rank :: self.world]

    def state(self) -> dict[str, int]:
        """What :meth:`resume` needs: seed, epoch, batches drawn in it, and the layout of the draw."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
            "size": self.size,
            "batch": self.batch,
            "world": self.world,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state` was taken.

        Raises
        ------
        scidyn.errors.OptionError
            If the state belongs to other data, another batch size or another number of ranks.
        """
        known_keys("state", state, self.state())
        for key in ("size", "batch", "world"):
            if state.get(key) != getattr(self, key):
                raise OptionError(
                    f"The state was taken with {key} = {state.get(key)}, here it is {getattr(self, key)}."
                )
        self.seed = integer("seed", state.get("seed"), at_least=0)
        self.epoch = integer("epoch", state.get("epoch"), at_least=0)
        self.position = integer("position", state.get("position"), at_least=0)

    def _mine(self) -> int:
        return self.size // self.world if self.drop_last else -(-self.size // self.world)

    def _by_block(self, generator: np.random.Generator) -> np.ndarray:
        blocks = np.asarray(self.blocks)
        names, codes = np.unique(blocks, return_inverse=True)
        place = np.empty(names.size, dtype=np.int64)
        place[generator.permutation(names.size)] = np.arange(names.size)
        key = generator.random(self.size)
        return np.lexsort((key, place[codes] // self.group))

    def _by_length(self, generator: np.random.Generator) -> np.ndarray:
        lengths = np.asarray(self.lengths)
        order = generator.permutation(self.size)
        step = self.batch * self.world  # what all ranks draw at once
        run = np.arange(self.size) // (self.group * step)
        order = order[np.lexsort((lengths[order], run))]
        full = self.size // step
        shuffled = order[: full * step].reshape(full, step)[generator.permutation(full)]
        return np.concatenate([shuffled.ravel(), order[full * step :]])

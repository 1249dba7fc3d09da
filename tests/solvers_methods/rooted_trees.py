"""Rooted trees, their densities and elementary weights: the order conditions of Runge–Kutta methods."""

import math

import numpy as np


def trees(order, largest=None):
    """All rooted trees with ``order`` vertices, each a sorted tuple of its branches."""
    if order == 1:
        return [()]
    found = set()

    def forests(total, largest):
        if total == 0:
            yield ()
        for size in range(min(total, largest), 0, -1):
            for first in trees(size):
                for rest in forests(total - size, size):
                    yield (first, *rest)

    for forest in forests(order - 1, order - 1):
        found.add(tuple(sorted(forest)))
    return sorted(found)


def size(tree):
    return 1 + sum(size(branch) for branch in tree)


def density(tree):
    return size(tree) * math.prod(density(branch) for branch in tree)


def weight(tree, a):
    value = np.ones(len(a))
    for branch in tree:
        value = value * (a @ weight(branch, a))
    return value

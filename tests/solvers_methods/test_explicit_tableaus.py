"""Explicit methods against all order conditions, by enumeration of rooted trees."""

import numpy as np
import pytest
from rooted_trees import density, trees, weight

from scidyn.solvers.high_order_tableaus import DOPRI8, VERN7
from scidyn.solvers.tableaus import METHODS

TABLEAUS = [*METHODS.values(), VERN7, DOPRI8]


def matrix(tableau):
    a = np.zeros((len(tableau.c), len(tableau.c)))
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = row
    return a


def defect(weights, a, order):
    """Largest violation of the conditions of exactly this order."""
    return max(abs(weights @ weight(tree, a) - 1 / density(tree)) for tree in trees(order))


@pytest.mark.parametrize("tableau", TABLEAUS, ids=lambda t: t.name)
def test_order_conditions(tableau):
    a, b = matrix(tableau), np.array(tableau.weights)
    np.testing.assert_allclose(a.sum(axis=1), tableau.c, atol=1e-13)
    assert max(defect(b, a, n) for n in range(1, tableau.order + 1)) < 1e-13
    if tableau.order < 8:
        assert defect(b, a, tableau.order + 1) > 1e-6
    np.testing.assert_array_equal(a[-1], b)


@pytest.mark.parametrize("tableau", [t for t in TABLEAUS if t.error is not None], ids=lambda t: t.name)
def test_error_estimate_has_its_order(tableau):
    a, error = matrix(tableau), np.array(tableau.error)
    order = 6 if tableau.name == "dopri8" else tableau.error_order
    assert abs(error.sum()) < 1e-14
    assert max(abs(error @ weight(tree, a)) for n in range(1, order) for tree in trees(n)) < 1e-13
    assert max(abs(error @ weight(tree, a)) for tree in trees(order)) > 1e-6


def test_second_estimate_of_dopri8_has_order_three():
    a, error = matrix(DOPRI8), np.array(DOPRI8.second_error)
    assert max(abs(error @ weight(tree, a)) for n in range(1, 4) for tree in trees(n)) < 1e-13
    assert max(abs(error @ weight(tree, a)) for tree in trees(4)) > 1e-6


@pytest.mark.parametrize("tableau", TABLEAUS, ids=lambda t: t.name)
def test_continuous_extension(tableau):
    a, dense = matrix(tableau), np.array(tableau.dense)
    # the weights of Dopri8's extension reach 414, and so does the rounding
    tolerance = 1e-14 * max(10.0, abs(dense).max())
    np.testing.assert_allclose(dense.sum(axis=1), tableau.weights, atol=tolerance)
    powers = np.arange(1, dense.shape[1] + 1)
    slopes = np.eye(len(dense))
    np.testing.assert_allclose(dense[:, 0], slopes[0], atol=tolerance)
    if tableau.name != "tsit5":
        np.testing.assert_allclose(dense @ powers, slopes[-1], atol=10 * tolerance)
    for n in range(1, tableau.dense_order + 1):
        for tree in trees(n):
            wanted = np.zeros(dense.shape[1])
            wanted[n - 1] = 1 / density(tree)
            np.testing.assert_allclose(weight(tree, a) @ dense, wanted, atol=10 * tolerance)

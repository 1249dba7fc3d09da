"""Coefficients against the order conditions, by enumeration of rooted trees."""

from __future__ import annotations

import numpy as np
import pytest
from rooted_trees import density, trees, weight

from scidyn.solvers.stiff_tableaus import KENCARP4, KVAERNO3, KVAERNO5, RODAS5P


def coloured_weights(tree, matrices):
    """Elementary weights for every assignment of the two vector fields to the vertices below the root."""
    options = [np.ones(len(matrices[0]))]
    for branch in tree:
        branch_options = [a @ w for w in coloured_weights(branch, matrices) for a in matrices]
        options = [x * w for x in options for w in branch_options]
    return options


def matrix(tableau):
    a = np.zeros((len(tableau.c), len(tableau.c)))
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = row
        if i:
            a[i, i] = tableau.gamma
    return a


def test_number_of_trees():
    assert [len(trees(n)) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]


@pytest.mark.parametrize("tableau", [KVAERNO3, KVAERNO5, KENCARP4.implicit], ids=lambda t: t.name)
def test_esdirk_order_conditions(tableau):
    a = matrix(tableau)
    weights = a[-1]
    lower = weights - np.array(tableau.error)
    np.testing.assert_allclose(a.sum(axis=1), tableau.c, atol=1e-13)
    assert abs(sum(tableau.error)) < 1e-14
    for b, order in ((weights, tableau.order), (lower, tableau.error_order)):
        for n in range(1, order + 1):
            for tree in trees(n):
                assert abs(b @ weight(tree, a) - 1 / density(tree)) < 1e-13
        assert max(abs(b @ weight(t, a) - 1 / density(t)) for t in trees(order + 1)) > 1e-4


@pytest.mark.parametrize("tableau", [KVAERNO3, KVAERNO5, KENCARP4.implicit], ids=lambda t: t.name)
def test_predictors_extrapolate_constants_and_lines(tableau):
    for i, row in enumerate(tableau.predictor[1:], start=1):
        assert abs(sum(row) - 1) < 1e-13
        if sum(x != 0 for x in row) > 1:
            assert abs(np.dot(row, tableau.c[: len(row)]) - tableau.c[i]) < 1e-13


def test_kvaerno_methods_vanish_at_infinity():
    for tableau in (KVAERNO3, KVAERNO5):
        a = matrix(tableau)
        z = -1e9
        stages = np.linalg.solve(np.eye(len(a)) - z * a, np.ones(len(a)))
        assert abs(1 + z * a[-1] @ stages) < 1e-6


def test_additive_coupling_conditions():
    implicit = matrix(KENCARP4.implicit)
    explicit = np.zeros_like(implicit)
    for i, row in enumerate(KENCARP4.explicit):
        explicit[i, : len(row)] = row
    np.testing.assert_allclose(explicit.sum(axis=1), KENCARP4.implicit.c, atol=1e-12)
    for n in range(1, 5):
        for tree in trees(n):
            for value in coloured_weights(tree, (implicit, explicit)):
                assert abs(implicit[-1] @ value - 1 / density(tree)) < 1e-12


def test_kvaerno5_continuous_extension_has_order_four():
    a, dense = matrix(KVAERNO5), np.array(KVAERNO5.dense)
    np.testing.assert_allclose(dense.sum(axis=0), a[-1], atol=1e-13)
    for n in range(1, 5):
        for tree in trees(n):
            wanted = np.zeros(4)
            wanted[n - 1] = 1 / density(tree)
            np.testing.assert_allclose(dense @ weight(tree, a), wanted, atol=1e-12)


def test_rodas5p_order_conditions():
    """Return to the form with alpha_ij and gamma_ij, and check order 5 and the embedded order 4."""
    stages, gamma = len(RODAS5P.c), RODAS5P.gamma
    coupling, a = np.zeros((stages, stages)), np.zeros((stages, stages))
    for i in range(stages):
        coupling[i, :i], a[i, :i] = RODAS5P.coupling[i], RODAS5P.a[i]
    big_gamma = np.linalg.inv(np.eye(stages) / gamma - coupling)
    alpha = a @ big_gamma
    beta = alpha + big_gamma
    np.testing.assert_allclose(alpha.sum(axis=1), RODAS5P.c, atol=2e-12)
    np.testing.assert_allclose(big_gamma.sum(axis=1), RODAS5P.d, atol=2e-12)

    def rosenbrock_weight(tree):
        if len(tree) == 1:
            return beta @ rosenbrock_weight(tree[0])
        value = np.ones(stages)
        for branch in tree:
            value = value * (alpha @ rosenbrock_weight(branch))
        return value

    whole, without_last = np.append(a[-1, :-1], 1.0), np.append(a[-1, :-1], 0.0)
    for b, order in ((whole, RODAS5P.order), (without_last, RODAS5P.error_order)):
        weights = b @ big_gamma
        for n in range(1, order + 1):
            for tree in trees(n):
                assert abs(weights @ rosenbrock_weight(tree) - 1 / density(tree)) < 1e-11

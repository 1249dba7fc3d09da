"""C++ for a Rosenbrock method: the exact Jacobian, elimination within its band, and the stages."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from scidyn.solvers.generated.expression import Graph
from scidyn.solvers.generated.source import combination, function
from scidyn.solvers.methods.rosenbrock import Rodas
from scidyn.solvers.stiff_tableaus import RodasTableau

__all__ = ["rosenbrock"]

LARGEST_DENSE = 16
WIDEST_BAND = 16
EACH = "    for (int d = 0; d < D; ++d)"

# A(i, j) of the matrix lies at A[i][j - i + LOWER]; exchanges of rows fill LOWER more diagonals
ELIMINATION = """
static inline void factor(Work& w, const V shift, TM& failed) {
    for (int i = 0; i < D; ++i) {
        for (int j = 0; j <= LOWER + UPPER; ++j) w.A[i][j] = -shift * w.J[i][j];
        for (int j = LOWER + UPPER + 1; j < WIDTH; ++j) w.A[i][j] = all_of(0);
        w.A[i][LOWER] += 1;
    }
    for (int k = 0; k < D; ++k) {
        const int last = k + LOWER < D - 1 ? k + LOWER : D - 1;
        for (int i = k + 1; i <= last; ++i) {
            const M swap = v_abs(w.A[i][k - i + LOWER]) > v_abs(w.A[k][LOWER]);
            w.swap[k][i - k - 1] = swap;
            for (int j = 0; j <= LOWER + UPPER && k + j < D; ++j) {
                const V a = w.A[k][j + LOWER], b = w.A[i][k + j - i + LOWER];
                w.A[k][j + LOWER] = swap ? b : a;
                w.A[i][k + j - i + LOWER] = swap ? a : b;
            }
        }
        const V pivot = w.A[k][LOWER];
        failed |= wide_mask(pivot == 0);
        w.inverse[k] = 1 / pivot;
        for (int i = k + 1; i <= last; ++i) {
            const V multiplier = w.A[i][k - i + LOWER] *= w.inverse[k];
            for (int j = 1; j <= LOWER + UPPER && k + j < D; ++j)
                w.A[i][k + j - i + LOWER] -= multiplier * w.A[k][j + LOWER];
        }
    }
}
static inline void solve(const Work& w, V* b) {
    for (int k = 0; k < D; ++k) {
        const int last = k + LOWER < D - 1 ? k + LOWER : D - 1;
        for (int i = k + 1; i <= last; ++i) {
            const M swap = w.swap[k][i - k - 1];
            const V first = b[k], second = b[i];
            b[k] = swap ? second : first;
            b[i] = swap ? first : second;
        }
        for (int i = k + 1; i <= last; ++i) b[i] -= w.A[i][k - i + LOWER] * b[k];
    }
    for (int k = D - 1; k >= 0; --k) {
        V sum = b[k];
        for (int j = 1; j <= LOWER + UPPER && k + j < D; ++j) sum -= w.A[k][j + LOWER] * b[k + j];
        b[k] = sum * w.inverse[k];
    }
}
"""


def rosenbrock(graph: Graph, outputs: Sequence[int], method: Rodas) -> tuple[dict[str, object], list[str]]:
    """Definitions and functions that complete the program.

    Raises
    ------
    NotImplementedError
        If an operation has no derivative, or the band of the Jacobian is too wide.
    """
    tableau = method.tableau
    slopes = graph.derivatives(list(outputs))
    targets = {f"rate[{i}]": number for i, number in enumerate(outputs)}
    lower = upper = 0
    for i, row in enumerate(slopes):
        for leaf in row:
            if leaf[0] == "y":
                lower, upper = max(lower, i - int(leaf[1])), max(upper, int(leaf[1]) - i)  # type: ignore[call-overload]
    declared = method.algebra.bandwidth
    if declared is not None and (lower > declared[0] or upper > declared[1]):
        raise NotImplementedError("the Jacobian has entries outside of the declared band")
    if len(outputs) > LARGEST_DENSE and lower + upper + 1 > WIDEST_BAND:
        raise NotImplementedError("a large matrix without a narrow band")
    for i, row in enumerate(slopes):
        for leaf, number in row.items():
            if leaf[0] == "t":
                targets[f"w.slope[{i}]"] = number
            else:
                targets[f"w.J[{i}][{int(leaf[1]) - i + lower}]"] = number  # type: ignore[call-overload]
    stages = len(tableau.c)
    defines: dict[str, object] = {
        **{"IMPLICIT": 1, "LOWER": lower, "UPPER": upper, "WIDTH": 2 * lower + upper + 1},
        **{"S": stages, "P": len(tableau.dense) + 1},
    }
    linearise = function("linearise", graph, targets, "V* rate, Work& w")
    return defines, [linearise, ELIMINATION, _step(tableau), _polynomial(tableau)]


def _step(tableau: RodasTableau) -> str:
    gamma = tableau.gamma
    lines = [
        "static inline void step(const T t, const T h, const V* y, const V* k1, const REAL* shared, const V* own,",
        "                        Work& w, V* y1, V* err, TM& failed) {",
        f"    const V size = narrow(h), scaled = size * (REAL){gamma!r}, squared = size * scaled;",
        "    V f[D];",
        "    linearise(narrow(t), y, shared, own, f, w);",
        "    factor(w, scaled, failed);",
    ]
    for i, (node, drift) in enumerate(zip(tableau.c, tableau.d, strict=True)):
        if i:
            lines.append(f"{EACH} y1[d] = y[d] + {combination(tableau.a[i], 'w.k')};")
            lines.append(f"    rate(narrow(t + {node!r} * h), y1, shared, own, f);")
        side = f"{EACH} w.k[{i}][d] = scaled * f[d]"
        side += f" + (REAL){gamma!r} * ({combination(tableau.coupling[i], 'w.k')})" if i else ""
        lines.append(side + (f" + (REAL){drift!r} * squared * w.slope[d];" if drift else ";"))
        lines.append(f"    solve(w, w.k[{i}]);")
    lines.append(f"{EACH} err[d] = w.k[S - 1][d], y1[d] += err[d];")
    return "\n".join([*lines, "}"])


def _polynomial(tableau: RodasTableau) -> str:
    """Powers of θ in ``θ change + θ (1 - θ) (K_1 + θ K_2 + θ² K_3)``, over h."""
    last = len(tableau.dense) - 1
    lines = [
        "static inline void polynomial(const Work& w, const V* y, const V* y1, const T h, V (*c)[D]) {",
        "    const V over = narrow(h > 0 ? 1.0 / h : all_times(1.0));",
        f"{EACH} {{",
        *(f"        const V inner{p} = {combination(row, 'w.k')};" for p, row in enumerate(tableau.dense)),
        "        c[0][d] = over * (y1[d] - y[d] + inner0);",
        *(f"        c[{b}][d] = over * (inner{b} - inner{a});" for a, b in itertools.pairwise(range(last + 1))),
        f"        c[{last + 1}][d] = -over * inner{last};",
        "    }",
    ]
    return "\n".join([*lines, "}"])

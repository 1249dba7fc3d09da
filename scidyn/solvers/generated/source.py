"""Complete the C++ program with the rate of a field and the step of a method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from scidyn.solvers.generated.expression import BOOLEAN, Graph, Node
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.rosenbrock import Rodas
from scidyn.solvers.methods.stepper import Method
from scidyn.solvers.tableaus import Tableau

__all__ = ["combination", "function", "program"]

INFIX = {
    **{"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">="},
    **{"eq": "==", "ne": "!=", "and": "&", "or": "|"},
}
INLINE = 150  # a longer rate is called, so that the compiler meets it once


def program(
    graph: Graph, outputs: Sequence[int], own: int, dtype: torch.dtype, method: Method, lanes: int
) -> tuple[str, bool]:
    """Give the source of a solver, and whether its rate is long enough to spare the compiler some work."""
    single = dtype == torch.float32
    parts = [function("rate", graph, {f"out[{i}]": n for i, n in enumerate(outputs)}, "V* out")]
    defines: dict[str, object] = {
        "W": lanes,
        "REAL": "float" if single else "double",
        "MASK": "int32_t" if single else "int64_t",
        "D": len(outputs),
        "OWN": own,
    }
    if isinstance(method, ExplicitRK):
        defines |= {"S": method.tableau.stages, "P": len(method.tableau.dense[0])}
        parts += _explicit(method.tableau)
    elif isinstance(method, Rodas):
        from scidyn.solvers.generated.rosenbrock import rosenbrock

        added, written = rosenbrock(graph, outputs, method)
        defines |= added
        parts += written
    text = Path(__file__).with_name("kernel.cpp").read_text(encoding="utf-8")
    head = "".join(f"#define {name} {value}\n" for name, value in defines.items())
    return head + text.replace("RATE_AND_STEP", "\n".join(parts), 1), len(graph.nodes) > 6 * INLINE


def function(name: str, graph: Graph, targets: dict[str, int], result: str) -> str:
    """C++ function that stores nodes into places of its last arguments."""
    needed = _needed(graph, targets.values())
    lines = [
        f"    const {'M' if node[0] in BOOLEAN else 'V'} x{number} = {_expression(node)};"
        for number, node in enumerate(graph.nodes)
        if number in needed
    ]
    lines += [f"    {place} = x{number};" for place, number in targets.items()]
    kind = "static inline void" if len(needed) <= INLINE else "__attribute__((noinline)) static void"
    body = "\n".join(lines)
    return f"{kind} {name}(const V t, const V* y, const REAL* shared, const V* own, {result}) {{\n{body}\n}}\n"


def _needed(graph: Graph, numbers: object) -> set[int]:
    found: set[int] = set()
    waiting = list(numbers)  # type: ignore[call-overload]
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            node = graph.nodes[number]
            if node[0] not in ("t", "y", "shared", "own", "value"):
                waiting.extend(node[1:])
    return found


def _expression(node: Node) -> str:
    operation, x = str(node[0]), node[1:]
    if operation == "t":
        return "t"
    if operation in ("y", "own"):
        return f"{operation}[{x[0]}]"
    if operation == "shared":
        return f"all_of(shared[{x[0]}])"
    if operation == "value":
        return f"all_of({_literal(float(x[0]))})"  # type: ignore[arg-type]
    if operation in INFIX:
        return f"x{x[0]} {INFIX[operation]} x{x[1]}"
    if operation == "neg":
        return f"-x{x[0]}"
    if operation == "not":
        return f"NOT(x{x[0]})"
    if operation == "where":
        return f"x{x[0]} ? x{x[1]} : x{x[2]}"
    return f"v_{operation}({', '.join(f'x{n}' for n in x)})"


def _literal(value: float) -> str:
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return repr(value)


def combination(weights: Sequence[float], name: str) -> str:
    """Sum of ``weights[i] * name[i][d]`` without the zeros."""
    terms = [f"(REAL){w!r} * {name}[{i}][d]" for i, w in enumerate(weights) if w != 0.0]
    return " + ".join(terms) or "all_of(0)"


def _explicit(tableau: Tableau) -> list[str]:
    """Step and polynomial of an explicit Runge–Kutta method."""
    each = "    for (int d = 0; d < D; ++d)"
    lines = [
        "static inline void step(const T t, const T h, const V* y, const V* k1, const REAL* shared, const V* own,",
        "                        Work& w, V* y1, V* err, TM& failed) {",
        "    const V scale = narrow(h);",
        f"{each} w.k[0][d] = k1[d];",
    ]
    for i in range(1, tableau.stages):
        lines.append(f"{each} y1[d] = y[d] + scale * ({combination(tableau.a[i], 'w.k')});")
        lines.append(f"    rate(narrow(t + {tableau.c[i]!r} * h), y1, shared, own, w.k[{i}]);")
    lines.append(f"{each} err[d] = scale * ({combination(tableau.error or (), 'w.k')});")
    if tableau.second_error is not None:
        lines += [
            f"{each} {{",
            f"        const V first = v_abs({combination(tableau.error or (), 'w.k')});",
            f"        const V second = (REAL)0.1 * v_abs({combination(tableau.second_error, 'w.k')});",
            "        const V size = v_sqrt(first * first + second * second);",
            "        err[d] = size > 0 ? err[d] * (first / size) : err[d];",
            "    }",
        ]
    lines += ["}", "static inline void polynomial(const Work& w, const V* y, const V* y1, const T h, V (*c)[D]) {"]
    for p, column in enumerate(zip(*tableau.dense, strict=True)):
        lines.append(f"{each} c[{p}][d] = {combination(column, 'w.k')};")
    return ["\n".join([*lines, "}"])]

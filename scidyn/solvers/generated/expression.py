"""Scalar expressions of one sample's rate: nodes without duplicates, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["BOOLEAN", "Graph"]

Node = tuple[object, ...]
COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
BOOLEAN = COMPARISONS | {"and", "or", "not", "xor", "finite", "nan"}
COMMUTATIVE = frozenset({"add", "mul", "max", "min", "and", "or", "eq", "ne"})


class Graph:
    """Expressions over the time, the state and constants, each kept once and named by its number.

    A node is ``(operation, operand numbers...)``, or a leaf: ``("t",)``, ``("y", i)``, ``("shared", i)`` and
    ``("own", i)`` for constants of all samples and of each, ``("value", number)`` for a constant of the code.

    Parameters
    ----------
    limit : int
        Largest number of nodes.
    """

    def __init__(self, limit: int) -> None:
        self.nodes: list[Node] = []
        self._numbers: dict[Node, int] = {}
        self._limit = limit

    def add(self, operation: str, *operands: object) -> int:
        """Give the number of a node, simplified where a constant of the code allows it."""
        simple = self._simplify(operation, operands) if operation in SIMPLE else None
        if simple is not None:
            return simple
        if operation in COMMUTATIVE and operands[0] > operands[1]:  # type: ignore[operator]
            operands = (operands[1], operands[0])
        node = (operation, *operands)
        number = self._numbers.get(node)
        if number is None:
            if len(self.nodes) >= self._limit:
                raise OverflowError(f"the rate needs more than {self._limit} scalar operations")
            number = len(self.nodes)
            self.nodes.append(node)
            self._numbers[node] = number
        return number

    def value(self, number: float) -> int:
        """Give the node of a constant of the code."""
        return self.add("value", float(number))

    def constant(self, number: object) -> float | None:
        """Value of a constant of the code; None for anything else."""
        node = self.nodes[number]  # type: ignore[call-overload]
        return node[1] if node[0] == "value" else None

    def _simplify(self, operation: str, operands: tuple[object, ...]) -> int | None:
        known = [self.constant(x) for x in operands]
        if all(k is not None for k in known) and operation in FOLD:
            return self.value(FOLD[operation](*known))
        if operation == "mul" and 0.0 in known:
            return self.value(0.0)
        for i, j in ((0, 1), (1, 0)):
            if (operation == "mul" and known[i] == 1.0) or (operation == "add" and known[i] == 0.0):
                return operands[j]  # type: ignore[return-value]
        if operation in ("sub", "div") and known[1] == (0.0 if operation == "sub" else 1.0):
            return operands[0]  # type: ignore[return-value]
        if operation == "sub" and known[0] == 0.0:
            return self.add("neg", operands[1])
        return None

    def derivatives(self, outputs: list[int]) -> list[dict[Node, int]]:
        """Differentiate ``outputs`` by every leaf of time and state, in forward order; zeros are left out."""
        zero = self.value(0.0)
        slopes: dict[int, dict[Node, int]] = {}
        for number in range(1 + max(outputs)):
            node = self.nodes[number]
            if node[0] in ("t", "y"):
                slopes[number] = {node: self.value(1.0)}
            elif node[0] not in CONSTANT:
                inner = [slopes.get(x, {}) for x in node[1:]]  # type: ignore[call-overload]
                found = {
                    leaf: self._slope(number, node, [d.get(leaf, zero) for d in inner])
                    for leaf in dict.fromkeys(leaf for d in inner for leaf in d)
                }
                found = {leaf: slope for leaf, slope in found.items() if slope != zero}
                if found:
                    slopes[number] = found
        return [slopes.get(number, {}) for number in outputs]

    def _slope(self, number: int, node: Node, d: list[int]) -> int:
        """Chain rule at one node; ``d`` holds the derivatives of its operands."""
        operation, x = node[0], node[1:]
        if operation in ("add", "sub"):
            return self.add(operation, *d)
        if operation == "neg":
            return self.add("neg", d[0])
        if operation == "mul":
            return self.add("add", self.add("mul", d[0], x[1]), self.add("mul", x[0], d[1]))
        if operation == "div":
            return self.add("div", self.add("sub", d[0], self.add("mul", number, d[1])), x[1])
        if operation == "where":
            return self.add("where", x[0], d[1], d[2])
        if operation in ("max", "min"):
            first = self.add("ge" if operation == "max" else "le", x[0], x[1])
            return self.add("where", first, d[0], d[1])
        rule = RULES.get(str(operation))
        if rule is None or any(self.constant(slope) != 0.0 for slope in d[1:]):
            raise NotImplementedError(f"no derivative of {operation}")
        return self.add("mul", rule(self, x, number), d[0])


CONSTANT = frozenset({"shared", "own", "value"}) | BOOLEAN
SIMPLE = frozenset({"add", "sub", "mul", "div", "neg"})
FOLD: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
}


def _one_minus_square(g: Graph, x: tuple[object, ...], n: int) -> int:
    return g.add("sub", g.value(1.0), g.add("mul", n, n))


def _power_rule(g: Graph, x: tuple[object, ...], n: int) -> int:
    exponent = x[1]
    return g.add("mul", exponent, g.add("pow", x[0], g.add("sub", exponent, g.value(1.0))))


RULES: dict[str, Callable[[Graph, tuple[object, ...], int], int]] = {
    "exp": lambda g, x, n: n,
    "log": lambda g, x, n: g.add("div", g.value(1.0), x[0]),
    "sqrt": lambda g, x, n: g.add("div", g.value(0.5), n),
    "sin": lambda g, x, n: g.add("cos", x[0]),
    "cos": lambda g, x, n: g.add("neg", g.add("sin", x[0])),
    "tan": lambda g, x, n: g.add("add", g.value(1.0), g.add("mul", n, n)),
    "tanh": _one_minus_square,
    "sinh": lambda g, x, n: g.add("cosh", x[0]),
    "cosh": lambda g, x, n: g.add("sinh", x[0]),
    "abs": lambda g, x, n: g.add("sign", x[0]),
    "sign": lambda g, x, n: g.value(0.0),
    "floor": lambda g, x, n: g.value(0.0),
    "pow": _power_rule,
}

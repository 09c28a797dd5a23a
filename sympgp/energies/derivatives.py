"""Derivatives of formulas by the rules of calculus, and fast evaluation of several at once."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from torch import Tensor

from sympgp.energies.expressions import OPERATIONS, Node, negated, number_of, parse

# Derivative of each function of x.
RULES = {
    "sin": "cos(x)",
    "cos": "-sin(x)",
    "tan": "1 + tan(x)**2",
    "arcsin": "1/sqrt(1 - x**2)",
    "arccos": "-1/sqrt(1 - x**2)",
    "arctan": "1/(1 + x**2)",
    "sinh": "cosh(x)",
    "cosh": "sinh(x)",
    "tanh": "1 - tanh(x)**2",
    "arcsinh": "1/sqrt(x**2 + 1)",
    "arccosh": "1/sqrt(x**2 - 1)",
    "arctanh": "1/(1 - x**2)",
    "exp": "exp(x)",
    "log": "1/x",
    "sqrt": "1/(2*sqrt(x))",
    "abs": "sign(x)",
    "sign": "0",
}


def derivative(tree: Node, name: str) -> Node:
    """The derivative of a formula by one of its names.

    Example:
        >>> derivative(parse("p**2/2 - g*cos(q)"), "q")
        ('*', 'g', ('sin', 'q'))
    """
    if not isinstance(tree, tuple):
        return 1.0 if tree == name else 0.0
    operation, *arguments = tree
    changes = [derivative(argument, name) for argument in arguments]
    if all(change == 0.0 for change in changes):
        return 0.0
    if operation in RULES:
        return product(substituted(_rule(operation), {"x": arguments[0]}), changes[0])
    if operation == "neg":
        return opposite(changes[0])
    if operation in ("+", "-"):
        return total(changes[0], changes[1] if operation == "+" else opposite(changes[1]))
    a, b = arguments
    da, db = changes
    if operation == "*":
        return total(product(da, b), product(a, db))
    if operation == "/":
        return total(quotient(da, b), opposite(quotient(product(a, db), power(b, 2.0))))
    if operation == "**":
        by_base = product(product(b, power(a, total(b, -1.0))), da)
        return total(by_base, product(("xlogy", tree, a), db))
    # x log(y), zero where x is.
    return total(product(da, _folded(("log", b))), quotient(product(a, db), b))


@cache
def _rule(operation: str) -> Node:
    return parse(RULES[operation])


def substituted(tree: Node, values: Mapping[str, Node]) -> Node:
    """The tree with names replaced, and simplified on the way."""
    if isinstance(tree, str):
        return values.get(tree, tree)
    if isinstance(tree, float):
        return tree
    operation, *arguments = tree
    inside = [substituted(argument, values) for argument in arguments]
    rebuild = BUILDERS.get(operation)
    return rebuild(*inside) if rebuild is not None else _folded((operation, *inside))


def _folded(tree: tuple) -> Node:
    if not all(isinstance(argument, float) for argument in tree[1:]):
        return tree
    try:
        found = number_of(tree)
    except (ArithmeticError, ValueError):
        found = math.nan
    # What has no finite value is left to fail where it is evaluated.
    return found if math.isfinite(found) else tree


def total(a: Node, b: Node) -> Node:
    """``a + b``."""
    if a == 0.0:
        return b
    if b == 0.0:
        return a
    if isinstance(b, tuple) and b[0] == "neg":
        return 0.0 if a == b[1] else _folded(("-", a, b[1]))
    return _folded(("+", a, b))


def opposite(a: Node) -> Node:
    """``-a``, with the sign taken out of products."""
    if isinstance(a, tuple) and a[0] in ("*", "/"):
        if isinstance(a[1], float):
            return (product if a[0] == "*" else quotient)(-a[1], a[2])
        if isinstance(a[1], tuple) and a[1][0] == "neg":
            return (a[0], a[1][1], a[2])
    return negated(a)


def product(a: Node, b: Node) -> Node:
    """``a b``, numbers first and signs outside."""
    if a == 0.0 or b == 0.0:
        return 0.0
    if isinstance(b, float) and not isinstance(a, float):
        a, b = b, a
    if a == 1.0:
        return b
    if isinstance(a, tuple) and a[0] == "neg":
        return opposite(product(a[1], b))
    if isinstance(b, tuple) and b[0] == "neg":
        return opposite(product(a, b[1]))
    if isinstance(a, float) and isinstance(b, tuple) and b[0] == "*" and isinstance(b[1], float):
        return product(a * b[1], b[2])
    return _folded(("*", a, b))


def quotient(a: Node, b: Node) -> Node:
    """``a / b``."""
    if a == 0.0 or b == 1.0:
        return a
    if isinstance(b, float) and b != 0.0 and math.isfinite(1.0 / b):
        return product(1.0 / b, a)
    return _folded(("/", a, b))


def power(a: Node, b: Node) -> Node:
    """``a ** b``."""
    if b == 0.0:
        return 1.0
    return a if b == 1.0 else _folded(("**", a, b))


BUILDERS: dict[str, Callable[..., Node]] = {
    "+": total,
    "-": lambda a, b: total(a, opposite(b)),
    "*": product,
    "/": quotient,
    "**": power,
    "neg": opposite,
}
ARITHMETIC: dict[str, Callable[..., Tensor]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
    "neg": operator.neg,
}


class Program:
    """Several formulas as one list of operations, each common part computed once.

    Args:
        trees: the formulas.
    """

    def __init__(self, trees: Sequence[Node]) -> None:
        self._places: dict[Node, int] = {}
        # In order: names and numbers as they are, operations with the places of their arguments.
        self._steps: list[tuple[Callable[..., Tensor] | None, Node, tuple[int, ...]]] = []
        self._results = [self._place(tree) for tree in trees]

    def _place(self, tree: Node) -> int:
        if tree not in self._places:
            if isinstance(tree, tuple):
                arguments = tuple(self._place(argument) for argument in tree[1:])
                compute = ARITHMETIC.get(tree[0]) or OPERATIONS[tree[0]]
                self._steps.append((compute, tree[0], arguments))
            else:
                self._steps.append((None, tree, ()))
            self._places[tree] = len(self._steps) - 1
        return self._places[tree]

    def __call__(self, values: Mapping[str, Tensor]) -> list[Tensor | float]:
        """The formulas at these values of the names; numbers where they hold none."""
        found: list = []
        for compute, what, places in self._steps:
            if compute is not None:
                found.append(compute(*(found[place] for place in places)))
            else:
                found.append(values[what] if isinstance(what, str) else what)
        return [found[place] for place in self._results]

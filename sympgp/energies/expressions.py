"""Formulas as checked strings: parsed, never evaluated as code.

A formula becomes nested tuples: numbers are floats, names strings, and everything else
``(operation, argument, ...)`` with the operations ``+ - * / **``, ``neg`` and the functions
below. Trees without names are folded into numbers.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch

Node: TypeAlias = float | str | tuple

# Accepted names of functions, and the operation each stands for.
FUNCTIONS: dict[str, str] = {
    name: name
    for name in (
        *("sin", "cos", "tan", "arcsin", "arccos", "arctan"),
        *("sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh"),
        *("exp", "log", "sqrt", "abs", "sign"),
    )
} | {f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}
CONSTANTS = {"pi": math.pi}
OPERATIONS: dict[str, Callable[..., torch.Tensor]] = {
    name: getattr(torch, name) for name in set(FUNCTIONS.values())
} | {"xlogy": torch.xlogy}
BINARY: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
}
LONGEST = 10_000


def parse(text: str) -> Node:
    """The tree of a formula.

    Args:
        text: numbers, names, ``+ - * / **``, parentheses, ``pi`` and the functions of
            ``FUNCTIONS``.

    Raises:
        ValueError: anything else, naming ``formula`` and the place.

    Example:
        >>> parse("p**2 / (2*m) - 3*cos(q)")
        ('-', ('/', ('**', 'p', 2.0), ('*', 2.0, 'm')), ('*', 3.0, ('cos', 'q')))
    """
    plain = " ".join(text.split())
    if len(plain) > LONGEST:
        raise ValueError(f"formula: expected at most {LONGEST} characters, got {len(plain)}")
    try:
        return _Reader(plain).tree(ast.parse(plain, mode="eval").body)
    except SyntaxError as error:
        where = f" at column {error.offset}" if error.offset else ""
        raise ValueError(f"formula: cannot be read{where} of {plain!r}: {error.msg}") from error
    except (RecursionError, MemoryError) as error:
        raise ValueError("formula: nested too deeply") from error


class _Reader:
    """From Python's syntax tree to ours, refusing what is no formula."""

    def __init__(self, text: str) -> None:
        self.text = text

    def refuse(self, what: str, node: ast.AST) -> ValueError:
        column = getattr(node, "col_offset", 0) + 1
        return ValueError(f"formula: {what} at column {column} of {self.text!r}")

    def tree(self, node: ast.AST) -> Node:
        if isinstance(node, ast.Constant):
            if type(node.value) not in (int, float):
                raise self.refuse(f"expected a number, got {node.value!r}", node)
            return self.number(lambda: float(node.value), node)  # type: ignore[arg-type]
        if isinstance(node, ast.Name):
            if node.id in FUNCTIONS:
                raise self.refuse(f"{node.id} without an argument", node)
            return CONSTANTS.get(node.id, node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            inside = self.tree(node.operand)
            return inside if isinstance(node.op, ast.UAdd) else negated(inside)
        if isinstance(node, ast.BinOp):
            if type(node.op) not in BINARY:
                hint = " (a power is written **)" if isinstance(node.op, ast.BitXor) else ""
                raise self.refuse(f"{type(node.op).__name__} is no operation{hint}", node)
            left, right = self.tree(node.left), self.tree(node.right)
            return self.folded((BINARY[type(node.op)], left, right), node)
        if isinstance(node, ast.Call):
            return self.call(node)
        names = {"Attribute": "an attribute", "Subscript": "an index", "Compare": "a comparison"}
        kind = type(node).__name__
        raise self.refuse(f"{names.get(kind, kind)} is not allowed", node)

    def call(self, node: ast.Call) -> Node:
        if not isinstance(node.func, ast.Name):
            raise self.refuse("only functions called by their name are allowed, no attribute", node)
        name = node.func.id
        if name not in FUNCTIONS:
            known = ", ".join(sorted(FUNCTIONS))
            raise self.refuse(f"unknown function {name!r} (known: {known})", node)
        if len(node.args) != 1 or node.keywords:
            raise self.refuse(f"expected one argument of {name}", node)
        return self.folded((FUNCTIONS[name], self.tree(node.args[0])), node)

    def folded(self, tree: tuple, node: ast.AST) -> Node:
        """A number where all arguments are numbers."""
        if not all(isinstance(argument, float) for argument in tree[1:]):
            return tree
        return self.number(lambda: number_of(tree), node)

    def number(self, compute: Callable[[], float], node: ast.AST) -> float:
        try:
            found = compute()
        except (ArithmeticError, ValueError):
            found = math.nan
        if not math.isfinite(found):
            raise self.refuse("not a finite number", node)
        return found


def number_of(tree: tuple) -> float:
    """The value of an operation on numbers."""
    operation, *arguments = tree
    if operation in OPERATIONS:
        values = (torch.tensor(a, dtype=torch.float64) for a in arguments)
        return float(OPERATIONS[operation](*values))
    if operation == "**":
        return math.pow(*arguments)
    left, right = arguments
    if operation == "+":
        return left + right
    if operation == "-":
        return left - right
    return left * right if operation == "*" else left / right


def negated(tree: Node) -> Node:
    """``-tree``."""
    if isinstance(tree, float):
        return -tree
    if isinstance(tree, tuple) and tree[0] == "neg":
        return tree[1]
    return ("neg", tree)


def names_in(tree: Node) -> Iterator[str]:
    """The names of a tree, as often as they occur."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, tuple):
        for argument in tree[1:]:
            yield from names_in(argument)


def coordinate_names(num_dof: int) -> tuple[str, ...]:
    """Names of the state's entries: ``q, p``, or ``q1..qn, p1..pn`` of several."""
    if num_dof == 1:
        return ("q", "p")
    return tuple(f"{kind}{i + 1}" for kind in "qp" for i in range(num_dof))


def check_names(tree: Node, num_dof: int) -> None:
    """Refuse names that look like coordinates and are none.

    Raises:
        ValueError: such a name, with those that there are.
    """
    own = coordinate_names(num_dof)
    for name in names_in(tree):
        if name not in own and is_coordinate(name):
            raise ValueError(
                f"formula: {name!r} is no coordinate of {num_dof} degree(s) of freedom; "
                f"these are {', '.join(own)}"
            )


def is_coordinate(name: str) -> bool:
    """Whether a name is kept for coordinates and momenta."""
    return re.fullmatch(r"[qp]\d*", name) is not None

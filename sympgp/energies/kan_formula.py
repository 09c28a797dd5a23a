"""Formulas made of the names of a network's edges, with all their numbers fitted together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.energies.kan_fit import Descent, descended
from sympgp.energies.kan_symbols import KINDS, Symbol, affine

STEPS = 200
"""Of Levenberg and Marquardt, at most."""


@dataclass(frozen=True)
class FittedFormula:
    """Nodes that add up ``c f(a x + b)``, layer by layer, to one output.

    Attributes:
        symbols: the edges, ``r2`` being that of the whole formula; the constant is in the first
            edge into the output.
        error: root mean squared error on the data.
    """

    symbols: tuple[Symbol, ...]
    error: float

    def __call__(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """What the formula says at inputs."""
        return _value(self.symbols, _numbers(self.symbols, x), x)

    def written(self, names: Sequence[str], digits: int = 3) -> str:
        """The whole formula, with these names of the inputs."""
        texts = dict(enumerate(names))
        for layer in range(_depth(self.symbols)):
            own = [s for s in self.symbols if s.layer == layer]
            texts = {
                node: _sum([s for s in own if s.target == node], texts, digits)
                for node in sorted({s.target for s in own})
            }
        return texts[0]


def fit_formula(
    symbols: Sequence[Symbol],
    x: Float[Tensor, "points dim"],
    y: Float[Tensor, " points"],
    steps: int = STEPS,
) -> FittedFormula:
    """Fit the scales and shifts of all symbols together: ``mean((f(x) - y)^2)`` is least.

    Whether the names that edges were given one by one hold together shows in the error.

    Args:
        symbols: of all edges of a network, as :meth:`KANFunction.symbols` finds them.
        x: (N, D) inputs.
        y: (N,) values.
        steps: of Levenberg and Marquardt, at most.

    Raises:
        ValueError: there are no symbols, or their functions are not defined at the inputs.

    Source: Liu et al. (2024), section 2.5.1: edges are fixed to symbols, and the rest trained.
    """
    if not symbols:
        raise ValueError("symbols: expected those of a network's edges, got none")
    start, free = _with_one_constant(symbols, x), _free(symbols)
    objective = _Misfit(tuple(symbols), x, y, start, free.to(x.device))
    w = start[objective.free]
    if not bool(objective.value(w).isfinite()):
        raise ValueError("symbols: expected functions that are defined at the inputs")
    numbers = objective.numbers(descended(objective, w, steps))
    numbers = _with_unit_scales(symbols, numbers)
    error = (_value(symbols, numbers, x) - y).square().mean()
    r2 = 1.0 - float(error / (y - y.mean()).square().mean())
    rows = numbers.tolist()
    found = tuple(
        replace(symbol, a=a, b=b, c=c, d=d, r2=r2)
        for symbol, (a, b, c, d) in zip(symbols, rows, strict=True)
    )
    return FittedFormula(found, float(error.sqrt()))


@dataclass(frozen=True)
class _Misfit(Descent):
    """The mean squared error by its variance, with Gauss and Newton's curvature."""

    symbols: tuple[Symbol, ...]
    x: Tensor
    y: Tensor
    start: Tensor
    free: Tensor

    def numbers(self, w: Tensor) -> Tensor:
        """All numbers (edges, 4), the free ones being ``w``."""
        places = (self.free.flatten().cumsum(0) - 1).clamp(min=0).reshape(self.free.shape)
        return torch.where(self.free, w[places], self.start)

    def residual(self, w: Tensor) -> Tensor:
        """In standard deviations of the values."""
        return (_value(self.symbols, self.numbers(w), self.x) - self.y) / self.y.std()

    def value(self, w: Tensor) -> Tensor:
        """The objective."""
        return self.residual(w).square().mean()

    def derivatives(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Its gradient and the curvature."""
        rows = torch.func.jacfwd(self.residual)(w)
        share = 2.0 / len(rows)
        return share * rows.mT @ self.residual(w), share * rows.mT @ rows


def _numbers(symbols: Sequence[Symbol], like: Tensor) -> Float[Tensor, "edges four"]:
    return like.new_tensor([[s.a, s.b, s.c, s.d] for s in symbols])


def _free(symbols: Sequence[Symbol]) -> Bool[Tensor, "edges four"]:
    """Which numbers make another function: constants are in the shifts of what comes after."""
    last = _depth(symbols) - 1
    first = next(place for place, s in enumerate(symbols) if s.layer == last)
    kinds = [KINDS[s.name] for s in symbols]
    rows = [[kind.scaled, kind.shifted, True, k == first] for k, kind in enumerate(kinds)]
    return torch.tensor(rows)


def _with_one_constant(symbols: Sequence[Symbol], like: Tensor) -> Float[Tensor, "edges four"]:
    """The same function without constants of hidden nodes; the output's is in its first edge."""
    rows = _numbers(symbols, like).tolist()
    for layer in range(_depth(symbols)):
        for into, out in _nodes(symbols, layer):
            constant = sum(rows[k][3] for k in into)
            for k in into:
                rows[k][3] = 0.0
            for k in out:
                a, b, c, d = rows[k]
                if KINDS[symbols[k].name].shifted:
                    b += a * constant
                elif symbols[k].name == "exp":
                    c *= math.exp(a * constant)
                else:
                    d += c * constant
                rows[k] = [a, b, c, d]
            if not out:
                rows[into[0]][3] = constant
    return like.new_tensor(rows)


POWERS = {"x": 1, "x^2": 2, "x^3": 3, "x^4": 4, "1/x": -1}
"""Functions with ``f(m x) = m^k f(x)``, and their k."""


def _with_unit_scales(
    symbols: Sequence[Symbol], numbers: Float[Tensor, "edges four"]
) -> Float[Tensor, "edges four"]:
    """The same function with one as the first scale of hidden nodes that go into powers."""
    rows = numbers.tolist()
    for layer in range(_depth(symbols) - 1):
        for into, out in _nodes(symbols, layer):
            scale = rows[into[0]][2]
            if scale == 0.0 or any(symbols[k].name not in POWERS for k in out):
                continue
            for k in into:
                rows[k][2] /= scale
            for k in out:
                rows[k][1] /= scale
                rows[k][2] *= scale ** POWERS[symbols[k].name]
    return numbers.new_tensor(rows)


def _depth(symbols: Sequence[Symbol]) -> int:
    return 1 + max(s.layer for s in symbols)


def _nodes(symbols: Sequence[Symbol], layer: int) -> list[tuple[list[int], list[int]]]:
    """Edges into and out of every node that a layer's edges go to."""
    pairs = []
    for node in sorted({s.target for s in symbols if s.layer == layer}):
        into = [k for k, s in enumerate(symbols) if (s.layer, s.target) == (layer, node)]
        out = [k for k, s in enumerate(symbols) if (s.layer, s.source) == (layer + 1, node)]
        pairs.append((into, out))
    return pairs


def _value(symbols: Sequence[Symbol], numbers: Tensor, x: Tensor) -> Tensor:
    """The output node."""
    nodes = dict(enumerate(x.unbind(-1)))
    for layer in range(_depth(symbols)):
        sums: dict[int, Tensor] = {}
        for symbol, row in zip(symbols, numbers, strict=True):
            if symbol.layer == layer:
                a, b, c, d = row.unbind()
                part = c * KINDS[symbol.name].function(a * nodes[symbol.source] + b) + d
                sums[symbol.target] = sums.get(symbol.target, 0.0) + part
        nodes = sums
    return nodes[0]


def _sum(symbols: Sequence[Symbol], texts: dict[int, str], digits: int) -> str:
    """One node, whose first edge comes first."""
    parts = []
    for symbol in symbols:
        inner = texts[symbol.source]
        if any(sign in inner for sign in "+- ") and (symbol.name == "x" or symbol.a != 1.0):
            inner = f"({inner})"
        body = KINDS[symbol.name].text.format(affine(symbol.a, inner, symbol.b, digits))
        parts.append(affine(symbol.c, body, 0.0, digits))
    whole = " + ".join(parts).replace("+ -", "- ")
    return affine(1.0, whole, symbols[0].d, digits)

"""Names for learned one-dimensional functions, found by least squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Symbol:
    """``phi(x)`` of an edge is about ``c f(a x + b) + d``.

    Attributes:
        layer: of the edge, from 0.
        source: node that it comes from.
        target: node that it goes to.
        name: of f, such as "x^2" or "sin".
        a: scale inside.
        b: shift inside.
        c: scale outside.
        d: shift outside.
        r2: share of the variance that is explained, R^2.
    """

    layer: int
    source: int
    target: int
    name: str
    a: float
    b: float
    c: float
    d: float
    r2: float

    def __str__(self) -> str:
        """The formula with three digits and R^2."""
        body = KINDS[self.name].text.format(affine(self.a, "x", self.b))
        return f"{affine(self.c, body, self.d)}  (R2 = {self.r2:.5f})"


def affine(scale: float, body: str, shift: float, digits: int = 3) -> str:
    """``scale body + shift``, without what is one or zero to these digits."""
    least = 0.5 * 10.0**-digits
    front = f"{scale:.{digits}g} "
    if abs(abs(scale) - 1.0) < least:
        front = "" if scale > 0 else "-"
    back = f" {'+' if shift > 0 else '-'} {abs(shift):.{digits}g}"
    return front + body + ("" if abs(shift) < least else back)


class Kind(NamedTuple):
    """A simple function.

    Attributes:
        function: f; not a number where it is not defined.
        text: how it is written.
        scaled: whether ``f(a x)`` is another function than ``f(x)`` up to what is outside.
        shifted: whether ``f(x + b)`` is another one.
        mirrored: whether ``f(-x)`` is another one.
    """

    function: Callable[[Tensor], Tensor]
    text: str
    scaled: bool
    shifted: bool
    mirrored: bool


KINDS: dict[str, Kind] = {
    "x": Kind(lambda x: x, "{}", False, False, False),
    "x^2": Kind(torch.square, "({})^2", False, True, False),
    "x^3": Kind(lambda x: x**3, "({})^3", False, True, False),
    "exp": Kind(torch.exp, "exp({})", True, False, True),
    "sin": Kind(torch.sin, "sin({})", True, True, False),
    "cos": Kind(torch.cos, "cos({})", True, True, False),
    "abs": Kind(torch.abs, "|{}|", False, True, False),
    "sqrt": Kind(torch.sqrt, "sqrt({})", False, True, True),
    "log": Kind(torch.log, "log({})", False, True, True),
    "1/x": Kind(torch.reciprocal, "1/({})", False, True, False),
    "tanh": Kind(torch.tanh, "tanh({})", True, True, False),
    "x^4": Kind(lambda x: x**4, "({})^4", False, True, False),
}
"""The functions that edges are compared with, simplest first."""

SCALES, SHIFTS, LARGEST = 25, 49, 6.0
"""Places of the first search, and how far it goes, in half-widths of the data."""

ZOOMS, NEAR = 14, 7
"""Rounds of narrowing, and places to each side of the best one."""


def match(
    x: Tensor, y: Tensor, names: Sequence[str], enough: float
) -> tuple[str, float, float, float, float, float]:
    """The simplest function with ``R^2 >= enough``, or the one with the largest R^2.

    Args:
        x: (N,) inputs.
        y: (N,) values.
        names: of the functions, simplest first.
        enough: R^2 at which nothing more complicated is asked for.

    Returns:
        Name, a, b, c, d and R^2.
    """
    best: tuple[str, float, float, float, float, float] | None = None
    for name in names:
        found = (name, *_fitted(x, y, name))
        if best is None or found[-1] > best[-1]:
            best = found
        if found[-1] >= enough:
            return found
    if best is None:
        raise ValueError("names: expected at least one function, got none")
    return best


def _fitted(x: Tensor, y: Tensor, name: str) -> tuple[float, float, float, float, float]:
    """Scales and shifts of one function, and R^2."""
    kind = KINDS[name]
    middle = 0.5 * (x.max() + x.min())
    half = (0.5 * (x.max() - x.min())).clamp(min=torch.finfo(x.dtype).tiny)
    u = (x - middle) / half
    scale, shift = _searched(u, y, kind)
    if kind.scaled:
        a, b = scale / half, shift - scale * middle / half
    else:
        a, b = scale, shift * half - scale * middle
    a, b = (a, b if kind.shifted or not kind.scaled else torch.zeros_like(b))
    if name == "x":
        a, b = torch.ones_like(a), torch.zeros_like(b)
    if name in ("sin", "cos"):
        # sin(u + pi) = -sin(u): of several phases, the one nearest to none
        b = torch.remainder(b + 0.5 * math.pi, math.pi) - 0.5 * math.pi
    c, d, r2 = _outside(kind.function(a * x + b).unsqueeze(0), y)
    return float(a), float(b), float(c), float(d), float(r2)


def _searched(u: Tensor, y: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """The best scale and shift inside, for inputs from -1 to 1: a grid, then smaller ones."""
    one = u.new_ones(1)
    scales = torch.logspace(-1.0, 1.0, SCALES).to(u) if kind.scaled else one
    if kind.mirrored:
        scales = torch.cat([scales, -scales])
    shifts = torch.linspace(-LARGEST, LARGEST, SHIFTS).to(u) if kind.shifted else 0.0 * one
    steps = torch.linspace(-1.0, 1.0, 2 * NEAR + 1).to(u)
    factor, reach = 10.0 ** (2.0 / (SCALES - 1)), 2.0 * LARGEST / (SHIFTS - 1)
    best = _best(u, y, kind, scales, shifts)
    for _ in range(ZOOMS):
        near = best[0] * factor**steps if kind.scaled else best[0].reshape(1)
        close = best[1] + reach * steps if kind.shifted else best[1].reshape(1)
        best = _best(u, y, kind, near, close)
        factor, reach = factor**0.5, 0.5 * reach
    return best


def _best(
    u: Tensor, y: Tensor, kind: Kind, scales: Tensor, shifts: Tensor
) -> tuple[Tensor, Tensor]:
    a, b = (part.reshape(-1, 1) for part in torch.meshgrid(scales, shifts, indexing="ij"))
    place = _outside(kind.function(a * u + b), y)[2].argmax()
    return a[place, 0], b[place, 0]


def _outside(values: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least squares ``y = c f + d`` for rows of values, and R^2; minus one where f is undefined."""
    defined = values.isfinite().all(-1)
    values = torch.where(defined.unsqueeze(-1), values, 0.0)
    centre = values.mean(-1, keepdim=True)
    own, target = values - centre, y - y.mean()
    tiny = torch.finfo(y.dtype).tiny
    variance = own.square().mean(-1)
    # what rounding leaves of a constant fits nothing
    flat = variance <= (64.0 * torch.finfo(y.dtype).eps * values.abs().amax(-1)).square()
    c = torch.where(flat, 0.0, (own * target).mean(-1) / variance.clamp(min=tiny))
    rest = (target - c.unsqueeze(-1) * own).square().mean(-1)
    r2 = 1.0 - rest / target.square().mean().clamp(min=tiny)
    return c, y.mean() - c * centre.squeeze(-1), torch.where(defined, r2, -1.0)


def renamed(symbol: Symbol) -> Symbol:
    """A sine or a cosine, whichever has the smaller phase."""
    if symbol.name not in ("sin", "cos"):
        return symbol
    other = "cos" if symbol.name == "sin" else "sin"
    # sin(u) = cos(u - pi/2), cos(u) = sin(u + pi/2)
    phase = symbol.b + (-0.5 if symbol.name == "sin" else 0.5) * math.pi
    turns = round(phase / math.pi)
    phase -= math.pi * turns
    if abs(phase) >= abs(symbol.b):
        return symbol
    return replace(symbol, name=other, b=phase, c=symbol.c * (-1.0) ** turns)

"""Passes through a multilayer perceptron: slopes, second derivatives, and pull-backs by weights.

With the state embedded as ``a_0``, layers ``u_l = W_l a_(l-1) + b_l``, ``a_l = s(u_l)`` and
``H = v . a_L``, the slope comes from one reverse pass,

    r_L = v s'(u_L),   r_(l-1) = (W_l' r_l) s'(u_(l-1)),   dH/da_0 = W_1' r_1,

and the derivatives of ``c . grad H`` from a tangent pass ``a'_l = s'(u_l) u'_l`` along ``c`` and

    q_L = v s''(u_L) u'_L,   q_(l-1) = (W_l' q_l) s'(u_(l-1)) + (W_l' r_l) s''(u_(l-1)) u'_(l-1):

by ``W_l`` they are ``r_l a'_(l-1)' + q_l a_(l-1)'``, by ``b_l`` ``q_l``, and by ``v`` ``a'_L``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Activation(NamedTuple):
    """A smooth function of one number, applied to every entry.

    Attributes:
        value: s(u).
        pair: s and s'.
        triple: s, s' and s''.
    """

    value: Callable[[Tensor], Tensor]
    pair: Callable[[Tensor], tuple[Tensor, Tensor]]
    triple: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def _tanh(u: Tensor) -> Tensor:
    # A quarter of the time of the library's own, and off by rounding of one, not of tanh u.
    s = torch.sigmoid(u + u)
    return s + s - 1.0


def _tanh_pair(u: Tensor) -> tuple[Tensor, Tensor]:
    a = _tanh(u)
    return a, 1.0 - a * a


def _tanh_triple(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, d = _tanh_pair(u)
    return a, d, -2.0 * a * d


def _softplus(u: Tensor) -> Tensor:
    # The library's own is a straight line from some value on, and so not smooth.
    return torch.logaddexp(u, torch.zeros_like(u))


def _softplus_pair(u: Tensor) -> tuple[Tensor, Tensor]:
    return _softplus(u), u.sigmoid()


def _softplus_triple(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, d = _softplus_pair(u)
    return a, d, d * (1.0 - d)


def _silu_pair(u: Tensor) -> tuple[Tensor, Tensor]:
    s = u.sigmoid()
    a = u * s
    return a, (s + a).addcmul_(a, s, value=-1.0)


def _silu_triple(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # With a = u s, s'' = s (1 - s) (2 + u (1 - 2 s)) = (s - s^2) (u - 2 a + 2).
    s = u.sigmoid()
    a = u * s
    d = (s + a).addcmul_(a, s, value=-1.0)
    return a, d, torch.addcmul(s, s, s, value=-1.0).mul_(torch.sub(u, a, alpha=2.0).add_(2.0))


def _sin_pair(u: Tensor) -> tuple[Tensor, Tensor]:
    return u.sin(), u.cos()


def _sin_triple(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, d = _sin_pair(u)
    return a, d, -a


ACTIVATIONS = {
    "tanh": Activation(_tanh, _tanh_pair, _tanh_triple),
    "softplus": Activation(_softplus, _softplus_pair, _softplus_triple),
    "silu": Activation(torch.nn.functional.silu, _silu_pair, _silu_triple),
    "sin": Activation(torch.sin, _sin_pair, _sin_triple),
}
"""By name; all have derivatives of every order."""


class Layers(NamedTuple):
    """Weights of a perceptron, of one (w,) or of S draws (S, w).

    Attributes:
        matrices: W_l, (out, in) or (S, out, in).
        biases: b_l, (out,) or (S, 1, out).
        output: v, (out,) or (S, out).
    """

    matrices: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    output: Tensor

    @classmethod
    def unpacked(cls, w: Float[Tensor, "*draws weights"], widths: tuple[int, ...]) -> Layers:
        """``[W_1 (row by row), b_1, W_2, ..., v]``; ``widths`` are those of a_0 to a_L."""
        matrices, biases, start = [], [], 0
        for wide, out in zip(widths[:-1], widths[1:], strict=True):
            end = start + out * wide
            matrices.append(w[..., start:end].unflatten(-1, (out, wide)))
            bias = w[..., end : end + out]
            biases.append(bias if w.dim() == 1 else bias.unsqueeze(-2))
            start = end + out
        return cls(tuple(matrices), tuple(biases), w[..., start:])

    def ahead(self, level: int, a: Tensor) -> Tensor:
        """``W_l a + b_l``."""
        matrix, bias = self.matrices[level], self.biases[level]
        if matrix.dim() == 2:
            return torch.nn.functional.linear(a, matrix, bias)
        return torch.baddbmm(bias, a, matrix.mT)

    def row(self) -> Tensor:
        """``v`` beside states."""
        return self.output if self.output.dim() == 1 else self.output.unsqueeze(-2)


def times(x: Float[Tensor, "*batch wide"], matrix: Tensor) -> Tensor:
    """``x @ matrix``; of draws on their axis, without copies of the matrix."""
    if matrix.dim() == 2 or x.dim() == 3:
        return x @ matrix
    return torch.bmm(x.flatten(1, -2), matrix).unflatten(1, x.shape[1:-1])


class Passes:
    """Forward and reverse pass at embedded states ``a`` (G, N, in), and tangents from there.

    Args:
        layers: one set of weights, or G of them.
        activation: of all layers.
        a: embedded states.
    """

    def __init__(
        self, layers: Layers, activation: Activation, a: Float[Tensor, "groups states wide"]
    ) -> None:
        self.layers = layers
        self.below, self.first, self.second = [], [], []
        for level in range(len(layers.matrices)):
            self.below.append(a)
            a, d, e = activation.triple(layers.ahead(level, a))
            self.first.append(d)
            self.second.append(e)
        self.reverse = [layers.row() * self.first[-1]]
        self.pulled: list[Tensor] = []
        for level in range(len(layers.matrices) - 1, -1, -1):
            pulled = times(self.reverse[0], layers.matrices[level])
            self.pulled.insert(0, pulled)
            if level:
                self.reverse.insert(0, pulled * self.first[level - 1])

    @property
    def slope(self) -> Float[Tensor, "groups states wide"]:
        """``dH/da_0``."""
        return self.pulled[0]

    def along(self, change: Float[Tensor, "groups tangents states wide"]) -> Along:
        """Derivatives of ``c . dH/da_0`` for T tangents ``c`` a state."""
        tangents, moved = [change], []
        for level, matrix in enumerate(self.layers.matrices):
            u = times(tangents[-1], matrix.mT)
            moved.append(u)
            tangents.append(self.first[level].unsqueeze(1) * u)
        row = self.layers.row()
        above = (row * self.second[-1]).unsqueeze(1) * moved[-1]
        found = [above]
        for level in range(len(moved) - 1, 0, -1):
            bent = (self.pulled[level] * self.second[level - 1]).unsqueeze(1) * moved[level - 1]
            pulled = times(found[0], self.layers.matrices[level])
            found.insert(0, torch.addcmul(bent, pulled, self.first[level - 1].unsqueeze(1)))
        return Along(self, tangents, found)


class Along(NamedTuple):
    """Tangents ``a'_l`` and adjoints ``q_l`` of one pass, (G, T, N, width) each."""

    passes: Passes
    tangents: list[Tensor]
    adjoints: list[Tensor]

    def by_input(self) -> Float[Tensor, "groups tangents states wide"]:
        """``d(c . dH/da_0) / da_0 = W_1' q_1``."""
        return times(self.adjoints[0], self.passes.layers.matrices[0])

    def by_weights(self) -> Float[Tensor, "groups tangents weights"]:
        """``sum_n d(c_n . dH/da_0) / dw``."""
        parts, known = [], self.passes
        for r, q, a, moved in zip(
            known.reverse, self.adjoints, known.below, self.tangents[:-1], strict=True
        ):
            matrix = r.unsqueeze(1).mT @ moved + q.mT @ a.unsqueeze(1)
            parts += [matrix.flatten(-2), q.sum(-2)]
        return torch.cat([*parts, self.tangents[-1].sum(-2)], -1)

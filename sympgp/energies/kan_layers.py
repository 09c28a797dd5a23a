"""Layers of one-dimensional functions: values and written derivatives of their sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sympgp.energies.kan_angles import Embedding


def grouped(z: Tensor, draws: int) -> Tensor:
    """States (..., D) as (S, B, D)."""
    return z.reshape(draws, math.prod(z.shape[:-1]) // draws, z.shape[-1])


class Layer(NamedTuple):
    """What one layer's edges are at its inputs; ``C`` functions to each edge.

    Attributes:
        basis: (S, B, in, C) functions of the inputs.
        first: their first derivatives.
        second: their second derivatives.
        slopes: (S, B, in, out) derivatives of the edges by their inputs.
        curves: (S, B, in, out) second derivatives of the edges.
    """

    basis: Tensor
    first: Tensor
    second: Tensor | None
    slopes: Tensor
    curves: Tensor | None


Expand = Callable[[int, Tensor, int], tuple[Tensor, ...]]
"""Basis functions of a layer's inputs and as many derivatives as asked for, (S, B, in, C) each."""


class Pass:
    """One pass of states through all layers, and derivatives of the single output ``H``.

    With the inputs ``x_l`` of layer l (``x_0`` is the embedded state), their derivatives
    ``J_l = dx_l / dz`` and the covectors ``g_l = dH / dx_l``, edges ``phi`` that each depend on
    one number give

        g_l,i = sum_o phi_io'(x_i) g_l+1,o
        dg_l,i / dz = (sum_o phi_io''(x_i) g_l+1,o) J_l,i + sum_o phi_io'(x_i) dg_l+1,o / dz

    Args:
        expand: the basis functions.
        embedding: of states in inputs.
        coefficients: of each layer, (S, in, out, C), where S may be one.
        z: (S, B, D) states.
        derivatives: 1 for the gradient, 2 for second derivatives too.
    """

    def __init__(
        self,
        expand: Expand,
        embedding: Embedding,
        coefficients: Sequence[Tensor],
        z: Tensor,
        derivatives: int,
    ) -> None:
        self.layers: list[Layer] = []
        self.embedding, self.z = embedding, z
        x = embedding(z)
        for number, own in enumerate(coefficients):
            found = expand(number, x, derivatives)
            slopes = torch.einsum("sbic,sioc->sbio", found[1], own)
            second = found[2] if derivatives > 1 else None
            curves = None if second is None else torch.einsum("sbic,sioc->sbio", second, own)
            self.layers.append(Layer(found[0], found[1], second, slopes, curves))
            x = torch.einsum("sbic,sioc->sbo", found[0], own)
        self.value = x.squeeze(-1)
        self.covectors = self._covectors(torch.ones_like(x))

    def _covectors(self, last: Tensor) -> list[Tensor]:
        """``g_l`` of every layer, the output's at the end."""
        found = [last]
        for layer in reversed(self.layers):
            found.append(torch.einsum("sbio,sbo->sbi", layer.slopes, found[-1]))
        return found[::-1]

    @property
    def gradient(self) -> Tensor:
        """``dH/dz`` (S, B, D)."""
        return self.embedding.pulled(self.covectors[0], self.z)

    def pushed(self, directions: Tensor) -> list[Tensor]:
        """``J_l v`` (S, B, in, K) of every layer's inputs, for directions (S, B, D, K)."""
        found = [self.embedding.jacobian(self.z) @ directions]
        for layer in self.layers[:-1]:
            found.append(torch.einsum("sbio,sbik->sbok", layer.slopes, found[-1]))
        return found

    def turned(self, pushed: Sequence[Tensor]) -> list[Tensor]:
        """``(dg_l / dz) v`` (S, B, in, K) of every layer, the output's at the end."""
        found = [torch.zeros_like(pushed[0][..., :1, :])]
        for number in reversed(range(len(self.layers))):
            layer, covector = self.layers[number], self.covectors[number + 1]
            assert layer.curves is not None  # for the type checker: asked for at the start
            bend = torch.einsum("sbio,sbo->sbi", layer.curves, covector).unsqueeze(-1)
            through = torch.einsum("sbio,sbok->sbik", layer.slopes, found[-1])
            found.append(bend * pushed[number] + through)
        return found[::-1]

    def hessian(self) -> Tensor:
        """``d2H/dz2`` (S, B, D, D)."""
        pushed = self.pushed(self.eye())
        found = pushed[0].mT @ self.turned(pushed)[0]
        bend = self.embedding.bend(self.covectors[0], self.z)
        return found if bend is None else found + bend

    def eye(self) -> Tensor:
        """All directions of the states, (S, B, D, D)."""
        z = self.z
        one = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        return one.expand(*z.shape, z.shape[-1])

    def by_coefficients(self) -> list[Tensor]:
        """``dH/dc`` of every layer, (S, B, in, out, C)."""
        return [
            torch.einsum("sbic,sbo->sbioc", layer.basis, covector)
            for layer, covector in zip(self.layers, self.covectors[1:], strict=True)
        ]

    def mixed(self, directions: Tensor) -> list[Tensor]:
        """``v . d(dH/dz)/dc`` of every layer, (S, B, K, in, out, C), for v (S, B, D, K)."""
        return self._paired(directions, "sbic,sbik,sbo->sbkioc", "sbic,sbok->sbkioc")

    def pulled(self, directions: Tensor) -> list[Tensor]:
        """The same summed over states, (S, K, in, out, C)."""
        return self._paired(directions, "sbic,sbik,sbo->skioc", "sbic,sbok->skioc")

    def _paired(self, directions: Tensor, inner: str, outer: str) -> list[Tensor]:
        pushed = self.pushed(directions)
        turned = self.turned(pushed)
        return [
            torch.einsum(inner, layer.first, pushed[number], self.covectors[number + 1])
            + torch.einsum(outer, layer.basis, turned[number + 1])
            for number, layer in enumerate(self.layers)
        ]

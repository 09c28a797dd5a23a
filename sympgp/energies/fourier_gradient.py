"""Gradients of Fourier energies with fixed weights, evaluated block by block or compiled."""

from __future__ import annotations

import inspect

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.compiled import Compiled, Rate
from sympgp.energies.base import GradientMap

IN_CACHE = 131_072
"""Sines of a block on a CPU, for each thread (1 MB in float64): they stay in its cache."""
AT_ONCE = 67_108_864
"""Sines of a block on an accelerator (512 MB in float64)."""


def block_size(device: torch.device) -> int:
    """How many sines to hold at a time."""
    return IN_CACHE * torch.get_num_threads() if device.type == "cpu" else AT_ONCE


class FourierGradient(GradientMap):
    """``sin(z Omega' - phase) @ output + z @ matrix + offset``, draws on a leading axis.

    Draws and states are taken in blocks that fit into the cache.

    Attributes:
        columns: (D, M) Omega'.
        phase: (..., 1, M).
        output: (..., M, D).
        offset: (..., 1, D).
        matrix: (..., D, D).
        sines: M.
    """

    def __init__(
        self, columns: Tensor, phase: Tensor, output: Tensor, offset: Tensor, matrix: Tensor
    ) -> None:
        self.columns, self.output, self.matrix = columns, output, matrix
        self.phase, self.offset = phase.unsqueeze(-2), offset.unsqueeze(-2)
        self.sines = columns.shape[1]

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at (B, D) states, or (S, B, D) for S draws."""
        numbers = z.numel() * self.sines // self.columns.shape[0]
        if numbers <= IN_CACHE:
            return self._whole(z)
        block = block_size(z.device)
        if numbers <= block:
            return self._whole(z)
        rows = max(1, block // self.sines)
        if z.dim() == 2:
            return torch.cat([self._whole(piece) for piece in z.split(rows)])
        draws = max(1, rows // z.shape[1])
        parts = []
        for begin in range(0, len(z), draws):
            part, some = self._draws(begin, begin + draws), z[begin : begin + draws]
            pieces = [part._whole(piece) for piece in some.split(rows, 1)]
            parts.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1))
        return torch.cat(parts)

    def _whole(self, z: Tensor) -> Tensor:
        if z.dim() == 2:
            wave = torch.mm(z, self.columns).sub_(self.phase).sin_()
            return torch.addmm(torch.addmm(self.offset, z, self.matrix), wave, self.output)
        wave = (z @ self.columns).sub_(self.phase).sin_()
        affine = torch.baddbmm(self.offset, z, self.matrix)
        return torch.baddbmm(affine, wave, self.output)

    def with_jacobian(self, z: Float[Tensor, "batch dim"]) -> tuple[Tensor, Tensor]:
        """The map and its derivative, (B, D, D), from one sine and one cosine a feature and state.

        ``cos(z Omega' - phase) @ (output_i omega_j) + matrix'``, in blocks as above.
        """
        outer = (self.output.unsqueeze(-1) * self.columns.mT.unsqueeze(-2)).flatten(-2)
        constant = self.matrix.mT.reshape(1, -1)
        values, slopes = [], []
        for piece in z.split(max(1, block_size(z.device) // max(1, self.sines))):
            angle = torch.mm(piece, self.columns).sub_(self.phase)
            affine = torch.addmm(self.offset, piece, self.matrix)
            values.append(torch.addmm(affine, angle.sin(), self.output))
            slopes.append(torch.addmm(constant, angle.cos(), outer))
        dim = z.shape[-1]
        if len(values) == 1:
            return values[0], slopes[0].reshape(-1, dim, dim)
        return torch.cat(values), torch.cat(slopes).reshape(-1, dim, dim)

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> FourierGradient:
        """Fold ``matrix`` into the output side."""
        right = matrix.mT
        return FourierGradient(
            self.columns,
            self.phase.squeeze(-2),
            self.output @ right,
            (self.offset @ right).squeeze(-2),
            self.matrix @ right,
        )

    def first(self) -> FourierGradient:
        """The first of several draws alone, still with a draw axis."""
        return self._draws(0, 1)

    def _draws(self, begin: int, end: int) -> FourierGradient:
        return FourierGradient(
            self.columns,
            self.phase[begin:end].squeeze(-2),
            self.output[begin:end],
            self.offset[begin:end].squeeze(-2),
            self.matrix[begin:end],
        )

    def compiled(self) -> CompiledGradient:
        """The same in one compiled pass."""
        return CompiledGradient(self)


def one_pass(
    z: Tensor, columns: Tensor, phase: Tensor, across: Tensor, offset: Tensor, matrix: Tensor
) -> Tensor:
    """The map at (S, B, D) states, written so that a compiler makes one loop of it.

    The few coordinates are added one by one, so that each sine goes from the phase straight into
    D sums and is never kept. ``across`` (S, D, M) is the output with the features last.
    """
    dim = z.shape[-1]
    angle = -phase
    for i in range(dim):
        angle = angle + z[:, :, i, None] * columns[i]
    wave = angle.sin()
    rates = []
    for j in range(dim):
        rate = (wave * across[:, j, None]).sum(-1) + offset[..., j]
        for i in range(dim):
            rate = rate + z[..., i] * matrix[:, i, None, j]
        rates.append(rate)
    return torch.stack(rates, -1)


def in_blocks(
    z: Tensor, columns: Tensor, phase: Tensor, across: Tensor, offset: Tensor, matrix: Tensor
) -> Tensor:
    """The same without a compiler."""
    eager = FourierGradient(columns, phase.squeeze(-2), across.mT, offset.squeeze(-2), matrix)
    return eager(z)


FORMULA = inspect.unwrap(one_pass)
compiled_pass = Compiled(FORMULA, in_blocks)


class CompiledGradient(GradientMap):
    """A :class:`FourierGradient` compiled into one pass; eager where gradients are recorded."""

    def __init__(self, eager: FourierGradient) -> None:
        self.eager = eager
        draws = eager.phase.shape[0] if eager.phase.dim() == 3 else 1
        parts = (eager.phase, eager.output.mT, eager.offset, eager.matrix)
        shared = tuple(p.reshape(draws, *p.shape[-2:]).contiguous() for p in parts)
        self._rate = Rate(FORMULA, in_blocks, (eager.columns.contiguous(), *shared))
        self.sines = eager.sines

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at (B, D) states, or (S, B, D) for S draws."""
        if self._rate.recorded(z):
            return self.eager(z)
        states = (z if z.dim() == 3 else z.unsqueeze(0)).contiguous()
        return compiled_pass(states, *self._rate.parts).view(z.shape)

    def with_jacobian(self, z: Float[Tensor, "batch dim"]) -> tuple[Tensor, Tensor] | None:
        """As without a compiler."""
        return self.eager.with_jacobian(z)

    def compiled_rate(self) -> Rate:
        """The pass that is compiled, for states (S, B, D)."""
        return self._rate

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> CompiledGradient:
        """Fold ``matrix`` into the output side."""
        return CompiledGradient(self.eager.transformed(matrix))

    def first(self) -> CompiledGradient:
        """The first of several draws alone, still with a draw axis."""
        return CompiledGradient(self.eager.first())

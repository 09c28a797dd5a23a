"""Sums of outer products of rows, in double precision whatever the rows are in."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

COLUMNS = 128
"""Columns of one product on a CPU: what lies below the diagonal is left out in blocks of these."""


def add_gram(
    total: Float[Tensor, "cols cols"], rows: Float[Tensor, "rows cols"], sign: float = 1.0
) -> None:
    """Add ``sign X' X`` to the upper triangle of ``total``; its lower one is left undefined.

    Products are in the type of the total, too: those of float32 rows in float32, summed over a
    block in float32, moved the field of a double pendulum by 0.1 of its standard deviation.
    """
    num, rows = len(total), rows.to(total.dtype)
    block = COLUMNS if total.device.type == "cpu" else max(num, 1)
    for left in range(0, num, block):
        part, target = rows[:, left : left + block], total[left : left + block, left:]
        target.addmm_(part.mT, rows[:, left:], alpha=sign)


def symmetric(total: Float[Tensor, "*some cols cols"]) -> Float[Tensor, "*some cols cols"]:
    """The whole matrix of its upper triangle."""
    return total.triu() + total.triu(1).mT


def gram(rows: Float[Tensor, "rows cols"]) -> Float[Tensor, "cols cols"]:
    """``X' X``, differentiable once."""
    return _Gram.apply(rows)


class _Gram(torch.autograd.Function):
    """Backward is one product, ``X (G + G')``, where differentiating ``X' X`` takes two."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        total = rows.new_zeros(rows.shape[1], rows.shape[1])
        add_gram(total, rows)
        return symmetric(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        return rows @ (gradient + gradient.mT)

"""Derivatives of Fourier energies for a compiler: each sine and cosine used while it is at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.compiled import Compiled

MOST = 4
"""Coordinates up to which the passes are compiled: they are written out one by one, and with eight
of them the sums of the Hessian took longer than without a compiler."""
TOGETHER = 4
"""Stages of one pass: those of a Runge-Kutta step."""


def local_pass(z: Tensor, columns: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slope and upper half of the Hessian of ``a' cos(Omega z) + b' sin(Omega z)``, in one loop.

    ``z`` is (B, D) and ``columns`` (D, M). The sums come first, (B, D + D (D + 1) / 2), then the
    sines and the cosines (B, M).
    """
    dim = z.shape[-1]
    angle = z[:, 0, None] * columns[0]
    for i in range(1, dim):
        angle = angle + z[:, i, None] * columns[i]
    sine, cosine = angle.sin(), angle.cos()
    first, second = b * cosine - a * sine, -(a * cosine + b * sine)
    sums = [(first * columns[i]).sum(-1) for i in range(dim)]
    for i in range(dim):
        sums += [(second * columns[i] * columns[j]).sum(-1) for j in range(i, dim)]
    return torch.stack(sums, -1), sine, cosine


def response_pass(
    weights: Tensor, columns: Tensor, sines: list[Tensor], cosines: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """``sum_s W_s d cos(Omega z_s) / dz`` and that of the sines, (B, out, M) each, in one loop.

    ``weights`` is (B, out, S, D); sines and cosines are those at S stages, (B, M) each.
    """
    by_sine = by_cosine = torch.zeros_like(columns[0])
    for s, (sine, cosine) in enumerate(zip(sines, cosines, strict=True)):
        onto = weights[:, :, s, 0, None] * columns[0]
        for d in range(1, columns.shape[0]):
            onto = onto + weights[:, :, s, d, None] * columns[d]
        by_sine = by_sine - onto * sine[:, None]
        by_cosine = by_cosine + onto * cosine[:, None]
    return by_sine, by_cosine


_local, _response = Compiled(local_pass), Compiled(response_pass)


def local_sums(
    z: Float[Tensor, "batch dim"],
    frequencies: Float[Tensor, "features dim"],
    a: Float[Tensor, " features"],
    b: Float[Tensor, " features"],
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Slope (B, D), Hessian (B, D, D), and sines and cosines (B, M), compiled.

    Args:
        z: states.
        frequencies: Omega.
        a: weights of the cosines.
        b: weights of the sines.
    """
    dim = z.shape[-1]
    sums, sine, cosine = _local(z.contiguous(), frequencies.mT.contiguous(), a, b)
    rows, columns = torch.triu_indices(dim, dim, device=z.device)
    hessian = z.new_empty(len(z), dim, dim)
    hessian[:, rows, columns] = hessian[:, columns, rows] = sums[:, dim:]
    return sums[:, :dim], hessian, (sine, cosine)


def response_sums(
    waves: Sequence[tuple[Tensor, ...]],
    weights: Float[Tensor, "batch out stages dim"],
    frequencies: Float[Tensor, "features dim"],
) -> tuple[Tensor, Tensor]:
    """Weighted gradients of the cosine and of the sine features, (B, out, M) each, compiled.

    Args:
        waves: sines and cosines (B, M) at each stage.
        weights: of each stage's gradients.
        frequencies: Omega.
    """
    columns, found = frequencies.mT.contiguous(), []
    for begin in range(0, len(waves), TOGETHER):
        sines, cosines = map(list, zip(*waves[begin : begin + TOGETHER], strict=True))
        some = weights[:, :, begin : begin + TOGETHER].contiguous()
        found.append(_response(some, columns, sines, cosines))
    first, second = found[0]
    for by_sine, by_cosine in found[1:]:
        first, second = first + by_sine, second + by_cosine
    return first, second

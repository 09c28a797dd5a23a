"""B-splines on uniform grids, with their first two derivatives."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import Polynomial
from torch import Tensor


def num_splines(grid: int, order: int) -> int:
    """How many B-splines of this order are not zero on a grid of so many intervals."""
    return grid + order


def bsplines(
    x: Float[Tensor, "*batch channels"],
    lower: Float[Tensor, " channels"],
    upper: Float[Tensor, " channels"],
    grid: int,
    order: int,
    derivatives: int = 0,
) -> tuple[Float[Tensor, "*batch channels splines"], ...]:
    """B-splines ``B_j(x)``, ``j = 1 .. grid + order``, and their derivatives, channel by channel.

    The grid has equal intervals between ``lower`` and ``upper`` and goes on with ``order`` more of
    them on either side. With the knots ``t_j``, Cox and de Boor's recursion is

        B_j,0(x) = 1 for t_j <= x < t_j+1,
        B_j,d(x) = (x - t_j) / (t_j+d - t_j) B_j,d-1(x)
                   + (t_j+d+1 - x) / (t_j+d+1 - t_j+1) B_j+1,d-1(x)

    and derivatives are differences of splines of lower orders. Beyond ``lower`` and ``upper``
    every B_j goes on as its tangent: linear combinations stay continuously differentiable and
    grow no faster than a line; second derivatives are zero there.

    Args:
        x: (..., channels).
        lower: where the grid of each channel begins.
        upper: where it ends.
        grid: intervals of the grid.
        order: degree of the polynomials, at least 1.
        derivatives: 0, 1 or 2; how many derivatives follow the values.

    Returns:
        Values and derivatives, each (..., channels, grid + order); differentiable in ``x``.

    Source: de Boor, *A Practical Guide to Splines*, chapters IX and X.

    Example:
        >>> zero = torch.zeros(1, dtype=torch.float64)
        >>> (values,) = bsplines(zero + 0.5, zero, zero + 1.0, grid=2, order=1)
        >>> values
        tensor([[0., 1., 0.]], dtype=torch.float64)
    """
    rate = grid / (upper - lower)
    place = (x - lower) * rate
    held = place.clamp(0.0, float(grid))
    # The last interval holds its right end too; states that are not numbers stay so in ``inner``.
    interval = held.detach().nan_to_num().floor().clamp(max=float(grid - 1))
    inner = held - interval
    powers = [torch.ones_like(inner), inner]
    for _ in range(order - 1):
        powers.append(powers[-1] * inner)
    depth = max(derivatives, 1)
    local = torch.stack(powers, -1) @ inner.new_tensor(_pieces(order, depth))
    pieces = list(local.split(order + 3, -1))
    beyond = (place - held).unsqueeze(-1)
    pieces[0] = pieces[0] + beyond * pieces[1]
    if derivatives > 1:
        pieces[2] = torch.where(beyond == 0.0, pieces[2], 0.0)
    splines = torch.arange(1, grid + order + 1, device=x.device)
    chosen = (splines - interval.unsqueeze(-1).long()).clamp(0, order + 2)
    found = [pieces[k].gather(-1, chosen) for k in range(derivatives + 1)]
    scale = rate.unsqueeze(-1)
    return tuple(scale**k * own if k else own for k, own in enumerate(found))


@lru_cache
def _pieces(order: int, derivatives: int) -> list[list[float]]:
    """Polynomials that the ``order + 1`` splines over one interval from 0 to 1 are there.

    Row k holds the coefficients of the k-th power, columns the splines between two that are
    zero, and after them all of their derivatives. The recursion is carried out once, with the
    polynomials themselves: of degree d, spline r begins at the knot ``r - d``.
    """
    splines = [Polynomial([1.0])]
    for d in range(1, order + 1):
        none = [Polynomial([0.0])]
        before, after = none + splines, splines + none
        splines = [
            before[r] * Polynomial([(d - r) / d, 1.0 / d])
            + after[r] * Polynomial([(r + 1) / d, -1.0 / d])
            for r in range(d + 1)
        ]
    columns = np.zeros((order + 1, derivatives + 1, order + 3))
    for k in range(derivatives + 1):
        for r, spline in enumerate(splines):
            own = (spline.deriv(k) if k else spline).coef[: order + 1]
            columns[: len(own), k, r + 1] = own
    return columns.reshape(order + 1, -1).tolist()


def greville(grid: int, order: int, like: Tensor) -> Float[Tensor, " splines"]:
    """Where each B-spline's coefficient is felt most, with the grid from -1 to 1.

    The mean of a B-spline's inner knots: ``sum_j greville_j B_j(x) = x``.
    """
    places = torch.arange(grid + order, dtype=like.dtype, device=like.device)
    return (places - 0.5 * (order - 1)) * (2.0 / grid) - 1.0

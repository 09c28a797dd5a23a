"""The same one-dimensional functions on other grids."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sympgp.energies.splines import bsplines

if TYPE_CHECKING:
    from sympgp.energies.kan_function import KANFunction
else:
    KANFunction = Any

POINTS = 8
"""Places in each interval of a new grid at which functions are compared."""

MARGIN = 0.05
"""By how much of its width a grid is wider than the data on either side."""


def refined(
    kan: KANFunction, grid: int, w: Tensor, z: Tensor | None, adapt: bool
) -> tuple[KANFunction, Tensor]:
    """See :meth:`KANFunction.refined`.

    Raises:
        ValueError: grids shall be adapted to states that are not there.
    """
    if adapt and z is None:
        raise ValueError("z: expected states to adapt the grids to, got None")
    rows = w if w.dim() > 1 else w.unsqueeze(0)
    coefficients = kan.coefficients(rows)
    inputs = None
    if z is not None:
        inputs = [x for x, _ in kan.traced(z.expand(len(rows), *z.shape), coefficients)[0]]
    found = replace(kan, grid=grid)
    if adapt and inputs:
        low, high = _ranges(kan, inputs)
        found = replace(found, lower=low, upper=high)
    new = []
    for layer, old in enumerate(coefficients):
        lower, upper = (bound.to(w) for bound in found.ranges(layer))
        share = torch.linspace(0.0, 1.0, POINTS * grid + 1, dtype=w.dtype, device=w.device)
        x = (lower + share.unsqueeze(-1) * (upper - lower)).expand(len(rows), -1, -1)
        if inputs is not None:
            x = torch.cat([x, inputs[layer]], 1)
        start, end = (bound.to(w) for bound in kan.ranges(layer))
        (before,) = bsplines(x, start, end, kan.grid, kan.order)
        (after,) = bsplines(x, lower, upper, grid, kan.order)
        target = torch.einsum("sbic,sioc->sibo", before, old[..., 1:])
        solved = torch.linalg.lstsq(after.movedim(2, 1), target).solution
        new.append(torch.cat([old[..., :1], solved.mT], -1))
    return found, found.weights(new).reshape(*w.shape[:-1], -1)


def _ranges(kan: KANFunction, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Grids around the inputs of every layer; as they were where inputs do not vary."""
    every = torch.cat([x.flatten(0, 1) for x in inputs], -1).detach().to(kan.lower)
    lower, upper = every.amin(0), every.amax(0)
    width = upper - lower
    varies = width > 1e-6 * (kan.upper - kan.lower)
    lower = torch.where(varies, lower - MARGIN * width, kan.lower)
    return lower, torch.where(varies, upper + MARGIN * width, kan.upper)

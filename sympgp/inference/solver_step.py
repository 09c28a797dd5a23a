"""The solver step of a Gauss-Newton fit: short against what the posterior leaves open."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.inference.search import Search
from sympgp.shooting.sensitivities import nominal_path

SOLVER_TOLERANCE = 0.1
"""Largest solver error of the fitted path, in units of its posterior deviation."""


def refine_step(search: Search) -> float:
    """Halve the solver step until its error is small against the posterior's deviation."""
    # No step is longer than an interval, so halving starts there.
    search.step = min(search.step, float(search.nodes.dt.max()))
    for attempt in range(4):
        error = solver_error(search)
        if error <= SOLVER_TOLERANCE or attempt == 3:
            return error
        search.step *= 0.5
        search.solve("refining the solver step", 0.01)
    return error


def solver_error(search: Search, num_draws: int = 16) -> float:
    """RMS difference from half the step over the path's deviation; the largest channel."""
    solution = search.solution
    if solution is None:
        return math.inf
    bound, start = search.field.bind(search.theta), solution.estimate.start
    own, windows = search.own_windows()
    step = min(search.step, float(search.nodes.dt.max()))
    finer, _ = nominal_path(bound, start, search.nodes, windows, 0.5 * step)
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(num_draws, len(search.theta), generator=generator, dtype=torch.float64).to(
        solution.precision
    )
    factor = cholesky(solution.precision, "the precision of the weights")
    delta = torch.linalg.solve_triangular(factor.mT, white.mT, upper=True).mT
    _, slope, cov = solution.chain.smooth(windows)
    moved = torch.einsum("wdp,sp->swd", slope, delta)
    shape = (num_draws, search.windows.num_windows, start.shape[-1])  # also of other ranks
    jitter = torch.randn(shape, generator=generator, dtype=torch.float64)[:, own].to(moved)
    moved = moved + jitter * cov.diagonal(dim1=-2, dim2=-1).clamp(min=0.0).sqrt()
    delta, moved = delta.to(start), moved.to(start)
    draws, _ = nominal_path(
        search.field.bind(search.theta + delta), start + moved, search.nodes, windows, search.step
    )
    valid = windows.nodes < search.nodes.first[-1]
    error = _rms(search, (solution.path - finer)[valid])
    lost = search.sharing.sum((~draws.isfinite()).sum((1, 2, 3)))
    kept = draws[lost == 0]
    if not len(kept):
        return math.inf
    deviation = _rms(search, (kept - solution.path)[:, valid].flatten(0, 1))
    least = torch.finfo(deviation.dtype).tiny
    ratio = (error / deviation.clamp(min=least)).nan_to_num(nan=math.inf).max()
    return float(search.sharing.broadcast(ratio))


def _rms(search: Search, values: Float[Tensor, "rows dim"]) -> Float[Tensor, " dim"]:
    """Root mean squares over the rows of all ranks."""
    count = search.sharing.sum(torch.tensor([len(values)], device=values.device))
    return (search.sharing.sum(values.square().sum(0)) / count).sqrt()

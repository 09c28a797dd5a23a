"""States of trajectories given one network, and how exactly the solver follows them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.inference.search import OSCILLATION
from sympgp.posterior import WindowStates
from sympgp.posterior.component import JointDraws
from sympgp.shooting.density import JointDensity
from sympgp.shooting.linearization import linearize
from sympgp.shooting.problem import Estimate, Problem

PATHS = 16
"""Draws whose paths the solver's error is taken of."""


def window_states(
    density: JointDensity,
    theta: Float[Tensor, " params"],
    noise_std: Float[Tensor, " dim"],
    start: Float[Tensor, "windows dim"],
    spacing: float,
) -> WindowStates:
    """States given one network, linearised there; what other networks change is in the draws."""
    inflation = torch.ones_like(noise_std) if density.inflation is None else density.inflation
    estimate = Estimate(
        theta[:0], start, noise_std, density.defect_std, inflation / density.noise.information
    )
    fixed = density.field.fixed(theta)
    problem = Problem(density.nodes, density.windows, fixed, density.noise, density.step)
    with torch.no_grad():
        path, end, _ = problem.evaluate(estimate)
        problem = problem.reweighted(estimate, path)
        linear = linearize(fixed, theta[:0], path, density.nodes, density.windows, density.step)
        chain = problem.eliminate(linear, estimate, end)
    spacing = spacing if math.isfinite(spacing) else OSCILLATION
    found = WindowStates.about(problem, start, chain, density.defect_std, spacing)
    none = theta.new_zeros(()).expand(*start.shape, len(theta))
    return replace(found, slope=none, ahead_slope=none)


def inflation_of(density: JointDensity) -> tuple[float, ...]:
    """So many observations of each channel count as one."""
    if density.inflation is None:
        return (1.0,) * density.nodes.values.shape[1]
    return tuple(density.inflation.tolist())


def solver_error(density: JointDensity, draws: JointDraws) -> float:
    """Change of the paths at half the step over their deviation; the largest channel."""
    if draws.start is None:
        return 0.0
    finer = replace(density, step=0.5 * min(density.step, float(density.nodes.dt.max())))
    rows = torch.linspace(0, len(draws.theta) - 1, min(PATHS, len(draws.theta))).round().long()
    theta, start = draws.theta[rows], draws.start[rows]
    with torch.no_grad():
        coarse, _, alive = density.paths(theta, start)
        fine, _, also = finer.paths(theta, start)
    kept = alive & also
    if int(kept.sum()) < 2:
        return math.inf
    seen = density.nodes.mask.any(1)[density.windows.nodes]
    coarse, fine = coarse[kept][:, seen], fine[kept][:, seen]
    error = (coarse - fine).square().mean((0, 1)).sqrt()
    deviation = coarse.var(0).mean(0).sqrt().clamp(min=1e-300)
    return float((error / deviation).max())

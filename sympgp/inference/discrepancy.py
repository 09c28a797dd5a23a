"""How exactly the data obey one ODE: the evidence of jumps between shooting windows.

With windows of about one oscillation, tied by ``N(0, defect^2)`` jumps, the linearised marginal
likelihood of (defect, noise) has a closed form. Where it prefers jumps by a clear margin the
model does not hold exactly over the whole horizon, and what remains is model discrepancy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.shooting.layout import Nodes
from sympgp.shooting.linearization import Linearization
from sympgp.shooting.noise_levels import noise_update, squares_after
from sympgp.shooting.problem import Estimate, Problem
from sympgp.shooting.reduction import Reduction

PRIOR_SCALE = 0.03
"""Scale of the jumps' half-Cauchy prior in scaled units: a model that cannot follow a system
within a few hundredths of its motion for one oscillation would be a surprise."""
EXACT = 0.5
"""Prior probability that data with white residuals obey one ODE exactly."""
LARGEST = 100.0
"""End of the grid of jump sizes, in units of the average noise."""


def log_evidence(
    problem: Problem, linear: Linearization, estimate: Estimate, path: Tensor, end: Tensor
) -> tuple[float, Tensor]:
    """Log marginal likelihood of the linearised model, and the noise updated once.

    States and parameters are integrated out about ``estimate``; constants are dropped.
    """
    reduced = Reduction.of(problem, linear, estimate, end)
    precision, gradient = reduced.normal_equations
    step = -torch.linalg.solve(precision, gradient)
    moved = reduced.moved(step)
    precisions, prior = estimate.precision.double(), problem.field.prior_precision().double()
    direct = torch.einsum("c,ci->i", precisions, linear.shared[:, :-1, -1])
    direct = direct + prior * estimate.theta
    own = problem.slope_along(linear, estimate, end, moved, step)
    value = problem.objective(estimate, path, end)
    value = value + 0.5 * (direct @ step + problem.ranks.sum(own))
    stddev = prior.rsqrt()
    white = precision * stddev[:, None] * stddev
    logdet = torch.linalg.slogdet(white).logabsdet + reduced.logdet
    noise, _ = noise_update(reduced, precision, squares_after(linear, step, moved, problem.ranks))
    counts = problem.nodes.counts / estimate.inflation
    total = -value - 0.5 * logdet - (counts * estimate.noise_std.log()).sum()
    return float(total), noise


@dataclass(frozen=True)
class DefectPosterior:
    """Posterior of the jumps' standard deviation on a grid, under a half-Cauchy prior.

    Attributes:
        grid: increasing values, scaled units.
        weights: their probabilities.
        gain: log evidence of the best value over that of the smallest (practically zero).
    """

    grid: tuple[float, ...]
    weights: tuple[float, ...]
    gain: float

    @property
    def root_mean_square(self) -> float:
        """The jump size whose variance is the posterior mean variance.

        The variance of a forecast is linear in the jumps' variance, so this one value stands for
        the whole posterior there.
        """
        return float(np.sqrt(np.average(np.square(self.grid), weights=self.weights)))

    def strata(self, count: int) -> list[float]:
        """Root mean squares of ``count`` parts of equal probability, smallest first.

        Their mean square is that of the whole posterior.
        """
        edges = np.concatenate([[0.0], np.cumsum(self.weights)])
        squares = []
        for k in range(count):
            share = np.diff(np.clip(edges, k / count, (k + 1) / count))
            squares.append(float(share @ np.square(self.grid)) * count)
        return [square**0.5 for square in squares]


def defect_posterior(
    problem: Problem, estimate: Estimate, exact: float = EXACT, count: int = 25
) -> DefectPosterior:
    """Posterior of the jump size, from one linearisation about the present path.

    ``exact`` is the prior probability of no jumps; the rest is half-Cauchy.

    Zero where every trajectory is one window, since there is nothing to tell it from.

    The noise is re-estimated at every value of the grid.
    """
    if problem.windows.joined:
        return DefectPosterior((0.0,), (1.0,), 0.0)
    path, end, _ = problem.evaluate(estimate)
    linear = problem.linearize(estimate.theta, path)
    scale = float(estimate.noise_std[problem.nodes.counts > 0].mean())
    grid = np.geomspace(1e-3 * scale, LARGEST * scale, count)
    scores = []
    noise = estimate.noise_std
    for defect in grid:
        # Neighbouring values have nearly the same noise, so that two updates are enough.
        for _ in range(2):
            trial = replace(estimate, defect_std=float(defect), noise_std=noise)
            total, noise = log_evidence(problem, linear, trial, path, end)
        scores.append(total)
    evidence = np.asarray(scores)
    prior = np.diff(np.concatenate([[0.0], grid])) / (1.0 + (grid / PRIOR_SCALE) ** 2)
    prior = (1.0 - exact) * prior / prior.sum()
    prior[0] += exact
    weights = prior * np.exp(evidence - evidence.max())
    weights = weights / weights.sum()
    return DefectPosterior(tuple(grid), tuple(weights), float(evidence.max() - evidence[0]))


def autocorrelation_time(
    residual: Float[Tensor, "nodes dim"], nodes: Nodes, longest: int = 12
) -> Float[Tensor, " dim"]:
    """``max(1, 1 + 2 sum_k rho_k)`` of each channel's residuals, in observations.

    The sum ends at the first lag without positive correlation, and one standard error of the
    sum under independence is taken off, so that white residuals give about one.
    """
    times = []
    for channel in range(residual.shape[1]):
        seen = nodes.mask[:, channel]
        own, trajectory = residual[seen, channel], nodes.trajectory[seen]
        power, count = float((own**2).sum()), len(own)
        total, best = 0.0, 0.0
        for lag in range(1, min(longest, count - 1) + 1):
            same = trajectory[lag:] == trajectory[:-lag]
            product = float((own[lag:] * own[:-lag] * same).sum())
            if product <= 0.0:
                break
            total += product / power
            best = max(best, total - (lag / count) ** 0.5)
        times.append(1.0 + 2.0 * best)
    return residual.new_tensor(times)

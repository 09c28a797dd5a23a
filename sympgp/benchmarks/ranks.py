"""Ranks of true values among posterior draws, and whether they are uniform.

Talts, Betancourt, Simpson, Vehtari and Gelman, *Validating Bayesian inference algorithms with
simulation-based calibration*, arXiv:1804.06788: where parameters are drawn from the prior and data
from the model, the rank of the true value among L independent draws from the posterior is uniform
on 0, .., L.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEAST_EXPECTED = 5
"""Ranks expected in every bin of the chi-squared test."""


@dataclass(frozen=True)
class Ranks:
    """Ranks of one quantity over many simulations.

    Attributes:
        name: of the quantity.
        values: one for each simulation, from 0 to ``num_draws``.
        num_draws: draws L that the true value was ranked among.

    Raises:
        ValueError: no rank at all, or one outside 0, .., L.

    Example:
        >>> ranks = Ranks("friction", (0, 1, 2, 3) * 10, num_draws=3)
        >>> ranks.histogram(4).tolist(), ranks.p_value(4)
        ([10, 10, 10, 10], 1.0)
    """

    name: str
    values: Sequence[int]
    num_draws: int

    def __post_init__(self) -> None:
        if not self.values or min(self.values) < 0 or max(self.values) > self.num_draws:
            raise ValueError(f"values: expected ranks from 0 to {self.num_draws}, and at least one")

    def bins(self) -> int:
        """Bins of equal width in ranks, as many as leave five expected in each; 2 to 20."""
        total = self.num_draws + 1
        most = min(20, len(self.values) // LEAST_EXPECTED)
        fair = [count for count in range(2, total + 1) if total % count == 0]
        return max([count for count in fair if count <= most], default=fair[0])

    def histogram(self, bins: int | None = None) -> np.ndarray:
        """Simulations in each bin of ranks.

        Raises:
            ValueError: bins that do not divide the L + 1 ranks evenly.
        """
        count, total = bins or self.bins(), self.num_draws + 1
        if total % count:
            raise ValueError(f"bins: expected a divisor of {total}, got {count}")
        index = np.asarray(self.values) * count // total
        return np.bincount(index, minlength=count)

    def p_value(self, bins: int | None = None) -> float:
        """Of Pearson's chi-squared test that all ranks are equally likely."""
        return float(stats.chisquare(self.histogram(bins)).pvalue)

    def coverage(self, level: float) -> tuple[float, float]:
        """Share of true values within the central interval of the draws, and its standard error.

        The error is that of a share whose expectation is ``level``.
        """
        place = (np.asarray(self.values) + 0.5) / (self.num_draws + 1)
        inside = np.abs(place - 0.5) < 0.5 * level
        return float(inside.mean()), math.sqrt(level * (1 - level) / len(inside))

    def verdict(self, significance: float = 0.01) -> str:
        """``uniform``, or in what way the ranks are not.

        Ranks that pile up at both ends mean draws that are too close to one another, in the middle
        too far apart, at one end a bias.
        """
        if self.p_value() >= significance:
            return "uniform"
        place = (np.asarray(self.values) + 0.5) / (self.num_draws + 1) - 0.5
        count = len(place)
        # of uniform numbers: variances 1/12 of the mean, 1/180 of the square
        shift = place.mean() * math.sqrt(12 * count)
        width = (np.square(place).mean() - 1 / 12) * math.sqrt(180 * count)
        if abs(shift) > abs(width):
            return "draws too low" if shift > 0 else "draws too high"
        return "draws too narrow" if width > 0 else "draws too wide"


SIGNIFICANCE = 0.01
"""Probability that uniform ranks of any quantity in a table are called something else."""


def rank_cells(ranks: Sequence[Ranks]) -> list[list[str]]:
    """Headings, and a line for each quantity: coverage, p-value and verdict.

    The significance is shared by the quantities, so that one verdict other than "uniform" in the
    table is already unlikely.
    """
    head = ["quantity", "simulations", "50% interval", "90% interval", "chi-squared p", "ranks are"]
    lines = [head]
    for own in ranks:
        shares = [f"{own.coverage(level)[0]:.3f}" for level in (0.5, 0.9)]
        verdict = own.verdict(SIGNIFICANCE / len(ranks))
        lines.append([own.name, str(len(own.values)), *shares, f"{own.p_value():.2g}", verdict])
    return lines

"""Round numbers at which contours are drawn."""

from __future__ import annotations

import numpy as np

COARSE = (1.0, 2.0, 5.0)
FINE = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
MOST = 7
"""Contours of one map."""


def even_levels(values: np.ndarray, most: int = 10) -> np.ndarray:
    """Evenly spaced round numbers that enclose all values.

    Example:
        >>> even_levels(np.array([0.1, 3.9]), most=4).tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    from matplotlib.ticker import MaxNLocator

    low, high = float(values.min()), float(values.max())
    if not low < high:
        low, high = low - 0.5, high + 0.5
    return np.asarray(MaxNLocator(most).tick_values(low, high))


def spread_levels(values: np.ndarray) -> np.ndarray:
    """Round numbers in about equal ratios, for positive values of different magnitudes.

    They begin at or below the smallest values, of which one percent may be smaller, or as many
    as make a readable picture below the largest one.

    Example:
        >>> spread_levels(np.array([0.02, 0.3, 0.9])).tolist()
        [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    """
    positive = values[values > 0]
    if positive.size == 0:
        return np.array([0.0, 1.0])
    low, high = np.quantile(positive, 0.01), positive.max()
    if high < 3 * low:
        return even_levels(positive, MOST)
    steps = FINE if high < 20 * low else COARSE
    exponents = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 1)
    ladder = np.array([float(f"{step}e{power}") for power in exponents for step in steps])
    first = np.searchsorted(ladder, low * (1 + 1e-9), "right") - 1
    last = np.searchsorted(ladder, high * (1 - 1e-9))
    return ladder[max(first, last - MOST) : last + 1]

"""Times of a path, and how inputs run along it, piece by piece between their breaks."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sympgp.phase_space import CanonicalScaling
from sympgp.trajectories import as_tensor
from sympgp.trajectories.signals import Signal

Rate = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Course:
    """Inputs over scaled time.

    Attributes:
        signal: inputs over user time.
        scaling: between the two.
    """

    signal: Signal
    scaling: CanonicalScaling

    @cached_property
    def breaks(self) -> list[float]:
        """Scaled times at which the signal is not smooth, in order."""
        origin, unit = float(self.scaling.time_origin), float(self.scaling.time_scale)
        return ((self.signal.breaks - origin) / unit).tolist()

    def between(self, begin: float, end: float) -> Iterator[tuple[float, float, Rate]]:
        """Pieces that make up the time from begin to end (or back), and the inputs in each.

        No piece crosses a break, where a held input steps: methods lose their order there. The
        end of a piece has the limit from within it.
        """
        origin, unit = float(self.scaling.time_origin), float(self.scaling.time_scale)
        breaks = self.breaks
        if not breaks:
            yield begin, end, lambda t: self.signal(origin + unit * t)
            return
        low, high = min(begin, end), max(begin, end)
        room = 1e-9 * (high - low)
        inner = breaks[bisect_right(breaks, low + room) : bisect_left(breaks, high - room)]
        edges = [low, *inner, high]
        times = torch.tensor(edges, dtype=torch.float64).to(self.signal.breaks) * unit + origin
        pieces = list(zip(edges[:-1], edges[1:], self.signal.pieces(times), strict=True))
        for left, right, (first, last) in pieces if end >= begin else reversed(pieces):
            rate = _straight(left, first, (last - first) / (right - left))
            yield (left, right, rate) if end >= begin else (right, left, rate)


def _straight(left: float, first: Tensor, slope: Tensor) -> Rate:
    return lambda t: first + (t - left) * slope


def as_times(times: Any) -> list[float]:
    """Times as numbers, checked to increase.

    Raises:
        ValueError: none at all, not finite, or not strictly increasing.
    """
    values = as_tensor(times, "times")
    if values.dim() != 1 or not len(values):
        raise ValueError(f"times: expected shape (T,), got {tuple(values.shape)}")
    if not bool(values.isfinite().all()) or not bool((values.diff() > 0).all()):
        raise ValueError("times: expected finite, strictly increasing values")
    return [float(t) for t in values]

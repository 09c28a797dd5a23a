"""A whole horizon as a table of Runge-Kutta steps, for a kernel that walks it in one go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.integrators import Times
from sympgp.integrators.base import host_times, step_counts

Leg = tuple[float, float, Callable[[Any], Tensor]]
"""A time without breaks: begin, end, and the inputs in between as a function of times (K, 1)."""

NOT_STORED, ONLY_CHECKED = -1, -2
"""Slots of steps whose end nobody asked for; after the second kind states are checked all the same.
"""


@dataclass(frozen=True)
class Horizon:
    """K steps of the classical Runge-Kutta method to T - 1 requested times after the first.

    Attributes:
        lengths: (K,).
        slots: (K,) place of the state after each step among the T times, or one of the two above.
        inputs: (K, 3, m) at the beginning, middle and end of each step; None without inputs.
        size: T.
    """

    lengths: Float[Tensor, " steps"]
    slots: Int[Tensor, " steps"]
    inputs: Float[Tensor, "steps 3 inputs"] | None
    size: int


def undriven(times: Times, step: float) -> Horizon:
    """Equal steps between requested times, none longer than ``step``.

    Raises:
        ValueError: times that are not finite or not strictly monotone.
    """
    grid, rounding = host_times(times)
    counts = torch.tensor(step_counts(grid, rounding, step), dtype=torch.long)
    ends = torch.tensor(grid, dtype=torch.float64)
    slots = torch.full((int(counts.sum()),), NOT_STORED, dtype=torch.int32)
    slots[counts.cumsum(0) - 1] = torch.arange(1, len(grid), dtype=torch.int32)
    return Horizon((ends.diff() / counts).repeat_interleave(counts), slots, None, len(grid))


def driven(times: Times, signal: Callable[[float], Tensor], step: float) -> Horizon:
    """The same with inputs that are a smooth function ``t -> (m,)`` of one time.

    Raises:
        ValueError: times that are not finite or not strictly monotone.
    """
    grid, rounding = host_times(times)

    def rate(at: Tensor) -> Tensor:
        return torch.stack([signal(t) for t in at.reshape(-1).tolist()])

    legs = [[(begin, end, rate)] for begin, end in pairwise(grid)]
    return _walked(legs, [[count] for count in step_counts(grid, rounding, step)], None)


def in_legs(legs: Sequence[Sequence[Leg]], step: float, device: torch.device) -> Horizon:
    """One list of legs for each interval between requested times; no step crosses their ends."""
    counts = [[step_counts(*host_times(leg[:2]), step)[0] for leg in part] for part in legs]
    return _walked(legs, counts, device)


def _walked(
    legs: Sequence[Sequence[Leg]],
    counts: Sequence[Sequence[int]],
    device: torch.device | None,
) -> Horizon:
    lengths: list[Tensor] = []
    slots: list[Tensor] = []
    inputs: list[Tensor] = []
    nodes = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    for place, (part, numbers) in enumerate(zip(legs, counts, strict=True), 1):
        for (begin, end, rate), count in zip(part, numbers, strict=True):
            h = (end - begin) / count
            starts = begin + h * torch.arange(count, dtype=torch.float64)
            at = (starts.unsqueeze(-1) + h * nodes).reshape(-1, 1)
            inputs.append(rate(at.to(device=device)).reshape(count, 3, -1))
            lengths.append(torch.full((count,), h, dtype=torch.float64))
            slot = torch.full((count,), NOT_STORED, dtype=torch.int32)
            slot[-1] = ONLY_CHECKED
            slots.append(slot)
        slots[-1][-1] = place
    return Horizon(torch.cat(lengths), torch.cat(slots), torch.cat(inputs), len(legs) + 1)

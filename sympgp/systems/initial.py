"""Random draws that the distributions of initial states are made of."""

from collections.abc import Callable

import torch
from torch import Tensor


def uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw uniformly from [low, high)."""
    draws = torch.rand(shape, generator=generator, dtype=torch.float64)
    return low + (high - low) * draws


def uniform_where(
    keep: Callable[[Tensor], Tensor],
    half_width: float,
    dim: int,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw states (count, dim) uniformly from the part of a cube around 0 where ``keep`` is true.

    Args:
        keep: Which of the candidates (N, dim) to keep, (N,).
        half_width: The cube is [-half_width, half_width]^dim.
        dim: Width of a state.
        count: How many to draw.
        generator: Source of the draws.
    """
    kept = torch.empty(0, dim, dtype=torch.float64)
    while len(kept) < count:
        candidates = uniform(-half_width, half_width, (count, dim), generator)
        kept = torch.cat([kept, candidates[keep(candidates)]])
    return kept[:count]

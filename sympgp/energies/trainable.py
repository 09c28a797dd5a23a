"""What engines that train energies by descent need of them: a beginning, dropout, a last layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.energies.base import Basis
from sympgp.energies.sum_basis import SumBasis

SMALL = 0.01
"""Weights of parts without layers at the start, over their prior deviations."""


class TrainableBasis(Basis):
    """A basis of layers, such as a network, whose weights are found by descent.

    Attributes:
        last_layer: the weights that act last, in which the network's own outputs are linear: H, or
            rates without an energy. Accelerations of a Lagrangian are linear in no weights.
    """

    last_layer: slice

    @abstractmethod
    def initial(self, num: int, generator: torch.Generator) -> Float[Tensor, "num weights"]:
        """Weights at which training can begin, one row a network; zero is often a saddle.

        Args:
            num: rows.
            generator: of the CPU, so that devices agree.
        """

    @abstractmethod
    def dropout(
        self, rate: float, num: int, generator: torch.Generator
    ) -> Float[Tensor, "num weights"]:
        """Factors of the weights that drop hidden units, one row a mask.

        To drop a unit is to drop the weights by which it acts on others: these have factor zero,
        those of the units that are kept ``1 / (1 - rate)``, and all others one. A mask times the
        weights is thus one function, the same at all states and for a whole rollout.

        Args:
            rate: probability that a unit is dropped, from 0 to below 1.
            num: rows.
            generator: of the CPU, so that devices agree.
        """


def initial_weights(
    basis: Basis, num: int, generator: torch.Generator
) -> Float[Tensor, "num weights"]:
    """Where training of any basis can begin: ``initial`` of what has layers, nearly zero else.

    At zero itself the slopes of some have no derivatives.
    """
    rows = []
    for part in _parts(basis):
        if isinstance(part, TrainableBasis):
            rows.append(part.initial(num, generator))
            continue
        like = part.prior_variance
        white = torch.randn(num, part.num_weights, generator=generator, dtype=torch.float64)
        rows.append(SMALL * like.sqrt() * white.to(like))
    return torch.cat(rows, -1)


def dropout_factors(
    basis: Basis, rate: float, num: int, generator: torch.Generator
) -> Float[Tensor, "num weights"]:
    """``dropout`` of any basis: what has no layers is kept.

    Raises:
        ValueError: the rate is not in [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"rate: expected a number from 0 to below 1, got {rate!r}")
    rows = [
        part.dropout(rate, num, generator)
        if isinstance(part, TrainableBasis)
        else part.prior_variance.new_ones(num, part.num_weights)
        for part in _parts(basis)
    ]
    return torch.cat(rows, -1)


def last_layer(basis: Basis) -> Int[Tensor, " chosen"]:
    """Indices of the weights that act last: all those of parts without layers."""
    start, found = 0, []
    for part in _parts(basis):
        own = torch.arange(part.num_weights, device=part.prior_variance.device)
        found.append(start + (own[part.last_layer] if isinstance(part, TrainableBasis) else own))
        start += part.num_weights
    return torch.cat(found)


def has_layers(basis: Basis) -> bool:
    """Whether any part has to be trained from weights that are drawn."""
    return any(isinstance(part, TrainableBasis) for part in _parts(basis))


def _parts(basis: Basis) -> Iterator[Basis]:
    if not isinstance(basis, SumBasis):
        yield basis
        return
    for part in basis.parts:
        yield from _parts(part)

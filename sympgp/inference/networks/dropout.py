"""Monte Carlo dropout: networks with some of their hidden units left out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import dropout_factors
from sympgp.fields import HamiltonianField
from sympgp.inference.networks.bank import Bank, trained_bank
from sympgp.inference.networks.base import Context, NetworkEngine
from sympgp.inference.networks.descent import Perturbation
from sympgp.inference.networks.linearisation import Point, dissipation_draws
from sympgp.inference.networks.polish import affordable_part
from sympgp.inference.networks.trajectories import Trained

DRAWS = 200
"""Draws of the posterior."""


@dataclass(frozen=True, kw_only=True)
class MCDropout(NetworkEngine):
    """Training and prediction with hidden units dropped at random.

    To drop a unit is to multiply the weights by which it acts on others by zero, and those of the
    units that stay by ``1 / (1 - rate)``. Each step of training sees one such mask; each draw of
    the posterior has one, which it keeps: it is one function, the same for all states and along a
    whole rollout, not a new one at each evaluation. Dissipation has its Gaussian posterior given
    the trained network, the noise its own given each draw.

    Args:
        rate: probability that a unit is dropped.
        num_draws: masks that are kept.

    Raises:
        ValueError: a rate outside (0, 1), a number below one, or as :class:`NetworkEngine` says.

    Source: Gal and Ghahramani, *Dropout as a Bayesian approximation*, ICML 2016.

    Example:
        >>> MCDropout(rate=0.2).num_draws
        200
    """

    rate: float = 0.1
    num_draws: int = DRAWS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"rate: expected a number between 0 and 1, got {self.rate!r}")
        value = self.num_draws
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"num_draws: expected a whole number of at least 1, got {value!r}")

    def perturbed(self, field: HamiltonianField) -> Perturbation:
        """A fresh mask for every row."""

        def masked(theta: Tensor, generator: torch.Generator) -> Tensor:
            return theta * self._factors(field, len(theta), generator)

        return masked

    def infer(self, trained: Trained, context: Context) -> Bank:
        """The trained network under many masks."""
        known = trained_bank(trained)
        generator = torch.Generator().manual_seed(context.seed)
        field, num = known.field, self.num_draws
        factors = self._factors(field, num, generator)
        start = None if known.start is None else known.start[0]
        at = Point(known.theta[0], known.noise_std[0], start)
        rho = dissipation_draws(affordable_part(known.density), at, num, generator)
        w, _ = field.split(known.theta[0] * factors)
        return Bank(
            known.density,
            torch.cat([w, rho], 1),
            at.noise_std.expand(num, -1),
            None if start is None else start.expand(num, -1, -1),
            known.steps,
            known.converged,
            known.notes,
            used=known.used,
            spacing=known.spacing,
        )

    def _factors(
        self, field: HamiltonianField, num: int, generator: torch.Generator
    ) -> Float[Tensor, "draws params"]:
        """Factors of all parameters; inputs and dissipation stay as they are."""
        own = dropout_factors(field.basis, self.rate, num, generator)
        rest = own.new_ones(num, field.num_parameters - own.shape[1])
        return torch.cat([own, rest], 1)

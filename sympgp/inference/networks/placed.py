"""Training on pairs whose states have noise: at places where these may have been."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.fields import HamiltonianField
from sympgp.inference.base import Report
from sympgp.inference.networks.density import PairDensity
from sympgp.inference.networks.descent import Schedule, Unknowns
from sympgp.inference.networks.trajectories import SLOWER, Trained
from sympgp.inference.pairs import Pairs
from sympgp.inference.state_noise import CLOSE, ROUNDS, located, moved_by

PLACINGS, SHARE = 3, 0.3
"""How often the places of noisy states are found where Adam follows, and its steps after each over
those before."""


Training = Callable[[PairDensity, Unknowns, str, Schedule], Trained]
"""Training that goes on from rows, under a name and with steps of its own."""


class MeanField(NamedTuple):
    """What several networks say on average.

    Attributes:
        field: of all.
        theta: (S, P + K) rows that are finite.
        noise_std: (D,).
    """

    field: HamiltonianField
    theta: Float[Tensor, "rows params"]
    noise_std: Float[Tensor, " dim"]

    @classmethod
    def of(cls, density: PairDensity, found: Unknowns) -> MeanField:
        """Of rows that were trained."""
        alive = found.theta.isfinite().all(1)
        noise_std = found.noise_std(density.noise)
        return cls(density.field, found.theta[alive], noise_std[alive].mean(0))

    def rates(self, z: Float[Tensor, "points dim"]) -> Float[Tensor, "points dim"]:
        """At scaled states."""
        found: Tensor = self.field.bind(self.theta)(0.0, z.expand(len(self.theta), *z.shape))
        return found.mean(0)

    def slope(self, z: Float[Tensor, "points dim"]) -> Float[Tensor, "points dim dim"]:
        """Their derivatives by the state."""
        return torch.stack([self.field.jacobian(z, row) for row in self.theta]).mean(0)


def trained_at_places(
    trained: Trained,
    seen: Pairs,
    state_std: Float[Tensor, " dim"],
    train: Training,
    whole: Schedule,
    report: Report,
) -> Trained:
    """Training goes on at places where the states may have been, until these stay.

    Where it takes steps of Adam they are moved a few times only.

    Args:
        trained: at the states as they were seen.
        seen: the data.
        state_std: of the states' noise.
        train: what goes on with a training.
        whole: the schedule so far.
        report: of progress.
    """
    steps, rate = max(1, round(SHARE * whole.num_steps)), SLOWER * whole.learning_rate
    schedule = replace(whole, num_steps=steps, learning_rate=rate)
    density = trained.density
    if not isinstance(density, PairDensity):
        raise TypeError(f"density: expected pairs, got {type(density).__name__}")
    exact = trained.ends is not None
    for k in range(ROUNDS if exact else PLACINGS):
        report("places of the states", None)
        mean = MeanField.of(density, trained.unknowns)
        if not len(mean.theta):  # all diverged, which is said with the results
            return trained
        pairs = located(seen, density.pairs, mean.rates, mean.slope, mean.noise_std, state_std)
        moved = moved_by(pairs, density.pairs, state_std)
        density = replace(density, pairs=pairs)
        ahead = train(density, trained.unknowns, f"places {k + 1}", schedule)
        trained = replace(ahead, steps=trained.steps + ahead.steps)
        if exact and moved < CLOSE:
            break
    return trained

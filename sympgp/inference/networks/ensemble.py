"""One network at the optimum, and several: of other beginnings, or of perturbed data and priors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sympgp.inference.networks.bank import Bank, trained_bank
from sympgp.inference.networks.base import Context, NetworkEngine
from sympgp.inference.networks.descent import Descent, Schedule, descend
from sympgp.inference.networks.perturbed_optima import NAME, randomized_rows
from sympgp.inference.networks.polish import affordable
from sympgp.inference.networks.randomized import RandomizedDensity
from sympgp.inference.networks.trajectories import SLOWER, Trained

TRIES = 40
"""Gauss-Newton steps from an optimum towards that for perturbed data, at most."""
MOVING = 0.3
"""Where they would be too large, steps of Adam over those of the training."""


@dataclass(frozen=True, kw_only=True)
class MAP(NetworkEngine):
    """The most probable weights: one network, without any uncertainty of the field.

    Noise and states have posteriors given this network.

    Example:
        >>> from sympgp import HNN, StateDerivatives, fit
        >>> x = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
        >>> pairs = StateDerivatives(x, [[0.0, -1.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> posterior = fit(HNN(1, (8,)), pairs, inference=MAP(num_steps=10), progress=False)
        >>> posterior.diagnostics.engine
        'MAP'
    """

    @property
    def takes_state_noise(self) -> bool:
        """They may."""
        return True

    def infer(self, trained: Trained, context: Context) -> Bank:
        """The trained network."""
        return trained_bank(trained)


@dataclass(frozen=True, kw_only=True)
class DeepEnsemble(NetworkEngine):
    """Several networks, all in one run; each is one draw.

    Networks that are trained on the same data from other beginnings agree wherever there are data,
    and their bands hold far less than they should. So with ``randomize`` every member has a prior
    draw of its own for the centre of its prior, and a copy of its own of the data (and of the
    first states' priors) with one more noise added. One network is trained first, and all members
    go on from there. Where the field is linear in the weights they are exact draws of the
    posterior at the first network's noise; of other fields they are draws about one mode, and
    some may still be on their way from it when the steps are over, as a note then says.
    Dissipation that may not be negative stops at zero.

    Without ``randomize`` the k-th member is what :class:`MAP` finds with a seed that is k larger,
    but for the order of batches, which all members share.

    Args:
        num_members: how many; a band of 90% from ten or fewer is no more than their extremes.
        randomize: perturb data and priors.

    Raises:
        ValueError: fewer than one member, or as :class:`NetworkEngine` says.

    Sources: Lakshminarayanan, Pritzel and Blundell, *Simple and scalable predictive uncertainty
    estimation using deep ensembles*, NeurIPS 2017; Pearce, Leibfried and Brintrup, *Uncertainty in
    neural networks: approximately Bayesian ensembling*, AISTATS 2020, for centres drawn from the
    prior; Bardsley, Solonen, Haario and Laine, *Randomize-then-optimize*, SIAM Journal on
    Scientific Computing 2014, for perturbed data.

    Example:
        >>> DeepEnsemble(num_members=5, randomize=False).num_rows
        5
    """

    num_members: int = 30
    randomize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        value = self.num_members
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"num_members: expected a whole number of at least 1, got {value!r}")

    @property
    def num_rows(self) -> int:
        """Members with beginnings of their own."""
        return 1 if self.randomize else self.num_members

    @property
    def takes_state_noise(self) -> bool:
        """They may."""
        return True

    def infer(self, trained: Trained, context: Context) -> Bank:
        """All members that did not diverge."""
        if not self.randomize:
            return trained_bank(trained)
        trained, moving = self._randomized(trained, context)
        bank = trained_bank(trained)
        if not moving:
            return bank
        note = f"{moving} of {self.num_members} members were still moving when their steps ended"
        return replace(bank, converged=False, notes=(*bank.notes, note))

    def _randomized(self, trained: Trained, context: Context) -> tuple[Trained, int]:
        """Every member at the optimum for its own data and prior, and how many still move."""
        density, copies = trained.density, self.num_members
        begin = trained.unknowns
        begin = begin.rows(torch.zeros(copies, dtype=torch.long, device=begin.theta.device))
        seed, checkpoint, report = context.seed, context.checkpoint, context.report
        if affordable(density):
            found = randomized_rows(density, begin, seed, TRIES, checkpoint, report)
            ends = trained.ends
            if ends is not None:
                ends = ends._replace(converged=copies * ends.converged)
            steps = trained.steps + found.steps
            moving = int((~found.arrived).sum())
            return replace(trained, unknowns=found.unknowns, steps=steps, ends=ends), moving
        whole = self._schedule()
        steps = max(1, round(MOVING * whole.num_steps))
        size = whole.batch_size if begin.start is None else None
        schedule = Schedule(steps, SLOWER * whole.learning_rate, size)
        own = RandomizedDensity.of(density, begin.noise_std(density.noise), seed)
        search = descend(Descent(own, begin, schedule, seed), NAME, checkpoint, report)
        steps = trained.steps + steps
        return replace(trained, unknowns=search.unknowns(), steps=steps, rise=search.rise()), 0

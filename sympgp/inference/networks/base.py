"""What engines that train networks have in common: settings, the way there, and the result."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import Hyperparameters, costs, initial_weights
from sympgp.energies.arguments import is_number
from sympgp.fields import HamiltonianField
from sympgp.inference.base import InferenceEngine, Report
from sympgp.inference.checkpoint import Checkpoint
from sympgp.inference.networks.bank import Bank, found_from_pairs, found_from_trajectories
from sympgp.inference.networks.density import PairDensity
from sympgp.inference.networks.descent import Descent, Perturbation, Schedule, Unknowns, descend
from sympgp.inference.networks.digest import digest
from sympgp.inference.networks.placed import trained_at_places
from sympgp.inference.networks.polish import FIRST, affordable, polished_rows
from sympgp.inference.networks.sparse import sparsified
from sympgp.inference.networks.trajectories import Growth, Trained, typical_size
from sympgp.inference.pairs import PreparedPairs, check_state_noise, prepare_pairs, untold_noise
from sympgp.inference.start import Prepared, prepare
from sympgp.integrators import RK4, Integrator
from sympgp.models import HamiltonianModel
from sympgp.posterior import DerivativePosterior, Posterior
from sympgp.trajectories import StateDerivatives, Trajectories

DEFAULT_STEP = 0.2
"""Longest solver step, scaled time."""
PAIRS_A_STEP = 250
"""Pairs of each step, where nothing else is asked for."""
LAST_STEPS = 100
"""Gauss-Newton steps on pairs, at most."""


class Context(NamedTuple):
    """What belongs to one fit.

    Attributes:
        model: with its energy in scaled units.
        hyperparameters: at which the field's prior is.
        spread: (D,) scaled standard deviations of the data's channels, for hyperpriors.
        seed: of every random choice.
        checkpoint: where trainings are kept.
        report: progress.
    """

    model: HamiltonianModel
    hyperparameters: Hyperparameters
    spread: Float[Tensor, " dim"]
    seed: int
    checkpoint: Checkpoint
    report: Report


@dataclass(frozen=True, kw_only=True)
class NetworkEngine(InferenceEngine):
    """Engines that train networks by Adam, on trajectories or on pairs; they hold settings only.

    Pairs are regressed on; on trajectories the rates of a smoothed path come first, then shooting
    windows whose states are unknowns too, longer and longer up to whole trajectories. Noise and
    dissipation are trained along. Where data times weights are few enough, damped Gauss-Newton
    steps take over from a fifth of the steps of Adam on, network by network.

    Any energy will do: of parts without layers (formulas, Fourier features) training begins near
    the prior's mean. Hyperparameters stay at their priors' medians.

    Args:
        num_steps: steps of Adam on pairs, or on the rates of trajectories; windows take a tenth
            as many each. Where Gauss-Newton steps follow, Adam takes a fifth of them, and none on
            windows. Where edges of an energy have a ``sparsity``, all this is without it; then up
            to 200 Gauss-Newton steps on pairs, or 40 on windows, or half as many of Adam go on
            with it.
        learning_rate: of the weights at the start; it falls to zero along a cosine.
        batch_size: pairs a step, chosen at random; 250 when None, or all where there are fewer.
        window: length of the longest windows in user time; as long as the data tolerate when None.
        step: longest solver step in user time; chosen from the data when None.
        checkpoint: file to which training is written again and again. An interrupted fit that is
            called again with the same data, settings and seed goes on from there and ends where
            it would have ended.

    Raises:
        ValueError: a number below one, or a rate or length that is not positive.
    """

    num_steps: int = 3000
    learning_rate: float = 0.01
    batch_size: int | None = None
    window: float | None = None
    step: float | None = None
    checkpoint: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        for name in ("learning_rate", "window", "step"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number, got {value!r}")

    @property
    def num_rows(self) -> int:
        """Networks that are trained side by side."""
        return 1

    @property
    def takes_state_noise(self) -> bool:
        """Whether the states of pairs may have noise."""
        return False

    @property
    def takes_sparsity(self) -> bool:
        """Whether edges of Kolmogorov-Arnold energies may cost something."""
        return True

    def perturbed(self, field: HamiltonianField) -> Perturbation | None:
        """What training looks at in place of the weights; these themselves when None."""
        return None

    @abstractmethod
    def infer(self, trained: Trained, context: Context) -> Bank:
        """The draws, from networks at the optimum."""

    def with_integrator(self, integrator: Integrator) -> NetworkEngine:
        """Copy with another solver step.

        Raises:
            ValueError: a method other than RK4, or without a step.
        """
        if not isinstance(integrator, RK4) or integrator.step is None:
            raise ValueError(
                "integrator: network engines differentiate RK4 steps, RK4(step=...) or None is "
                f"expected; got {integrator!r}"
            )
        return replace(self, step=integrator.step)

    def run(
        self, model: HamiltonianModel, data: Trajectories, seed: int, report: Report
    ) -> Posterior:
        """Infer the posterior from trajectories, see :class:`InferenceEngine`."""
        began = time.perf_counter()
        report("smoothing the data", None)
        interpolation = model.interpolation
        prepared = prepare(
            data, model.noise, self.step, DEFAULT_STEP, model.energy.momenta, interpolation
        )
        own = model.in_units(prepared.scaling, prepared.known_states)
        context = self._context(model, own, prepared, data, seed, report)
        basis = own.energy.basis(context.hyperparameters)
        field = own.field(basis, prepared.scaling, data)
        unit = float(prepared.scaling.time_scale)
        growth = Growth(
            prepared,
            field,
            self._schedule(),
            None if self.window is None else self.window / unit,
            seed,
            context.checkpoint,
            report,
            self.perturbed(field),
        )
        trained = growth.train(self._beginning(field, seed))
        trained = self._sparse(trained, context)
        bank = self.infer(trained, context)
        return found_from_trajectories(
            type(self).__name__, bank, prepared, model, data, began, seed, context.hyperparameters
        )

    def run_pairs(
        self, model: HamiltonianModel, data: StateDerivatives, seed: int, report: Report
    ) -> DerivativePosterior:
        """Infer the posterior from pairs of states and derivatives.

        Args:
            model: priors of the field.
            data: on the device and in the dtype to compute with.
            seed: of every random choice.
            report: to be called as the work goes on.

        Raises:
            ValueError: model and data that do not fit together.
        """
        began = time.perf_counter()
        check_state_noise(self, self.takes_state_noise, data)
        prepared = prepare_pairs(model, data)
        own = model.in_units(prepared.scaling, prepared.pairs.z)
        context = self._context(model, own, prepared, data, seed, report)
        damping = own.dissipation.scaled(prepared.scaling)
        field = HamiltonianField(own.energy.basis(context.hyperparameters), damping).to(model.dtype)
        density = PairDensity(prepared.pairs, field, prepared.noise)
        size = typical_size(prepared.pairs)
        begin = Unknowns.at(self._beginning(field, seed), density.noise, size, None)
        trained = self._sparse(self._trained(context, density, begin), context)
        if prepared.state_std is not None:
            train = partial(self._trained, context)
            whole = self._schedule()
            trained = trained_at_places(
                trained, prepared.pairs, prepared.state_std, train, whole, report
            )
        bank = self.infer(trained, context)
        if trained.ends is not None:
            known = density.counts - trained.ends.used
            bank = replace(bank, notes=(*bank.notes, *untold_noise(data, known)))
        return found_from_pairs(
            type(self).__name__, bank, prepared, model, data, began, seed, context.hyperparameters
        )

    def _trained(
        self,
        context: Context,
        density: PairDensity,
        begin: Unknowns,
        name: str = "training",
        again: Schedule | None = None,
    ) -> Trained:
        """Adam, and Gauss-Newton steps where they are small and nothing is perturbed.

        Where training goes on, ``again``, these steps alone will do.
        """
        perturbed, schedule = self.perturbed(density.field), again or self._schedule()
        exact = perturbed is None and affordable(density)
        if exact and again is not None:
            found, ends = polished_rows(
                density, begin, name, LAST_STEPS, context.checkpoint, context.report
            )
            return Trained(density, found, ends.steps, ends=ends)
        if exact:
            schedule = replace(schedule, num_steps=max(1, round(FIRST * schedule.num_steps)))
        descent = Descent(density, begin, schedule, context.seed, perturbed)
        search = descend(descent, name, context.checkpoint, context.report)
        found = search.unknowns()
        if not exact:
            return Trained(density, found, schedule.num_steps, rise=search.rise())
        found, ends = polished_rows(
            density, found, "last steps", LAST_STEPS, context.checkpoint, context.report
        )
        return Trained(density, found, schedule.num_steps + ends.steps, ends=ends)

    def _sparse(self, trained: Trained, context: Context) -> Trained:
        """Trained on with edges that cost something, where they do."""
        if not context.model.energy.sparse:
            return trained
        perturbed = self.perturbed(trained.density.field)
        checkpoint, report = context.checkpoint, context.report
        return sparsified(trained, self._schedule(), context.seed, perturbed, checkpoint, report)

    def _schedule(self) -> Schedule:
        size = PAIRS_A_STEP if self.batch_size is None else self.batch_size
        return Schedule(self.num_steps, self.learning_rate, size)

    def _beginning(self, field: HamiltonianField, seed: int) -> Float[Tensor, "rows params"]:
        """Rows of theta: the k-th from the seed k further on, whatever their number."""
        rows = []
        for k in range(self.num_rows):
            generator = torch.Generator().manual_seed(seed + k)
            w = initial_weights(field.basis, 1, generator)[0]
            inputs = w.new_zeros(field.num_weights - len(w))
            rows.append(torch.cat([w, inputs, field.dissipation.start()]))
        return torch.stack(rows).double()  # what is searched for, whatever the field computes in

    def _context(
        self,
        given: HamiltonianModel,
        scaled: HamiltonianModel,
        prepared: Prepared | PreparedPairs,
        data: Trajectories | StateDerivatives,
        seed: int,
        report: Report,
    ) -> Context:
        priors = scaled.energy.hyperpriors(prepared.scaling.spread)
        hyper = {name: prior.median for name, prior in priors.items()}
        law = (given.dissipation, given.inputs, given.noise, given.interpolation, str(given.dtype))
        about: tuple[object, ...] = (replace(self, checkpoint=None), seed, *law)
        basis = scaled.energy.basis(hyper)
        if scaled.energy.sparse:
            about = (*about, *costs(basis))
        mark = digest(data, about, basis)
        checkpoint = Checkpoint(self.checkpoint, mark)
        return Context(scaled, hyper, prepared.scaling.spread, seed, checkpoint, report)

"""Gauss-Newton variational inference through the ODE."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.distributed import ALONE, Ranks
from sympgp.energies import quasi_random_frequencies
from sympgp.energies.base import Hyperparameters
from sympgp.inference.base import InferenceEngine, Report
from sympgp.inference.discrepancy import DefectPosterior
from sympgp.inference.evidence import FrozenModel, HyperPosterior
from sympgp.inference.search import OSCILLATION, WORSE, Search
from sympgp.inference.solver_step import refine_step, solver_error
from sympgp.inference.start import Prepared, integral_form, prepare
from sympgp.inference.subset import first_trajectories, settled
from sympgp.models import HamiltonianModel
from sympgp.posterior import Component, Diagnostics, Posterior
from sympgp.posterior.diagnostics import unobserved
from sympgp.shooting.layout import Windows
from sympgp.trajectories import Trajectories

DEFAULT_STEP = 0.25
"""Solver step in scaled time, before refinement: 25 steps an oscillation."""

COMPONENTS, MANY = 4, 8
"""Gaussians of a mixture, and the degrees of freedom from which on there is only one."""
ONE_SET = (
    "with so many degrees of freedom one set of features is used: the bands are without the "
    "uncertainty of lengthscales and features"
)

HYPER_SPREAD = 2.0**0.5
"""Standard deviations by which hyperparameters are drawn wider than the evidence has them. That
evidence takes the path as known, and few draws stand for all; on simulated oscillators 90% bands of
rollouts held 0.84 (Duffing) and 0.92 (pendulum) of the truth with one, 0.88 and 0.94 with two."""

SPARE_SHARE = 0.3
"""Below this share of observations that the fit does not use up, the noise is not trusted."""


@dataclass(frozen=True)
class GaussNewton(InferenceEngine):
    """The default engine: a Gaussian posterior about the optimum of the exact shooting objective.

    1. Scale states and time canonically; smooth the data.
    2. Start from the integral form of the ODE along the smooth path.
    3. Levenberg-Marquardt through the ODE with exact sensitivities of the RK4 map, over weights,
       friction and the states at the starts of shooting windows, which grow to whole
       trajectories; noise of each channel by its fixed point.
    4. Measure model discrepancy: jumps between windows of one oscillation that the evidence
       allows stay in the model, with their uncertainty.
    5. Lengthscales and scales by the frozen-path evidence under log-normal hyperpriors.
    6. A mixture of Gaussians over draws of the hyperparameters, the jumps' size and the spectral
       points, each refitted, so that the bands carry their uncertainty.

    Of many trajectories, more than four times what holds 40,000 observed entries, 2 to 6 begin with
    some that hold as much, long and short ones. Each search that the posterior is made of then goes
    on with all of them from there, so that field, noise and states are those that all data ask for;
    lengthscales, jumps and solver step, with their uncertainty, are those of the part. Where
    trajectories differ by a context, or a channel is hardly observed in the part, all of them are
    looked at from the start.

    Args:
        num_components: Gaussians in the mixture; one ignores hyperparameter uncertainty. Four when
            None, and one from eight degrees of freedom on, where the features are so few for the
            space that other draws of them end in unstable fields.
        max_iterations: accepted steps of one Levenberg-Marquardt search.
        step: solver step in user time; from the data, with refinement, when None.
        hyperparameter_rounds: evidence maximisations, each followed by a search.

    Raises:
        ValueError: a number below one or a step that is not positive.
    """

    shares = True

    num_components: int | None = None
    max_iterations: int = 50
    step: float | None = None
    hyperparameter_rounds: int = 2

    def __post_init__(self) -> None:
        for name in ("num_components", "max_iterations", "hyperparameter_rounds"):
            value = getattr(self, name)
            if name == "num_components" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if self.step is not None and not (math.isfinite(self.step) and self.step > 0):
            raise ValueError(f"step: expected a positive number, got {self.step!r}")

    def with_step(self, step: float) -> GaussNewton:
        """Copy with a fixed solver step (user time)."""
        return replace(self, step=step)

    def run(
        self, model: HamiltonianModel, data: Trajectories, seed: int, report: Report
    ) -> Posterior:
        """Fit, see :class:`GaussNewton`."""
        return self.run_shared(model, data, seed, report, ALONE)

    def run_shared(
        self,
        model: HamiltonianModel,
        data: Trajectories,
        seed: int,
        report: Report,
        ranks: Ranks,
    ) -> Posterior:
        """Each rank smooths and linearises its share; the normal equations are summed."""
        began = time.perf_counter()
        report("smoothing the data", None)
        momenta, lines = model.energy.momenta, model.interpolation
        prepared = prepare(data, model.noise, self.step, DEFAULT_STEP, momenta, lines, ranks)
        scaling = prepared.scaling
        model = model.in_units(scaling, prepared.known_states)
        energy = model.energy
        priors = energy.hyperpriors(scaling.spread)
        hyper = {name: prior.median for name, prior in priors.items()}
        first = None if data.context is not None else first_trajectories(prepared.nodes)
        part, index = (prepared, None) if first is None else prepared.of(first)
        search = replace(self._start(model, part, data, report), ranks=ranks)
        joined = search.grow_windows()
        window_time = search.duration
        search.refine_noise()
        defect = search.measure_discrepancy()
        for k in range(self.hyperparameter_rounds):
            last = k + 1 == self.hyperparameter_rounds
            frozen, found = search.learn_hyperparameters(energy, priors, hyper, last)
            hyper = found.hyperparameters(found.mean)
            search.solve("fitting", 0.01)
        error = refine_step(search) if self.step is None else solver_error(search)
        settle = partial(settled, prepared=prepared, index=index)
        components, notes = self._mixture(model, search, settle, frozen, found, defect, seed)
        diagnostics = Diagnostics(
            engine="GaussNewton",
            seconds=time.perf_counter() - began,
            iterations=search.iterations,
            converged=search.converged,
            windows_joined=joined,
            window_time=0.0 if joined else window_time * float(scaling.time_scale),
            jump_gain=defect.gain,
            solver_step=search.step * float(scaling.time_scale),
            solver_error=error,
            inflation=tuple((search.inflation * search.noise.information).tolist()),
            notes=notes + _scarcity(search, data.names),
            details=_first_searches(len(part.nodes.first) - 1, len(data)),
            unobserved=unobserved(data),
        )
        return Posterior(components, scaling, model.dissipation, data, diagnostics)

    def _start(
        self, model: HamiltonianModel, prepared: Prepared, data: Trajectories, report: Report
    ) -> Search:
        """The integral form's weights on the smoothed path."""
        report("integral form", None)
        priors = model.energy.hyperpriors(prepared.scaling.spread)
        basis = model.energy.basis({name: prior.median for name, prior in priors.items()})
        field = model.field(basis, prepared.scaling, data)
        path = prepared.path
        return Search(
            nodes=prepared.nodes,
            noise=prepared.noise,
            step=prepared.step,
            field=field,
            theta=integral_form(field, prepared),
            states=path.stages[:, 0],
            noise_std=path.noise_std,
            inflation=torch.full_like(path.noise_std, 1.0 / prepared.noise.information),
            windows=Windows.of_duration(prepared.nodes, OSCILLATION),
            duration=OSCILLATION,
            defect_std=0.0,
            max_iterations=self.max_iterations,
            report=report,
        )

    def _mixture(
        self,
        model: HamiltonianModel,
        search: Search,
        settle: Callable[[Search, str, Hyperparameters], Component],
        frozen: FrozenModel,
        found: HyperPosterior,
        defect: DefectPosterior,
        seed: int,
    ) -> tuple[tuple[Component, ...], tuple[str, ...]]:
        """Refit about draws of the hyperparameters and spectral points; and notes on failures."""
        few = model.num_dof < MANY
        count = self.num_components or (COMPONENTS if few else 1)
        if not found.priors:  # nothing to draw: a formula
            count = 1
        if count == 1:
            hyper = found.hyperparameters(found.mean)
            notes = () if few or self.num_components or not found.priors else (ONE_SET,)
            return (settle(search, "fitting", hyper),), notes
        components: list[Component] = []
        failed: list[int] = []
        root = HYPER_SPREAD * cholesky(found.covariance, "the covariance of the hyperparameters")
        points = _stratified(count, len(found.mean) + 1, seed).to(found.mean)
        jumps, ranks = defect.strata(count), points[:, -1].argsort().argsort().tolist()
        for k in range(count):
            hyper = found.hyperparameters(found.mean + root @ points[k, :-1])
            energy = model.energy if k == 0 else model.energy.redraw(seed + 7919 * k)
            one, stage = replace(search), f"component {k + 1} of {count}"
            one.defect_std = jumps[ranks[k]]
            one.change_field(frozen, search.field.with_basis(energy.basis(hyper)))
            try:
                one.solve(stage, 0.1)
                search.iterations = one.iterations
                if bool((one.noise_std > WORSE * search.noise_std).any()):
                    failed.append(k)
                    continue
                components.append(settle(one, stage, hyper))
            except FloatingPointError:
                failed.append(k)
                continue
            search.iterations, search.converged = one.iterations, one.converged
        if not components:
            components.append(settle(search, "fitting", found.hyperparameters(found.mean)))
        left_out = [
            f"component {k + 1} of {count} ended in a worse optimum: left out" for k in failed
        ]
        return tuple(components), tuple(left_out)


def _first_searches(count: int, num: int) -> tuple[str, ...]:
    """What is said of the fit where its first searches were on some of the trajectories."""
    if count == num:
        return ()
    return (
        f"lengthscales, jumps and solver step were found from {count} of {num} trajectories, "
        "long and short ones; the field, the noise and the states from all of them",
    )


def _scarcity(search: Search, names: tuple[str, ...]) -> tuple[str, ...]:
    """Notes on channels with so few observations that nothing is left to tell the noise from."""
    solution = search.solution
    if solution is None:
        return ()
    counts = search.nodes.counts
    share = torch.where(counts > 0, (counts - solution.degrees) / counts.clamp(min=1.0), 1.0)
    return tuple(
        f"{name} has hardly more observations than the fit has freedom: its noise, and with it "
        "the bands, may be far too small"
        for name, left in zip(names, share.tolist(), strict=True)
        if left < SPARE_SHARE
    )


def _stratified(count: int, dim: int, seed: int) -> Tensor:
    """Quasi-random normal points (count, dim) with mean zero and unit variance exactly."""
    points = quasi_random_frequencies(count, dim, seed)
    points = points - points.mean(0)
    return points / points.std(0, correction=0)

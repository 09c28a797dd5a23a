"""Stochastic variational inference through the ODE."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike

import torch

from sympgp.distributed import ALONE, Ranks
from sympgp.inference.ascent import Ascended, Schedule
from sympgp.inference.base import InferenceEngine, Report
from sympgp.inference.checkpoint import Checkpoint, energy_mark, fingerprint
from sympgp.inference.gauss_newton import COMPONENTS, DEFAULT_STEP, MANY, GaussNewton
from sympgp.inference.prior_start import PriorStart
from sympgp.inference.start import prepare
from sympgp.inference.training import Ground, train
from sympgp.integrators import RK4, FixedStepIntegrator, Integrator
from sympgp.models import HamiltonianModel
from sympgp.phase_space import CanonicalScaling
from sympgp.posterior import Diagnostics, GaussianComponent, Posterior
from sympgp.posterior.diagnostics import unobserved
from sympgp.shooting.layout import Nodes
from sympgp.trajectories import Trajectories

MANY_LOST = 0.01
"""Share of diverged draws from which on the summary says so."""


@dataclass(frozen=True)
class StochasticVI(InferenceEngine):
    """Variational inference by stochastic ascent of the evidence lower bound through the ODE.

    Tanaka, Iwata and Ueda, *Symplectic Spectrum Gaussian Processes*, NeurIPS 2022, section 4, with
    one change: a draw of the weights is one function for a whole solve, in training as in
    prediction, where averaging the fields of many draws would train another posterior.

    The approximation is a full-rank Gaussian over weights and friction (cut to what is not
    negative), Gaussian window states linear in them, and inverse-gamma noise. Its bound is
    :func:`sympgp.inference.elbo.elbo`, whose gradient flows through reparameterised draws alone.
    Training ends when the bound no longer rises; no data are held out.

    Args:
        warm_start: engine whose mixture is trained further, each component with its own
            hyperparameters and jumps; None to begin at the prior.
        num_steps: steps at most, of each component.
        draws_a_step: draws of functions.
        learning_rate: longest step in standard deviations; cut to a quarter where the bound no
            longer rises.
        window: length of the windows in user time, infinite for whole trajectories; those of the
            warm start, or as long as the data tolerate, when None.
        batch_size: windows a step, chosen at random; all when None.
        num_components: of the mixture from the prior; four when None, one from eight degrees of
            freedom on.
        integrator: a method of fixed steps with its step in user time; RK4 with a step from the
            data when None.
        checkpoint: file to which training is written again and again. An interrupted fit that is
            called again with the same data, settings and seed goes on from there and ends where
            it would have ended.

    Raises:
        ValueError: a number below one, a rate or length that is not positive, or an integrator
            that chooses its own steps or has none.

    Example:
        >>> from sympgp.systems import HarmonicOscillator
        >>> from sympgp import SSGP, fit
        >>> data = HarmonicOscillator().simulate(2, rate=5, duration=4, noise_std=0.05)
        >>> engine = StochasticVI(GaussNewton(num_components=1), num_steps=20)
        >>> posterior = fit(SSGP(num_features=10), data, inference=engine, progress=False)
        >>> posterior.diagnostics.engine
        'StochasticVI'
    """

    shares = True

    warm_start: InferenceEngine | None = field(default_factory=GaussNewton)
    num_steps: int = 1000
    draws_a_step: int = 2
    learning_rate: float = 0.1
    window: float | None = None
    batch_size: int | None = None
    num_components: int | None = None
    integrator: Integrator | None = None
    checkpoint: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("num_steps", "draws_a_step", "batch_size", "num_components"):
            value = getattr(self, name)
            if name in ("batch_size", "num_components") and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(
                f"learning_rate: expected a positive number, got {self.learning_rate!r}"
            )
        if self.window is not None and not self.window > 0:
            raise ValueError(f"window: expected a positive length, got {self.window!r}")
        method = self.integrator
        if method is not None and not isinstance(method, FixedStepIntegrator):
            raise ValueError(f"integrator: expected a method of fixed steps, got {method!r}")
        if method is not None and method.step is None:
            raise ValueError(f"integrator: expected a step in user time, got {method!r}")

    def with_integrator(self, integrator: Integrator) -> StochasticVI:
        """Copy with another integrator."""
        return replace(self, integrator=integrator)

    def run(
        self, model: HamiltonianModel, data: Trajectories, seed: int, report: Report
    ) -> Posterior:
        """Fit, see :class:`StochasticVI`."""
        return self.run_shared(model, data, seed, report, ALONE)

    def run_shared(
        self,
        model: HamiltonianModel,
        data: Trajectories,
        seed: int,
        report: Report,
        ranks: Ranks,
    ) -> Posterior:
        """Each rank follows its share of the windows; likelihoods and gradients are summed."""
        began = time.perf_counter()
        mark = self._mark(model, data, seed)
        checkpoint = ranks.agree(lambda: Checkpoint(self.checkpoint, mark, ranks.first))
        ranks.check_same("checkpoint: expected the same file on every rank", checkpoint.progress())
        if self.warm_start is None:
            base, ground = self._from_prior(model, data, seed, report, checkpoint, ranks)
        else:
            base, ground = self._from_engine(model, data, seed, report, ranks)
        ground = replace(ground, ranks=ranks)
        window = None if self.window is None else self.window / float(base.scaling.time_scale)
        begin = [ground.gaussian(component, window) for component in base.components]
        if self.integrator is None:
            ground = ground.refined(begin[0])
        ground = replace(ground, step=_of_first(ground.step, ranks))
        components: list[GaussianComponent] = []
        ends: list[Ascended] = []
        remarks: list[str] = []
        for k, start in enumerate(begin):
            name = f"component {k + 1} of {len(begin)}"
            found, end, remark = train(
                ground, start, self._schedule(), seed + k, name, checkpoint, report
            )
            components.append(found)
            ends.append(end)
            remarks.extend([remark] if remark else [])
        known = base.diagnostics
        diagnostics = replace(
            known,
            engine="StochasticVI",
            seconds=time.perf_counter() - began,
            iterations=known.iterations + sum(end.steps for end in ends),
            converged=known.converged and all(end.converged for end in ends),
            solver_step=ground.step * float(base.scaling.time_scale),
            solver_error=ground.solver_error(components[0]),
            notes=known.notes + tuple(remarks) + _notes(ends),
        )
        return replace(base, components=tuple(components), diagnostics=diagnostics)

    def _mark(self, model: HamiltonianModel, data: Trajectories, seed: int) -> str:
        """What a checkpoint belongs to."""
        settings = replace(self, checkpoint=None)
        kind = str(model.dtype)
        about = (model.dissipation, model.inputs, model.noise, energy_mark(model), kind)
        return fingerprint(data, settings, seed, about)

    def _schedule(self) -> Schedule:
        return Schedule(self.num_steps, self.draws_a_step, self.learning_rate, self.batch_size)

    def _method(self, scaling: CanonicalScaling) -> tuple[FixedStepIntegrator | None, float | None]:
        """Integrator (None for RK4) and scaled step, where they are given."""
        method = self.integrator
        if not isinstance(method, FixedStepIntegrator) or method.step is None:
            return None, None
        step = method.step / float(scaling.time_scale)
        return (None if isinstance(method, RK4) else method.with_step(step)), step

    def _from_engine(
        self,
        model: HamiltonianModel,
        data: Trajectories,
        seed: int,
        report: Report,
        ranks: Ranks,
    ) -> tuple[Posterior, Ground]:
        """The posterior of the engine that goes first."""
        engine, method = self.warm_start, self.integrator
        if engine is None:
            raise RuntimeError("there is no engine to start from")
        if isinstance(engine, GaussNewton) and isinstance(method, RK4) and method.step is not None:
            engine = engine.with_step(method.step)
        base = engine.run_shared(model, data, seed, report, ranks)
        scaling, known = base.scaling, base.diagnostics
        integrator, step = self._method(scaling)
        nodes = Nodes.from_data(data, scaling, base.interpolation)
        unseen = nodes.counts == 0
        ground = Ground(
            nodes,
            model.noise.scaled(scaling).ignoring(unseen),
            known.solver_step / float(scaling.time_scale) if step is None else step,
            integrator,
            torch.tensor(known.inflation).to(scaling.center),
        )
        return base, ground

    def _from_prior(
        self,
        model: HamiltonianModel,
        data: Trajectories,
        seed: int,
        report: Report,
        checkpoint: Checkpoint,
        ranks: Ranks,
    ) -> tuple[Posterior, Ground]:
        """Components found from the prior, not yet trained on their own windows."""
        report("smoothing the data", None)
        method = self.integrator
        given = method.step if isinstance(method, FixedStepIntegrator) else None
        momenta, lines = model.energy.momenta, model.interpolation
        prepared = prepare(data, model.noise, given, DEFAULT_STEP, momenta, lines, ranks)
        model = model.in_units(prepared.scaling, prepared.known_states)
        settings = self._schedule(), checkpoint, seed, report, ranks
        start = PriorStart.of(model, prepared, data, *settings)
        count = self.num_components or (COMPONENTS if model.num_dof < MANY else 1)
        components = tuple(start.components(count))
        search, unit = start.search, float(prepared.scaling.time_scale)
        times = search.inflation * search.noise.information
        diagnostics = Diagnostics(
            engine="StochasticVI",
            seconds=0.0,
            iterations=search.iterations,
            converged=True,
            windows_joined=start.joined,
            window_time=0.0 if start.joined else start.window_time * unit,
            jump_gain=start.jump_gain,
            solver_step=search.step * unit,
            solver_error=math.nan,
            inflation=tuple(times.tolist()),
            unobserved=unobserved(data),
        )
        base = Posterior(components, prepared.scaling, model.dissipation, data, diagnostics)
        integrator, _ = self._method(prepared.scaling)
        return base, Ground(search.nodes, prepared.noise, search.step, integrator, times)


def _of_first(number: float, ranks: Ranks) -> float:
    """The number that rank 0 has."""
    return float(ranks.broadcast(torch.tensor(number, dtype=torch.float64, device=ranks.device)))


def _notes(ends: Sequence[Ascended]) -> tuple[str, ...]:
    """What went wrong in training."""
    notes = []
    for k, end in enumerate(ends):
        if not end.converged:
            rise = f", its bound still rising by {end.rise:.1f} nats" if end.rise > 0 else ""
            notes.append(
                f"training of component {k + 1} ended after {end.steps} steps{rise}; "
                "raise num_steps"
            )
    lost, drawn = sum(end.lost for end in ends), sum(end.drawn for end in ends)
    if lost > MANY_LOST * drawn:
        notes.append(f"{lost} of {drawn} draws diverged in training and were left out")
    return tuple(notes)

"""No-U-Turn sampling: draws from the posterior itself, for small problems."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike

import torch

from sympgp.energies import Energy
from sympgp.inference.base import InferenceEngine, Report
from sympgp.inference.chains import Chain, Tuning, run_chains
from sympgp.inference.checkpoint import Checkpoint, energy_mark, fingerprint
from sympgp.inference.convergence import Convergence, notes_on_transitions
from sympgp.inference.evidence import optimise_hyperparameters
from sympgp.inference.gauss_newton import DEFAULT_STEP, GaussNewton
from sympgp.inference.kept_chains import KeptChains
from sympgp.inference.linear_model import LinearModel
from sympgp.inference.networks.base import NetworkEngine
from sympgp.inference.networks.ensemble import MAP
from sympgp.inference.sampled import components, monitored
from sympgp.inference.start import prepare
from sympgp.inference.target import Target
from sympgp.inference.warm_start import WarmStart, same_data
from sympgp.inference.whitening import Whitening
from sympgp.models import HamiltonianModel
from sympgp.posterior import Diagnostics, Posterior
from sympgp.trajectories import Trajectories

TOLD_EVERY = 0.2
"""Seconds between two reports of progress."""


@dataclass(frozen=True)
class NUTS(InferenceEngine):
    """The No-U-Turn sampler, through Pyro: the gold standard for small problems.

    Draws of weights, friction, noise, states and, if wanted, hyperparameters from the posterior
    itself, whatever its shape. The model is that of one component of the warm start, so that it
    can be checked against its own Gauss-Newton approximation: the same spectral points,
    hyperparameters (unless they are sampled), solver step, inflation of correlated residuals, and
    shooting windows with jumps of the same size, whose states are unknowns here as well. Where
    the warm start joined its windows, where its jumps are negligible, or with ``jumps=False``,
    every trajectory is one path from its first state.

    Unknowns are whitened by the Gauss-Newton posterior, so that an identity metric is nearly right
    and trajectories are short. Gradients go back through the solver's steps without a graph over
    time, and those of all chains are computed in one batch. The draws depend on the seed alone,
    and the caller's random numbers stay as they are. Ctrl-C ends the sampling and keeps what was
    drawn.

    Args:
        num_samples: draws of each chain.
        num_warmup: transitions before them, in which the step size is adapted.
        num_chains: chains, which start one and a half times as far out as a draw of the
            Gauss-Newton posterior is. More of them cost little time.
        hyperparameters: sample lengthscales and scales, too, under their log-normal priors. A
            gradient then takes several times as long, and every draw has features of its own:
            the posterior gets a component for each of a hundred draws.
        jumps: False leaves out the jumps between windows.
        warm_start: engine, of whose fit one component is made; or a posterior of the same model
            and data, whose first component is taken. Networks, which have no start of their own,
            begin at those of ``MAP()`` where ``GaussNewton()`` is named; they should be small, for
            all their weights are whitened at once.
        target_accept: mean acceptance probability; nearer to one for fewer divergences.
        max_tree_depth: a trajectory has at most ``2 ** max_tree_depth - 1`` steps.
        adapt_metric: learn the scale of every unknown in the warm-up, which then has to have
            several hundred transitions; for posteriors that are far from Gaussian.
        checkpoint: file to which the chains are written again and again. A fit that is called
            again with the same data, settings and seed goes on from there; ``num_samples`` may
            have grown.

    Raises:
        ValueError: a count below one, or a probability outside (0, 1).

    Example:
        >>> from sympgp.systems import HarmonicOscillator
        >>> from sympgp import SSGP, fit
        >>> data = HarmonicOscillator().simulate(2, rate=3, duration=3, noise_std=0.1)
        >>> engine = NUTS(num_samples=5, num_warmup=5, num_chains=2, max_tree_depth=4)
        >>> posterior = fit(SSGP(num_features=3), data, inference=engine, progress=False)
        >>> posterior.components[0].draws.theta.shape
        torch.Size([10, 11])

    Source: Hoffman and Gelman, *The No-U-Turn sampler*, JMLR 15 (2014).
    """

    num_samples: int = 250
    num_warmup: int = 100
    num_chains: int = 4
    hyperparameters: bool = False
    jumps: bool = True
    warm_start: GaussNewton | NetworkEngine | Posterior = field(default_factory=GaussNewton)
    target_accept: float = 0.9
    max_tree_depth: int = 8
    adapt_metric: bool = False
    checkpoint: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("num_samples", "num_warmup", "num_chains", "max_tree_depth"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if not 0.0 < self.target_accept < 1.0:
            raise ValueError(
                f"target_accept: expected a probability in (0, 1), got {self.target_accept!r}"
            )
        if not isinstance(self.warm_start, GaussNewton | NetworkEngine | Posterior):
            raise ValueError(
                "warm_start: expected GaussNewton(), MAP() or a posterior, "
                f"got {type(self.warm_start).__name__}"
            )

    def with_step(self, step: float) -> NUTS:
        """Copy with a fixed solver step (user time).

        Raises:
            ValueError: the warm start is a posterior, which has its own.
        """
        first = self.warm_start
        if isinstance(first, Posterior):
            raise ValueError("integrator: the solver step is that of the posterior warm_start")
        if isinstance(first, NetworkEngine):
            return replace(self, warm_start=replace(first, step=step))
        return replace(self, warm_start=first.with_step(step))

    def run(
        self, model: HamiltonianModel, data: Trajectories, seed: int, report: Report
    ) -> Posterior:
        """Fit, see :class:`NUTS`."""
        began = time.perf_counter()
        file = Checkpoint(self.checkpoint, self._mark(model, data, seed))
        first = self._first(model, data, seed, report)
        warm = WarmStart.of(first, model, data, self.jumps)
        target = self._target(warm, model, first)
        tuning = Tuning(self.num_warmup, self.target_accept, self.max_tree_depth, self.adapt_metric)
        kept = KeptChains(file, target)
        chains = kept.load() or [
            Chain.start(target, target.whitening.size, 1_000_003 * seed + k)
            for k in range(self.num_chains)
        ]
        interrupted = run_chains(
            chains, target, tuning, self.num_samples, _seldom(report), partial(kept.save, chains)
        )
        report("looking at the draws", None)
        positions = torch.stack([torch.stack(c.draws[: self.num_samples]) for c in chains])
        with torch.no_grad():
            unknowns = target.unknowns(positions.flatten(0, 1))
            found = monitored(target, warm, first, positions, unknowns)
        known = first.diagnostics
        convergence = Convergence.of(found)
        notes = notes_on_transitions(chains, tuning) + convergence.notes()
        if interrupted:
            done = f"interrupted after {positions.shape[1]} of {self.num_samples} draws a chain"
            notes = (done, *notes)
        diagnostics = replace(
            known,
            engine="NUTS",
            seconds=time.perf_counter() - began,
            iterations=known.iterations + len(positions) * (self.num_warmup + positions.shape[1]),
            jump_gain=0.0 if warm.problem.windows.joined else known.jump_gain,
            notes=_notes_on_model(warm, known) + notes,
            details=convergence.details(),
        )
        log_density = found["the log density"].flatten()
        parts = components(target, warm, unknowns, chains, positions.shape[1], log_density)
        return Posterior(parts, first.scaling, first.dissipation_family, first.data, diagnostics)

    def _mark(self, model: HamiltonianModel, data: Trajectories, seed: int) -> str:
        """What a checkpoint belongs to."""
        start = None if isinstance(self.warm_start, Posterior) else self.warm_start
        settings = replace(self, num_samples=1, warm_start=start or GaussNewton(), checkpoint=None)
        kind = str(model.dtype)
        about = (model.dissipation, model.inputs, model.noise, energy_mark(model), kind)
        return fingerprint(data, settings, start is None, seed, about)

    def _first(
        self, model: HamiltonianModel, data: Trajectories, seed: int, report: Report
    ) -> Posterior:
        """The posterior to sample about."""
        first = self.warm_start
        if isinstance(first, GaussNewton) and model.energy.has_layers:
            first = MAP(step=first.step)
        if isinstance(first, NetworkEngine):
            return first.run(model, data, seed, report)
        if isinstance(first, GaussNewton):
            return replace(first, num_components=1).run(model, data, seed, report)
        if first.counterfactual or first.conditioned or not same_data(first.data, data):
            raise ValueError("warm_start: expected a posterior of the same data")
        return first

    def _target(self, warm: WarmStart, model: HamiltonianModel, first: Posterior) -> Target:
        """The whitened density.

        Raises:
            ValueError: the warm start is of another model.
        """
        linear = LinearModel.about(warm.problem, warm.component.field, warm.solution)
        energy, hyper = None, None
        if self.hyperparameters and warm.component.hyperparameters:
            energy = _same_energy(warm, model, first)
            priors = energy.hyperpriors(first.scaling.spread)
            hyper = optimise_hyperparameters(
                linear.log_evidence,
                energy,
                priors,
                warm.component.hyperparameters,
                curvature=True,
            )
        estimate = warm.solution.estimate
        whitening = Whitening.about(
            linear,
            estimate.start,
            warm.problem.noise,
            estimate.noise_std,
            warm.noise_shape(),
            hyper,
            energy,
        )
        return Target.of(warm.density(), whitening)


def _same_energy(warm: WarmStart, model: HamiltonianModel, first: Posterior) -> Energy:
    """The model's energy as the warm start has it, in scaled units.

    Raises:
        ValueError: the warm start is of another model.
    """
    prepared = prepare(
        first.data, model.noise, None, DEFAULT_STEP, model.energy.momenta, model.interpolation
    )
    energy = model.in_units(first.scaling, prepared.known_states).energy
    field, theta = warm.component.field, warm.solution.estimate.theta
    basis, w = field.basis, theta[: field.basis.num_weights]
    own = field.with_basis(energy.basis(warm.component.hyperparameters)).basis
    w, z = w.to(field.dtype), warm.solution.path[0].to(field.dtype)
    if own.num_weights != basis.num_weights or not torch.allclose(
        own.gradient_map(w)(z), basis.gradient_map(w)(z)
    ):
        raise ValueError("warm_start: expected a posterior of the same model")
    return energy


def _notes_on_model(warm: WarmStart, known: Diagnostics) -> tuple[str, ...]:
    """What whole trajectories leave out."""
    said: tuple[str, ...] = ()
    if warm.problem.windows.joined and known.jump_gain >= 3.0:
        said += (
            f"the data favour jumps between windows by {known.jump_gain:.1f} nats, which this "
            "posterior leaves out",
        )
    if warm.lost:
        said += ("the data could not be followed as single paths: their noise is far too large",)
    return said


def _seldom(report: Report) -> Callable[[str], None]:
    """Reports that come too soon after the last one are left out."""
    last = [-math.inf]

    def told(stage: str) -> None:
        now = time.monotonic()
        if now - last[0] > TOLD_EVERY:
            last[0] = now
            report(stage, None)

    return told

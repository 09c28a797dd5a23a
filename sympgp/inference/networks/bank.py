"""From trained networks to posteriors: draws of the noise and of states, and what to report."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.energies import Hyperparameters
from sympgp.fields import HamiltonianField
from sympgp.inference.derivative_fit import STEP
from sympgp.inference.networks.density import Density, PairDensity, WindowDensity
from sympgp.inference.networks.descent import AHEAD, STILL_RISING, Unknowns
from sympgp.inference.networks.linearisation import Point, residuals
from sympgp.inference.networks.path_states import inflation_of, solver_error, window_states
from sympgp.inference.networks.polish import affordable, affordable_part
from sympgp.inference.networks.trajectories import Trained
from sympgp.inference.pairs import PreparedPairs
from sympgp.inference.start import Prepared
from sympgp.models import HamiltonianModel
from sympgp.posterior import DerivativePosterior, Diagnostics, Posterior, WindowStates
from sympgp.posterior.component import JointDraws, normal
from sympgp.posterior.diagnostics import unobserved
from sympgp.posterior.inverse_gamma import inverse_gamma_draws
from sympgp.posterior.sampled_component import SampledComponent, typical_row
from sympgp.posterior.settled import settle
from sympgp.trajectories import StateDerivatives, Trajectories

FEWEST_ROWS = 50
"""Rows of a bank at least: a network that is one draw of the weights stands in several rows, each
with noise and states of its own."""
TYPICAL_STATES = 200
"""States at which a typical network is chosen."""
MOST_RATES, MOST_USED = 1000, 0.9
"""Rates from which it is found how many a fit uses up, and the share of them that it may."""


@dataclass(frozen=True)
class Bank:
    """Draws of theta with the density that they are draws of; noise and states follow later.

    Attributes:
        density: of the data.
        theta: (B, P + K).
        noise_std: (B, D) of each row: draws, or what the posterior of its noise is about.
        start: (B, W, D) window states near the most probable ones; None for pairs.
        steps: of training: of Adam, which all rows take together, of Gauss-Newton those of the
            row that took most, and what an engine adds.
        converged: whether all did.
        notes: what to worry about.
        used: (D,) observations of each channel that a fit uses up; None where ``noise_std`` are
            draws already.
        spacing: length of the windows, scaled, infinite where trajectories are whole.
        statistics: of a sampler, by name, (B,) each.
        chain: (B,) number of the Markov chain that each row is of, in its own order; None where
            rows are independent.
        details: what is as it should be.
        hyperparameters: that the density is at, where they are not those that training had.
    """

    density: Density
    theta: Float[Tensor, "rows params"]
    noise_std: Float[Tensor, "rows dim"]
    start: Float[Tensor, "rows windows dim"] | None
    steps: int
    converged: bool = True
    notes: tuple[str, ...] = ()
    used: Float[Tensor, " dim"] | None = None
    spacing: float = math.inf
    statistics: dict[str, Tensor] | None = None
    chain: Int[Tensor, " rows"] | None = None
    details: tuple[str, ...] = ()
    hyperparameters: Hyperparameters | None = None

    @property
    def field(self) -> HamiltonianField:
        """The field of every row."""
        return self.density.field

    def repeated(self) -> Bank:
        """Every row as often as there are at least so many in all."""
        copies = math.ceil(FEWEST_ROWS / len(self.theta))
        if copies == 1:
            return self
        start = None if self.start is None else self.start.repeat_interleave(copies, 0)
        known = self.statistics
        if known is not None:
            known = {name: value.repeat_interleave(copies, 0) for name, value in known.items()}
        return replace(
            self,
            theta=self.theta.repeat_interleave(copies, 0),
            noise_std=self.noise_std.repeat_interleave(copies, 0),
            start=start,
            statistics=known,
            chain=None if self.chain is None else self.chain.repeat_interleave(copies),
        )


def trained_bank(trained: Trained) -> Bank:
    """Every trained row that is finite.

    Raises:
        FloatingPointError: none is.
    """
    density, own = trained.density, trained.unknowns
    noise_std = own.noise_std(density.noise)
    with torch.no_grad():
        terms = density.terms(own.theta, noise_std, own.start)
        alive = torch.stack(list(terms.values())).sum(0).isfinite()
    if not bool(alive.any()):
        raise FloatingPointError(
            "all networks diverged in training: train with a lower learning_rate or a shorter "
            "window, and look for gross outliers in the data"
        )
    lost, notes = int((~alive).sum()), list[str]()
    if lost:
        notes.append(f"{lost} of {len(alive)} networks diverged in training: left out")
    if trained.rise > STILL_RISING:
        notes.append(
            f"{AHEAD} more steps of training would raise the density by some {trained.rise:.2g} "
            "nats an observation: take a larger num_steps"
        )
    kept, ends = own.rows(alive), trained.ends
    if ends is None:
        noise_std, used = corrected_noise(density, kept)
    else:
        noise_std, used = noise_std[alive], ends.used
    return Bank(
        density,
        kept.theta,
        noise_std,
        kept.start,
        trained.steps,
        converged=trained.rise <= STILL_RISING and (ends is None or ends.converged == len(alive)),
        notes=tuple(notes),
        used=used,
        spacing=trained.spacing,
    )


def corrected_noise(
    density: Density, rows: Unknowns
) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, " dim"]]:
    """Noise of rows after Adam, and the observations that a fit uses up, from one of them.

    The most probable ``log sigma`` takes every observation to tell of the noise:
    ``sigma^2 = rate / (n / 2 + a)`` with the rate of its inverse-gamma conditional.
    """
    noise, counts, noise_std = density.noise, density.counts, rows.noise_std(density.noise)
    used = torch.zeros_like(counts)
    thin = affordable_part(density)
    if isinstance(thin, PairDensity):
        thin = replace(thin, pairs=thin.pairs.thinned(MOST_RATES))
    if isinstance(thin, PairDensity) or affordable(thin):
        start = None if rows.start is None else rows.start[0]
        used = residuals(thin, Point(rows.theta[0], noise_std[0], start)).used
    used = torch.minimum(used, MOST_USED * counts)
    full, spare = noise.shape(counts), noise.shape(counts - used)
    ratio = torch.where(full.isinf(), 1.0, full / (spare + 1.0))
    return noise_std * ratio.sqrt(), used


def found_from_pairs(
    engine: str,
    bank: Bank,
    prepared: PreparedPairs,
    model: HamiltonianModel,
    data: StateDerivatives,
    began: float,
    seed: int,
    hyper: Hyperparameters,
) -> DerivativePosterior:
    """The posterior over a field from a bank."""
    bank = bank.repeated()
    noise = drawn_noise(bank, torch.Generator().manual_seed(seed))
    draws = JointDraws(bank.theta, noise, None)
    component = _component(bank, draws, hyper, None, prepared.pairs.z)
    unit = float(prepared.scaling.time_scale)
    diagnostics = _diagnostics(engine, bank, began, STEP * unit, (1.0,) * data.state_dim)
    return DerivativePosterior((component,), prepared.scaling, model.dissipation, data, diagnostics)


def found_from_trajectories(
    engine: str,
    bank: Bank,
    prepared: Prepared,
    model: HamiltonianModel,
    data: Trajectories,
    began: float,
    seed: int,
    hyper: Hyperparameters,
) -> Posterior:
    """The posterior over a field and the states of trajectories from a bank."""
    if not isinstance(bank.density, WindowDensity):
        raise RuntimeError("these draws have no states")
    joint, bank = bank.density.joint, bank.repeated()
    start = bank.start
    if start is None:
        raise RuntimeError("these draws have no states")
    generator = torch.Generator().manual_seed(seed)
    noise = drawn_noise(bank, generator)
    white = normal(tuple(start.shape), start, generator)
    with torch.no_grad():
        settled = settle(joint, bank.theta, noise, start, white)
    draws = JointDraws(bank.theta, noise, settled.start)
    states = prepared.path.stages[prepared.nodes.mask.any(1), 0]
    row = _typical(bank, states)
    known = window_states(joint, bank.theta[row], bank.noise_std[row], start[row], bank.spacing)
    component = _component(bank, draws, hyper, known, states)
    unit = float(prepared.scaling.time_scale)
    diagnostics = replace(
        _diagnostics(engine, bank, began, joint.step * unit, inflation_of(joint)),
        windows_joined=joint.windows.joined,
        window_time=0.0 if joint.windows.joined else bank.spacing * unit,
        unobserved=unobserved(data),
        solver_error=solver_error(joint, draws),
    )
    return Posterior((component,), prepared.scaling, model.dissipation, data, diagnostics)


def drawn_noise(bank: Bank, generator: torch.Generator) -> Float[Tensor, "rows dim"]:
    """Noise of every row from an inverse-gamma conditional with its mode at the row's variance."""
    if bank.used is None:
        return bank.noise_std
    noise = bank.density.noise
    shape = noise.shape((bank.density.counts - bank.used).clamp(min=0.0))
    rate = torch.where(shape.isinf(), 1.0, shape + 1.0)
    unit = inverse_gamma_draws(shape, rate, noise.group, len(bank.theta), generator)
    return bank.noise_std * unit


def _component(
    bank: Bank,
    draws: JointDraws,
    hyper: Hyperparameters,
    states: WindowStates | None,
    z: Float[Tensor, "states dim"],
) -> SampledComponent:
    row = _typical(bank, z)
    noise = bank.density.noise
    return SampledComponent(
        field=bank.field,
        theta=bank.theta[row],
        noise_std=draws.noise_std.mean(0),
        noise_group=noise.group,
        noise_dof=noise.dof,
        hyperparameters=hyper if bank.hyperparameters is None else bank.hyperparameters,
        states=states,
        draws=draws,
        statistics=bank.statistics or {},
        chain=bank.chain,
    )


def _typical(bank: Bank, z: Float[Tensor, "states dim"]) -> int:
    index = torch.linspace(0, len(z) - 1, min(len(z), TYPICAL_STATES)).round().long()
    points = z[index.to(z.device)]
    if bank.field.num_inputs:
        points = torch.cat([points, points.new_zeros(len(points), bank.field.num_inputs)], -1)
    return typical_row(bank.field, bank.theta, points)


def _diagnostics(
    engine: str, bank: Bank, began: float, step: float, inflation: tuple[float, ...]
) -> Diagnostics:
    return Diagnostics(
        engine=engine,
        seconds=time.perf_counter() - began,
        iterations=bank.steps,
        converged=bank.converged,
        windows_joined=True,
        window_time=0.0,
        jump_gain=0.0,
        solver_step=step,
        solver_error=0.0,
        inflation=inflation,
        notes=bank.notes,
        details=bank.details,
    )

"""Stochastic-gradient Hamiltonian Monte Carlo, several chains side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.inference.base import Report
from sympgp.inference.convergence import Convergence
from sympgp.inference.networks.bank import Bank, trained_bank
from sympgp.inference.networks.base import Context, NetworkEngine
from sympgp.inference.networks.density import Density, spread_states
from sympgp.inference.networks.descent import Unknowns
from sympgp.inference.networks.trajectories import Trained
from sympgp.inference.networks.unconstrained import Unconstrained
from sympgp.posterior.component import normal

MOST_WHITENED = 1500
"""Unknowns up to which chains are whitened by the whole precision, beyond by its diagonal."""
FIRST_STEP, TARGET = 0.1, 0.97
"""Step of the leapfrog method in whitened units, and the mean acceptance probability that one step
of it would have had."""
LARGEST_ERROR = 10.0
"""Energy error of one step that is not made."""
PERSISTENCE = 1.0
"""Friction of the momenta, per unit of whitened time."""
TOLD_EVERY = 50
"""Steps between two reports."""
PLACES = 6
"""States at which the field of the chains is compared."""


@dataclass(frozen=True, kw_only=True)
class SGHMC(NetworkEngine):
    """Hamiltonian Monte Carlo with friction and noise in place of a test of acceptance.

    Momenta are partly forgotten and made anew, ``v <- c v + sqrt(1 - c^2) xi`` with ``c =
    exp(-gamma h)``, then all unknowns (weights, dissipation, noise, window states) take a leapfrog
    step ``h``. Every chain begins at a network of its own, trained from another random beginning,
    and is whitened by the Gauss-Newton precision there. The step is adapted in the warm-up, until
    an energy error would hardly ever lead to a rejection; what bias is left is of order ``h^2``.
    The chains advance in one batch. R-hat of the density, the noise, the dissipation and the field
    is in the summary; chains that have settled in different modes disagree.

    Args:
        num_chains: how many.
        num_samples: draws of each chain.
        num_warmup: steps before them.
        thinning: steps from one draw to the next.
        minibatch: pairs a step; gradients are then noisy, the posterior is a
            little too wide, and the statistic "lp" an estimate from the pairs of one step.

    Raises:
        ValueError: a number below one, or as :class:`NetworkEngine` says.

    Sources: Chen, Fox and Guestrin, *Stochastic gradient Hamiltonian Monte Carlo*, ICML 2014;
    Leimkuhler and Matthews, *Rational construction of stochastic numerical methods for molecular
    sampling*, Applied Mathematics Research eXpress 2013, for the splitting.

    Example:
        >>> SGHMC(num_chains=2).num_rows
        2
    """

    num_chains: int = 4
    num_samples: int = 100
    num_warmup: int = 1000
    thinning: int = 20
    minibatch: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_chains", "num_samples", "num_warmup", "thinning", "minibatch"):
            value = getattr(self, name)
            if value is None and name == "minibatch":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")

    @property
    def num_rows(self) -> int:
        """Chains."""
        return self.num_chains

    def infer(self, trained: Trained, context: Context) -> Bank:
        """Draws of all chains, one chain after another."""
        known = trained_bank(trained)
        density = known.density
        begin = Unknowns.at(known.theta, density.noise, known.noise_std[0], known.start)
        chains = Chains.about(Unconstrained.of(density, begin), begin, context.seed)
        kept = chains.run(self, context.report)
        with torch.no_grad():
            found = chains.unknowns.unpacked(kept.flatten(0, 1))[0]
        noise_std = found.noise_std(density.noise)
        shape = (kept.shape[0], kept.shape[1])
        told = _monitored(density, found, noise_std, chains.log_probs, shape)
        convergence = Convergence.of(told)
        notes = known.notes + chains.notes() + convergence.notes()
        number = torch.arange(len(kept)).repeat_interleave(kept.shape[1])
        return Bank(
            density,
            found.theta,
            noise_std,
            found.start,
            known.steps + chains.steps,
            notes=notes,
            spacing=known.spacing,
            statistics={"lp": torch.stack(chains.log_probs, 1).flatten()},
            chain=number,
            details=convergence.details(),
        )


@dataclass
class Chains:
    """Chains at any stage; every row is one.

    Attributes:
        unknowns: what they move in.
        origin: (C, N) where they began.
        roots: (C, N, N) from whitened numbers to deviations, or (C, N) where these are diagonal.
        generator: of all random numbers.
        place, momentum: (C, N), whitened.
        step_size: (C,).
        steps: so far.
        drawing: of these after the warm-up.
        reverted: of the latter, over all chains, those that were taken back.
        log_probs: (C,) of each draw.
    """

    unknowns: Unconstrained
    origin: Float[Tensor, "chains unknowns"]
    roots: Tensor
    generator: torch.Generator
    place: Float[Tensor, "chains unknowns"]
    momentum: Float[Tensor, "chains unknowns"]
    step_size: Float[Tensor, " chains"]
    steps: int = 0
    drawing: int = 0
    reverted: int | Tensor = 0
    log_probs: list[Tensor] = field(default_factory=list)

    @classmethod
    def about(cls, unknowns: Unconstrained, begin: Unknowns, seed: int) -> Chains:
        """One chain at each row."""
        origin = unknowns.packed(begin).detach()
        if origin.shape[1] <= MOST_WHITENED:
            eye = torch.eye(origin.shape[1]).to(origin)
            factors = [
                cholesky(unknowns.precision(x), "the precision of the unknowns") for x in origin
            ]
            roots = torch.stack(
                [torch.linalg.solve_triangular(f.mT, eye, upper=True) for f in factors]
            )
        else:
            roots = torch.stack([unknowns.curvature(x).rsqrt() for x in origin])
        generator = torch.Generator().manual_seed(seed)
        momentum = normal(tuple(origin.shape), origin, generator)
        size = torch.full_like(origin[:, 0], FIRST_STEP)
        return cls(unknowns, origin, roots, generator, torch.zeros_like(origin), momentum, size)

    def vectors(self, place: Float[Tensor, "chains unknowns"]) -> Tensor:
        """The unknowns at whitened places."""
        if self.roots.dim() == 2:
            return self.origin + self.roots * place
        return self.origin + (self.roots @ place.unsqueeze(-1)).squeeze(-1)

    def slope(
        self, place: Float[Tensor, "chains unknowns"], chosen: Int[Tensor, " some"] | None
    ) -> tuple[Float[Tensor, " chains"], Float[Tensor, "chains unknowns"]]:
        """Log densities and their gradients."""
        with torch.enable_grad():
            leaf = place.detach().requires_grad_(True)
            value = self.unknowns.log_prob(self.vectors(leaf), chosen)
            total = torch.where(value.isfinite(), value, 0.0).sum()
            (gradient,) = torch.autograd.grad(total, leaf)
        return value.detach(), gradient

    def run(self, engine: SGHMC, report: Report) -> Float[Tensor, "chains draws unknowns"]:
        """Warm up, then draw."""
        total = engine.num_warmup + engine.num_samples * engine.thinning
        value, gradient = self.slope(self.place, None)
        kept = []
        for step, chosen in enumerate(self._batches(engine.minibatch, total, engine.num_warmup)):
            warm = step >= engine.num_warmup
            value, gradient = self._advance(value, gradient, chosen, adapt=not warm)
            if warm and (step + 1 - engine.num_warmup) % engine.thinning == 0:
                kept.append(self.vectors(self.place))
                self.log_probs.append(value)
            if step % TOLD_EVERY == 0:
                stage = "drawing" if warm else "warming up"
                report(f"{len(self.place)} chains, {stage}: step {step} of {total}", None)
        return torch.stack(kept, 1)

    def _batches(self, size: int | None, total: int, warmup: int) -> Iterator[Tensor | None]:
        """Pairs of each step; all in the warm-up, whose step size is found by energy errors."""
        items = self.unknowns.density.num_items
        for step in range(total):
            whole = size is None or size >= items or self.unknowns.shape is not None
            if whole or step < warmup:
                yield None
            else:
                chosen = torch.randperm(items, generator=self.generator)[:size]
                yield chosen.to(self.place.device)

    def _advance(
        self, value: Tensor, gradient: Tensor, chosen: Tensor | None, adapt: bool
    ) -> tuple[Tensor, Tensor]:
        """Renew the momenta in part, then one leapfrog step of every chain."""
        h = self.step_size.unsqueeze(1)
        kept = torch.exp(-PERSISTENCE * h)
        fresh = normal(tuple(self.place.shape), self.place, self.generator)
        before = kept * self.momentum + (1.0 - kept**2).sqrt() * fresh
        half = before + 0.5 * h * gradient
        place = self.place + h * half
        ahead, slope = self.slope(place, chosen)
        momentum = half + 0.5 * h * slope
        error = ahead - value - 0.5 * (momentum.square().sum(1) - before.square().sum(1))
        lost = ~(ahead.isfinite() & slope.isfinite().all(1))
        if chosen is None:  # a step whose energy is far off has left what the method is stable on
            lost = lost | ~(error > -LARGEST_ERROR)
        self.steps += 1
        if not adapt:
            self.drawing, self.reverted = self.drawing + 1, self.reverted + lost.sum()
        else:
            accepted = error.exp().clamp(max=1.0).nan_to_num(0.0)
            gain = min(0.5, 5.0 / math.sqrt(self.steps + 10.0))
            self.step_size = self.step_size * (gain * (accepted - TARGET)).exp()
        stay = lost.unsqueeze(1)
        self.place = torch.where(stay, self.place, place)
        self.momentum = torch.where(stay, -before, momentum)
        return torch.where(lost, value, ahead), torch.where(stay, gradient, slope)

    def notes(self) -> tuple[str, ...]:
        """What to worry about."""
        if not self.reverted:
            return ()
        every = self.drawing * len(self.place)
        return (
            f"{int(self.reverted)} of {every} steps had energy errors beyond "
            f"{LARGEST_ERROR:g} and were taken back: parts of the posterior may be missing",
        )


def _monitored(
    density: Density,
    found: Unknowns,
    noise_std: Tensor,
    log_probs: list[Tensor],
    shape: tuple[int, int],
) -> dict[str, Float[Tensor, "chains draws"]]:
    """Quantities whose convergence is looked at."""
    told = {"the log density": torch.stack(log_probs, 1).flatten()}
    for channel in range(noise_std.shape[1]):
        told[f"the noise of channel {channel + 1}"] = noise_std[:, channel]
    _, rho = density.field.split(found.theta)
    for k in range(rho.shape[1]):
        told[f"dissipation {k + 1}"] = rho[:, k]
    z = spread_states(density, PLACES)
    rates = density.field.bind(found.theta)(0.0, z.expand(len(found.theta), *z.shape))
    for place in range(len(z)):
        for channel in range(noise_std.shape[1]):
            told[f"the rate of channel {channel + 1} at place {place + 1}"] = rates[
                :, place, channel
            ]
    return {name: values.detach().cpu().reshape(shape) for name, values in told.items()}

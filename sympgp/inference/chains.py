"""Markov chains by Pyro's No-U-Turn sampler, side by side, that can be set aside and resumed.

Source: Hoffman and Gelman, *The No-U-Turn sampler*, JMLR 15 (2014), for the method and for the
adaptation of its step size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sympgp.inference.lockstep import Density, Sampler, run_together

SPREAD = 1.5
"""Deviation of the starting points in units of the approximate posterior's."""
ATTEMPTS = 20
"""Halvings of the way to the centre until a starting point is possible at all."""
ROUND = 10
"""Transitions of every chain before all wait for each other; an interruption loses so many."""
NAME = "position"


@dataclass(frozen=True)
class Tuning:
    """How chains move.

    Attributes:
        num_warmup: transitions in which the step size is adapted.
        target_accept: mean acceptance probability that the step size is chosen for.
        max_tree_depth: most doublings of a trajectory.
        adapt_metric: learn the scale of each unknown, too.
    """

    num_warmup: int
    target_accept: float
    max_tree_depth: int
    adapt_metric: bool


class Potential:
    """Minus a log density, in the form that Pyro asks for; counts its evaluations."""

    def __init__(self, density: Callable[[Tensor], Tensor]) -> None:
        self.density = density
        self.count = 0

    def __call__(self, position: dict[str, Tensor]) -> Tensor:
        """Evaluate."""
        self.count += 1
        return -self.density(position[NAME])


@dataclass
class Chain:
    """One chain at any stage.

    Attributes:
        position: (N,) where it is.
        randomness: state of its random numbers.
        step_size: of the leapfrog method; zero before the warm-up.
        inverse_mass: (N,) diagonal metric.
        draws: positions so far.
        diverging: whether each transition diverged.
        num_steps: gradients that each transition took.
        warmup_steps: gradients that the warm-up took.
    """

    position: Float[Tensor, " unknowns"]
    randomness: UInt8[Tensor, " state"]
    step_size: float
    inverse_mass: Float[Tensor, " unknowns"]
    draws: list[Tensor] = field(default_factory=list)
    diverging: list[bool] = field(default_factory=list)
    num_steps: list[int] = field(default_factory=list)
    warmup_steps: int = 0

    @classmethod
    def start(cls, density: Density, size: int, seed: int) -> Chain:
        """Begin at a draw that is more widely spread than a standard normal one.

        Raises:
            FloatingPointError: the density is zero even near the centre.
        """
        generator = torch.Generator().manual_seed(seed)
        position = SPREAD * torch.randn(size, generator=generator, dtype=torch.float64)
        for _ in range(ATTEMPTS):
            if math.isfinite(float(density(position.unsqueeze(0))[0])):
                return cls(position, generator.get_state(), 0.0, torch.ones_like(position))
            position = 0.5 * position
        raise FloatingPointError(
            "the posterior density is zero at its Gauss-Newton optimum: look for values in other "
            "units in the data, or fit with a shorter solver step"
        )

    @property
    def warm(self) -> bool:
        """Whether the warm-up is over."""
        return self.step_size > 0.0

    def warm_up(
        self, density: Callable[[Tensor], Tensor], tuning: Tuning, report: Callable[[int], None]
    ) -> None:
        """Move into the bulk of the posterior while the step size is adapted."""
        potential = Potential(density)
        kernel = _kernel(potential, tuning, 1.0, adapt=True)
        params = _settle(kernel, self.position, tuning.num_warmup)
        for k in range(tuning.num_warmup):
            report(k)
            params = kernel.sample(params)
        (metric,) = kernel.inverse_mass_matrix.values()
        self.position, self.inverse_mass = params[NAME].detach().clone(), metric.clone()
        self.step_size, self.warmup_steps = float(kernel.step_size), potential.count

    def advance(self, density: Callable[[Tensor], Tensor], tuning: Tuning, num: int) -> None:
        """Make so many transitions.

        The sampler is made anew, so that a resumed chain computes exactly the same.
        """
        potential = Potential(density)
        kernel = _kernel(potential, tuning, self.step_size, adapt=False)
        _settle(kernel, self.position, 0)
        kernel.mass_matrix_adapter.inverse_mass_matrix = {(NAME,): self.inverse_mass}
        for _ in range(num):
            potential.count = 0
            params = kernel.sample({NAME: self.position})
            divergences = kernel.diagnostics()["divergences"]
            self.position = params[NAME].detach().clone()
            self.draws.append(self.position)
            self.diverging.append(len(divergences) > 0)
            self.num_steps.append(potential.count)
            divergences.clear()

    def plain(self) -> dict[str, Any]:
        """All attributes as they are now."""
        return {
            name: list(value) if isinstance(value, list) else value
            for name, value in self.__dict__.items()
        }


def _kernel(potential: Potential, tuning: Tuning, step_size: float, adapt: bool) -> Any:
    """Pyro's sampler, which is slow to import."""
    from pyro.infer import NUTS

    return NUTS(
        potential_fn=potential,
        step_size=step_size,
        adapt_step_size=adapt,
        adapt_mass_matrix=adapt and tuning.adapt_metric,
        target_accept_prob=tuning.target_accept,
        max_tree_depth=tuning.max_tree_depth,
    )


def _settle(kernel: Any, position: Tensor, num_warmup: int) -> dict[str, Tensor]:
    """Put a new sampler at a position."""
    kernel.initial_params = {NAME: position.clone()}
    kernel.setup(num_warmup)
    return kernel.initial_params


def _together(
    chains: Sequence[Chain], density: Density, work: Callable[[Chain, Callable], None]
) -> None:
    """Let every chain do its work; chains that are interrupted are as they were before."""
    import pyro

    before = [chain.plain() for chain in chains]
    samplers = [Sampler(partial(work, chain), chain.randomness) for chain in chains]
    try:
        with pyro.validation_enabled(False), pyro.poutine.block():
            run_together(samplers, density)
    except BaseException:
        for chain, old in zip(chains, before, strict=True):
            chain.__dict__.update(old)
        raise
    for chain, sampler in zip(chains, samplers, strict=True):
        chain.randomness = sampler.randomness


def run_chains(
    chains: Sequence[Chain],
    density: Density,
    tuning: Tuning,
    num_samples: int,
    report: Callable[[str], None],
    save: Callable[[bool], None],
) -> bool:
    """Warm all chains up, then let them draw.

    Args:
        chains: to be moved on; all warm, or none.
        density: what they draw from.
        tuning: how they move.
        num_samples: draws that each is to have in the end.
        report: progress in words.
        save: called after every round, and with True at the end.

    Returns:
        Whether Ctrl-C ended it early.

    Raises:
        KeyboardInterrupt: Ctrl-C before there was any draw.
    """
    try:
        if not all(chain.warm for chain in chains):
            furthest = [0]

            def told(done: int) -> None:
                furthest[0] = max(furthest[0], done)
                report(f"{len(chains)} chains, warming up: {furthest[0]} of {tuning.num_warmup}")

            _together(chains, density, partial(Chain.warm_up, tuning=tuning, report=told))
            save(False)
        while (done := len(chains[0].draws)) < num_samples:
            lost = sum(sum(chain.diverging) for chain in chains)
            report(f"{len(chains)} chains, {done} of {num_samples} draws, {lost} diverged")
            num = min(ROUND, num_samples - done)
            _together(chains, density, partial(Chain.advance, tuning=tuning, num=num))
            save(False)
    except KeyboardInterrupt:
        if not chains[0].draws:
            raise
        save(True)
        return True
    save(True)
    return False

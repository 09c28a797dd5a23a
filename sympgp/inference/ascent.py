"""Stochastic ascent of the evidence lower bound in whitened axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.inference.approximation import Approximation
from sympgp.inference.checkpoint import Checkpoint, State
from sympgp.inference.elbo import bound_of_draws
from sympgp.noise import RATE, SHAPE, ScaledNoise
from sympgp.shooting.density import JointDensity

BLOCK, LONGEST_BLOCK = 50, 400
"""Steps between two looks at the bound when every step sees all data, and at most otherwise."""
MOMENTUM = 0.9
"""Share of the last step's direction that is kept."""
SPREAD_SHARE = 0.5
"""Largest rate of the covariance's entries over that of the mean's: their gradients are noisier."""
NOISE_EVERY, NOISE_RATE, NOISE_LEAP = 4, 0.3, 0.5
"""Every so many steps the noise is moved, this far towards its own optimum in the logarithm, and
the largest distance that counts."""
FLAT = 0.1
"""Nats by which the bound has to rise in a block, or by its standard error, to count as rising."""
CUTS, CUT = 2, 0.25
"""Times that the steps are cut where the bound is flat, and to what share; at the next flat block
all is done."""

ON_MEAN = ("shift", "state_shift", "state_turn", "state_gain")


@dataclass(frozen=True)
class Schedule:
    """Settings of one ascent.

    Attributes:
        num_steps: at most.
        draws_a_step: draws of functions.
        learning_rate: rate of the mean, and longest step, in standard deviations.
        batch_size: windows a step; all when None.
    """

    num_steps: int
    draws_a_step: int
    learning_rate: float
    batch_size: int | None = None


@dataclass(frozen=True)
class Ascended:
    """The end of an ascent.

    Attributes:
        q: the approximation.
        steps: how many.
        converged: whether the bound had become flat.
        rise: nats that the bound rose by in the last block.
        lost, drawn: draws that diverged, and all draws.
    """

    q: Approximation
    steps: int
    converged: bool
    rise: float
    lost: int
    drawn: int


@dataclass
class Ascent:
    """Natural-gradient ascent with momentum and clipped steps.

    In axes whitened by q itself the Fisher information is close to the identity, so the gradient is
    the natural one. A step is clipped to a length in standard deviations before it enters the
    momentum, since a few draws far out have gradients beyond all others. Where the bound has
    become flat the steps are cut and go on from the mean of the last block (Polyak and
    Juditsky, *Acceleration of stochastic approximation by averaging*, SIAM J. Control Optim. 30,
    1992).

    Attributes:
        q: the approximation, a base with nothing trained in it at the start of each block.
        density: joint density of its unknowns.
        schedule: settings.
        generator: of draws and batches.
        counts: (D,) observations, so many as are independent.
        steps, lost, drawn, cuts: so far.
        history: mean and standard error of the bound in every block.
    """

    q: Approximation
    density: JointDensity
    schedule: Schedule
    generator: torch.Generator
    counts: Float[Tensor, " dim"]
    steps: int = 0
    lost: int = 0
    drawn: int = 0
    cuts: int = 0
    history: list[tuple[float, float]] = field(default_factory=list)

    @classmethod
    def begin(
        cls, start: Approximation, density: JointDensity, schedule: Schedule, seed: int
    ) -> Ascent:
        """At ``start``, with the noise's shape that belongs to the optimum."""
        counts = density.nodes.counts
        if density.inflation is not None:
            counts = counts / density.inflation
        known = start.noise_shape.isinf()
        shape = torch.where(known, start.noise_shape, density.noise.shape(counts))
        rate = torch.where(known, start.noise_rate, shape * start.noise_std**2)
        q = start.having({"noise_shape": shape, "noise_rate": rate})
        generator = torch.Generator().manual_seed(seed)
        size = min(schedule.batch_size or math.inf, density.windows.num_windows)
        density = density.for_steps(schedule.num_steps, schedule.draws_a_step, int(size))
        return cls(q, density, schedule, generator, counts)

    @property
    def done(self) -> bool:
        """Whether the limit of steps is reached or the bound is flat at the shortest steps."""
        return self.cuts > CUTS or self.steps >= self.schedule.num_steps

    def block(self) -> float:
        """One block of steps; the mean of the bound in it.

        Raises:
            FloatingPointError: every draw diverged.
        """
        size = self._block_size()
        values = {name: torch.zeros_like(value) for name, value in self.q.trained.items()}
        momentum = {name: value.clone() for name, value in values.items()}
        total = {name: value.clone() for name, value in values.items()}
        found = []
        for k in range(size):
            bound, direction = self._gradient(values, k % NOISE_EVERY == 0)
            for name, push in direction.items():
                momentum[name].mul_(MOMENTUM).add_(push, alpha=1.0 - MOMENTUM)
                values[name] = values[name] + momentum[name] / (1.0 - MOMENTUM ** (k + 1))
                total[name] += values[name]
            found.append(bound)
        self.steps += size
        # Nothing is read back from an accelerator before the block's end.
        known = self.density.ranks.broadcast(torch.stack(found))
        bounds, counts = known.to("cpu", torch.float64).unbind(1)
        drawn = size * self.schedule.draws_a_step
        self.drawn, self.lost = self.drawn + drawn, self.lost + drawn - int(counts.sum())
        bounds = bounds[counts > 0]
        if not len(bounds):
            raise FloatingPointError(
                "every draw of the field diverged; fit with a shorter solver step, "
                "StochasticVI(step=...), or with shorter windows"
            )
        error = float(bounds.std()) / math.sqrt(len(bounds)) if len(bounds) > 1 else math.inf
        self._look(float(bounds.mean()), error)
        if self.cuts or self.done:
            values = {name: value / size for name, value in total.items()}
        self.q = self.q.having(values).whitened()
        return float(bounds.mean())

    def _block_size(self) -> int:
        windows, batch = self.density.windows.num_windows, self.schedule.batch_size
        parts = 1 if batch is None else math.ceil(windows / batch)
        return min(BLOCK * parts, LONGEST_BLOCK, self.schedule.num_steps - self.steps)

    def _look(self, mean: float, error: float) -> None:
        """Cut the steps where the bound is no higher than it was."""
        best = max((value for value, _ in self.history), default=-math.inf)
        if mean < best + max(FLAT, error):
            self.cuts += 1
        self.history.append((mean, error))

    @property
    def rise(self) -> float:
        """Nats that the bound rose by in the last block, less what may be chance."""
        if len(self.history) < 2:
            return math.inf
        (before, first), (after, second) = self.history[-2:]
        return after - before - 2.0 * math.hypot(first, second)

    def _gradient(
        self, values: dict[str, Tensor], look_at_noise: bool
    ) -> tuple[Float[Tensor, " two"], dict[str, Tensor]]:
        """The bound with the number of draws left in it, and the clipped step; none without any."""
        leaves = {name: value.detach().requires_grad_(True) for name, value in values.items()}
        q, num = self.q.having(leaves), self.schedule.draws_a_step
        draws = q.sample(num, self.generator)
        noise = draws.noise_std.detach().requires_grad_(True)
        draws = draws._replace(noise_std=noise)
        terms = bound_of_draws(q.detached(), self.density, draws, self._batch())
        bound = torch.stack(list(terms.values())).sum(0)
        alive = bound.isfinite()
        count = alive.sum()
        if look_at_noise:
            likelihood = torch.where(alive, terms["likelihood"], 0.0).sum()
            (pull,) = torch.autograd.grad(likelihood, noise, retain_graph=True)
            self._move_noise(noise.detach(), pull, alive)
        mean = torch.where(alive, bound, 0.0).sum() / count.clamp(min=1)
        # Gains have no part where no window follows another.
        gradients = torch.autograd.grad(
            mean, list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        known = torch.stack([mean.detach(), count.to(mean)])
        return known, self._clipped(dict(zip(leaves, gradients, strict=True)), count == 0)

    def _batch(self) -> Int[Tensor, " chosen"] | None:
        windows, size = self.density.windows, self.schedule.batch_size
        if size is None or size >= windows.num_windows:
            return None
        order = torch.randperm(windows.num_windows, generator=self.generator)[:size]
        return order.to(windows.start.device)

    def _clipped(self, gradients: dict[str, Tensor], dead: Tensor) -> dict[str, Tensor]:
        """Natural gradients at their rates, no longer than the learning rate; zeros if dead."""
        rate = self.schedule.learning_rate
        noisy = min(SPREAD_SHARE, 4.0 * self.schedule.draws_a_step / len(self.q.active))
        step = {}
        for name, gradient in gradients.items():
            if name == "turn":  # the Fisher information of a logarithm on the diagonal is two
                gradient = gradient.triu() - 0.5 * torch.diag(gradient.diagonal())
            elif name == "state_turn":
                diagonal = gradient.diagonal(dim1=-2, dim2=-1)
                gradient = gradient.tril() - 0.5 * torch.diag_embed(diagonal)
            step[name] = (rate if name in ON_MEAN else noisy * rate) * gradient
        # All on the device: a number would have to be waited for.
        length = torch.stack([(part**2).sum() for part in step.values()]).sum().sqrt()
        tiny = torch.finfo(length.dtype).tiny
        share = CUT**self.cuts * (rate / length.clamp(min=tiny)).nan_to_num(1.0).clamp(max=1.0)
        return {name: (share * part).masked_fill(dead, 0.0) for name, part in step.items()}

    def _move_noise(self, noise_std: Tensor, pull: Tensor, alive: Tensor) -> None:
        """Towards the inverse-gamma distribution that is optimal given all else, by these draws."""
        each = noise_std**2 * (noise_std * pull + self.counts)
        count, total = alive.sum(), each.masked_fill(~alive.unsqueeze(-1), 0.0).sum(0)
        squares = (total / count.clamp(min=1)).clamp(min=0.0)
        wanted = noise_variance(self.density.noise, squares, self.counts)
        known = self.q.noise_shape.isinf()
        leap = (wanted / self.q.noise_std**2).log().clamp(-NOISE_LEAP, NOISE_LEAP)
        factor = torch.where(count > 0, (NOISE_RATE * CUT**self.cuts * leap).exp(), 1.0)
        rate = torch.where(known, self.q.noise_rate, self.q.noise_rate * factor)
        self.q = self.q.having({"noise_rate": rate})

    def follow_first(self) -> None:
        """Begin where rank 0 does, since other machines round differently."""
        ranks = self.density.ranks
        if ranks.several:
            names = Approximation.BASE + Approximation.NOISE
            own = {name: getattr(self.q, name)[: None if ranks.first else 0] for name in names}
            self.q = self.q.rebased({name: ranks.gather(value) for name, value in own.items()})

    def state(self) -> State:
        """All that a later process needs to go on."""
        names = Approximation.BASE + Approximation.NOISE
        return {
            "q": {name: getattr(self.q, name).cpu() for name in names},
            "generator": self.generator.get_state(),
            "steps": self.steps,
            "lost": self.lost,
            "drawn": self.drawn,
            "cuts": self.cuts,
            "history": [list(pair) for pair in self.history],
        }

    def resume(self, state: State) -> None:
        """Go on from such a state."""
        self.q = self.q.rebased(state["q"])
        self.generator.set_state(state["generator"])
        for name in ("steps", "lost", "drawn", "cuts"):
            setattr(self, name, state[name])
        self.history = [(mean, error) for mean, error in state["history"]]


def noise_variance(
    noise: ScaledNoise, squares: Float[Tensor, " dim"], counts: Float[Tensor, " dim"]
) -> Float[Tensor, " dim"]:
    """``(E RSS + 2 b) / (n + 2 a)`` by group of channels: rate over shape of the best q."""
    area = noise.unit**2
    size = (noise.group.unsqueeze(1) == noise.group).sum(1)
    total = size * noise.pooled(area * squares) + 2 * RATE * noise.pooled(area)
    return total / (size * noise.pooled(counts) + 2 * SHAPE) / area


def ascend(
    start: Approximation,
    density: JointDensity,
    schedule: Schedule,
    seed: int,
    name: str,
    checkpoint: Checkpoint,
    report: Callable[[float], None],
) -> Ascended:
    """Raise the bound from ``start``, going on from the checkpoint where it knows this training.

    Args:
        start: the approximation to begin with.
        density: joint density of its unknowns.
        schedule: settings.
        seed: of draws and batches.
        name: of this training in the checkpoint.
        checkpoint: where states are kept.
        report: called with the bound after each block.
    """
    ascent = Ascent.begin(start, density, schedule, seed)
    known = checkpoint.finished(name) or checkpoint.running(name)
    if known is not None:
        ascent.resume(known)
    ascent.follow_first()
    while not ascent.done:
        report(ascent.block())
        density.ranks.agree(lambda: checkpoint.keep(name, ascent.state(), ascent.done))
    converged = ascent.cuts > CUTS
    return Ascended(ascent.q, ascent.steps, converged, ascent.rise, ascent.lost, ascent.drawn)

"""Training many parameter vectors side by side: Adam on rows, with noise and window states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sympgp.compiled import Compiled, repays_steps
from sympgp.inference.checkpoint import Checkpoint, State
from sympgp.inference.networks.density import Density
from sympgp.noise import ScaledNoise

BLOCK = 50
"""Steps between two reports, and two looks for an interruption."""
LATE, AHEAD, MOST_ITEMS = 2 / 3, 100, 10_000
"""Share of the steps from which on it is seen how the density rises, steps at the first rate that
this is carried forward by, and pairs at most that the density is taken of."""
STILL_RISING = 0.05
"""Nats an observation by which these steps may raise it: as much as noise that falls by 5%."""
FIRST, SECOND, TINY = 0.9, 0.999, 1e-12
"""Averages of gradients and of their squares, and what keeps a ratio of them finite."""
NOISE_RATE, STATE_RATE = 5.0, 5.0
"""Rates of the noise's logarithm and of states in noise deviations over that of the weights."""

Perturbation = Callable[[Tensor, torch.Generator], Tensor]
"""From rows of theta and a generator to the rows whose density is looked at in this step."""


class Unknowns(NamedTuple):
    """Rows of all that is trained, scaled units.

    Attributes:
        theta: (S, P + K).
        log_noise: (S, G) logarithms of the noise of each group's leader.
        start: (S, W, D) window states; None where there are none.
    """

    theta: Float[Tensor, "rows params"]
    log_noise: Float[Tensor, "rows groups"]
    start: Float[Tensor, "rows windows dim"] | None

    def noise_std(self, noise: ScaledNoise) -> Float[Tensor, "rows dim"]:
        """Standard deviations of all channels."""
        return noise.levels(self.log_noise)

    def rows(self, chosen: Bool[Tensor, " rows"] | Int[Tensor, " chosen"]) -> Unknowns:
        """Some of them."""
        start = None if self.start is None else self.start[chosen]
        return Unknowns(self.theta[chosen], self.log_noise[chosen], start)

    @classmethod
    def at(
        cls,
        theta: Float[Tensor, "rows params"],
        noise: ScaledNoise,
        noise_std: Float[Tensor, " dim"],
        start: Float[Tensor, "rows windows dim"] | None,
    ) -> Unknowns:
        """With the same noise in every row."""
        log = noise.start(noise_std)[noise.leaders].log()
        return cls(theta, log.expand(len(theta), -1).clone(), start)


@dataclass(frozen=True)
class Schedule:
    """Settings of one descent.

    Attributes:
        num_steps: how many.
        learning_rate: of the weights at the start; it falls to zero along a cosine.
        batch_size: pairs or windows a step; all when None.
    """

    num_steps: int
    learning_rate: float
    batch_size: int | None = None


class Descent:
    """Adam (Kingma and Ba, ICLR 2015) on the negative log density, every row by itself.

    All operations are of rows alone, so that rows trained together end where they would have
    ended one by one; batches are the same for all. Rows whose density or gradient is not finite
    stay where they are in that step.

    Args:
        density: of the data and the unknowns.
        begin: rows to begin with.
        schedule: settings.
        seed: of the batches and of ``perturbed``.
        perturbed: what the density is looked at in each step in place of theta, as dropout asks.
    """

    def __init__(
        self,
        density: Density,
        begin: Unknowns,
        schedule: Schedule,
        seed: int,
        perturbed: Perturbation | None = None,
    ) -> None:
        self.density, self.begin, self.schedule = density, begin, schedule
        self.perturbed, self.steps = perturbed, 0
        self.generator = torch.Generator().manual_seed(seed)
        self.unit = begin.noise_std(density.noise).unsqueeze(1)
        shift = None if begin.start is None else torch.zeros_like(begin.start)
        parts = (begin.theta, begin.log_noise, shift)
        self.values = [part.detach().clone() for part in parts if part is not None]
        self.first = [torch.zeros_like(value) for value in self.values]
        self.second = [torch.zeros_like(value) for value in self.values]
        self.order = torch.zeros(0, dtype=torch.long)
        self.skipped = torch.zeros(len(begin.theta), dtype=torch.long, device=begin.theta.device)
        self.size = max(1.0, float(density.counts.sum()))
        self.late: Tensor | None = None
        self.mark = min(math.ceil(LATE * schedule.num_steps), schedule.num_steps - 1)
        self._slopes: Callable[..., Tensor] = self._slope
        if self._repays():
            self._slopes = Compiled(lambda *given: self._slope(*given), traced=True)

    def _repays(self) -> bool:
        """Whether steps are compiled: those on pairs, of some 150 operations, not at random."""
        if self.begin.start is not None or self.perturbed is not None:
            return False
        return repays_steps(self.schedule.num_steps, self.begin.theta.device)

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        return self.steps >= self.schedule.num_steps

    def unknowns(self, values: list[Tensor] | None = None) -> Unknowns:
        """Where the rows stand."""
        values = self.values if values is None else values
        start = None
        if self.begin.start is not None:
            start = self.begin.start + self.unit * values[2]
        return Unknowns(values[0], values[1], start)

    def block(self) -> float:
        """So many steps; the mean of the objective over the rows at the last of them.

        Raises:
            FloatingPointError: in none of these steps had any row a finite density.
        """
        count = min(BLOCK, self.schedule.num_steps - self.steps)
        before = int(self.skipped.sum())
        objective: Tensor | float = math.nan
        for _ in range(count):
            if self.steps == self.mark:
                self.late = self.log_density()
            objective = self._step()
        if int(self.skipped.sum()) - before == count * len(self.begin.theta):
            raise FloatingPointError(
                f"the density of the data is not finite after {self.steps} steps, in any of "
                f"{len(self.begin.theta)} networks: train with a lower learning_rate, shorter "
                "windows or a shorter solver step, and look for gross outliers in the data"
            )
        return float(objective)

    def log_density(self) -> Float[Tensor, " rows"]:
        """The joint log density of all data, or of many, where the rows stand.

        What is perturbed in training is so here, in the same way at every call.
        """
        total, chosen = self.density.num_items, None
        if self.begin.start is None and total > MOST_ITEMS:
            chosen = torch.linspace(0, total - 1, MOST_ITEMS).round().long()
            chosen = chosen.to(self.values[0].device)
        with torch.no_grad():
            own = self.unknowns()
            theta = own.theta
            if self.perturbed is not None:
                theta = self.perturbed(theta, torch.Generator().manual_seed(0))
            noise_std = own.noise_std(self.density.noise)
            terms = self.density.terms(theta, noise_std, own.start, chosen)
            return torch.stack(list(terms.values())).sum(0)

    def rise(self) -> float:
        """Nats an observation that ``AHEAD`` more steps at the first rate would gain.

        Of the row that gains most, in proportion to the rates of the steps since ``LATE``, which
        go to zero.
        """
        if self.late is None:
            return math.inf
        travel = sum(self._fall(k) for k in range(self.mark, self.steps))
        rise = (self.log_density() - self.late) / self.size * (AHEAD / travel)
        return float(rise[rise.isfinite()].max()) if bool(rise.isfinite().any()) else 0.0

    def _fall(self, step: int) -> float:
        """The rate of a step over the first one's, along a cosine."""
        return 0.5 * (1.0 + math.cos(math.pi * step / self.schedule.num_steps))

    def _step(self) -> Tensor:
        """One step; the mean of the objective over the rows that could take it, NaN without any."""
        chosen = self._batch()
        found = self._slopes(*self.values, *(() if chosen is None else (chosen,)))
        value, *flat = found.split([1, *(part[0].numel() for part in self.values)], 1)
        value, alive = value.squeeze(1), value.squeeze(1).isfinite()
        gradients = []
        for gradient, like in zip(flat, self.values, strict=True):
            alive = alive & gradient.isfinite().all(1)
            gradients.append(gradient.reshape(like.shape))
        self._move(gradients, alive)
        return -torch.where(alive, value, 0.0).sum() / alive.sum()

    def _slope(self, *given: Tensor) -> Float[Tensor, "rows numbers"]:
        """The density of every row and its gradient, side by side, as a function of tensors.

        Args:
            given: the values, and the items of this step where these are chosen.
        """
        with torch.enable_grad():
            leaves = [part.detach().requires_grad_(True) for part in given[: len(self.values)]]
            own = self.unknowns(leaves)
            theta = own.theta
            if self.perturbed is not None:
                theta = self.perturbed(theta, self.generator)
            noise_std = own.noise_std(self.density.noise)
            chosen = given[-1] if len(given) > len(leaves) else None
            terms = self.density.terms(theta, noise_std, own.start, chosen)
            value = torch.stack(list(terms.values())).sum(0)
            loss = -torch.where(value.detach().isfinite(), value, 0.0).sum() / self.size
            slopes = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return torch.cat([value.detach().unsqueeze(1), *(own.flatten(1) for own in slopes)], 1)

    def _move(self, gradients: list[Tensor], alive: Tensor) -> None:
        """One step of Adam, in the rows that can take it."""
        fall = self._fall(self.steps)
        self.steps += 1
        self.skipped += ~alive
        rate = fall * self.schedule.learning_rate / (1.0 - FIRST**self.steps)
        for k, (value, gradient) in enumerate(zip(self.values, gradients, strict=True)):
            own = rate * (1.0, NOISE_RATE, STATE_RATE)[k]
            moved = alive.view(-1, *(1,) * (value.dim() - 1))
            gradient, share = torch.where(moved, gradient, 0.0), moved.to(value)
            self.first[k].lerp_(gradient, 1.0 - FIRST)
            self.second[k].mul_(SECOND).addcmul_(gradient, gradient, value=1.0 - SECOND)
            scale = (self.second[k] / (1.0 - SECOND**self.steps)).sqrt_().add_(TINY)
            value.sub_(share * own * self.first[k] / scale)
        if self.density.field.dissipation.truncated:
            self.values[0][:, self.density.field.num_weights :].clamp_(min=0.0)

    def _batch(self) -> Int[Tensor, " chosen"] | None:
        """Items in random order, each once before any comes again."""
        size, total = self.schedule.batch_size, self.density.num_items
        if size is None or size >= total:
            return None
        if len(self.order) < size:
            self.order = torch.randperm(total, generator=self.generator)
        chosen, self.order = self.order[:size], self.order[size:]
        return chosen.to(self.values[0].device)

    def state(self) -> State:
        """All that a later process needs to go on."""
        return {
            "values": [value.cpu() for value in self.values],
            "first": [value.cpu() for value in self.first],
            "second": [value.cpu() for value in self.second],
            "skipped": self.skipped.cpu(),
            "order": self.order.clone(),
            "generator": self.generator.get_state(),
            "steps": self.steps,
            "late": None if self.late is None else self.late.cpu(),
        }

    def resume(self, state: State) -> None:
        """Go on from such a state."""
        like = self.values[0]
        for name in ("values", "first", "second"):
            setattr(self, name, [value.to(like, copy=True) for value in state[name]])
        self.skipped = state["skipped"].to(like.device, copy=True)
        self.order, self.steps = state["order"], state["steps"]
        self.generator.set_state(state["generator"])
        late = state.get("late")
        self.late = None if late is None else late.to(like.device, copy=True)


def descend(
    descent: Descent,
    name: str,
    checkpoint: Checkpoint,
    report: Callable[[str, float | None], None],
) -> Descent:
    """Take all steps, going on from the checkpoint where it knows this training.

    Args:
        descent: at its beginning.
        name: of this training, in reports and in the checkpoint.
        checkpoint: where states are kept.
        report: called after each block.
    """
    known = checkpoint.finished(name) or checkpoint.running(name)
    if known is not None:
        descent.resume(known)
    while not descent.done:
        report(name, descent.block())
        checkpoint.keep(name, descent.state(), descent.done)
    return descent

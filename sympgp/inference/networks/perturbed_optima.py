"""Optima of several networks for perturbed data and priors, all rows in step."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from sympgp.inference.base import Report
from sympgp.inference.checkpoint import Checkpoint, State
from sympgp.inference.networks.density import Density, WindowDensity, spread_states
from sympgp.inference.networks.descent import Unknowns
from sympgp.inference.networks.linear_gaussian import LinearGaussian
from sympgp.inference.networks.linearisation import Point
from sympgp.inference.networks.polish import LARGEST_DAMPING, stepped
from sympgp.inference.networks.randomized import RandomizedDensity
from sympgp.shooting.density import Paths

NAME = "perturbed data"
"""Of this stage, in reports and in the checkpoint."""
FIRST_DAMPING, RAISED, LOWERED = 5.0, 4.0, 3.0
"""Precision of a step over that of the prior: at first, and what falls and rises of the density
make of it."""
EXACT_DAMPING = 1e-9
"""At first where the field is linear, so that one step is enough."""
CLOSE = 0.1
"""Nats by which one of two steps has to raise the density to go on."""
PLACES, LATEST, STILL = 50, 4, 0.1
"""States at which fields are compared, the last tries that count, and how far a field may move in
them, over the spread of all rows. Weights that the data barely determine may move on."""


class Optima(NamedTuple):
    """Of searches of several rows.

    Attributes:
        unknowns: where they ended.
        arrived: (S,) whether a row is at its optimum, or its field there already.
        steps: of all rows together.
    """

    unknowns: Unknowns
    arrived: Bool[Tensor, " rows"]
    steps: int


def randomized_rows(
    density: Density,
    begin: Unknowns,
    seed: int,
    most: int,
    checkpoint: Checkpoint,
    report: Report,
) -> Optima:
    """Every row at the optimum for its own perturbed data and priors, by Gauss-Newton steps.

    Args:
        density: of the data and the unknowns.
        begin: rows at the optima for the data as they are.
        seed: of the perturbations.
        most: tries of a step.
        checkpoint: where the rows are kept.
        report: called after each try.
    """
    search = _Search(RandomizedDensity.of(density, begin.noise_std(density.noise), seed), begin)
    known = checkpoint.finished(NAME) or checkpoint.running(NAME)
    if known is not None:
        search.resume(known)
    while search.tries < most and not bool(search.done.all()):
        search.advance()
        report(NAME, -float(search.value.mean()))
        checkpoint.keep(NAME, search.state(), False)
    checkpoint.keep(NAME, search.state(), True)
    return Optima(search.own, search.arrived(), search.steps)


class _Search:
    """Damped Gauss-Newton steps of all rows; only the linear models are made row by row."""

    def __init__(self, density: RandomizedDensity, begin: Unknowns) -> None:
        self.density, self.own, count = density, begin, len(begin.theta)
        self.noise_std = density.noise_std
        self.value, self.paths = self._log_prob(begin)
        exact = density.field.basis.linear
        self.damping = [EXACT_DAMPING if exact else FIRST_DAMPING] * count
        self.small, self.tries, self.steps = [0] * count, 0, 0
        self.done = ~self.value.isfinite()
        self.linear: list[LinearGaussian | None] = [None] * count
        self.z = spread_states(density.known, PLACES)
        self.rates = [self._rates(begin)]
        self.proposed = torch.zeros_like(self.value)

    def arrived(self) -> Bool[Tensor, " rows"]:
        """Which rows need no further steps."""
        if len(self.rates) <= LATEST:
            return self.done
        moved = _distance(self.rates[-1], self.rates[0])
        # Where all of these tries were refused, the field stood still but may have far to go.
        moved = torch.where(moved > 0, moved, self.proposed)
        spread = self.rates[-1][self.value.isfinite()].var(0, correction=0).mean().sqrt()
        return self.done | (moved < STILL * spread)

    def advance(self) -> None:
        """Try one step of each row; where the density does not rise, a shorter one comes next."""
        ahead = self.own._replace(theta=self.own.theta.clone())
        if ahead.start is not None:
            ahead = ahead._replace(start=ahead.start.clone())
        for k in (~self.done).nonzero().squeeze(1).tolist():
            found = self._stepped(k)
            ahead.theta[k] = math.nan if found is None else found.theta
            if ahead.start is not None and found is not None and found.start is not None:
                ahead.start[k] = found.start
        reached, paths = self._log_prob(ahead)
        rises = (reached > self.value) & ~self.done
        rates = self._rates(ahead)
        self.proposed = _distance(rates, self.rates[-1]).nan_to_num(math.inf)
        self._settle(reached, rises)
        moved = rises.view(-1, 1)
        start = self.own.start
        if start is not None and ahead.start is not None:
            start = torch.where(moved.unsqueeze(-1), ahead.start, start)
        if self.paths is not None and paths is not None:
            path, end, alive = (_chosen(rises, *two) for two in zip(paths, self.paths, strict=True))
            self.paths = path, end, alive
        self.own = Unknowns(
            torch.where(moved, ahead.theta, self.own.theta), self.own.log_noise, start
        )
        self.value = torch.where(rises, reached, self.value)
        self.tries, self.steps = self.tries + 1, self.steps + bool(rises.any())
        rates = torch.where(moved.unsqueeze(-1), rates, self.rates[-1])
        self.rates = [*self.rates[-LATEST:], rates]

    def _stepped(self, k: int) -> Point | None:
        """Where the next step of a row leads; None where its numbers fail."""
        row, at = self.density.row(k), self._point(k)
        try:
            linear = self.linear[k] or row.linear(at)
            self.linear[k] = linear
            return stepped(row, linear, at, self.damping[k], row.centre[0])
        except torch.linalg.LinAlgError:
            return None

    def _settle(self, reached: Tensor, rises: Tensor) -> None:
        """Dampings of the next steps, and which rows have arrived."""
        gain = (reached - self.value).tolist()
        for k, rose in enumerate(rises.tolist()):
            if not rose:
                self.damping[k] *= RAISED
                self.done[k] |= self.damping[k] > LARGEST_DAMPING
                continue
            self.linear[k] = None
            self.damping[k] /= LOWERED
            self.small[k] = self.small[k] + 1 if gain[k] < CLOSE else 0
            self.done[k] |= self.small[k] > 1

    def _point(self, k: int) -> Point:
        own = self.own
        start = None if own.start is None else own.start[k]
        paths = None
        if self.paths is not None:
            path, end, alive = (part[k : k + 1] for part in self.paths)
            paths = path, end, alive
        return Point(own.theta[k], self.noise_std[k], start, paths)

    def _rates(self, own: Unknowns) -> Float[Tensor, "rows places dim"]:
        with torch.no_grad():
            z = self.z.expand(len(own.theta), *self.z.shape)
            found: Tensor = self.density.field.bind(own.theta)(0.0, z)
        return found

    def _log_prob(self, own: Unknowns) -> tuple[Float[Tensor, " rows"], Paths | None]:
        """Densities, and the paths that were followed for them, which linear models need too."""
        known, paths = self.density.known, None
        with torch.no_grad():
            if own.start is not None and isinstance(known, WindowDensity):
                paths = known.joint.paths(own.theta, own.start)
            terms = self.density.terms(own.theta, self.noise_std, own.start, known=paths)
        value = torch.stack(list(terms.values())).sum(0)
        return value.masked_fill(value.isnan(), -torch.inf), paths

    def state(self) -> State:
        """All that a later process needs to go on."""
        start = self.own.start
        return {
            "theta": self.own.theta.cpu(),
            "start": None if start is None else start.cpu(),
            "damping": list(self.damping),
            "small": list(self.small),
            "done": self.done.cpu(),
            "tries": self.tries,
            "steps": self.steps,
            "rates": [rates.cpu() for rates in self.rates],
            "proposed": self.proposed.cpu(),
        }

    def resume(self, state: State) -> None:
        """Go on from such a state."""
        like, start = self.own.theta, state["start"]
        start = None if start is None else start.to(like)
        self.own = Unknowns(state["theta"].to(like), self.own.log_noise, start)
        self.value, self.paths = self._log_prob(self.own)
        self.done = state["done"].to(like.device)
        self.damping, self.small = list(state["damping"]), list(state["small"])
        self.tries, self.steps = state["tries"], state["steps"]
        self.rates = [rates.to(like) for rates in state["rates"]]
        self.proposed = state["proposed"].to(like)


def _chosen(
    rows: Bool[Tensor, " rows"],
    own: Shaped[Tensor, "rows *rest"],
    other: Shaped[Tensor, "rows *rest"],
) -> Shaped[Tensor, "rows *rest"]:
    """These rows of one tensor, all others of the other."""
    return torch.where(rows.view(-1, *(1,) * (own.dim() - 1)), own, other)


def _distance(
    rates: Float[Tensor, "rows places dim"], others: Float[Tensor, "rows places dim"]
) -> Float[Tensor, " rows"]:
    return (rates - others).square().mean((1, 2)).sqrt()

"""Posteriors of what has a name: parameters of formulas, and mass matrices; user units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import (
    ContextualBasis,
    PhysicsBasis,
    QuadraticKineticBasis,
    SumBasis,
    TangentBasis,
)
from sympgp.energies.base import Basis
from sympgp.energies.priors import Prior
from sympgp.energies.stand_in import stand_in
from sympgp.energies.sum_basis import formula_of
from sympgp.posterior.component import Component, normal
from sympgp.posterior.draws import Marginal, new_context

if TYPE_CHECKING:
    from sympgp.posterior.field import FieldPosterior
else:
    FieldPosterior = Any

NUM_DRAWS = 4000
"""Draws behind every moment and quantile."""
PATHS, MOST_STATES = 20, 300
"""Draws of the fitted paths, and states of them over which fields are compared."""
FURTHEST = 8.0
"""Largest standard normal weight at which a prior's quantile function is looked up."""


@dataclass(frozen=True)
class DrawnMarginal(Marginal):
    """A marginal known by draws.

    Attributes:
        draws: (S, ...).
    """

    draws: Tensor

    @classmethod
    def of(cls, draws: Float[Tensor, "draws *shape"]) -> DrawnMarginal:
        """With the moments of the draws."""
        return cls(draws.mean(0), draws.std(0), draws)

    def to(self, dtype: torch.dtype) -> DrawnMarginal:
        """The same in another type."""
        return DrawnMarginal(*(part.to(dtype) for part in (self.mean, self.stddev, self.draws)))

    def quantile(self, probability: float | int) -> Tensor:
        """The value that is not exceeded with this probability, entry by entry.

        Raises:
            ValueError: no probability.
        """
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability: expected a number in [0, 1], got {probability!r}")
        return torch.quantile(self.draws, float(probability), dim=0)

    def interval(self, level: float | int = 0.95) -> tuple[Tensor, Tensor]:
        """The central interval that holds the value with this probability.

        Raises:
            ValueError: a level outside (0, 1).
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
        return self.quantile(0.5 - 0.5 * level), self.quantile(0.5 + 0.5 * level)


class Shared(NamedTuple):
    """Draws of one parameter beside learned parts of the energy.

    Attributes:
        own: (S,) the parameter itself.
        nearest: (S,) the parameter of the formula that is closest to the whole field.
        correlation: of the parameter with what learned parts do in its place.
    """

    own: Tensor
    nearest: Tensor
    correlation: float


def parameters(
    posterior: FieldPosterior, nearest: bool = False, covariates: Any = None
) -> dict[str, DrawnMarginal]:
    """See ``FieldPosterior.parameters``."""
    found: dict[str, list[Tensor]] = {}
    count, field = len(posterior.components), posterior.components[0].field
    if covariates is not None:
        new_context(field, covariates)  # which refuses wrong ones
    if not has_names(field.basis):
        return {}
    z = region(posterior)
    for component in posterior.components:
        draws = _weights(component, -(-NUM_DRAWS // count))
        own = named(component.field.basis, draws, covariates)
        for name, pair in shared(component, draws, z, covariates).items():
            own[name] = pair.nearest if nearest else pair.own
        for name, values in own.items():
            found.setdefault(name, []).append(values)
    return {name: DrawnMarginal.of(torch.cat(values)) for name, values in found.items()}


def correlations(posterior: FieldPosterior) -> dict[str, float]:
    """Of each physics parameter with what learned parts may do in its place, by its name.

    The mean over components; none where there are no learned parts.
    """
    found: dict[str, float] = {}
    count = len(posterior.components)
    if not has_names(posterior.components[0].field.basis):
        return {}
    z = region(posterior)
    for component in posterior.components:
        draws = _weights(component, -(-NUM_DRAWS // count))
        for name, pair in shared(component, draws, z).items():
            found[name] = found.get(name, 0.0) + pair.correlation / count
    return found


def has_names(basis: Basis) -> bool:
    """Whether there is a parameter or a mass to show."""
    if isinstance(basis, SumBasis):
        return any(has_names(part) for part in basis.parts)
    if isinstance(basis, TangentBasis):
        return has_names(basis.basis)
    formula = formula_of(basis)
    return isinstance(basis, QuadraticKineticBasis) or (formula is not None and bool(formula.names))


def named(
    basis: Basis, w: Float[Tensor, "draws weights"], covariates: Any = None
) -> dict[str, Tensor]:
    """Parameters of formulas (S,) and mass matrices (S, n, n) by name, as the weights have them.

    Of physics beside a part that is orthogonal to it, they are those of the nearest formula.
    Parameters that differ by trajectory are the population's at these covariates, and each
    trajectory's own.
    """
    if isinstance(basis, TangentBasis):
        return named(basis.basis, basis.whole(w), covariates)
    if isinstance(basis, PhysicsBasis):
        return basis.values(w)
    if isinstance(basis, ContextualBasis):
        return basis.values(w, covariates) | basis.by_trajectory(w, covariates)
    if isinstance(basis, QuadraticKineticBasis):
        return {"mass": basis.mass_matrix(w)}
    if not isinstance(basis, SumBasis):
        return {}
    found = basis.values(w, covariates)
    for name, part, own in zip(basis.names, basis.parts, basis.split(w), strict=True):
        if isinstance(part, ContextualBasis):
            more = part.by_trajectory(own, covariates)
            found |= {k if k not in found else f"{name}.{k}": v for k, v in more.items()}
        if isinstance(part, QuadraticKineticBasis):
            found["mass" if "mass" not in found else f"{name}.mass"] = part.mass_matrix(own)
    return found


def shared(
    component: Component,
    w: Float[Tensor, "draws weights"],
    z: Float[Tensor, "states dim"],
    covariates: Any = None,
) -> dict[str, Shared]:
    """Draws of the physics' parameters where learned parts could do the same; none elsewhere.

    With fields ``J grad H`` compared over the states z, whatever acts as a change ``a`` of
    the parameters would is written as one: ``nearest = own + a``. Data tell ``nearest`` alone. Of
    a part that is not orthogonal to the physics, ``a = A w`` is known as well as its weights are.
    A part made orthogonal has left ``a`` to the parameters: it is drawn from the prior that the
    part had before, ``N(0, A V A')`` with the scales that its rest was found to have, and not
    from what a smooth function's rest says of it, which is far too sure (the rest of a
    quartic potential beside a cosine is that of a parabola, too). The priors of the
    parameters, which the fit has put on ``nearest``, are those of ``own``: draws are chosen
    again accordingly.

    Source: Brynjarsdottir and O'Hagan, *Learning about physical parameters: the importance of
    model discrepancy*, Inverse Problems 30 (2014), for what a confident discrepancy does.
    """
    basis = component.field.basis
    if not isinstance(basis, SumBasis) or all(formula_of(p) is not None for p in basis.parts):
        return {}
    values = basis.values(w, covariates)
    if not values:
        return {}
    num = basis.num_weights
    change = stand_in(basis, z, component.typical()[:num])
    generator = torch.Generator().manual_seed(1)
    free = normal((len(w), num), w, generator) * basis.prior_variance.sqrt()
    taken_over, left = free @ change.taken_over.mT, w @ change.left.mT
    fitted = torch.stack(list(values.values()), -1)
    own, nearest, rival = fitted - taken_over, fitted + left, taken_over + left
    if bool(change.taken_over.any()):
        index = _chosen(_priors(basis), own, fitted, generator)
        own, nearest, rival = own[index], nearest[index], rival[index]
    return {
        name: Shared(own[:, k], nearest[:, k], _correlation(own[:, k], rival[:, k]))
        for k, name in enumerate(values)
    }


def region(posterior: FieldPosterior) -> Float[Tensor, "states dim"]:
    """Scaled states where the data are: on the fitted paths, or as they were given."""
    whole: Any = posterior  # with its data
    data, scaling, states = whole.data, whole.scaling, whole.data.states
    if isinstance(states, Tensor):
        x = states
    elif whole.counterfactual or whole.components[0].states is None:
        x = torch.cat(list(states))
    else:
        from sympgp.posterior.prediction import fitted  # which is about whole posteriors

        times = [t.tolist() for t in data.times]
        paths = [fitted(whole, t, i, PATHS, 0) for i, t in enumerate(times)]
        x = torch.cat([path.mean[0] for path in paths])
    z = scaling.to_scaled(x.to(scaling.center))
    z = z[z.isfinite().all(-1)]
    index = torch.linspace(0, len(z) - 1, min(len(z), MOST_STATES)).round().long()
    return z[index.to(z.device)]


def _weights(component: Component, num: int) -> Float[Tensor, "draws weights"]:
    theta = component.sample(num, torch.Generator().manual_seed(0)).theta
    return component.field.parts(theta)[0]


def _priors(basis: SumBasis) -> list[Prior]:
    formulas = [formula_of(part) for part in basis.parts]
    return [prior for formula in formulas if formula is not None for prior in formula.priors]


def _chosen(priors: list[Prior], own: Tensor, fitted: Tensor, generator: torch.Generator) -> Tensor:
    """Indices of draws, chosen by the ratio of the priors' densities at two values of each."""
    log_ratio = own.new_zeros(len(own))
    for k, prior in enumerate(priors):
        log_ratio = log_ratio + _log_density(prior, own[:, k]) - _log_density(prior, fitted[:, k])
    if not bool(log_ratio.isfinite().any()):
        return torch.arange(len(own), device=own.device)
    weights = torch.softmax(log_ratio.nan_to_num(nan=-math.inf), 0)
    # Systematic resampling: every draw as often as its weight says, up to rounding.
    count = len(weights)
    points = (torch.arange(count).to(weights) + 0.5) / count
    index = torch.searchsorted(weights.cumsum(0), points).clamp(max=count - 1)
    # In random order, so that they can be paired with draws of anything else.
    return index[torch.randperm(count, generator=generator).to(index.device)]


def _log_density(prior: Prior, value: Float[Tensor, " draws"]) -> Float[Tensor, " draws"]:
    """Log density of a parameter, by bisection for its standard normal weight."""
    low, high = torch.full_like(value, -FURTHEST), torch.full_like(value, FURTHEST)
    ends = prior.value(low), prior.value(high)
    sign = 1.0 if bool(ends[0][0] < ends[1][0]) else -1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = sign * prior.value(middle) < sign * value
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    w = 0.5 * (low + high)
    inside = (w.abs() < FURTHEST - 1e-6) & value.isfinite()
    density = -0.5 * w**2 - prior.slope(w).abs().log()
    return torch.where(inside, density, -math.inf)


def _correlation(first: Tensor, second: Tensor) -> float:
    """Zero where one of both does not move."""
    spread = first.std() * second.std()
    tiny = torch.finfo(first.dtype).tiny
    covariance = ((first - first.mean()) * (second - second.mean())).sum() / (len(first) - 1)
    return float(covariance / spread.clamp(min=tiny)) if float(spread) > tiny else 0.0

"""What data can tell of a dissipation beside an energy, and what they cannot, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation import (
    DiagonalFriction,
    Dissipation,
    GradientField,
    Rayleigh,
    StateDependentFriction,
)
from sympgp.energies import ContextualBasis, KnownKineticBasis, PhysicsBasis, SumBasis
from sympgp.energies.base import Basis

if TYPE_CHECKING:
    from sympgp.posterior.field import FieldPosterior
else:
    FieldPosterior = Any

NUM_DRAWS, MOST_STATES = 200, 200
"""Draws and states behind the figures."""
VAGUE = 0.5
"""Share of its size from which on the dissipative part is hardly known."""
APART = 0.9
"""Correlation of two coefficients from which on only their sum is known."""


class Split(NamedTuple):
    """Root mean squares over the data, scaled by the spread of each channel's rate.

    Attributes:
        size: of the dissipative part's mean.
        deviation: posterior deviation of the dissipative part.
        whole: posterior deviation of the whole field.
    """

    size: float
    deviation: float
    whole: float


def identification(posterior: FieldPosterior) -> list[str]:
    """Sentences on what the data fix of the dissipation, and what priors alone decide.

    Of families that are more than friction coefficients of the momenta some of it follows from
    the equations. With ``dx/dt = (J - R(x)) grad H`` the velocities fix dH/dp, and the force on the
    momenta fixes ``R(x) dH/dp`` up to forces that depend on q alone, and R itself only along dH/dp.
    With ``dx/dt = M(x) grad H`` the pairs ``(H, M)`` and ``(h(H), M / h'(H))`` are the same field,
    whatever the increasing function h. The rest is measured on draws of the posterior.

    Args:
        posterior: with or without trajectories.

    Returns:
        Nothing where there is no dissipation, or only one that data tell apart by themselves.
    """
    field = posterior.components[0].field
    damping = field.dissipation
    if not damping.num_parameters or damping.lossless or posterior.counterfactual:  # type: ignore[attr-defined]
        return []
    family, learned = posterior.dissipation_family, is_learned(field.basis)
    lines = _by_equations(family, posterior.num_dof, learned)
    if isinstance(family, Rayleigh):
        lines += _alike(posterior, family)
    split = dissipative_split(posterior) if lines or not damping.truncated else None
    return lines + ([] if split is None else _measured(split, learned))


def is_learned(basis: Basis) -> bool:
    """Whether part of the energy is free, not a formula or a known kinetic energy."""
    if isinstance(basis, SumBasis):
        return any(is_learned(part) for part in basis.parts)
    return not isinstance(basis, (PhysicsBasis, ContextualBasis, KnownKineticBasis))


def _by_equations(family: Dissipation, num_dof: int, learned: bool) -> list[str]:
    lines = []
    if isinstance(family, StateDependentFriction):
        lines.append(
            "identified: the friction force R(x) dH/dp where there are data; R(x) itself, as the "
            "one at their centre, follows where dH/dp is not zero"
        )
        if num_dof > 1:
            lines.append(
                "not identified: R(x) across dH/dp, for all matrices with the same force are the "
                "same field; the prior decides"
            )
        if learned:
            lines.append(
                "not identified but by smoothness: which forces that depend on q alone are "
                "friction, and which are slopes of H, away from states at rest"
            )
    if isinstance(family, GradientField):
        lines.append("identified: the field M(x) grad H where there are data")
        if learned:
            lines.append(
                "not identified: H and M apart, for h(H) and M / h'(H) are the same field for "
                "every increasing h; the unit of H and the entries of D come from the priors"
            )
        else:
            lines.append("not identified: M(x) but for what it makes of grad H")
    if isinstance(family, DiagonalFriction) and family.positions and learned:
        lines.append(
            "identified near an equilibrium: the sum of what friction of coordinates and of "
            "momenta takes; nonlinear motion alone tells these from one another beside a learned H"
        )
    return lines


def _measured(split: Split, learned: bool) -> list[str]:
    if not split.size > 0.0:
        return []
    share = split.deviation / split.size
    shown = f"the dissipative part of the field is known to {share:.0%} of its size over the data"
    if learned and share > VAGUE and split.deviation > 2.0 * split.whole:
        return [
            f"{shown}, and the field itself {split.deviation / split.whole:.1f} times as well: the "
            "data hardly tell dissipation and H apart"
        ]
    return [shown]


def dissipative_split(posterior: FieldPosterior) -> Split | None:
    """How well the part of the field is known that takes energy; None without states to look at.

    That is ``d`` of the draws, of a :class:`GradientField` without its skew part.
    """
    z = _states(posterior)
    if not len(z):
        return None
    parts, fields = [], []
    for part in posterior._draw(NUM_DRAWS, torch.Generator().manual_seed(0)).parts:
        own = part.field.family
        states = z.expand(len(part.theta), *z.shape)
        slope, (_, _, rho) = part.field.gradient(states), own.parts(part.theta)
        taken = own.dissipation.force(states, slope, rho)
        taken = taken - own.undamped().dissipation.force(states, slope, rho)
        parts.append(taken)
        turned = slope @ own.symplectic(slope).mT - own.dissipation.force(states, slope, rho)
        fields.append(turned)
    taken, whole = torch.cat(parts), torch.cat(fields)
    unit = whole.mean(0).square().mean(0).sqrt().clamp(min=torch.finfo(whole.dtype).tiny)
    return Split(_rms(taken.mean(0) / unit), _rms(taken.std(0) / unit), _rms(whole.std(0) / unit))


def _states(posterior: FieldPosterior) -> Float[Tensor, "states dim"]:
    """Scaled states of the data; of positions alone those at the starts of the windows."""
    states: Any = posterior.data.states  # type: ignore[attr-defined]
    x = states if isinstance(states, Tensor) else torch.cat(list(states))
    z = posterior.scaling.to_scaled(x.to(posterior.scaling.center))
    z = z[z.isfinite().all(1)]
    known = posterior.components[0].states
    if not len(z) and known is not None:
        z = known.mean
    return z[torch.linspace(0, len(z) - 1, min(len(z), MOST_STATES)).round().long().to(z.device)]


def _alike(posterior: FieldPosterior, family: Rayleigh) -> list[str]:
    """Kinds of drag that have nearly the same force over the velocities of the data."""
    found = []
    for part in posterior.components:
        damping = part.field.dissipation
        found.append(damping.coefficients(part.damping_draws))
    draws = torch.cat(found)
    draws = draws.unsqueeze(-1) if draws.dim() == 2 else draws  # (S, kinds, groups)
    lines = []
    for group in range(draws.shape[2]):
        own = draws[:, :, group]
        apart = torch.corrcoef(own.mT) if own.shape[1] > 1 else own.new_ones(1, 1)
        of = f" of {posterior.names[group]}" if draws.shape[2] > 1 else ""
        lines += [
            f"not identified apart: {first} and {family.drag[j]} drag{of} (correlation "
            f"{float(apart[i, j]):.2f}); their sum at the velocities of the data is known better"
            for i, first in enumerate(family.drag)
            for j in range(i + 1, len(family.drag))
            if float(apart[i, j]) < -APART
        ]
    return lines


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())

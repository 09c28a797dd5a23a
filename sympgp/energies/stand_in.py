"""What learned parts of a sum of energies do in the place of known physics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.orthogonal import OrthogonalBasis, projector
from sympgp.energies.sum_basis import SumBasis, formula_of


class StandIn(NamedTuple):
    """Changes of the physics' K parameters that act on the field as other weights do.

    Attributes:
        taken_over: (K, P) for each weight of a learned part before it was made orthogonal to the
            physics: what the orthogonal part left to the parameters.
        left: (K, P) for what learned parts do as they are; nothing of parts that are orthogonal
            to the physics at the same states.
    """

    taken_over: Float[Tensor, "params weights"]
    left: Float[Tensor, "params weights"]


def physics_parts(basis: SumBasis) -> tuple[SumBasis, Tensor]:
    """The formulas with unknown parameters alone, and the indices of their weights in the sum.

    Of parameters that differ by trajectory, those of a typical one.
    """
    columns = torch.arange(basis.num_weights).split(basis.sizes)
    formulas = [formula_of(part) for part in basis.parts]
    chosen = [
        (formula, name, own[: formula.num_weights])
        for formula, name, own in zip(formulas, basis.names, columns, strict=True)
        if formula is not None and formula.names
    ]
    parts, names, places = zip(*chosen, strict=True)
    return SumBasis(tuple(parts), tuple(names)), torch.cat(places)


def stand_in(
    basis: SumBasis, z: Float[Tensor, "states dim"], w: Float[Tensor, " weights"]
) -> StandIn:
    """See :class:`StandIn`; in the parameters' own units, to first order about ``w``.

    Exact where H is linear in the parameters, whatever their priors.

    Args:
        basis: physics with unknown parameters, and other parts.
        z: (N, D) scaled states over which fields are compared.
        w: (P,) weights.
    """
    physics, own = physics_parts(basis)
    at = w[own.to(w.device)]
    onto = slopes(physics, at).unsqueeze(-1) * projector(physics, at, z)
    taken_over = w.new_zeros(len(own), basis.num_weights)
    left, begin = torch.zeros_like(taken_over), 0
    for part, weights in zip(basis.parts, basis.split(w), strict=True):
        columns = slice(begin, begin + part.num_weights)
        begin = columns.stop
        if isinstance(part, OrthogonalBasis):
            tangents = part.physics.feature_gradient(z, part.nominal).flatten(0, 1)
            taken_over[:, columns] = onto @ tangents @ part.projection
        if formula_of(part) is None:
            left[:, columns] = onto @ part.feature_gradient(z, weights).flatten(0, 1)
    return StandIn(taken_over, left)


def slopes(physics: SumBasis, w: Float[Tensor, " weights"]) -> Float[Tensor, " weights"]:
    """``d theta / dw`` of the physics' parameters, entry by entry."""
    found = []
    for part, own in zip(physics.parts, physics.split(w), strict=True):
        formula = formula_of(part)
        if formula is not None:
            found += [p.slope(v) for p, v in zip(formula.priors, own.unbind(-1), strict=True)]
    return torch.stack(found)

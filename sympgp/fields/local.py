"""A field and its derivatives at the same points, from the same functions of the energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import LocalDerivatives
from sympgp.fields.bound import BoundField
from sympgp.fields.fixed import FixedField
from sympgp.fields.hamiltonian import HamiltonianField


class FieldDerivatives(NamedTuple):
    """A field at points.

    Attributes:
        rate: (B, D), ``f``.
        jacobian: (B, D, D), ``df/dz``.
        energy: derivatives of the energy, in the type that the field is computed in.
    """

    rate: Tensor
    jacobian: Tensor
    energy: LocalDerivatives


def local_derivatives(bound: BoundField, points: Float[Tensor, "batch width"]) -> FieldDerivatives:
    """``f`` and ``df/dz``, see ``HamiltonianField.jacobian``, of one parameter vector."""
    family, wanted = bound.family, points.dtype
    points = points.to(family.dtype)
    z, u = family.split_points(points)
    w, gamma, rho = family.parts(bound.theta.to(family.dtype))
    known = family.basis.local_derivatives(family.energy_points(points), w)
    slope = None if family.dissipation.constant else known.slope
    whole = family.turn(z, slope, rho) @ known.hessian
    jacobian = family.with_state_terms(whole, z, u, slope, gamma, rho)
    rate = bound.flow(0.0, points, known.slope)
    return FieldDerivatives(rate.to(wanted), jacobian.to(wanted), known)


def rate_and_jacobian(
    bound: BoundField, points: Float[Tensor, "batch width"]
) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim dim"]] | None:
    """``f`` and ``df/dz`` of one parameter vector, of which nothing else is kept.

    None where the energy's derivatives share no work.
    """
    family, wanted = bound.family, points.dtype
    points = points.to(family.dtype)
    constant = family.dissipation.constant
    if constant and not family.num_inputs:
        found = bound.flow_map.with_jacobian(points)
        return None if found is None else (found[0].to(wanted), found[1].to(wanted))
    known = bound.slope.with_jacobian(family.energy_points(points))
    if known is None:
        return None
    slope, hessian = known
    z, u = family.split_points(points)
    _, gamma, rho = family.parts(bound.theta.to(family.dtype))
    at = None if constant else slope
    jacobian = family.with_state_terms(family.turn(z, at, rho) @ hessian, z, u, at, gamma, rho)
    return bound.flow(0.0, points, slope).to(wanted), jacobian.to(wanted)


def gathered_response(
    field: HamiltonianField | FixedField,
    known: Sequence[FieldDerivatives],
    points: Float[Tensor, "batch stages width"],
    weights: Float[Tensor, "batch out stages dim"],
    theta: Float[Tensor, " params"],
) -> Float[Tensor, "batch out params"]:
    """``weighted_parameter_jacobian`` where the derivatives at each stage are known."""
    if isinstance(field, FixedField):
        if not len(field.free):
            return weights.new_zeros(*weights.shape[:2], 0)
        whole = gathered_response(field.family, known, points, weights, field.whole(theta))
        return whole[..., field.free]
    w, _, rho = field.parts(theta)
    energies = [one.energy for one in known]
    slope = None
    if field.dissipation.num_parameters:
        slope = torch.stack([one.slope for one in energies], 1)
    return field.weighted_response(points, weights, w, rho, slope, energies)

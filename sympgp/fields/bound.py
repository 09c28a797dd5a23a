"""Fields with all parameters fixed, ready to be evaluated again and again."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.compiled import Rate

if TYPE_CHECKING:
    from sympgp.fields.hamiltonian import HamiltonianField
else:
    HamiltonianField = Any


def as_points(
    z: Float[Tensor, "*batch dim"], u: Float[Tensor, "*some inputs"] | None
) -> Float[Tensor, "*batch width"]:
    """States followed by the inputs there, which broadcast."""
    return z if u is None else torch.cat([z, u.to(z).expand(*z.shape[:-1], u.shape[-1])], -1)


class BoundField:
    """A field with its parameters fixed: ``(t, point) -> dz/ds``.

    One parameter vector takes points (B, D + m); S draws take (S, B, D + m), all in one batch.

    Attributes:
        separable: whether ``H = T(p) + V(q)``.
        canonical: whether ``gradient`` is ``grad H``, as of an energy it is.
        conservative: whether the field is ``J grad H``: no dissipation and no inputs.
    """

    def __init__(self, family: HamiltonianField, theta: Float[Tensor, "*draws params"]) -> None:
        self.family, self.theta = family, theta
        w, self.gamma, self.rho = family.parts(theta)
        self.weights = w
        self.slope = family.basis.gradient_map(w)
        self.separable = family.basis.separable
        self.canonical = family.basis.canonical
        closed = not family.num_inputs and family.dissipation.lossless
        self.conservative = self.canonical and closed
        constant = family.dissipation.constant
        turn = family.structure(self.rho) if constant else family.symplectic(theta)
        self.flow_map = self.slope.transformed(turn)
        self.turn = turn
        self.drag = None if constant else family.dissipation.bound(self.rho)

    def __call__(self, t: float | Tensor, point: Float[Tensor, "*batch width"]) -> Tensor:
        """Evaluate the field."""
        if self.drag is None and not self.family.num_inputs:
            return self.flow_map(point)
        z, u = self.family.split_points(point)
        at = self.family.energy_points(point)
        if self.drag is None:
            rate = self.flow_map(at)
        else:
            slope = self.slope(at)
            rate = slope @ self.turn.mT - self.drag(z, slope)
        return rate if u is None else rate + self.family.inputs.force(z, u, self.gamma)

    def energy(self, z: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch"]:
        """``H(z)``, up to a constant; z may have a context behind it."""
        return self.family.basis.value(z, self.weights)

    def gradient(self, z: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dim"]:
        """``grad H(z)``, or the covector ``J' f`` of a field that is not canonical.

        z may have a context behind it.
        """
        return self.slope(z)

    def flow(
        self,
        t: float | Tensor,
        point: Float[Tensor, "*batch width"],
        slope: Float[Tensor, "*batch dim"],
    ) -> Float[Tensor, "*batch dim"]:
        """``J g - d(z, g) + G u`` for a slope ``g`` that need not be ``grad H(z)``."""
        z, u = self.family.split_points(point)
        rate = slope @ self.turn.mT
        if self.drag is not None:
            rate = rate - self.drag(z, slope)
        return rate if u is None else rate + self.family.inputs.force(z, u, self.gamma)

    def first(self) -> BoundField:
        """The first of several draws alone, still with a draw axis."""
        return self.some(slice(1))

    def some(self, draws: slice) -> BoundField:
        """Some of several draws alone, still with a draw axis."""
        return type(self)(self.family, self.theta[draws])

    @property
    def sines(self) -> int:
        """How many a state takes in what :meth:`compiled` makes faster."""
        return self.slope.sines

    def compiled(self) -> BoundField:
        """The same field, compiled where its energy can be; equal up to rounding."""
        other = copy(self)
        other.slope, other.flow_map = self.slope.compiled(), self.flow_map.compiled()
        return other

    def compiled_rate(self) -> Rate | None:
        """Of a compiled field that is one map of the states (S, B, D): that map; else None."""
        closed = self.drag is None and not self.family.num_extra
        return self.flow_map.compiled_rate() if closed else None


class TrajectoryField:
    """A field with its parameters fixed, as trajectories of a known context meet it.

    Attributes:
        field: of points with a context behind them.
        context: (c,) of one trajectory, or (B, c) of the trajectories it is asked at.
        separable, conservative, canonical: as of the field.
    """

    def __init__(self, field: BoundField, context: Float[Tensor, "*some width"]) -> None:
        self.field, self.context = field, context
        self.family, self.theta = field.family, field.theta
        self.separable, self.conservative = field.separable, field.conservative
        self.canonical = field.canonical

    def __call__(self, t: float | Tensor, point: Float[Tensor, "*batch width"]) -> Tensor:
        """Evaluate the field."""
        return self.field(t, as_points(point, self.context))

    def energy(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """``H(z)``, up to a constant."""
        return self.field.energy(as_points(z, self.context))

    def gradient(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """``grad H(z)``."""
        return self.field.gradient(as_points(z, self.context))

    def flow(
        self,
        t: float | Tensor,
        point: Float[Tensor, "*batch width"],
        slope: Float[Tensor, "*batch dim"],
    ) -> Float[Tensor, "*batch dim"]:
        """``J g - d(z, g) + G u`` for a slope ``g`` that need not be ``grad H(z)``."""
        return self.field.flow(t, as_points(point, self.context), slope)

    def first(self) -> TrajectoryField:
        """The first of several draws alone, still with a draw axis."""
        return self.some(slice(1))

    def some(self, draws: slice) -> TrajectoryField:
        """Some of several draws alone, still with a draw axis."""
        return TrajectoryField(self.field.some(draws), self.context)

    @property
    def sines(self) -> int:
        """As of the field."""
        return self.field.sines

    def compiled(self) -> TrajectoryField:
        """The same field, compiled where its energy can be; equal up to rounding."""
        return TrajectoryField(self.field.compiled(), self.context)


class DrivenField:
    """A field with its parameters and its inputs fixed: ``(t, z) -> dz/ds``.

    Attributes:
        field: of points.
        signal: scaled inputs at a time, (m,) or broadcasting with the states.
        canonical: that of the field.
    """

    conservative = separable = False

    def __init__(
        self, field: BoundField | TrajectoryField, signal: Callable[[Any], Tensor]
    ) -> None:
        self.field, self.signal = field, signal
        self.canonical = field.canonical

    def __call__(self, t: float | Tensor, z: Float[Tensor, "*batch dim"]) -> Tensor:
        """Evaluate the field."""
        return self.field(t, as_points(z, self.signal(t)))

    def energy(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """``H(z)``, up to a constant."""
        return self.field.energy(z)

    def gradient(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """``grad H(z)``."""
        return self.field.gradient(z)

    def flow(
        self, t: float | Tensor, z: Float[Tensor, "*batch dim"], slope: Float[Tensor, "*batch dim"]
    ) -> Float[Tensor, "*batch dim"]:
        """``J g - d(z, g) + G u(t)`` for a slope ``g`` that need not be ``grad H(z)``."""
        return self.field.flow(t, as_points(z, self.signal(t)), slope)

    def first(self) -> DrivenField:
        """The first of several draws alone, still with a draw axis."""
        return DrivenField(self.field.first(), self.signal)

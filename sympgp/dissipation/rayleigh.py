"""Drag from a Rayleigh function of the velocities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from sympgp.dissipation.base import Dissipation, ScaledDissipation
from sympgp.dissipation.checks import check_choice, check_positive
from sympgp.dissipation.positive import PositiveCurve, per_state
from sympgp.phase_space import CanonicalScaling, split

DRAGS = ("linear", "coulomb", "quadratic")


@dataclass(frozen=True, eq=False)
class RayleighDamping(ScaledDissipation):
    """``d = (0, a psi w)`` with weighted velocities ``w = a g_p`` and ``psi(speed) >= 0``.

    ``psi = sum_k c_k shape_k(speed^2)``, each shape one at the typical speed V: 1 (linear),
    ``V / sqrt(speed^2 + (smoothing V)^2)`` (Coulomb), ``speed / V`` (quadratic). Groups of
    degrees of freedom have their own speeds and coefficients, ``c = v(rho) > 0``: each one a
    group (G = n), or all in one (G = 1). Parameters are those of the first shape, then the next.

    Attributes:
        drag: the k shapes.
        curve: the positive transform v.
        weight: (n,) the weights a.
        typical: (G,) the typical speeds V.
        smoothing: share of the typical speed below which Coulomb friction is rounded off.
        unit: (k, G) user value of each coefficient per scaled value.
        prior_stddev: (k G,), ones.
    """

    drag: tuple[str, ...]
    curve: PositiveCurve
    weight: Float[Tensor, " dof"]
    typical: Float[Tensor, " groups"]
    smoothing: float
    unit: Float[Tensor, "shapes groups"]
    prior_stddev: Float[Tensor, " params"]

    @property
    def dim(self) -> int:
        """D."""
        return 2 * len(self.weight)

    def force(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim"]:
        """``d``."""
        return self.bound(rho)(z, slope)

    def bound(self, rho: Float[Tensor, "*draws params"]) -> Callable[[Tensor, Tensor], Tensor]:
        """``(z, g) -> d`` with the coefficients made once."""
        c = self._scaled_coefficients(per_state(rho))

        def force(z: Tensor, slope: Tensor) -> Tensor:
            w = self._velocity(slope)
            psi = (c * self._shapes(self._squared_speed(w))).sum(-2)
            momenta = self.weight * psi * w
            return torch.cat([torch.zeros_like(momenta), momenta], -1)

        return force

    def slope_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """``a_i a_j (psi delta_ij + 2 psi' w_i w_j)``, the second term within groups."""
        w = self._velocity(slope)
        c, squared = self._scaled_coefficients(per_state(rho)), self._squared_speed(w)
        psi = (c * self._shapes(squared)).sum(-2)
        bend = 2.0 * (c * self._shape_slopes(squared)).sum(-2)
        if len(self.typical) == len(self.weight):
            block = torch.diag_embed(psi + bend * w**2)
        else:
            block = torch.diag_embed(psi.expand_as(w))
            block = block + (bend * w).unsqueeze(-1) * w.unsqueeze(-2)
        num_dof = len(self.weight)
        block = self.weight.unsqueeze(-1) * block * self.weight
        return pad(block, (num_dof, 0, num_dof, 0))

    def state_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """Zero."""
        return slope.new_zeros(*slope.shape, slope.shape[-1])

    def parameter_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim params"]:
        """``a w shape_k v'(rho_k)``, within groups."""
        w, num_dof = self._velocity(slope), len(self.weight)
        each = self._by_shape(self.curve.slope(per_state(rho)))
        each = each * self._shapes(self._squared_speed(w))
        pushed = (self.weight * w)[..., :, None, None] * each.unsqueeze(-3)  # (..., n, k, G)
        if len(self.typical) == num_dof:
            pushed = pushed * torch.eye(num_dof).to(pushed).unsqueeze(1)
        return pad(pushed.flatten(-2), (0, 0, num_dof, 0))

    def coefficients(self, rho: Float[Tensor, "*draws params"]) -> Tensor:
        """(..., k, n) in user units, one row a shape; (..., k) where they are common."""
        found = self.unit * self._scaled_coefficients(rho)
        return found if len(self.typical) == len(self.weight) else found.squeeze(-1)

    def start(self) -> Float[Tensor, " params"]:
        """Below the prior's median, for there can be several kinds of drag."""
        return torch.full_like(self.prior_stddev, -0.5)

    def _by_shape(self, numbers: Tensor) -> Tensor:
        return numbers.unflatten(-1, (len(self.drag), len(self.typical)))

    def _scaled_coefficients(self, rho: Tensor) -> Tensor:
        return self._by_shape(self.curve.value(rho))

    def _velocity(self, slope: Tensor) -> Tensor:
        return self.weight * split(slope)[1]

    def _squared_speed(self, w: Tensor) -> Tensor:
        """(..., G)."""
        return w**2 if len(self.typical) == len(self.weight) else (w**2).sum(-1, keepdim=True)

    def _shapes(self, squared: Tensor) -> Tensor:
        """(..., k, G)."""
        return torch.stack([_SHAPES[kind](self, squared) for kind in self.drag], -2)

    def _shape_slopes(self, squared: Tensor) -> Tensor:
        """Derivatives of the shapes with respect to the squared speeds."""
        return torch.stack([_SHAPE_SLOPES[kind](self, squared) for kind in self.drag], -2)

    def _rounded(self, squared: Tensor) -> Tensor:
        return squared + (self.smoothing * self.typical) ** 2


def _speed(squared: Tensor) -> Tensor:
    # the smallest number added, so that derivatives at rest are zero and not undefined
    return (squared + torch.finfo(squared.dtype).tiny).sqrt()


_Shape = Callable[[RayleighDamping, Tensor], Tensor]
_SHAPES: dict[str, _Shape] = {
    "linear": lambda own, squared: torch.ones_like(squared),
    "coulomb": lambda own, squared: own.typical / own._rounded(squared).sqrt(),
    "quadratic": lambda own, squared: _speed(squared) / own.typical,
}
_SHAPE_SLOPES: dict[str, _Shape] = {
    "linear": lambda own, squared: torch.zeros_like(squared),
    "coulomb": lambda own, squared: -0.5 * own.typical * own._rounded(squared) ** -1.5,
    "quadratic": lambda own, squared: 0.5 / (_speed(squared) * own.typical),
}


@dataclass(frozen=True)
class Rayleigh(Dissipation):
    """Drag as a function of the velocities: ``J grad H - (0, grad D(v))``, ``v = dH/dp``.

    D is convex and least at rest, a sum over the kinds of drag of

    - linear: ``c |v|^2 / 2``, force ``c v``;
    - coulomb: ``c sqrt(|v|^2 + eps^2)``, force ``c v / sqrt(|v|^2 + eps^2)``, dry friction
      rounded off below the speed eps, which is ``smoothing`` times the typical speed;
    - quadratic: ``c |v|^3 / 3``, force ``c |v| v``.

    Coefficients ``c > 0`` are for each degree of freedom and its own velocity, (kinds, n), or
    common to all and the Euclidean norm of their velocities, (kinds,), always in the order of
    ``drag`` and in user units. The typical speed is a standard deviation of the coordinate in a
    scaled unit of time; a coefficient's prior is that of :class:`DiagonalFriction`'s entries for
    the linear friction with the same force at that speed.

    Args:
        drag: one or several of "linear", "coulomb" and "quadratic".
        common: whether all degrees of freedom share the coefficients; their velocities should
            then have one unit.
        smoothing: eps by the typical speed.
        prior_scale: scaled coefficient that is strong drag, seldom exceeded.

    Raises:
        ValueError: a kind of drag is not known or named twice, or a number is not positive.

    Example:
        >>> Rayleigh(drag="quadratic", prior_scale=0.5).drag
        ('quadratic',)
    """

    drag: Sequence[str] = DRAGS
    common: bool = False
    smoothing: float = 0.05
    prior_scale: float = 1.0

    def __post_init__(self) -> None:
        drag = (self.drag,) if isinstance(self.drag, str) else tuple(self.drag)
        object.__setattr__(self, "drag", drag)
        for kind in drag:
            check_choice("drag", kind, DRAGS)
        if not drag or len(set(drag)) < len(drag):
            raise ValueError(f"drag: expected different kinds of drag, got {drag!r}")
        check_positive("smoothing", self.smoothing)
        check_positive("prior_scale", self.prior_scale)

    def scaled(self, scaling: CanonicalScaling) -> RayleighDamping:
        """A parameter for each coefficient."""
        scale, spread = split(scaling.scale)[0], split(scaling.spread)[0]
        if self.common:
            length = scale.square().mean().sqrt().reshape(1)
            weight = scale / length
            typical = (weight * spread).square().sum().sqrt().reshape(1)
        else:
            length, weight, typical = scale, torch.ones_like(scale), spread
        # velocities are length w / time_scale, and d = (time_scale length a / kappa) grad D
        speed = length * typical / scaling.time_scale
        linear = scaling.kappa / length**2
        units = {"linear": linear, "coulomb": linear * speed, "quadratic": linear / speed}
        unit = torch.stack([units[kind] for kind in self.drag])
        curve = PositiveCurve.of_friction(self.prior_scale)
        ones = torch.ones_like(unit).flatten()
        return RayleighDamping(tuple(self.drag), curve, weight, typical, self.smoothing, unit, ones)

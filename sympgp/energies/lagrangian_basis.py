"""Fields of Lagrangians on states ``(q, v)``, and the derivatives that they are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.energies.base import Basis
from sympgp.energies.differentiated import followed, gradient
from sympgp.energies.kan_basis import KANBasis
from sympgp.energies.network_basis import NetworkBasis
from sympgp.energies.slope import SlopeBasis, covector
from sympgp.energies.trainable import (
    TrainableBasis,
    dropout_factors,
    initial_weights,
    last_layer,
)
from sympgp.phase_space import join, split


@dataclass(eq=False)
class LagrangianBasis(SlopeBasis, TrainableBasis):
    """``L(q, v; w) = sum_i m_i y_i^2 / 2 + l(z; w)`` with the field of its motion, scaled units.

    The state ``z = (z_q, z_v)`` is scaled, with centres: velocities are ``y = z_v + drift`` in
    units of ``z_v``, and ``dz_q/ds = rate y`` holds exactly, whatever the weights. Euler and
    Lagrange's equation ``d/dt dL/dv = dL/dq`` becomes

        M dz_v/ds = rate dL/dz_q - (d2L/dz_v dz_q) rate y,    M = d2L/dz_v dz_v.

    With ``M^ = m^-1/2 M m^-1/2`` (of unit size before anything is learned) it is solved by

        M^-1  ->  m^-1/2 M^ (M^ M^ + floor^2)^-1 m^-1/2,

    which is smooth in M where M is singular, at most ``1 / (2 floor)`` large, and off by a
    relative ``(floor / eigenvalue)^2`` elsewhere.

    Attributes:
        function: the family of ``l``, a scalar function of the state.
        rate: (n,) ``time_scale scale_v / scale_q``.
        drift: (n,) ``center_v / scale_v``.
        mass: (n,) m; zeros where ``l`` is the whole Lagrangian.
        floor: eigenvalues of ``M^`` near it and below are not trusted.
    """

    function: Basis
    rate: Float[Tensor, " dof"]
    drift: Float[Tensor, " dof"]
    mass: Float[Tensor, " dof"]
    floor: float

    has_energy = True

    def __post_init__(self) -> None:
        self.num_weights = self.function.num_weights
        self.prior_variance = self.function.prior_variance

    @property
    def angles(self) -> dict[int, float]:
        """The coordinates that are angles, and their periods in user units."""
        return self.function.angles

    def slope(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch dim"]:
        """``J' f`` of ``f = (rate y, dz_v/ds)``."""
        velocity = self.velocity(z)
        slope, rows = velocity_rows(self.function, z, w)
        by_q, _ = split(slope)
        mixed, masses = rows.chunk(2, -1)
        force = self.rate * by_q - (mixed @ velocity.unsqueeze(-1)).squeeze(-1)
        unit = torch.where(self.mass > 0, self.mass, 1.0).rsqrt()
        masses = unit.unsqueeze(-1) * (masses + torch.diag_embed(self.mass)) * unit
        return covector(join(velocity, unit * damped_solve(masses, unit * force, self.floor)))

    def velocity(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dof"]:
        """``dz_q/ds``, which is known."""
        return self.rate * (split(z)[1] + self.drift)

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """The energy ``v . dL/dv - L``."""
        y = split(z)[1] + self.drift
        slope = self.function.gradient_map(w)(z)
        kinetic = 0.5 * (self.mass * y.square()).sum(-1)
        return kinetic + (y * split(slope)[1]).sum(-1) - self.function.value(z, w)

    def momenta(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch dof"]:
        """``p = dL/dz_v``."""
        slope = self.function.gradient_map(w)(z)
        return self.mass * (split(z)[1] + self.drift) + split(slope)[1]

    @property
    def last_layer(self) -> Int[Tensor, " chosen"]:  # type: ignore[override]
        """Indices of the function's own."""
        return last_layer(self.function)

    def initial(self, num: int, generator: torch.Generator) -> Float[Tensor, "num weights"]:
        """Those of the function."""
        return initial_weights(self.function, num, generator)

    def dropout(
        self, rate: float, num: int, generator: torch.Generator
    ) -> Float[Tensor, "num weights"]:
        """Those of the function."""
        return dropout_factors(self.function, rate, num, generator)


def velocity_rows(
    function: Basis, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch dof dim"]]:
    """Gradient of a scalar function, and the rows of its Hessian that belong to the velocities.

    Both can be differentiated by z and w.
    """
    num_dof = z.shape[-1] // 2
    if w.dim() == 1 and z.dim() != 3:
        shape = z.shape[:-1]
        slope, rows = velocity_rows(function, z.reshape(1, -1, z.shape[-1]), w)
        return slope.reshape(z.shape), rows.reshape(*shape, num_dof, -1)
    seeds = torch.eye(2 * num_dof, dtype=z.dtype, device=z.device)[num_dof:]
    if isinstance(function, NetworkBasis):
        change = seeds[:, None].expand(len(z), num_dof, *z.shape[1:])
        passes = function._passes(z, w)
        rows = function._curvature(passes, z, change).movedim(1, -2)
        return function.to_states(passes.slope, z), rows
    if isinstance(function, KANBasis):
        _, slope, hessian = function.function.jet(z, w)
        return slope, hessian[..., num_dof:, :]
    return _recorded_rows(function, z, w, seeds)


def _recorded_rows(
    function: Basis, z: Tensor, w: Tensor, seeds: Float[Tensor, "dof dim"]
) -> tuple[Tensor, Tensor]:
    """The same by two reverse passes, at copies of the states side by side."""
    draws, batch, dim = z.shape
    num_dof = len(seeds)
    keep = followed(z, w)
    whole = z

    def contracted(leaf: Tensor) -> Tensor:
        nonlocal whole
        whole = gradient(lambda x: function.value(x, w), leaf, keep=True)
        return seeds.repeat_interleave(batch, 0) * whole

    rows = gradient(contracted, z.repeat(1, num_dof, 1), keep)
    slope = whole[:, :batch] if keep else whole[:, :batch].detach()
    return slope, rows.reshape(draws, num_dof, batch, dim).transpose(1, 2)


def damped_solve(
    matrix: Float[Tensor, "*batch dof dof"], right: Float[Tensor, "*batch dof"], floor: float
) -> Float[Tensor, "*batch dof"]:
    """``M (M M + floor^2)^-1 b`` of symmetric matrices: ``M^-1 b`` where they are not singular.

    That is the real part of ``(M + i floor)^-1 b``, so that M is never squared. With a floor of
    zero, results of singular matrices are not finite: a path that meets one is lost there.
    """
    num_dof = right.shape[-1]
    if num_dof == 1:
        own = matrix.squeeze(-1)
        return own * right / (own.square() + floor**2)
    if num_dof > 2:
        imaginary = torch.diag_embed(torch.full_like(right, floor))
        whole = torch.complex(matrix, imaginary)
        moved, failed = torch.linalg.solve_ex(whole, right.to(_complex(right)).unsqueeze(-1))
        # of a singular matrix the result is anything
        return moved.squeeze(-1).real.masked_fill((failed != 0).unsqueeze(-1), torch.nan)
    (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
    first, second = right.unbind(-1)
    adjugate = torch.stack([d * first - b * second, a * second - c * first], -1)
    # (M + i floor)^-1 = (adj M + i floor) / (det M - floor^2 + i floor tr M) of 2 x 2 matrices
    real, imaginary = (a * d - b * c - floor**2).unsqueeze(-1), floor * (a + d).unsqueeze(-1)
    above = adjugate * real + floor * right * imaginary
    return above / (real.square() + imaginary.square())


def _complex(like: Tensor) -> torch.dtype:
    return torch.complex128 if like.dtype == torch.float64 else torch.complex64

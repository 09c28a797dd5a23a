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

    It is solved exactly where all eigenvalues of ``M^ = m^-1/2 M m^-1/2`` (near one before
    anything is learned) are at least the floor. Elsewhere ``M^`` is replaced by a positive
    definite matrix, see :func:`continued_solve`, so that accelerations are finite and smooth
    whatever the weights. Solved exactly there too, accelerations would grow without bound on both
    sides of a singular mass matrix: training that has stepped across cannot come back.

    Attributes:
        function: the family of ``l``, a scalar function of the state.
        rate: (n,) ``time_scale scale_v / scale_q``.
        drift: (n,) ``center_v / scale_v``.
        mass: (n,) m; zeros where ``l`` is the whole Lagrangian.
        floor: eigenvalues of ``M^`` below it are not trusted.
        velocity_lengthscale: ``l(z) = function(z_q, z_v / velocity_lengthscale)``.
    """

    function: Basis
    rate: Float[Tensor, " dof"]
    drift: Float[Tensor, " dof"]
    mass: Float[Tensor, " dof"]
    floor: float
    velocity_lengthscale: float = 1.0

    has_energy = True

    def __post_init__(self) -> None:
        self.num_weights = self.function.num_weights
        self.prior_variance = self.function.prior_variance

    @property
    def stretch(self) -> Float[Tensor, " dim"]:
        """``l(z)`` is the function at ``stretch z``."""
        one = torch.ones_like(self.rate)
        return join(one, one / self.velocity_lengthscale)

    @property
    def angles(self) -> dict[int, float]:
        """The coordinates that are angles, and their periods in user units."""
        return self.function.angles

    def slope(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch dim"]:
        """``J' f`` of ``f = (rate y, dz_v/ds)``."""
        velocity = self.velocity(z)
        stretch = self.stretch
        slope, rows = velocity_rows(self.function, stretch * z, w)
        slope, rows = stretch * slope, split(stretch)[1].unsqueeze(-1) * rows * stretch
        by_q, _ = split(slope)
        mixed, masses = rows.chunk(2, -1)
        force = self.rate * by_q - (mixed @ velocity.unsqueeze(-1)).squeeze(-1)
        unit = torch.where(self.mass > 0, self.mass, 1.0).rsqrt()
        masses = unit.unsqueeze(-1) * (masses + torch.diag_embed(self.mass)) * unit
        return covector(join(velocity, unit * continued_solve(masses, unit * force, self.floor)))

    def velocity(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dof"]:
        """``dz_q/ds``, which is known."""
        return self.rate * (split(z)[1] + self.drift)

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """The energy ``v . dL/dv - L``."""
        y = split(z)[1] + self.drift
        kinetic = 0.5 * (self.mass * y.square()).sum(-1)
        along = (y * split(self._slope_of_function(z, w))[1]).sum(-1)
        return kinetic + along - self.function.value(self.stretch * z, w)

    def momenta(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch dof"]:
        """``p = dL/dz_v``."""
        slope = self._slope_of_function(z, w)
        return self.mass * (split(z)[1] + self.drift) + split(slope)[1]

    def _slope_of_function(self, z: Tensor, w: Tensor) -> Tensor:
        """``dl/dz``."""
        stretch = self.stretch
        return stretch * self.function.gradient_map(w)(stretch * z)

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


def continued_solve(
    matrix: Float[Tensor, "*batch dof dof"], right: Float[Tensor, "*batch dof"], floor: float
) -> Float[Tensor, "*batch dof"]:
    """``M^-1 b`` of symmetric matrices with no eigenvalue below the floor, and smooth elsewhere.

    Eigenvalues d below the floor f have the second-order expansion of ``1 / d`` about f in the
    place of ``1 / d``,

        1 / f - (d - f) / f^2 + (d - f)^2 / f^3,

    so that the inverse is positive definite always and twice differentiable in M. It rises as d
    falls: where accelerations are too large, training pulls eigenvalues up again.

    With a floor of zero M may be indefinite, and results of singular matrices are not finite: a
    path that meets one is lost there.
    """
    if floor == 0.0:
        return _exact_solve(matrix, right)
    if right.shape[-1] == 1:
        return _continued_reciprocal(matrix.squeeze(-1), floor) * right
    eye = torch.eye(right.shape[-1], dtype=right.dtype, device=right.device)
    with torch.no_grad():
        failed = torch.linalg.cholesky_ex(matrix - floor * eye)[1] != 0
        below = (failed & matrix.isfinite().all(-1).all(-1)).unsqueeze(-1)
    exact = _exact_solve(torch.where(below.unsqueeze(-1), eye, matrix), right)
    values, vectors = _apart(matrix, below)
    along = (vectors.mT @ right.unsqueeze(-1)).squeeze(-1) * _continued_reciprocal(values, floor)
    return torch.where(below, (vectors @ along.unsqueeze(-1)).squeeze(-1), exact)


def _apart(matrix: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors that can be differentiated: of some other matrix if not chosen.

    Equal eigenvalues are moved apart, by too little to matter.
    """
    steps = torch.arange(1, matrix.shape[-1] + 1, dtype=matrix.dtype, device=matrix.device)
    matrix = torch.where(chosen.unsqueeze(-1), matrix, torch.diag(steps))
    with torch.no_grad():
        values = torch.linalg.eigvalsh(matrix)
        size = values.abs().amax(-1)
        gap = torch.finfo(matrix.dtype).eps ** 0.4 * size  # derivatives divide by it
        near = values.diff(dim=-1).amin(-1) < gap
        moved = torch.diag_embed(torch.where(near, gap, 0.0).unsqueeze(-1) * steps)
    values, vectors = torch.linalg.eigh(matrix + moved)
    return values, vectors


def _continued_reciprocal(value: Tensor, floor: float) -> Tensor:
    below = value < floor
    short = torch.where(below, value / floor - 1.0, 0.0)
    return 1.0 / torch.where(below, floor, value) + (short.square() - short) / floor


def _exact_solve(matrix: Tensor, right: Tensor) -> Tensor:
    if right.shape[-1] == 1:
        return right / matrix.squeeze(-1)
    if right.shape[-1] == 2:
        (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
        first, second = right.unbind(-1)
        adjugate = torch.stack([d * first - b * second, a * second - c * first], -1)
        return adjugate / (a * d - b * c).unsqueeze(-1)
    moved, failed = torch.linalg.solve_ex(matrix, right.unsqueeze(-1))
    # of a singular matrix the result is anything
    return moved.squeeze(-1).masked_fill((failed != 0).unsqueeze(-1), torch.nan)

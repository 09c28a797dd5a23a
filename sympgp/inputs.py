"""External inputs: what ``G(x) u(t)`` adds to the vector field."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.phase_space import CanonicalScaling
from sympgp.trajectories.signals import Interpolation, check_interpolation


@dataclass(frozen=True, eq=False)
class ScaledInputs:
    """``G~(z; gamma) u`` in scaled units of states, affine in ``gamma ~ N(0, prior_variance)``.

    ``G~ = known + sum_k gamma_k patterns[k]``, each pattern also times a feature of the state where
    there are ``frequencies``: ``cos(omega . z + phase)``. Inputs ``u`` are in user units.

    Attributes:
        known: (D, m).
        patterns: (K0, D, m) directions that are learned; K = K0 (1 + F) parameters with F features.
        prior_variance: (K,).
        frequencies: (F, D); empty where G is the same at all states.
        phases: (F,).
        interpolation: "linear" or "held" between samples.
    """

    known: Float[Tensor, "dim inputs"]
    patterns: Float[Tensor, "patterns dim inputs"]
    prior_variance: Float[Tensor, " params"]
    frequencies: Float[Tensor, "features dim"]
    phases: Float[Tensor, " features"]
    interpolation: Interpolation

    @property
    def num_inputs(self) -> int:
        """Number m of inputs; zero where there are none."""
        return self.known.shape[1]

    @property
    def num_parameters(self) -> int:
        """K."""
        return self.prior_variance.shape[0]

    def _features(self, z: Tensor) -> Tensor:
        """``[1, cos(omega z + phase)]``, (..., 1 + F)."""
        one = torch.ones_like(z[..., :1])
        if not len(self.phases):
            return one
        return torch.cat([one, (z @ self.frequencies.mT + self.phases).cos()], -1)

    def force(
        self,
        z: Float[Tensor, "*batch dim"],
        u: Float[Tensor, "*batch inputs"],
        gamma: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim"]:
        """``G~(z) u``; rows of gamma are draws of states (S, B, D)."""
        force = u @ self.known.mT
        if not self.num_parameters:
            return force
        weights = gamma.unflatten(-1, (-1, len(self.patterns)))
        if gamma.dim() > 1:
            weights = weights.view(len(gamma), *[1] * (z.dim() - 2), *weights.shape[1:])
        along = (self._features(z).unsqueeze(-1) * weights).sum(-2)
        pushes = torch.einsum("kdm,...m->...kd", self.patterns, u)
        return force + (along.unsqueeze(-1) * pushes).sum(-2)

    def state_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        u: Float[Tensor, "*batch inputs"],
        gamma: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim dim"] | None:
        """``d(G~ u)/dz``; None where G is constant."""
        if not len(self.phases):
            return None
        weights = gamma.unflatten(-1, (-1, len(self.patterns)))[..., 1:, :]
        if gamma.dim() > 1:
            weights = weights.view(len(gamma), *[1] * (z.dim() - 2), *weights.shape[1:])
        sine = -(z @ self.frequencies.mT + self.phases).sin()
        weights = weights.expand(*sine.shape, -1)
        slope = torch.einsum("...f,...fk,fe->...ke", sine, weights, self.frequencies)
        pushes = torch.einsum("kdm,...m->...kd", self.patterns, u)
        return torch.einsum("...kd,...ke->...de", pushes, slope)

    def parameter_jacobian(
        self, z: Float[Tensor, "*batch dim"], u: Float[Tensor, "*batch inputs"]
    ) -> Float[Tensor, "*batch dim params"]:
        """``d(G~ u)/dgamma``, whatever gamma."""
        pushes = torch.einsum("kdm,...m->...dk", self.patterns, u)
        whole = self._features(z)[..., None, :, None] * pushes.unsqueeze(-2)
        return whole.flatten(-2)

    def matrix(
        self, z: Float[Tensor, "*batch dim"], gamma: Float[Tensor, "*draws params"]
    ) -> Float[Tensor, "*batch dim inputs"]:
        """``G~(z)``, column by column."""
        eye = torch.eye(self.num_inputs).to(z)
        columns = [self.force(z, one.expand(*z.shape[:-1], -1), gamma) for one in eye]
        return torch.stack(columns, -1)


class Inputs(ABC):
    """A family of input matrices G, ``dx/dt = ... + G(x) u(t)``, with its prior."""

    interpolation: Interpolation

    @property
    @abstractmethod
    def num_inputs(self) -> int:
        """Number m of inputs."""

    @abstractmethod
    def scaled(self, scaling: CanonicalScaling, size: Float[Tensor, " inputs"]) -> ScaledInputs:
        """``G~ = time_scale S^-1 G``, where ``size`` (m,) is a typical value of each input."""


def no_inputs(like: Float[Tensor, " dim"]) -> ScaledInputs:
    """None at all, for states like these."""
    dim, empty = len(like), like.new_zeros(0)
    none = like.new_zeros(dim, 0)
    return ScaledInputs(none, none[None][:0], empty, like.new_zeros(0, dim), empty, "linear")


@dataclass(frozen=True)
class KnownInputs(Inputs):
    """A known matrix G (2n, m), or (n, m) for forces on the momenta alone, in user units.

    Args:
        matrix: G, as nested sequences or a tensor.
        interpolation: "linear" between the samples of u, or "held" until the next one.

    Raises:
        ValueError: not a finite matrix; an unknown interpolation.
    """

    matrix: Any
    interpolation: Interpolation = "linear"

    def __post_init__(self) -> None:
        check_interpolation(self.interpolation)
        matrix = torch.as_tensor(self.matrix, dtype=torch.float64)
        if matrix.dim() != 2 or not bool(matrix.isfinite().all()):
            raise ValueError(
                f"matrix: expected finite numbers of shape (2n, m) or (n, m), "
                f"got shape {tuple(matrix.shape)}"
            )
        object.__setattr__(self, "matrix", matrix.tolist())

    @property
    def num_inputs(self) -> int:
        """Columns of the matrix."""
        return len(self.matrix[0])

    def scaled(self, scaling: CanonicalScaling, size: Float[Tensor, " inputs"]) -> ScaledInputs:
        """Nothing to learn.

        Raises:
            ValueError: a matrix for another number of degrees of freedom.
        """
        matrix = scaling.scale.new_tensor(self.matrix)
        if len(matrix) == scaling.num_dof:
            matrix = torch.cat([torch.zeros_like(matrix), matrix])
        if len(matrix) != 2 * scaling.num_dof:
            raise ValueError(
                f"matrix: expected {scaling.num_dof} or {2 * scaling.num_dof} rows for "
                f"{scaling.num_dof} degree(s) of freedom, got {len(matrix)}"
            )
        none = no_inputs(scaling.scale)
        known = matrix * scaling.time_scale / scaling.scale.unsqueeze(-1)
        return ScaledInputs(
            known,
            known.new_zeros(0, *known.shape),
            none.prior_variance,
            none.frequencies,
            none.phases,
            self.interpolation,
        )


@dataclass(frozen=True)
class LearnedInputs(Inputs):
    """An unknown matrix G: every entry of its momentum rows ~ N(0, prior_scale^2), scaled.

    Args:
        count: number m of inputs.
        num_features: 0 where G is the same at all states; otherwise every entry is a constant
            plus a random Fourier series ``sum_f gamma_f cos(omega_f . z + phase_f)`` of so many
            terms, a Gaussian process in the limit, with lengthscales of two standard deviations
            of the data.
        positions: also rows of the coordinates.
        prior_scale: prior standard deviation of each entry in scaled units, where an input of one
            standard deviation changes the motion as much as the system's own forces do.
        interpolation: "linear" between the samples of u, or "held" until the next one.
        seed: of the random Fourier series.

    Raises:
        ValueError: a count that is too small, a scale that is not positive, an unknown
            interpolation.
    """

    count: int = 1
    num_features: int = 0
    positions: bool = False
    prior_scale: float = 1.0
    interpolation: Interpolation = "linear"
    seed: int = 0

    def __post_init__(self) -> None:
        check_interpolation(self.interpolation)
        for name, least in (("count", 1), ("num_features", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"{name}: expected a whole number of at least {least}, got {value!r}"
                )
        if not self.prior_scale > 0:
            raise ValueError(f"prior_scale: expected a positive number, got {self.prior_scale!r}")

    @property
    def num_inputs(self) -> int:
        """Number m of inputs."""
        return self.count

    def scaled(self, scaling: CanonicalScaling, size: Float[Tensor, " inputs"]) -> ScaledInputs:
        """One pattern for each learned entry of G."""
        dim, num_dof = len(scaling.scale), scaling.num_dof
        rows = range(dim) if self.positions else range(num_dof, dim)
        patterns = scaling.scale.new_zeros(len(rows) * self.count, dim, self.count)
        for k, (row, column) in enumerate((r, c) for r in rows for c in range(self.count)):
            patterns[k, row, column] = 1.0 / size[column]
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.num_features, dim)
        white = torch.randn(shape, generator=generator, dtype=torch.float64)
        turns = torch.rand(self.num_features, generator=generator, dtype=torch.float64)
        variance = self.prior_scale**2
        own = patterns.new_full((len(patterns),), variance)
        per_feature = own * 2.0 / max(1, self.num_features)
        return ScaledInputs(
            patterns.new_zeros(dim, self.count),
            patterns,
            torch.cat([own, per_feature.repeat(self.num_features)]),
            white.to(patterns) / (2.0 * scaling.spread),
            2.0 * torch.pi * turns.to(patterns),
            self.interpolation,
        )

"""Sums of Hamiltonians, each part evaluated in its own fast way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Basis, GradientMap, Linearized
from sympgp.energies.nonlinear import NonlinearBasis
from sympgp.energies.physics_basis import PhysicsBasis


@dataclass(eq=False)
class SumBasis(Basis):
    """``H = sum_i H_i`` with the parts' weights side by side; each part keeps its fast ways.

    Attributes:
        parts: their bases.
        names: one for each.
    """

    parts: tuple[Basis, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        self.sizes = [part.num_weights for part in self.parts]
        self.num_weights = sum(self.sizes)
        self.prior_variance = torch.cat([part.prior_variance for part in self.parts])
        self.linear = all(part.linear for part in self.parts)
        self.separable = all(part.separable for part in self.parts)

    def split(self, w: Float[Tensor, "*draws weights"]) -> tuple[Tensor, ...]:
        """The weights of each part."""
        return w.split(self.sizes, -1)

    def _each(self, w: Tensor | None) -> Iterator[tuple[Basis, Tensor | None]]:
        own = (None,) * len(self.parts) if w is None else self.split(w)
        return zip(self.parts, own, strict=True)

    def values(self, w: Float[Tensor, "*draws weights"]) -> dict[str, Tensor]:
        """The physics' unknown parameters in user units, by name (``"part.name"`` if shared)."""
        found: dict[str, Tensor] = {}
        for name, part, own in zip(self.names, self.parts, self.split(w), strict=True):
            if isinstance(part, PhysicsBasis):
                values = part.values(own)
                found |= {k if k not in found else f"{name}.{k}": v for k, v in values.items()}
        return found

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """Side by side."""
        return torch.cat([part.features(z, own) for part, own in self._each(w)], -1)

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """Side by side."""
        return torch.cat([part.feature_gradient(z, own) for part, own in self._each(w)], -1)

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """Side by side."""
        found = [part.weighted_gradient(z, weights, own) for part, own in self._each(w)]
        return torch.cat(found, -1)

    def remainder(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "*batch dim"] | None:
        """The sum over the parts that are not linear."""
        total: Tensor | None = None
        for part, own in zip(self.parts, self.split(w), strict=True):
            found = part.remainder(z, own)
            if found is not None:
                total = found if total is None else total + found
        return total

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> SumGradient:
        """The parts' own, added."""
        pairs = zip(self.parts, self.split(w), strict=True)
        return SumGradient(tuple(part.gradient_map(own) for part, own in pairs))

    def tangent_map(
        self, w: Float[Tensor, " weights"], change: Float[Tensor, "*draws weights"]
    ) -> SumGradient:
        """``z -> (d grad H / dw)(z; w) c``, of nonlinear parts."""
        own = zip(self._nonlinear(), self.split(w), self.split(change), strict=True)
        return SumGradient(tuple(part.tangent_map(at, by) for part, at, by in own))

    def tangent_hessian(
        self,
        z: Float[Tensor, "*batch dim"],
        w: Float[Tensor, " weights"],
        change: Float[Tensor, "*draws weights"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """The derivative of ``tangent_map`` by the states."""
        own = zip(self._nonlinear(), self.split(w), self.split(change), strict=True)
        return torch.stack([part.tangent_hessian(z, at, by) for part, at, by in own]).sum(0)

    def _nonlinear(self) -> list[NonlinearBasis]:
        found = [part for part in self.parts if isinstance(part, NonlinearBasis)]
        if len(found) < len(self.parts):
            raise TypeError("tangents: expected nonlinear parts only")
        return found

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """The parts' own, added."""
        pairs = zip(self.parts, self.split(w), strict=True)
        return torch.stack([part.hessian(z, own) for part, own in pairs]).sum(0)

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """The parts' own, added; their pull-backs side by side."""
        pairs = zip(self.parts, self.split(w), strict=True)
        found = [part.linearized(z, own) for part, own in pairs]
        slope = torch.stack([known.slope for known in found]).sum(0)
        hessian = torch.stack([known.hessian for known in found]).sum(0)
        return Linearized(
            slope, hessian, lambda pull: torch.cat([known.pull_back(pull) for known in found], -1)
        )

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """The parts' own, added."""
        pairs = zip(self.parts, self.split(w), strict=True)
        return torch.stack([part.value(z, own) for part, own in pairs]).sum(0)


class SumGradient(GradientMap):
    """The sum of several gradient maps, each as fast as it is alone."""

    def __init__(self, parts: tuple[GradientMap, ...]) -> None:
        self.parts = parts

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate all."""
        total = self.parts[0](z)
        for part in self.parts[1:]:
            total = total + part(z)
        return total

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> SumGradient:
        """Every part transformed."""
        return SumGradient(tuple(part.transformed(matrix) for part in self.parts))

    def first(self) -> SumGradient:
        """The first draw of every part."""
        return SumGradient(tuple(part.first() for part in self.parts))

"""Dissipative Hamiltonian neural networks: a field of two scalar functions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.energies.base import Basis, Energy, Hyperparameters, LogNormal
from sympgp.energies.slope import SlopeBasis, SlopeEnergy, check_scalar, covector
from sympgp.energies.trainable import (
    TrainableBasis,
    dropout_factors,
    initial_weights,
    last_layer,
)
from sympgp.phase_space import CanonicalScaling

PARTS = ("energy", "potential")


@dataclass(eq=False)
class DissipativeNetworkBasis(SlopeBasis, TrainableBasis):
    """``f = J grad H(z; w_H) + grad D(z; w_D)``, that is ``g = grad H + J' grad D``.

    Weights are ``w = (w_H, w_D)``.

    Attributes:
        energy: H.
        potential: D.
    """

    energy: Basis
    potential: Basis

    has_energy = True
    lossless = False

    def __post_init__(self) -> None:
        own = self.energy.num_weights
        self.num_weights = own + self.potential.num_weights
        self.prior_variance = torch.cat([self.energy.prior_variance, self.potential.prior_variance])

    @property
    def angles(self) -> dict[int, float]:
        """The coordinates that are angles, and their periods in user units."""
        return self.energy.angles | self.potential.angles

    def split(self, w: Float[Tensor, "*draws weights"]) -> tuple[Tensor, Tensor]:
        """The weights of H and of D."""
        own = self.energy.num_weights
        return w[..., :own], w[..., own:]

    def slope(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch dim"]:
        """``grad H + J' grad D``."""
        return self.bound(w)(z)

    def bound(self, w: Float[Tensor, "*draws weights"]) -> Callable[[Tensor], Tensor]:
        """``z -> g(z; w)`` with both gradients prepared."""
        own, other = self.split(w)
        rotational, irrotational = self.energy.gradient_map(own), self.potential.gradient_map(other)
        return lambda z: rotational(z) + covector(irrotational(z))

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H(z)``, which ``grad D`` may raise as well as lower."""
        return self.energy.value(z, self.split(w)[0])

    @property
    def last_layer(self) -> Int[Tensor, " chosen"]:  # type: ignore[override]
        """Indices of both networks' own."""
        other = self.energy.num_weights + last_layer(self.potential)
        return torch.cat([last_layer(self.energy), other])

    def initial(self, num: int, generator: torch.Generator) -> Float[Tensor, "num weights"]:
        """Those of both networks."""
        parts = (self.energy, self.potential)
        return torch.cat([initial_weights(part, num, generator) for part in parts], 1)

    def dropout(
        self, rate: float, num: int, generator: torch.Generator
    ) -> Float[Tensor, "num weights"]:
        """Those of both networks."""
        parts = (self.energy, self.potential)
        return torch.cat([dropout_factors(part, rate, num, generator) for part in parts], 1)


class DissipativeNetworkEnergy(SlopeEnergy):
    """``dx/dt = J grad H(x) + grad D(x)``: any field as a rotation and a slope, as published.

    The dissipative Hamiltonian neural network of Sosanya and Greydanus (2022): by Helmholtz'
    decomposition every smooth field can be split like this. **Dissipation is not guaranteed**: D
    has no sign and acts on coordinates as on momenta, so that ``dH/dt = grad H . grad D`` may be
    positive, and H and D are not unique, for a function whose J-rotated gradient is a gradient too
    can pass from one to the other. For friction that can only take energy use a dissipation of the
    package beside a :class:`~sympgp.energies.NetworkEnergy`.

    A gradient depends on the units of length it is taken in: that of D is taken in scaled states,
    whose channels have the spread of the data, so ``dx/dt = J grad H + S^2 grad D`` in user units,
    up to a constant factor of D, with the scales S of the data.

    Args:
        energy: the prior over H, with its own hyperparameters.
        potential: the prior over D.

    Raises:
        ValueError: parts that are no scalar functions, that have parameters which differ by
            trajectory, or are of different degrees of freedom.

    Example:
        >>> from sympgp.energies import NetworkEnergy
        >>> parts = [NetworkEnergy(1, (16,)) for _ in range(2)]
        >>> sorted(DissipativeNetworkEnergy(*parts).hyperpriors(torch.ones(2)))[:2]
        ['energy.signal_scale', 'energy.weight_scale']
    """

    dissipates = True

    def __init__(self, energy: Energy, potential: Energy) -> None:
        for name, part in zip(PARTS, (energy, potential), strict=True):
            check_scalar(name, part)
        if energy.num_dof != potential.num_dof:
            raise ValueError(
                f"potential: expected one for {energy.num_dof} degree(s) of freedom, as the "
                f"energy has, got {potential.num_dof}"
            )
        self.energy, self.potential, self.num_dof = energy, potential, energy.num_dof
        self.sparse = energy.sparse or potential.sparse

    @property
    def angles(self) -> dict[int, float]:
        """Those of both parts."""
        return self.energy.angles | self.potential.angles

    def _like(self, energy: Energy, potential: Energy) -> DissipativeNetworkEnergy:
        found = copy.copy(self)
        found.energy, found.potential = energy, potential
        return found

    def in_units(self, scaling: CanonicalScaling) -> DissipativeNetworkEnergy:
        """Both parts in these units."""
        return self._like(self.energy.in_units(scaling), self.potential.in_units(scaling))

    def prepare(
        self, states: Float[Tensor, "states dim"], nominal: Float[Tensor, " weights"] | None = None
    ) -> DissipativeNetworkEnergy:
        """Both parts for data near these scaled states; nominal weights are those of H."""
        return self._like(self.energy.prepare(states, nominal), self.potential.prepare(states))

    def check(self, x: Float[Tensor, "states dim"]) -> None:
        """Try formulas of both parts at these states (user units)."""
        self.energy.check(x)
        self.potential.check(x)

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Those of H as "energy.name" and of D as "potential.name"."""
        parts = zip(PARTS, (self.energy, self.potential), strict=True)
        return {
            f"{name}.{key}": prior
            for name, part in parts
            for key, prior in part.hyperpriors(spread).items()
        }

    def basis(self, hyperparameters: Hyperparameters) -> DissipativeNetworkBasis:
        """Both parts' bases."""
        found = []
        for name, part in zip(PARTS, (self.energy, self.potential), strict=True):
            start = f"{name}."
            own = {k[len(start) :]: v for k, v in hyperparameters.items() if k.startswith(start)}
            found.append(part.basis(own))
        return DissipativeNetworkBasis(found[0], found[1])

    def redraw(self, seed: int) -> DissipativeNetworkEnergy:
        """Both parts with other draws, where there are any."""
        return self._like(self.energy.redraw(seed), self.potential.redraw(seed + 1))

"""Separable energies ``H = T(p) + V(q)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Energy, Hyperparameters
from sympgp.energies.fourier import FourierEnergy
from sympgp.energies.kinetic import Kinetic
from sympgp.energies.kinetic_basis import QuadraticKineticBasis
from sympgp.energies.sum_basis import SumBasis
from sympgp.energies.sums import SumEnergy, normal_states, unique_names
from sympgp.phase_space import CanonicalScaling, split

TRIED, LEAST = 20, 1e-8
"""States and draws at which a part is tried; and what is no slope, relative to the largest."""


class SeparableEnergy(SumEnergy):
    """``H = T(p) + V(q)``, a kinetic and a potential energy with independent priors.

    Explicit symplectic integrators such as leapfrog take nothing else. Hyperparameters are
    those of the parts, as ``"kinetic.lengthscale"`` and ``"potential.lengthscale"``.

    Args:
        kinetic: ``KnownKinetic(mass)``, ``QuadraticKinetic()``, ``FourierEnergy(n, on="p")``, or
            another energy that depends on momenta alone.
        potential: ``FourierEnergy(n, on="q")``, which is the default, or another energy that
            depends on coordinates alone.
        num_dof: degrees of freedom n; not needed where a part says it.
        orthogonal: as for :class:`SumEnergy`.

    Raises:
        ValueError: parts of different degrees of freedom; a kinetic energy that depends on
            coordinates, or a potential energy that depends on momenta.

    Example:
        >>> from sympgp.energies import KnownKinetic
        >>> energy = SeparableEnergy(KnownKinetic(2.0), FourierEnergy(3, 50, on="q"))
        >>> energy.num_dof, sorted(energy.hyperpriors(torch.ones(6, dtype=torch.float64)))[0]
        (3, 'potential.lengthscale')
    """

    def __init__(
        self,
        kinetic: Energy,
        potential: Energy | None = None,
        num_dof: int | None = None,
        *,
        orthogonal: bool | None = None,
    ) -> None:
        for name, part in (("kinetic", kinetic), ("potential", potential)):
            if not isinstance(part, Energy) and (part is not None or name == "kinetic"):
                raise ValueError(f"{name}: expected an energy, got {part!r}")
        if num_dof is None:
            num_dof = kinetic.num_dof if potential is None else potential.num_dof
        if potential is None:
            potential = FourierEnergy(num_dof, on="q")
        if isinstance(kinetic, Kinetic):
            kinetic = kinetic.with_dof(num_dof)
        for name, part, on in (("kinetic", kinetic, "p"), ("potential", potential, "q")):
            if part.num_dof != num_dof:
                raise ValueError(f"{name}: expected one for num_dof={num_dof}, got {part.num_dof}")
            _check_kind(name, part, on)
        super().__init__([kinetic, potential], orthogonal=orthogonal)
        self.kinetic, self.potential = kinetic, potential
        self.num_kinetic = len(kinetic.parts) if isinstance(kinetic, SumEnergy) else 1
        rest = len(self.parts) - self.num_kinetic
        self.names = unique_names(["Kinetic"] * self.num_kinetic + ["Potential"] * rest)

    def in_units(self, scaling: CanonicalScaling) -> SumEnergy:
        """Both parts in these units.

        Raises:
            ValueError: a kinetic energy that depends on coordinates, or a potential energy that
                depends on momenta.
        """
        scaled = super().in_units(scaling)
        for i, part in enumerate(scaled.parts):
            if not isinstance(part, (Kinetic, FourierEnergy)):
                _try("kinetic" if i < self.num_kinetic else "potential", part, scaling.spread)
        return scaled

    def _like(self, parts: Sequence[Energy]) -> SeparableEnergy:
        kinetic, potential = parts[: self.num_kinetic], parts[self.num_kinetic :]
        return SeparableEnergy(_one(kinetic), _one(potential), orthogonal=self.orthogonal)

    def basis(self, hyperparameters: Hyperparameters) -> SeparableBasis:
        """The parts' bases side by side."""
        found = super().basis(hyperparameters)
        return SeparableBasis(found.parts, found.names)

    def momenta(
        self, q: Float[Tensor, "*batch dof"], velocity: Float[Tensor, "*batch dof"]
    ) -> Float[Tensor, "*batch dof"] | None:
        """Those of the kinetic energy."""
        return self.kinetic.momenta(q, velocity)


@dataclass(eq=False)
class SeparableBasis(SumBasis):
    """``H = T(p) + V(q)``: parts that depend on one half of the state each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.separable = True

    def mass_matrix(self, w: Float[Tensor, "*draws weights"]) -> Float[Tensor, "*draws dof dof"]:
        """The mass matrix in user units, of all weights or one row a draw.

        Raises:
            TypeError: the kinetic energy is no ``QuadraticKinetic``.
        """
        for part, own in zip(self.parts, self.split(w), strict=True):
            if isinstance(part, QuadraticKineticBasis):
                return part.mass_matrix(own)
        raise TypeError("a mass matrix is found by QuadraticKinetic only")


def _one(parts: Sequence[Energy]) -> Energy:
    return parts[0] if len(parts) == 1 else SumEnergy(parts)


def _check_kind(name: str, part: Energy, on: str) -> None:
    """What can be said of a part without units."""
    for own in part.parts if isinstance(part, SumEnergy) else (part,):
        if isinstance(own, Kinetic) and on == "q":
            raise ValueError(f"{name}: expected a function of coordinates, got a kinetic energy")
        if isinstance(own, FourierEnergy) and own.on != on:
            raise ValueError(f'{name}: expected a FourierEnergy with on="{on}", got on="{own.on}"')


def _try(name: str, part: Energy, spread: Float[Tensor, " dim"]) -> None:
    """Whether the energies of random weights depend on one half of the state alone.

    Raises:
        ValueError: they do not.
    """
    priors = part.hyperpriors(spread)
    basis = part.basis({key: prior.median for key, prior in priors.items()})
    draws = normal_states(TRIED, max(1, basis.num_weights))[:, : basis.num_weights].to(spread)
    states = normal_states(TRIED, len(spread)).to(spread) * spread
    w = draws * basis.prior_variance.sqrt()
    slope = basis.gradient_map(w)(states.expand(TRIED, *states.shape)).detach()
    along_q, along_p = (half.nan_to_num(0.0, 0.0, 0.0).abs().max() for half in split(slope))
    wrong, right, other = along_q, along_p, "coordinates"
    if name == "potential":
        wrong, right, other = along_p, along_q, "momenta"
    if float(wrong) > LEAST * float(torch.maximum(wrong, right)):
        raise ValueError(f"{name}: expected an energy that does not depend on {other}")

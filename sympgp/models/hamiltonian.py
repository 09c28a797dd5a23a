"""The general model, ``dx/dt = J grad H - d(x, grad H) + G u`` with noisy observations of x."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation import Conservative, Dissipation
from sympgp.energies import Context, Energy, FourierEnergy, KnownKinetic, SeparableEnergy
from sympgp.energies.base import Basis
from sympgp.fields import HamiltonianField
from sympgp.inputs import Inputs
from sympgp.noise import GaussianNoise, Noise
from sympgp.phase_space import CanonicalScaling
from sympgp.trajectories import Trajectories
from sympgp.trajectories.signals import Interpolation

KNOWN_STATES = 300
"""States of the data that energies whose parts share a field are told apart on."""


@dataclass(frozen=True)
class HamiltonianModel:
    """An energy, a dissipation, inputs, and observation noise of one level per channel.

    ``y_i(t_ij) = x_i(t_ij) + noise``, where every ``x_i`` solves the ODE from its own latent
    state. The model holds priors only; ``fit`` combines it with data.

    Args:
        energy: the prior over Hamiltonians.
        dissipation: the prior over dissipation.
        inputs: the prior over what external inputs do; None where there are none.
        noise: the law of the observation noise, and what is known of it.
        dtype: floating-point type that the field is computed in; ``fit`` says it.

    Raises:
        ValueError: an argument of another kind; a dissipation beside a field that has gains and
            losses of its own.
    """

    energy: Energy
    dissipation: Dissipation = field(default_factory=Conservative)
    noise: Noise = field(default_factory=GaussianNoise)
    inputs: Inputs | None = None
    dtype: torch.dtype = field(default=torch.float64, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        kinds = (("energy", Energy), ("dissipation", Dissipation), ("noise", Noise))
        for name, kind in kinds:
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ValueError(f"{name}: expected an instance of {kind.__name__}, got {value!r}")
        if self.inputs is not None and not isinstance(self.inputs, Inputs):
            raise ValueError(f"inputs: expected an instance of Inputs, got {self.inputs!r}")
        if self.energy.dissipates and not isinstance(self.dissipation, Conservative):
            raise ValueError(
                "dissipation: expected Conservative() beside a field without an energy, or whose "
                f"dissipation is learned, such as that of {type(self.energy).__name__}; got "
                f"{self.dissipation!r}"
            )

    @property
    def num_dof(self) -> int:
        """Degrees of freedom n."""
        return self.energy.num_dof

    @property
    def interpolation(self) -> Interpolation:
        """Of inputs between samples."""
        return "linear" if self.inputs is None else self.inputs.interpolation

    def in_context(self, data: Trajectories) -> tuple[HamiltonianModel, Trajectories]:
        """The model for these trajectories, and the data with what tells them apart.

        Both as they were, where no parameter differs by trajectory.

        Raises:
            ValueError: as ``Context.of`` says.
        """
        pooled, by_covariates = self.energy.pooled, self.energy.by_covariates
        if not pooled and not by_covariates:
            return self, data
        context = Context.of(data, pooled, by_covariates)
        model = replace(self, energy=self.energy.in_context(context))
        return model, data.with_context(context.known())

    def in_units(
        self, scaling: CanonicalScaling, states: Float[Tensor, "states dim"]
    ) -> HamiltonianModel:
        """The same model with its energy in scaled units, for data near these scaled states."""
        chosen = torch.linspace(0, len(states) - 1, min(len(states), KNOWN_STATES)).round().long()
        energy = self.energy.in_units(scaling).prepare(states[chosen])
        return replace(self, energy=energy)

    def field(
        self, basis: Basis, scaling: CanonicalScaling, data: Trajectories
    ) -> HamiltonianField:
        """The field of a basis of the energy, in scaled units."""
        driven = None
        if self.inputs is not None and data.inputs is not None:
            size = torch.cat(list(data.inputs)).square().mean(0).sqrt()
            size = torch.where(size > 0, size, 1.0).to(scaling.scale)
            driven = self.inputs.scaled(scaling, size)
        return HamiltonianField(basis, self.dissipation.scaled(scaling), driven).to(self.dtype)


def SSGP(
    num_dof: int = 1,
    num_features: int = 100,
    *,
    dissipation: Dissipation | None = None,
    energy: Energy | None = None,
    periodic: Sequence[int] = (),
    period: float | Sequence[float] = 2.0 * math.pi,
    mass: Any = None,
    inputs: Inputs | None = None,
    noise: Noise | None = None,
    seed: int = 0,
) -> HamiltonianModel:
    """The symplectic spectrum Gaussian process (Tanaka, Iwata and Ueda, NeurIPS 2022).

    A Gaussian process prior on H through ``num_features`` random Fourier features, so that the
    vector field is ``f(x) = Psi(x) w`` with symplectic features ``Psi = (J - R) grad phi``.

    Args:
        num_dof: degrees of freedom n; states have 2n entries.
        num_features: spectral points M.
        dissipation: ``Conservative()`` when not given; ``Friction()`` for damped systems.
        energy: another energy in place of
            ``FourierEnergy(num_dof, num_features, periodic=periodic, period=period, seed=seed)``.
        periodic: coordinates (0 to n - 1) that are angles: H is exactly periodic in them, and data
            may be wrapped or not.
        period: of the angles, in the units of the data; one for all or one for each.
        mass: where it is known, a number, (n,) or (n, n): then ``H = p' M^-1 p / 2 + V(q)`` with
            features for V alone. It anchors the scale of momenta, so that data may have positions
            only.
        inputs: what external inputs do, ``KnownInputs(...)`` or ``LearnedInputs(...)``.
        noise: ``GaussianNoise()`` when not given; ``StudentTNoise()`` for data with outliers,
            ``GaussianNoise(std=...)`` where its level is known.
        seed: of the spectral points.

    Raises:
        ValueError: a count below one; an energy for another number of degrees of freedom, or
            beside arguments that describe another one; angles that are none of the coordinates.

    Example:
        >>> SSGP(num_dof=2, num_features=200).num_dof
        2
    """
    if energy is not None and (len(periodic) or mass is not None):
        raise ValueError(
            "energy: expected None beside periodic= or mass=, which describe an energy themselves"
        )
    if energy is None:
        kind = "state" if mass is None else "q"
        energy = FourierEnergy(
            num_dof, num_features, periodic=periodic, period=period, on=kind, seed=seed
        )
        if mass is not None:
            energy = SeparableEnergy(KnownKinetic(mass), energy, num_dof)
    model = HamiltonianModel(
        energy,
        Conservative() if dissipation is None else dissipation,
        GaussianNoise() if noise is None else noise,
        inputs,
    )
    if model.num_dof != num_dof:
        raise ValueError(f"energy: expected one for num_dof={num_dof}, got {model.num_dof}")
    return model

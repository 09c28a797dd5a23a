"""The general model, ``dx/dt = (J - R) grad H(x)`` with noisy observations of x."""

from __future__ import annotations

from dataclasses import dataclass, field

from sympgp.dissipation import Conservative, Dissipation
from sympgp.energies import Energy, FourierEnergy
from sympgp.noise import GaussianNoise, Noise


@dataclass(frozen=True)
class HamiltonianModel:
    """An energy, a dissipation and observation noise of one level per channel.

    ``y_i(t_ij) = x_i(t_ij) + noise``, where every ``x_i`` solves the ODE from its own latent
    state. The model holds priors only; ``fit`` combines it with data.

    Args:
        energy: the prior over Hamiltonians.
        dissipation: the prior over dissipation matrices.
        noise: the law of the observation noise, and what is known of it.

    Raises:
        ValueError: an argument of another kind.
    """

    energy: Energy
    dissipation: Dissipation = field(default_factory=Conservative)
    noise: Noise = field(default_factory=GaussianNoise)

    def __post_init__(self) -> None:
        kinds = (("energy", Energy), ("dissipation", Dissipation), ("noise", Noise))
        for name, kind in kinds:
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ValueError(f"{name}: expected an instance of {kind.__name__}, got {value!r}")

    @property
    def num_dof(self) -> int:
        """Degrees of freedom n."""
        return self.energy.num_dof


def SSGP(
    num_dof: int = 1,
    num_features: int = 100,
    *,
    dissipation: Dissipation | None = None,
    energy: Energy | None = None,
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
        energy: another energy in place of ``FourierEnergy(num_dof, num_features, seed=seed)``.
        noise: ``GaussianNoise()`` when not given; ``StudentTNoise()`` for data with outliers,
            ``GaussianNoise(std=...)`` where its level is known.
        seed: of the spectral points.

    Raises:
        ValueError: a count below one; an energy for another number of degrees of freedom.

    Example:
        >>> SSGP(num_dof=2, num_features=200).num_dof
        2
    """
    if energy is None:
        energy = FourierEnergy(num_dof, num_features, seed=seed)
    model = HamiltonianModel(
        energy,
        Conservative() if dissipation is None else dissipation,
        GaussianNoise() if noise is None else noise,
    )
    if model.num_dof != num_dof:
        raise ValueError(f"energy: expected one for num_dof={num_dof}, got {model.num_dof}")
    return model

"""Energies: priors over Hamiltonians."""

from sympgp.energies.base import Basis, Energy, GradientMap, Hyperparameters, LogNormal
from sympgp.energies.fourier import (
    FourierBasis,
    FourierEnergy,
    independent_frequencies,
    quasi_random_frequencies,
)

__all__ = [
    "Basis",
    "Energy",
    "FourierBasis",
    "FourierEnergy",
    "GradientMap",
    "Hyperparameters",
    "LogNormal",
    "independent_frequencies",
    "quasi_random_frequencies",
]

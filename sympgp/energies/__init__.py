"""Energies: priors over Hamiltonians."""

from sympgp.energies.base import Basis, Energy, GradientMap, Hyperparameters, LogNormal
from sympgp.energies.contextual import ByTrajectory, Context, FromCovariates, Pooled
from sympgp.energies.contextual_basis import ContextualBasis
from sympgp.energies.contextual_effects import CovariateNetwork, ParameterEffect
from sympgp.energies.explained import correlations, nearest_weights, shares
from sympgp.energies.fourier import FourierEnergy
from sympgp.energies.fourier_basis import FourierBasis
from sympgp.energies.kinetic import Kinetic, KnownKinetic, QuadraticKinetic
from sympgp.energies.kinetic_basis import KnownKineticBasis, QuadraticKineticBasis
from sympgp.energies.nonlinear import NonlinearBasis
from sympgp.energies.orthogonal import OrthogonalBasis
from sympgp.energies.physics import PhysicsEnergy
from sympgp.energies.physics_basis import CallableBasis, ExpressionBasis, PhysicsBasis
from sympgp.energies.separable import SeparableBasis, SeparableEnergy
from sympgp.energies.spectral_points import independent_frequencies, quasi_random_frequencies
from sympgp.energies.sum_basis import SumBasis
from sympgp.energies.sums import SumEnergy

__all__ = [
    "Basis",
    "ByTrajectory",
    "CallableBasis",
    "Context",
    "ContextualBasis",
    "CovariateNetwork",
    "Energy",
    "ExpressionBasis",
    "FourierBasis",
    "FourierEnergy",
    "FromCovariates",
    "GradientMap",
    "Hyperparameters",
    "Kinetic",
    "KnownKinetic",
    "KnownKineticBasis",
    "LogNormal",
    "NonlinearBasis",
    "OrthogonalBasis",
    "ParameterEffect",
    "PhysicsBasis",
    "PhysicsEnergy",
    "Pooled",
    "QuadraticKinetic",
    "QuadraticKineticBasis",
    "SeparableBasis",
    "SeparableEnergy",
    "SumBasis",
    "SumEnergy",
    "correlations",
    "independent_frequencies",
    "nearest_weights",
    "quasi_random_frequencies",
    "shares",
]

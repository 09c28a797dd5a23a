"""Energies: priors over Hamiltonians."""

from sympgp.energies.base import Basis, Energy, GradientMap, Hyperparameters, LogNormal
from sympgp.energies.contextual import ByTrajectory, Context, FromCovariates, Pooled
from sympgp.energies.contextual_basis import ContextualBasis
from sympgp.energies.contextual_effects import CovariateNetwork, ParameterEffect
from sympgp.energies.dissipative_network import DissipativeNetworkBasis, DissipativeNetworkEnergy
from sympgp.energies.explained import correlations, nearest_weights, shares
from sympgp.energies.fourier import FourierEnergy
from sympgp.energies.fourier_basis import FourierBasis
from sympgp.energies.free import FreeBasis, FreeEnergy
from sympgp.energies.kan import KANEnergy
from sympgp.energies.kan_basis import KANBasis
from sympgp.energies.kan_fit import FittedKAN, fit_function
from sympgp.energies.kan_formula import FittedFormula, fit_formula
from sympgp.energies.kan_function import KANFunction
from sympgp.energies.kan_penalty import costs, edge_penalty, penalty_rows, penalty_shapes
from sympgp.energies.kan_symbols import Symbol
from sympgp.energies.kinetic import Kinetic, KnownKinetic, QuadraticKinetic
from sympgp.energies.kinetic_basis import KnownKineticBasis, QuadraticKineticBasis
from sympgp.energies.lagrangian import LagrangianEnergy
from sympgp.energies.lagrangian_basis import LagrangianBasis
from sympgp.energies.network import NetworkEnergy
from sympgp.energies.network_basis import NetworkBasis
from sympgp.energies.nonlinear import NonlinearBasis
from sympgp.energies.orthogonal import OrthogonalBasis
from sympgp.energies.physics import PhysicsEnergy
from sympgp.energies.physics_basis import CallableBasis, ExpressionBasis, PhysicsBasis
from sympgp.energies.separable import SeparableBasis, SeparableEnergy
from sympgp.energies.slope import SlopeBasis, SlopeEnergy
from sympgp.energies.spectral_points import independent_frequencies, quasi_random_frequencies
from sympgp.energies.sum_basis import SumBasis
from sympgp.energies.sums import SumEnergy
from sympgp.energies.tangent import TangentBasis
from sympgp.energies.trainable import (
    TrainableBasis,
    dropout_factors,
    has_layers,
    initial_weights,
    last_layer,
)

__all__ = [
    "Basis",
    "ByTrajectory",
    "CallableBasis",
    "DissipativeNetworkBasis",
    "DissipativeNetworkEnergy",
    "Context",
    "ContextualBasis",
    "CovariateNetwork",
    "Energy",
    "ExpressionBasis",
    "FittedFormula",
    "FittedKAN",
    "FourierBasis",
    "FourierEnergy",
    "FreeBasis",
    "FreeEnergy",
    "FromCovariates",
    "GradientMap",
    "Hyperparameters",
    "KANBasis",
    "KANEnergy",
    "KANFunction",
    "Kinetic",
    "KnownKinetic",
    "KnownKineticBasis",
    "LagrangianBasis",
    "LagrangianEnergy",
    "LogNormal",
    "NetworkBasis",
    "NetworkEnergy",
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
    "SlopeBasis",
    "SlopeEnergy",
    "SumBasis",
    "SumEnergy",
    "Symbol",
    "TangentBasis",
    "TrainableBasis",
    "correlations",
    "costs",
    "dropout_factors",
    "edge_penalty",
    "fit_formula",
    "fit_function",
    "has_layers",
    "independent_frequencies",
    "initial_weights",
    "last_layer",
    "nearest_weights",
    "penalty_rows",
    "penalty_shapes",
    "quasi_random_frequencies",
    "shares",
]

"""Bayesian learning of Hamiltonian dynamics from noisy, sparse, partly missing trajectories."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sympgp import distributed, kernels, metrics, plots, systems
    from sympgp.comparison import compare
    from sympgp.dissipation import (
        Conservative,
        DiagonalFriction,
        Friction,
        GradientField,
        MatrixFriction,
        Rayleigh,
        StateDependentFriction,
    )
    from sympgp.energies import (
        DissipativeNetworkEnergy,
        FourierEnergy,
        FreeEnergy,
        FromCovariates,
        KANEnergy,
        KnownKinetic,
        LagrangianEnergy,
        NetworkEnergy,
        PhysicsEnergy,
        Pooled,
        QuadraticKinetic,
        SeparableEnergy,
        SumEnergy,
    )
    from sympgp.inference import (
        MAP,
        NUTS,
        SGHMC,
        DeepEnsemble,
        DerivativeRegression,
        ExactGP,
        GaussNewton,
        Laplace,
        MCDropout,
        MeanFieldVI,
        StochasticVI,
        fit,
    )
    from sympgp.inputs import KnownInputs, LearnedInputs
    from sympgp.integrators import (
        RK4,
        DiscreteGradient,
        Dopri5,
        GaussLegendre4,
        ImplicitMidpoint,
        Leapfrog,
        Tao,
        Tao4,
        Yoshida4,
    )
    from sympgp.models import DHNN, HNN, LNN, SSGP, HamiltonianModel, NeuralODE
    from sympgp.noise import GaussianNoise, StudentTNoise
    from sympgp.phase_space import symplectic_matrix
    from sympgp.posterior import Posterior, load
    from sympgp.rollouts import Rollouts
    from sympgp.trajectories import StateDerivatives, Trajectories, TrajectoryFile

__version__ = "0.1.0"

# Where each public name lives; PyTorch and the rest are loaded with the first name used.
_MODULES = {
    "DeepEnsemble": "inference",
    "DHNN": "models",
    "DissipativeNetworkEnergy": "energies",
    "FreeEnergy": "energies",
    "HNN": "models",
    "LNN": "models",
    "LagrangianEnergy": "energies",
    "NeuralODE": "models",
    "MAP": "inference",
    "Laplace": "inference",
    "MCDropout": "inference",
    "MeanFieldVI": "inference",
    "SGHMC": "inference",
    "KANEnergy": "energies",
    "NetworkEnergy": "energies",
    "NUTS": "inference",
    "RK4": "integrators",
    "SSGP": "models",
    "Conservative": "dissipation",
    "Dopri5": "integrators",
    "FourierEnergy": "energies",
    "Friction": "dissipation",
    "DerivativeRegression": "inference",
    "ExactGP": "inference",
    "GaussNewton": "inference",
    "GaussianNoise": "noise",
    "HamiltonianModel": "models",
    "ImplicitMidpoint": "integrators",
    "Posterior": "posterior",
    "Rollouts": "rollouts",
    "StochasticVI": "inference",
    "StudentTNoise": "noise",
    "StateDerivatives": "trajectories",
    "Trajectories": "trajectories",
    "TrajectoryFile": "trajectories",
    "compare": "comparison",
    "fit": "inference",
    "load": "posterior",
    "DiagonalFriction": "dissipation",
    "MatrixFriction": "dissipation",
    "StateDependentFriction": "dissipation",
    "Rayleigh": "dissipation",
    "GradientField": "dissipation",
    "PhysicsEnergy": "energies",
    "Pooled": "energies",
    "FromCovariates": "energies",
    "SumEnergy": "energies",
    "SeparableEnergy": "energies",
    "KnownKinetic": "energies",
    "QuadraticKinetic": "energies",
    "KnownInputs": "inputs",
    "LearnedInputs": "inputs",
    "Leapfrog": "integrators",
    "Yoshida4": "integrators",
    "GaussLegendre4": "integrators",
    "Tao": "integrators",
    "Tao4": "integrators",
    "DiscreteGradient": "integrators",
    "distributed": "",
    "kernels": "",
    "metrics": "",
    "plots": "",
    "symplectic_matrix": "phase_space",
    "systems": "",
}

__all__ = [
    "DHNN",
    "LNN",
    "MAP",
    "Laplace",
    "MCDropout",
    "MeanFieldVI",
    "SGHMC",
    "NUTS",
    "HNN",
    "RK4",
    "SSGP",
    "Conservative",
    "DeepEnsemble",
    "DissipativeNetworkEnergy",
    "Dopri5",
    "FourierEnergy",
    "Friction",
    "DerivativeRegression",
    "ExactGP",
    "GaussNewton",
    "GaussianNoise",
    "HamiltonianModel",
    "ImplicitMidpoint",
    "KANEnergy",
    "NetworkEnergy",
    "FreeEnergy",
    "LagrangianEnergy",
    "NeuralODE",
    "Posterior",
    "Rollouts",
    "StochasticVI",
    "StudentTNoise",
    "StateDerivatives",
    "Trajectories",
    "TrajectoryFile",
    "compare",
    "fit",
    "load",
    "DiagonalFriction",
    "MatrixFriction",
    "StateDependentFriction",
    "Rayleigh",
    "GradientField",
    "PhysicsEnergy",
    "Pooled",
    "FromCovariates",
    "SumEnergy",
    "SeparableEnergy",
    "KnownKinetic",
    "QuadraticKinetic",
    "KnownInputs",
    "LearnedInputs",
    "Leapfrog",
    "Yoshida4",
    "GaussLegendre4",
    "Tao",
    "Tao4",
    "DiscreteGradient",
    "distributed",
    "kernels",
    "metrics",
    "plots",
    "symplectic_matrix",
    "systems",
]


def __getattr__(name: str) -> Any:
    """Load the module of a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'sympgp' has no attribute {name!r}")
    home = _MODULES[name]
    if not home:
        return importlib.import_module(f"sympgp.{name}")
    value = getattr(importlib.import_module(f"sympgp.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)

"""Bayesian learning of Hamiltonian dynamics from noisy, sparse, partly missing trajectories."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sympgp import systems
from sympgp.dissipation import Conservative, Friction
from sympgp.energies import FourierEnergy
from sympgp.inference import GaussNewton, fit
from sympgp.integrators import RK4, Dopri5, ImplicitMidpoint
from sympgp.models import SSGP, HamiltonianModel
from sympgp.phase_space import symplectic_matrix
from sympgp.posterior import Posterior, load
from sympgp.rollouts import Rollouts
from sympgp.trajectories import Trajectories

if TYPE_CHECKING:
    from sympgp import metrics, plots

__version__ = "0.1.0"

__all__ = [
    "RK4",
    "SSGP",
    "Conservative",
    "Dopri5",
    "FourierEnergy",
    "Friction",
    "GaussNewton",
    "HamiltonianModel",
    "ImplicitMidpoint",
    "Posterior",
    "Rollouts",
    "Trajectories",
    "fit",
    "load",
    "metrics",
    "plots",
    "symplectic_matrix",
    "systems",
]


def __getattr__(name: str) -> Any:
    """Import plots and metrics when they are first used: matplotlib is slow to load."""
    if name in ("plots", "metrics"):
        return importlib.import_module(f"sympgp.{name}")
    raise AttributeError(f"module 'sympgp' has no attribute {name!r}")

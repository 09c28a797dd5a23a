"""Kernels of Hamiltonians and of their vector fields, for exact Gaussian processes.

What needs GPyTorch is loaded with the first name used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sympgp.kernels.energy import EnergyKernel, Expansion, Spectrum, SumKernel
from sympgp.kernels.fourier_limit import fourier_limit
from sympgp.kernels.quadratic import Quadratic
from sympgp.kernels.stationary import Stationary

if TYPE_CHECKING:
    from sympgp.kernels.gpytorch_quadratic import QuadraticKernel
    from sympgp.kernels.model import SymplecticGP, symplectic_likelihood
    from sympgp.kernels.symplectic import SymplecticKernel

_LATE = {
    "QuadraticKernel": "gpytorch_quadratic",
    "SymplecticGP": "model",
    "SymplecticKernel": "symplectic",
    "symplectic_likelihood": "model",
}

__all__ = [
    "EnergyKernel",
    "Expansion",
    "Quadratic",
    "QuadraticKernel",
    "Spectrum",
    "Stationary",
    "SumKernel",
    "SymplecticGP",
    "SymplecticKernel",
    "fourier_limit",
    "symplectic_likelihood",
]


def __getattr__(name: str) -> Any:
    """Load what needs GPyTorch when it is first used."""
    if name not in _LATE:
        raise AttributeError(f"module 'sympgp.kernels' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sympgp.kernels.{_LATE[name]}"), name)
    globals()[name] = value
    return value

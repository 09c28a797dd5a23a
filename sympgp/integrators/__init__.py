"""Integrators: objects that carry states of ``dx/dt = f(t, x)`` forward in time.

A method is a coefficient table with its source, run by a stepper that all methods of its kind
share. States are (..., D): every leading dimension is a batch member of its own, so draws times
initial states are one batch. Facts about a method (order, symplectic or not, separable energies
only, own step control) are attributes of its class.
"""

from sympgp.integrators.base import (
    DivergenceWarning,
    FixedStepIntegrator,
    Integrator,
    Step,
    Times,
    VectorField,
)
from sympgp.integrators.dopri5 import Dopri5
from sympgp.integrators.explicit import CLASSICAL_RK4, RK4, RungeKuttaTable, explicit_step
from sympgp.integrators.midpoint import ImplicitMidpoint

__all__ = [
    "CLASSICAL_RK4",
    "RK4",
    "DivergenceWarning",
    "Dopri5",
    "FixedStepIntegrator",
    "ImplicitMidpoint",
    "Integrator",
    "RungeKuttaTable",
    "Step",
    "Times",
    "VectorField",
    "explicit_step",
]

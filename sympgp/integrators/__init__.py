"""Integrators: objects that carry states of ``dx/dt = f(t, x)`` forward in time.

A method is a coefficient table with its source, run by a stepper that all methods of its kind
share. States are (..., D): every leading dimension is a batch member of its own, so draws times
initial states are one batch. Facts about a method (order, symplectic or not, separable energies
only, own step control) are attributes of its class. :func:`step_for` finds a step for a tolerance.
"""

from sympgp.integrators.base import (
    DivergenceWarning,
    EnergyField,
    FixedStepIntegrator,
    Integrator,
    Step,
    Times,
    VectorField,
)
from sympgp.integrators.discrete_gradient import DiscreteGradient
from sympgp.integrators.dopri5 import Dopri5
from sympgp.integrators.explicit import CLASSICAL_RK4, RK4, RungeKuttaTable, explicit_step
from sympgp.integrators.implicit import GAUSS_4, GaussLegendre4, ImplicitMidpoint, implicit_step
from sympgp.integrators.splitting import Leapfrog, Yoshida4
from sympgp.integrators.tao import Tao, Tao4
from sympgp.integrators.tolerance import StepChoice, ToleranceWarning, step_for

__all__ = [
    "CLASSICAL_RK4",
    "GAUSS_4",
    "RK4",
    "DiscreteGradient",
    "DivergenceWarning",
    "Dopri5",
    "EnergyField",
    "FixedStepIntegrator",
    "GaussLegendre4",
    "ImplicitMidpoint",
    "Integrator",
    "Leapfrog",
    "RungeKuttaTable",
    "Step",
    "StepChoice",
    "Tao",
    "Tao4",
    "Times",
    "ToleranceWarning",
    "VectorField",
    "Yoshida4",
    "explicit_step",
    "implicit_step",
    "step_for",
]

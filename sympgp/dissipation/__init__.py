"""Dissipation: what the field ``J grad H - d(x, grad H)`` takes out, never putting energy in."""

from sympgp.dissipation.base import Dissipation, ScaledDissipation
from sympgp.dissipation.constant import Conservative, Friction, LinearDissipation
from sympgp.dissipation.diagonal import DiagonalDamping, DiagonalFriction
from sympgp.dissipation.factors import Factors
from sympgp.dissipation.functions import FourierFunctions, NetworkFunctions, StateFunctions
from sympgp.dissipation.gradient import GradientField
from sympgp.dissipation.matrix import MatrixDamping, MatrixFriction
from sympgp.dissipation.positive import PositiveCurve
from sympgp.dissipation.rayleigh import Rayleigh, RayleighDamping
from sympgp.dissipation.state_dependent import StateDependentDamping, StateDependentFriction
from sympgp.dissipation.undamped import Undamped, damped, undamped

__all__ = [
    "Conservative",
    "DiagonalDamping",
    "DiagonalFriction",
    "Dissipation",
    "Factors",
    "FourierFunctions",
    "Friction",
    "GradientField",
    "LinearDissipation",
    "MatrixDamping",
    "MatrixFriction",
    "NetworkFunctions",
    "PositiveCurve",
    "Rayleigh",
    "RayleighDamping",
    "ScaledDissipation",
    "StateDependentDamping",
    "StateDependentFriction",
    "StateFunctions",
    "Undamped",
    "damped",
    "undamped",
]

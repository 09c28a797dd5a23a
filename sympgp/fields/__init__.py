"""Vector fields in scaled units: ``f(z, u) = J g - d(z, g) + G(z) u`` with ``g = grad H(z)``.

Fields are evaluated at *points*: states (..., D), followed by the inputs where there are any,
(..., D + m), and by the context of the trajectory where the energy differs by it. Everything that
solves or differentiates a field carries points through.
"""

from sympgp.fields.bound import BoundField, DrivenField, TrajectoryField, as_points
from sympgp.fields.fixed import FixedField
from sympgp.fields.hamiltonian import HamiltonianField
from sympgp.fields.linearized import LinearizedField
from sympgp.fields.local import (
    FieldDerivatives,
    gathered_response,
    local_derivatives,
    rate_and_jacobian,
)

__all__ = [
    "BoundField",
    "DrivenField",
    "FieldDerivatives",
    "FixedField",
    "HamiltonianField",
    "LinearizedField",
    "TrajectoryField",
    "as_points",
    "gathered_response",
    "local_derivatives",
    "rate_and_jacobian",
]

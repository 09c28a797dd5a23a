"""Models: the general Hamiltonian model and its shortcuts."""

from sympgp.models.hamiltonian import SSGP, HamiltonianModel

__all__ = ["SSGP", "HamiltonianModel"]

"""Models: the general Hamiltonian model and its shortcuts."""

from sympgp.models.hamiltonian import SSGP, HamiltonianModel
from sympgp.models.networks import HNN
from sympgp.models.relatives import DHNN, LNN, NeuralODE

__all__ = ["DHNN", "HNN", "LNN", "SSGP", "HamiltonianModel", "NeuralODE"]

"""Pictures of rollouts and posteriors; every function returns matplotlib axes.

Functions draw into the axes they are given and make a figure of their own otherwise. Matplotlib
is imported when the first picture is drawn.
"""

from sympgp.plots.fields import hamiltonian, phase_portrait, vector_field
from sympgp.plots.paths import bands, energy

__all__ = ["bands", "energy", "hamiltonian", "phase_portrait", "vector_field"]

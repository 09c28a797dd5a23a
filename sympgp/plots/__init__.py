"""Pictures of data, rollouts and posteriors; every function returns matplotlib axes.

Functions draw into the axes they are given and make a figure of their own otherwise. Matplotlib
is imported when the first picture is drawn.
"""

from sympgp.plots.coverage import calibration
from sympgp.plots.fields import hamiltonian, phase_portrait, vector_field
from sympgp.plots.kan import kan
from sympgp.plots.multiples import small_multiples
from sympgp.plots.paths import bands, energy
from sympgp.plots.plane import Region
from sympgp.plots.projections import pairs
from sympgp.plots.sections import section
from sympgp.plots.whiteness import residuals

__all__ = [
    "Region",
    "bands",
    "calibration",
    "energy",
    "hamiltonian",
    "kan",
    "pairs",
    "phase_portrait",
    "residuals",
    "section",
    "small_multiples",
    "vector_field",
]

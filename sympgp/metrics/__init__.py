"""How good predicted trajectories are, and how honest their bands.

Every function compares with a truth of shape (N, T, 2n) at the prediction's times, leaves out
entries where the truth is NaN, and returns a tensor: one number, or one per trajectory or channel
where asked. Draws that diverged are left out of their trajectory.
"""

from sympgp.metrics.draws import Draws
from sympgp.metrics.errors import energy_mse, trajectory_mse
from sympgp.metrics.scores import coverage, crps, nlpd

__all__ = ["Draws", "coverage", "crps", "energy_mse", "nlpd", "trajectory_mse"]

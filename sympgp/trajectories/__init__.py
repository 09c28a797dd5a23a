"""Observed trajectories: the container, its validation and the readers of files and tables."""

from sympgp.trajectories.arrays import ArrayLike, as_tensor
from sympgp.trajectories.container import Trajectories
from sympgp.trajectories.derivatives import StateDerivatives

__all__ = ["ArrayLike", "StateDerivatives", "Trajectories", "as_tensor"]

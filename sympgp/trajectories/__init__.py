"""Observed trajectories: the container, its validation and the readers of files and tables."""

from sympgp.trajectories.arrays import ArrayLike, as_tensor
from sympgp.trajectories.container import Trajectories

__all__ = ["ArrayLike", "Trajectories", "as_tensor"]

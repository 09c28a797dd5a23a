"""Observed trajectories: the container, its validation and the readers of files and tables."""

from sympgp.trajectories.angles import unwrapped, wrapped
from sympgp.trajectories.arrays import ArrayLike, as_tensor
from sympgp.trajectories.container import Trajectories
from sympgp.trajectories.derivatives import StateDerivatives
from sympgp.trajectories.files import TrajectoryFile
from sympgp.trajectories.sharing import gathered
from sympgp.trajectories.signals import InputFunction, InputSignal, Signal, as_signal

__all__ = [
    "ArrayLike",
    "InputFunction",
    "InputSignal",
    "Signal",
    "StateDerivatives",
    "Trajectories",
    "TrajectoryFile",
    "as_signal",
    "as_tensor",
    "gathered",
    "unwrapped",
    "wrapped",
]

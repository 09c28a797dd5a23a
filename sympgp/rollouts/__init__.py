"""Rollouts: many draws of the field from many initial states, solved as one batch."""

from sympgp.rollouts.result import Rollouts
from sympgp.rollouts.solve import solve_rollouts

__all__ = ["Rollouts", "solve_rollouts"]

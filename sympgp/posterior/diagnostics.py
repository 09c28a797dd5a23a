"""What an engine noticed while fitting, for the summary."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from sympgp.trajectories import Trajectories


def unobserved(data: Trajectories) -> tuple[str, ...]:
    """Names of the coordinates that are nowhere observed."""
    nowhere = torch.stack([x.isnan().all(0) for x in data.states]).all(0)
    return tuple(name for name, gone in zip(data.names, nowhere.tolist(), strict=True) if gone)


@dataclass(frozen=True)
class Diagnostics:
    """Record of one fit.

    Attributes:
        engine: name of the inference engine.
        seconds: wall time of the fit.
        iterations: accepted steps in all.
        converged: whether every search ended by its tolerance.
        windows_joined: whether windows could be lengthened to whole trajectories, or to many
            oscillations.
        window_time: length of the last windows in user time, if they could not be joined.
        jump_gain: log evidence of model discrepancy (jumps of the state) against none.
        solver_step: longest solver step, user time.
        solver_error: solver error of the fitted path in units of its posterior deviation.
        inflation: autocorrelation time of each channel's residuals, in observations.
        notes: further findings in plain words, to worry about.
        details: findings that are as they should be.
        unobserved: names of the coordinates without any observation.
    """

    engine: str
    seconds: float
    iterations: int
    converged: bool
    windows_joined: bool
    window_time: float
    jump_gain: float
    solver_step: float
    solver_error: float
    inflation: tuple[float, ...]
    notes: tuple[str, ...] = field(default=())
    details: tuple[str, ...] = field(default=())
    unobserved: tuple[str, ...] = field(default=())

"""What a fit of the network studies predicts, for its scores and its pictures alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation import Dissipation, Friction
from sympgp.plots.plane import FieldPosterior, Moments
from sympgp.posterior.diagnostics import Diagnostics
from sympgp.rollouts import Rollouts

STEP = 1e-3
"""Of the central differences of a divergence, in standard deviations of the states."""


@runtime_checkable
class Fitted(FieldPosterior, Protocol):
    """What is asked of a posterior, from trajectories or from pairs."""

    @property
    def num_dof(self) -> int:
        """Degrees of freedom n."""

    @property
    def dissipation_family(self) -> Dissipation:
        """The prior of the dissipation."""

    @property
    def diagnostics(self) -> Diagnostics:
        """What the engine noticed."""

    def dissipation(self) -> Moments:
        """Coefficients of the dissipation."""

    def summary(self) -> str:
        """What was found, as text."""


@dataclass(frozen=True)
class Prediction:
    """A fit, and trajectories that it predicts.

    Attributes:
        posterior: of the fit.
        rollouts: draws of N trajectories.
        truth: (N, T, 2n) at their times: exact, or measured where ``kind`` is "predictive".
        hamiltonian: the true one, where it is known.
        kind: of the bands that the truth belongs to, "latent" or "predictive".
    """

    posterior: Fitted
    rollouts: Rollouts
    truth: Float[Tensor, "trajectories time dim"]
    hamiltonian: Callable[[Tensor], Tensor] | None = None
    kind: str = "latent"


def found_damping(
    posterior: Fitted, states: Float[Tensor, "states dim"]
) -> tuple[float, float | None]:
    """The damping of ``q'' = -gamma q' + force(q)`` that a fit with one degree of freedom found.

    The posterior mean and standard deviation of the coefficient where the dissipation is
    ``Friction``. Other models have no such number: theirs is minus the divergence of the mean
    field, ``gamma = -mean(d f_q / dq + d f_p / dp)`` over the states, without a deviation.
    """
    if isinstance(posterior.dissipation_family, Friction):
        found = posterior.dissipation()
        return float(found.mean), float(found.stddev)
    return -float(divergence(posterior, states).mean()), None


def divergence(posterior: Fitted, states: Float[Tensor, "states dim"]) -> Float[Tensor, " states"]:
    """``sum_d d f_d / dx_d`` of the mean field by central differences."""
    total = torch.zeros_like(states[:, 0])
    for d, spread in enumerate(states.std(0).tolist()):
        shift = torch.zeros_like(states[0])
        shift[d] = STEP * spread
        ahead, behind = (posterior.vector_field(states + s * shift).mean[:, d] for s in (1, -1))
        total = total + (ahead - behind) / (2 * STEP * spread)
    return total

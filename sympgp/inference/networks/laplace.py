"""Laplace's approximation: the Gaussian about trained weights, with a Gauss-Newton precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from sympgp.energies import last_layer
from sympgp.inference.base import Report
from sympgp.inference.networks.bank import Bank, trained_bank
from sympgp.inference.networks.base import Context, NetworkEngine
from sympgp.inference.networks.linearisation import Point
from sympgp.inference.networks.tangents import TangentFit
from sympgp.inference.networks.trajectories import Trained
from sympgp.models import HamiltonianModel
from sympgp.posterior import Posterior
from sympgp.trajectories import Trajectories

DRAWS = 200
"""Draws of the posterior."""


@dataclass(frozen=True, kw_only=True)
class Laplace(NetworkEngine):
    """The network made linear in its weights about the trained ones, whose posterior is Gaussian.

    ``H(z; w) = H(z; w_0) + (dH/dw)(z; w_0) . (w - w_0)`` with precision ``J' J / sigma^2 +
    diag(prior)``, where ``J`` are derivatives of the rates at pairs, or of the paths through
    trajectories with their first states. Weights and dissipation are jointly Gaussian; the noise
    has its inverse-gamma posterior. Where there are fewer observations than weights, all algebra is
    done in the space of observations. Scales of the priors, where they act on these alone, are
    those of largest evidence under the linear model (MacKay 1992).

    A draw is one function, the linear model at drawn weights, for which this Gaussian is exact.
    The network itself at the same weights would be another function, and mostly a poor one
    (Immer et al. 2021).

    Args:
        weights: "all", or "last_layer": those that act last, with all others known. H is linear in
            them as it is; the accelerations of a Lagrangian are not.
        num_draws: draws that are kept.
        evidence: find the scales by evidence; else they stay at their priors' medians.

    Raises:
        ValueError: other weights than these, or as :class:`NetworkEngine` says.

    Sources: Ritter, Botev and Barber, *A scalable Laplace approximation for neural networks*,
    ICLR 2018; Daxberger et al., *Laplace redux*, NeurIPS 2021, for evidence and last layers;
    Immer, Korzepa and Bauer, AISTATS 2021, for the linear predictive.

    Example:
        >>> from sympgp import HNN, StateDerivatives, fit
        >>> x = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
        >>> pairs = StateDerivatives(x, [[0.0, -1.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> engine = Laplace(num_steps=10, num_draws=20)
        >>> posterior = fit(HNN(1, (8,)), pairs, inference=engine, progress=False)
        >>> posterior.sample(3)([[0.5, 0.0]]).shape
        torch.Size([3, 1, 2])
    """

    weights: Literal["all", "last_layer"] = "all"
    num_draws: int = DRAWS
    evidence: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights not in ("all", "last_layer"):
            raise ValueError(f'weights: expected "all" or "last_layer", got {self.weights!r}')
        value = self.num_draws
        if isinstance(value, bool) or not isinstance(value, int) or value < 2:
            raise ValueError(f"num_draws: expected a whole number of at least 2, got {value!r}")

    @property
    def takes_state_noise(self) -> bool:
        """They may."""
        return True

    @property
    def takes_sparsity(self) -> bool:
        """A density with a kink at the weights is no Gaussian about them."""
        return False

    def run(
        self, model: HamiltonianModel, data: Trajectories, seed: int, report: Report
    ) -> Posterior:
        """Infer the posterior from trajectories.

        Raises:
            ValueError: parameters that differ by trajectory.
        """
        if model.energy.pooled or model.energy.by_covariates:
            raise ValueError(
                "inference: Laplace() is for networks; parameters that differ by trajectory need "
                "GaussNewton(), which is the same approximation for formulas"
            )
        return super().run(model, data, seed, report)

    def infer(self, trained: Trained, context: Context) -> Bank:
        """Draws of the Gaussian about the trained network."""
        context.report("linearising the network", None)
        known = trained_bank(trained)
        basis = known.field.basis
        chosen = torch.arange(basis.num_weights, device=known.theta.device)
        if self.weights == "last_layer":
            chosen = last_layer(basis)
        start = None if known.start is None else known.start[0]
        fit = TangentFit.of(
            known.density,
            Point(known.theta[0], known.noise_std[0], start),
            chosen,
            context.model.energy,
            context.spread,
            context.hyperparameters,
            self.evidence,
        )
        generator = torch.Generator().manual_seed(context.seed)
        theta = fit.sample(self.num_draws, generator)
        return Bank(
            fit.density,
            theta,
            fit.drawn_noise(self.num_draws, generator),
            fit.states(theta),
            known.steps,
            known.converged,
            known.notes,
            spacing=known.spacing,
            hyperparameters=fit.hyperparameters,
        )

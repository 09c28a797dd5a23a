"""The linearised evidence of hyperparameters with the path and its transition matrices frozen.

About a fixed path the predicted states are linear in the weights of any basis,

    z_k = base_k + T_k dz_0 + sum_i T_{k,i+1} sum_s W_is Psi(z_is) w,

so the evidence of lengthscales and scales needs no further integration. With identity transitions
and a smoothed path the same model is the integral form of the ODE, which starts the inference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.energies.base import Basis, Energy, Hyperparameters, LogNormal
from sympgp.fields import HamiltonianField
from sympgp.shooting.gram import gram
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.sensitivities import INITIAL_VARIANCE, FrozenPath, chain_sensitivities

SLOPE, SHIFT = 0.02, 0.05
"""Largest slope of the log evidence at its maximum, and the step of its Hessian's differences, per
unit of the logarithms: hundredths of a nat do not matter."""


@dataclass(frozen=True)
class FrozenModel:
    """A linear-Gaussian model of the data in ``[w, rho]`` along frozen windows.

    Attributes:
        frozen: intervals of all windows, (W L, ...).
        base: (W, L, D) predicted states without the learned field.
        values: (W, L, D) observations.
        weights: (W, L, D) of their squared residuals, zero where not observed.
    """

    frozen: FrozenPath
    base: Float[Tensor, "windows slots dim"]
    values: Float[Tensor, "windows slots dim"]
    weights: Float[Tensor, "windows slots dim"]

    @classmethod
    def about(
        cls,
        frozen: FrozenPath,
        slope: Float[Tensor, "batch stages dim"] | None,
        path: Float[Tensor, "windows slots dim"],
        nodes: Nodes,
        windows: Windows,
    ) -> FrozenModel:
        """Freeze about ``path``, whose ``dz/ds`` at the stages is ``slope`` for what is linear.

        That is ``(df/dtheta) theta`` of the field that it follows. Without a slope the path is
        the base itself.
        """
        shape, base = path.shape, path
        if slope is not None:
            own = frozen.response(slope.unsqueeze(-1)).reshape(*shape, 1)
            steps = frozen.transition.reshape(*shape, shape[-1])
            moved, _ = chain_sensitivities(steps, own, torch.zeros_like(own[:, 0]))
            base = path - moved.squeeze(-1)
        return cls(frozen, base, nodes.values[windows.nodes], nodes.weights[windows.nodes])

    def normal_equations(
        self, response: Float[Tensor, "batch dim params"], precision: Float[Tensor, " dim"]
    ) -> tuple[Tensor, Tensor]:
        """Gram matrix (P, P) and right-hand side (P,), window states integrated out.

        Rows are projected off the states' columns ``S``, with ``[S; eps I] = [Q; E] R``, rather
        than corrected in the Gram matrix, where the difference would lose its digits.
        """
        windows, slots, dim = self.base.shape
        steps = self.frozen.transition.reshape(windows, slots, dim, dim)
        eye = torch.eye(dim).to(steps).expand(windows, dim, dim)
        scale = (self.weights * precision).sqrt().unsqueeze(-1)
        state, _ = chain_sensitivities(steps, None, eye)
        whole = torch.cat([(state * scale).flatten(1, 2), eye * INITIAL_VARIANCE**-0.5], 1)
        basis, _ = torch.linalg.qr(whole)
        response = response.reshape(windows, slots, dim, -1)
        rows, _ = chain_sensitivities(steps, response, torch.zeros_like(response[:, 0]))
        target = (self.values - self.base).unsqueeze(-1)
        rows = (torch.cat([rows, target], -1) * scale).flatten(1, 2)
        along = basis[:, :-dim].mT @ rows
        rows = torch.baddbmm(rows, basis[:, :-dim], along, alpha=-1.0).flatten(0, 1)
        rest = (basis[:, -dim:] @ along).flatten(0, 1)
        total = gram(torch.cat([rows, rest]))
        return total[:-1, :-1], total[:-1, -1]

    def response(
        self, basis: Basis, field: HamiltonianField, theta: Float[Tensor, " own"]
    ) -> Float[Tensor, "batch dim params"]:
        """What each interval adds to its end per parameter, with this basis and friction's slope.

        The energy's own gradient, which friction multiplies, is that of ``field``.
        """
        slope, (w, _, rho) = None, field.parts(theta)
        if field.dissipation.num_parameters:
            slope = field.slopes(self.frozen.stages, w)
        own = field.with_basis(basis)
        return own.weighted_response(self.frozen.stages, self.frozen.weights, w, rho, slope)

    def solve(
        self,
        basis: Basis,
        field: HamiltonianField,
        theta: Float[Tensor, " own"],
        precision: Float[Tensor, " dim"],
        hold: bool = False,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " params"]]:
        """Log evidence of a basis, up to what does not depend on it, and the mean of [w, rho].

        ``precision`` (D,) weighs a squared residual of each channel, one over its noise variance.
        What is not linear is linearised about ``theta``, as it was for the base of the path.

        With ``hold``, dissipation that is more than one friction stays as it is. It multiplies the
        present gradient of H, which the linear model takes as known: matrices free enough would
        explain by it what H explains now, at no cost, and H would be found to be nothing.
        """
        hessian, right = self.normal_equations(self.response(basis, field, theta), precision)
        own = field.with_basis(basis)
        stddev, rho = own.prior_precision().rsqrt(), theta[field.num_weights :]
        hold = hold and len(rho) > 0 and not field.dissipation.truncated
        if hold:
            num = own.num_weights
            right = right[:num] - hessian[:num, num:] @ rho
            hessian, stddev = hessian[:num, :num], stddev[:num]
        white = hessian * stddev[:, None] * stddev
        white = white + torch.eye(len(stddev), dtype=white.dtype, device=white.device)
        factor = cholesky(white, "the precision of the weights along the frozen path")
        solved = torch.linalg.solve_triangular(factor, (stddev * right).unsqueeze(-1), upper=False)
        evidence = 0.5 * (solved**2).sum() - factor.diagonal().log().sum()
        mean = stddev * torch.linalg.solve_triangular(factor.mT, solved, upper=True).squeeze(-1)
        return evidence, torch.cat([mean, rho]) if hold else mean


def linear_rate(
    field: HamiltonianField,
    stages: Float[Tensor, "batch stages width"],
    theta: Float[Tensor, " params"],
) -> Float[Tensor, "batch stages dim"]:
    """``(df/dtheta) theta`` at the stages of a path: the field but for what is not linear in it."""
    points = stages.flatten(0, 1)
    rate = field.bind(theta)(0.0, points)
    rest = field.remainder(points, theta)
    rate = rate if rest is None else rate - rest
    return rate.unflatten(0, stages.shape[:2])


@dataclass(frozen=True)
class HyperPosterior:
    """Laplace approximation of the log hyperparameters' posterior.

    Attributes:
        priors: by name.
        mean: (K,) logarithms, one name after another.
        covariance: (K, K).
    """

    priors: dict[str, LogNormal]
    mean: Float[Tensor, " hyper"]
    covariance: Float[Tensor, "hyper hyper"]

    def hyperparameters(self, log: Tensor) -> Hyperparameters:
        """Positive values by name from their logarithms."""
        return unpack(self.priors, log)


def pack(priors: dict[str, LogNormal], values: Hyperparameters) -> Tensor:
    """Logarithms of hyperparameters as one vector."""
    return torch.cat([values[name].log().reshape(-1) for name in priors])


def unpack(priors: dict[str, LogNormal], log: Tensor) -> Hyperparameters:
    """The inverse of ``pack``."""
    values, begin = {}, 0
    for name, prior in priors.items():
        size = prior.median.numel()
        values[name] = log[begin : begin + size].exp().reshape(prior.median.shape)
        begin += size
    return values


def log_prior(priors: dict[str, LogNormal], log: Tensor) -> Tensor:
    """Log density of the logarithms under their normal priors, up to a constant."""
    centre = pack(priors, {name: prior.median for name, prior in priors.items()})
    precision = torch.as_tensor(prior_precision(priors)).to(log)
    return -0.5 * (precision * (log - centre) ** 2).sum()


def prior_precision(priors: dict[str, LogNormal]) -> np.ndarray:
    """Inverse variances of the logarithms under their priors, (K,)."""
    return np.concatenate(
        [np.full(prior.median.numel(), prior.log_stddev**-2.0) for prior in priors.values()]
    )


def optimise_hyperparameters(
    evidence: Callable[[Basis], Tensor],
    energy: Energy,
    priors: dict[str, LogNormal],
    start: Hyperparameters,
    max_evaluations: int = 40,
    curvature: bool = False,
    share: float = 1.0,
) -> HyperPosterior:
    """Maximise evidence plus log hyperprior; the Hessian by differences of the gradient.

    The evidence may be that of a ``share`` of the data; its curvature is then that much less than
    what all of them have.
    """
    from scipy.optimize import minimize

    if not priors:  # a formula has none
        none = energy.basis({}).prior_variance.new_zeros(0)
        return HyperPosterior(priors, none, none.new_zeros(0, 0))
    first = pack(priors, start)

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        log = torch.as_tensor(values, dtype=first.dtype, device=first.device).requires_grad_(True)
        total = evidence(energy.basis(unpack(priors, log))) + log_prior(priors, log)
        (gradient,) = torch.autograd.grad(total, log)
        return -float(total.detach()), -gradient.cpu().numpy().astype(float)

    centre = first.cpu().numpy().astype(float)
    found = minimize(
        objective,
        centre,
        jac=True,
        method="L-BFGS-B",
        bounds=[(c - 3.5, c + 3.5) for c in centre],
        options={"maxfun": max_evaluations, "ftol": 1e-6, "gtol": SLOPE},
    )
    mean = torch.as_tensor(found.x, dtype=first.dtype, device=first.device)
    size = len(centre)
    if not curvature:
        return HyperPosterior(priors, mean, torch.zeros(size, size).to(mean))
    hessian = np.stack([objective(found.x + row)[1] for row in SHIFT * np.eye(size)])
    hessian = (hessian - objective(found.x)[1]) / SHIFT
    prior = prior_precision(priors)
    hessian = (hessian - np.diag(prior)) / share + np.diag(prior)
    values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
    floor = float(prior.min())
    inverse = (vectors / np.maximum(values, floor)) @ vectors.T
    return HyperPosterior(priors, mean, torch.as_tensor(inverse).to(mean))

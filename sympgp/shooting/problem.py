"""The shooting objective: observations, windows, the field and the noise of one search."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.fields import FixedField, HamiltonianField
from sympgp.noise import ScaledNoise
from sympgp.shooting.elimination import Chain, eliminate
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.sensitivities import INITIAL_VARIANCE, Linearization, nominal_path


@dataclass(frozen=True)
class Estimate:
    """A point of the search.

    Attributes:
        theta: (P + K,) weights and dissipation parameters.
        start: (W, D) first state of each window.
        noise_std: (D,).
        defect_std: standard deviation of the jumps between windows; zero when joined.
        inflation: (D,) autocorrelation time of each channel's residuals, at least one: so many
            observations count as one independent one.
    """

    theta: Float[Tensor, " params"]
    start: Float[Tensor, "windows dim"]
    noise_std: Float[Tensor, " dim"]
    defect_std: float
    inflation: Float[Tensor, " dim"]

    @property
    def precision(self) -> Float[Tensor, " dim"]:
        """What a squared residual of each channel counts, ``1 / (inflation sigma^2)``."""
        return 1.0 / (self.inflation * self.noise_std**2)


@dataclass(frozen=True)
class Problem:
    """Observations, windows, field family, noise family and solver step of one search."""

    nodes: Nodes
    windows: Windows
    field: HamiltonianField | FixedField
    noise: ScaledNoise
    step: float

    def reweighted(self, estimate: Estimate, path: Tensor) -> Problem:
        """Weigh the residuals of this path as the law of the noise asks."""
        if self.noise.dof is None:
            return self
        states = torch.zeros_like(self.nodes.values)
        states[self.windows.nodes.reshape(-1)] = path.flatten(0, 1)
        weights = self.noise.weights(states - self.nodes.values, estimate.noise_std)
        return replace(self, nodes=self.nodes.reweighted(weights))

    def following(self) -> tuple[Tensor, Tensor]:
        """Windows that have a next one, and the next ones."""
        here, ahead = self.windows.chain[:, :-1], self.windows.chain[:, 1:]
        has = ahead >= 0
        return here[has], ahead[has]

    def evaluate(self, estimate: Estimate) -> tuple[Tensor, Tensor, Tensor]:
        """Path, end states and objective (a scalar tensor)."""
        bound = self.field.bind(estimate.theta)
        path, end = nominal_path(bound, estimate.start, self.nodes, self.windows, self.step)
        return path, end, self.objective(estimate, path, end)

    def objective(self, estimate: Estimate, path: Tensor, end: Tensor) -> Tensor:
        """Negative log joint density at fixed noise, up to a constant."""
        node = self.windows.nodes
        residual = path - self.nodes.values[node]
        value = 0.5 * (self.nodes.weights[node] * estimate.precision * residual**2).sum()
        value = value + 0.5 * (self.field.prior_precision() * estimate.theta**2).sum()
        first = estimate.start[self.windows.chain[:, 0]]
        value = value + 0.5 * (first**2).sum() / INITIAL_VARIANCE
        here, ahead = self.following()
        if len(here):
            jump = (end[here] - estimate.start[ahead]) / estimate.defect_std
            value = value + 0.5 * (jump**2).sum()
        return value

    def eliminate(
        self,
        linear: Linearization,
        estimate: Estimate,
        end: Tensor,
        damping: float = 0.0,
    ) -> Chain:
        """Eliminate the window states at this noise, with Marquardt damping of their blocks."""
        dim = end.shape[-1]
        local = torch.einsum("c,cwde->wde", estimate.precision, linear.local)
        hessian = _damped(local[..., :dim], damping)
        jump = torch.zeros_like(end)
        here, ahead = self.following()
        jump[here] = end[here] - estimate.start[ahead]
        variance = torch.full_like(estimate.noise_std, estimate.defect_std**2)
        first = estimate.start[self.windows.chain[:, 0]]
        return eliminate(
            self.windows,
            hessian,
            local[..., dim:-1],
            local[..., -1],
            linear.end,
            jump,
            variance,
            -first,
            INITIAL_VARIANCE,
        )

    def beyond(
        self, linear: Linearization, step: Tensor, moved: Tensor, end: Tensor, new_end: Tensor
    ) -> Tensor:
        """What the windows' ends moved by beyond the linear model; zero of last ones, (W, D).

        Args:
            linear: about the point of ``end``.
            step: (P,) of theta.
            moved: (W, D) steps of the window states.
            end: (W, D) before the step.
            new_end: (W, D) after it.
        """
        here, _ = self.following()
        both = torch.cat([moved[here], step.expand(len(here), -1)], -1).unsqueeze(-1)
        rest = torch.zeros_like(end)
        rest[here] = new_end[here] - end[here] - (linear.end[here] @ both).squeeze(-1)
        return rest

    def closing(
        self, linear: Linearization, estimate: Estimate, jump: Tensor, damping: float = 0.0
    ) -> Float[Tensor, "windows dim"]:
        """Changes of the window states that undo jumps (W, D) as far as the data allow.

        Jumps that may hardly be at all make the objective a narrow curved valley: a step along
        the tangent of its floor leaves it by terms of second order, and ever shorter ones would
        have to do. With what the jumps have beyond the linear model undone, long steps serve
        (second-order correction, Nocedal and Wright, *Numerical Optimization*, section 18.3).

        Args:
            linear: about ``estimate``; theta stays as it is.
            estimate: where the step began.
            jump: end of each window beyond the start of the next one.
            damping: of the step.
        """
        dim, none = jump.shape[-1], torch.zeros_like(jump)
        local = torch.einsum("c,cwde->wde", estimate.precision, linear.local[..., :dim])
        chain = eliminate(
            self.windows,
            _damped(local, damping),
            local[..., :0],
            none,
            linear.end[..., :dim],
            jump,
            torch.full_like(estimate.noise_std, estimate.defect_std**2),
            none[self.windows.chain[:, 0]],
            INITIAL_VARIANCE,
        )
        return chain.smooth(self.windows)[0]

    def normal_equations(
        self, linear: Linearization, estimate: Estimate, chain: Chain
    ) -> tuple[Tensor, Tensor]:
        """Precision (P, P) of theta and gradient (P,) of the objective, states eliminated."""
        shared = torch.einsum("c,cij->ij", estimate.precision, linear.shared)
        prior = self.field.prior_precision()
        precision = shared[:-1, :-1] + chain.shared + torch.diag(prior)
        gradient = shared[:-1, -1] + chain.gradient + prior * estimate.theta
        return precision, gradient


def _damped(hessian: Tensor, damping: float) -> Tensor:
    """With Marquardt damping of the diagonal blocks."""
    if not damping:
        return hessian
    size = hessian.diagonal(dim1=-2, dim2=-1) + 1.0 / INITIAL_VARIANCE
    return hessian + damping * torch.diag_embed(size)

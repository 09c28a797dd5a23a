"""The shooting objective: observations, windows, the field and the noise of one search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.compiled import repays
from sympgp.distributed import ALONE, Ranks
from sympgp.fields import FixedField, HamiltonianField
from sympgp.noise import ScaledNoise
from sympgp.shooting.elimination import Chain, eliminate
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.linearization import Linearization, linearize
from sympgp.shooting.sensitivities import INITIAL_VARIANCE, nominal_path, substeps

GROUP_ELEMENTS = 2**21
"""Numbers of one wide block of the window states that are eliminated at a time (16 MB)."""
LINEARIZATIONS = 8
"""Linearisations that a search takes at least, about."""
SINES_SAVED = 5
"""Sines of a compiled path that save as much time as a feature's derivatives and path do."""


@runtime_checkable
class Eliminated(Protocol):
    """What is left for theta, (P, P) and (P,), once the states are eliminated."""

    @property
    def shared(self) -> Tensor:
        """Its Hessian without its prior."""

    @property
    def gradient(self) -> Tensor:
        """Its gradient."""


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
    """Observations, windows, field family, noise family and solver step of one search.

    Several ranks have windows of different trajectories each. What is said of theta and of the
    noise is then summed over them: objectives, linearisations' sums, normal equations.
    """

    nodes: Nodes
    windows: Windows
    field: HamiltonianField | FixedField
    noise: ScaledNoise
    step: float
    ranks: Ranks = ALONE

    @cached_property
    def repays_compiling(self) -> bool:
        """Whether a search of this size repays fields that are compiled."""
        field, count = self.field, LINEARIZATIONS
        stages = 4 * max(1, int(substeps(self.nodes.dt.max(), self.step)))
        sines = field.bind(torch.zeros_like(field.prior_precision())).sines
        evaluations = count * stages * self.windows.nodes.shape[1]
        if field.num_parameters and field.compiles:
            count *= SINES_SAVED
        total = count * stages * self.windows.nodes.numel() * sines
        return repays(evaluations, total, self.nodes.values.device)

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
        return self.windows.following

    def evaluate(self, estimate: Estimate) -> tuple[Tensor, Tensor, Tensor]:
        """Path, end states and objective (a scalar tensor)."""
        bound = self.field.bind(estimate.theta)
        bound = bound.compiled() if self.repays_compiling else bound
        path, end = nominal_path(bound, estimate.start, self.nodes, self.windows, self.step)
        return path, end, self.objective(estimate, path, end)

    def objective(self, estimate: Estimate, path: Tensor, end: Tensor) -> Tensor:
        """Negative log joint density at fixed noise, up to a constant."""
        node = self.windows.nodes
        residual = path - self.nodes.values[node]
        squares = (self.nodes.weights[node] * residual**2).sum((0, 1), dtype=torch.float64)
        value = 0.5 * (squares * estimate.precision).sum()
        first = estimate.start[self.windows.chain[:, 0]].double()
        value = value + 0.5 * (first**2).sum() / INITIAL_VARIANCE
        here, ahead = self.following()
        if len(here):
            jump = (end[here] - estimate.start[ahead]).double() / estimate.defect_std
            value = value + 0.5 * (jump**2).sum()
        theta = estimate.theta.double()
        prior = 0.5 * (self.field.prior_precision() * theta**2).sum()
        # Whatever is not a share enters once, so that all ranks have the same bits.
        return self.ranks.sum(value + prior if self.ranks.first else value)

    def linearize(
        self, theta: Float[Tensor, " params"], path: Float[Tensor, "windows slots dim"]
    ) -> Linearization:
        """About a path, with the sums over all ranks' windows."""
        field = self.field.compiled() if self.repays_compiling else self.field
        found = linearize(field, theta, path, self.nodes, self.windows, self.step)
        return replace(found, shared=self.ranks.sum(found.shared))

    def eliminate(
        self, linear: Linearization, estimate: Estimate, end: Tensor, damping: float = 0.0
    ) -> Chain:
        """Eliminate the window states at this noise, with Marquardt damping of their blocks."""
        found = [chain for *_, chain in self.chains(linear, estimate, end, damping)]
        return Chain.joined(found)

    def chains(
        self,
        linear: Linearization,
        estimate: Estimate,
        end: Float[Tensor, "windows dim"],
        damping: float = 0.0,
        step: Float[Tensor, " params"] | None = None,
        totals: bool = True,
    ) -> Iterator[tuple[slice, Windows, Chain]]:
        """The same for so many trajectories at a time that their blocks need little memory.

        Each time which windows they have, these as windows of their own, and their chain.

        Args:
            linear: about ``estimate``.
            estimate: where.
            end: of the windows' paths.
            damping: of the states' blocks.
            step: of theta, if it is known already: the states are then those after it, and nothing
                is as wide as theta.
            totals: whether what is left of theta is wanted.
        """
        dim, width = end.shape[-1], linear.end.shape[-1]
        precision = estimate.precision.double()
        variance = torch.full_like(precision, estimate.defect_std**2)
        most = max(1, GROUP_ELEMENTS // (dim * width))
        for part, windows in self.windows.groups(most):
            local = torch.einsum("c,cwde->wde", precision, linear.local[:, part])
            start, ends = estimate.start[part].double(), linear.end[part]
            border, gradient = local[..., dim:-1], local[..., -1]
            jump = torch.zeros_like(start)
            here, ahead = windows.following
            jump[here] = end[part][here].double() - start[ahead]
            if step is not None:
                gradient, jump = gradient + border @ step, jump + ends[..., dim:] @ step
                border, ends = border[..., :0], ends[..., :dim]
            chain = eliminate(
                windows,
                _damped(local[..., :dim], damping),
                border,
                gradient,
                ends,
                jump,
                variance,
                -start[windows.chain[:, 0]],
                INITIAL_VARIANCE,
                totals,
            )
            yield part, windows, chain

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
        dim = end.shape[-1]
        pushed = (linear.end[..., :dim] @ moved.to(linear.end).unsqueeze(-1)).squeeze(-1)
        pushed = pushed + linear.end[..., dim:] @ step
        rest = torch.zeros_like(pushed)
        rest[here] = (new_end - end - pushed)[here]
        return rest

    def slope_along(
        self,
        linear: Linearization,
        estimate: Estimate,
        end: Float[Tensor, "windows dim"],
        moved: Float[Tensor, "windows dim"],
        step: Float[Tensor, " params"],
    ) -> Float[Tensor, ""]:
        """Derivative of the objective along steps of the states and, of the jumps, of theta.

        Of this rank's windows. In the minimum of the linear model, reached by ``moved`` without
        a step of theta, the objective is less by half of minus this.
        """
        first = self.windows.chain[:, 0]
        precision = estimate.precision.double()
        local = torch.einsum("c,cwd->wd", precision, linear.local[..., -1])
        total = (local * moved).sum()
        total = total + (estimate.start[first] * moved[first]).sum() / INITIAL_VARIANCE
        here, ahead = self.following()
        if len(here):
            dim = moved.shape[-1]
            shift = (linear.end[..., :dim] @ moved.unsqueeze(-1)).squeeze(-1)
            shift = (shift + linear.end[..., dim:] @ step)[here] - moved[ahead]
            jump = end[here] - estimate.start[ahead]
            total = total + (jump * shift).sum() / estimate.defect_std**2
        return total

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
        precision = estimate.precision.double()
        local = torch.einsum("c,cwde->wde", precision, linear.local[..., :dim])
        chain = eliminate(
            self.windows,
            _damped(local, damping),
            local[..., :0],
            none,
            linear.end[..., :dim],
            jump,
            torch.full_like(precision, estimate.defect_std**2),
            none[self.windows.chain[:, 0]],
            INITIAL_VARIANCE,
        )
        return chain.smooth(self.windows)[0]

    def normal_equations(
        self, linear: Linearization, estimate: Estimate, chain: Eliminated
    ) -> tuple[Tensor, Tensor]:
        """Precision (P, P) of theta and gradient (P,) of the objective, states eliminated."""
        shared = torch.einsum("c,cij->ij", estimate.precision.double(), linear.shared)
        prior = self.field.prior_precision().double()
        precision = shared[:-1, :-1] + chain.shared + torch.diag(prior)
        gradient = shared[:-1, -1] + chain.gradient + prior * estimate.theta
        return precision, gradient


def _damped(hessian: Tensor, damping: float) -> Tensor:
    """With Marquardt damping of the diagonal blocks."""
    if not damping:
        return hessian
    size = hessian.diagonal(dim1=-2, dim2=-1) + 1.0 / INITIAL_VARIANCE
    return hessian + damping * torch.diag_embed(size)

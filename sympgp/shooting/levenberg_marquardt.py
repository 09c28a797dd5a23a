"""Levenberg-Marquardt through the ODE over parameters and window states, with noise estimation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.fields import FixedField, HamiltonianField
from sympgp.noise import ScaledNoise
from sympgp.shooting.elimination import Chain, eliminate
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.sensitivities import INITIAL_VARIANCE, Linearization, linearize, nominal_path

STAGNATION = 8
"""Steps without progress after which a search ends."""


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
class Solution:
    """The accepted optimum and everything the posterior needs.

    Attributes:
        estimate: where.
        nodes: the data, with the weights of their residuals there.
        path: (W, L, D) states at the nodes of each window.
        precision: (P + K, P + K) undamped Gauss-Newton precision of theta, states eliminated.
        chain: conditional distributions of the window states.
        squares: (D,) residual sum of squares.
        degrees: (D,) effective number of parameters used by each channel.
        objective: negative log posterior, up to a constant.
        iterations: accepted steps.
        converged: whether the search ended by its tolerance.
    """

    estimate: Estimate
    nodes: Nodes
    path: Float[Tensor, "windows slots dim"]
    precision: Float[Tensor, "params params"]
    chain: Chain
    squares: Float[Tensor, " dim"]
    degrees: Float[Tensor, " dim"]
    objective: float
    iterations: int
    converged: bool


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
        hessian = local[..., :dim]
        if damping:
            hessian = hessian + damping * torch.diag_embed(
                hessian.diagonal(dim1=-2, dim2=-1) + 1.0 / INITIAL_VARIANCE
            )
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

    def normal_equations(
        self, linear: Linearization, estimate: Estimate, chain: Chain
    ) -> tuple[Tensor, Tensor]:
        """Precision (P, P) of theta and gradient (P,) of the objective, states eliminated."""
        shared = torch.einsum("c,cij->ij", estimate.precision, linear.shared)
        prior = self.field.prior_precision()
        precision = shared[:-1, :-1] + chain.shared + torch.diag(prior)
        gradient = shared[:-1, -1] + chain.gradient + prior * estimate.theta
        return precision, gradient


def solve_damped(precision: Tensor, gradient: Tensor, prior: Tensor, damping: float) -> Tensor:
    """The step ``-(H + damping diag(prior + ...))^-1 g``, scaled by the prior for conditioning."""
    stddev = prior.rsqrt()
    white = precision * stddev[:, None] * stddev
    white = white + damping * torch.diag(white.diagonal())
    factor = torch.linalg.cholesky(white)
    return -stddev * torch.cholesky_solve((stddev * gradient).unsqueeze(-1), factor).squeeze(-1)


def squares_after(
    linear: Linearization,
    step: Float[Tensor, " params"],
    moved: Float[Tensor, "windows dim"],
) -> Float[Tensor, " dim"]:
    """Residual sum of squares of each channel after a step of the linearised model."""
    dim = moved.shape[-1]
    full = torch.cat([step, step.new_ones(1)])
    shared = torch.einsum("i,cij,j->c", full, linear.shared, full)
    side = linear.local[..., dim:] @ full
    block = (linear.local[..., :dim] @ moved.unsqueeze(-1)).squeeze(-1)
    return (shared + ((2.0 * side + block) * moved).sum((1, 2))).clamp(min=0.0)


def noise_update(
    problem: Problem,
    linear: Linearization,
    estimate: Estimate,
    chain: Chain,
    precision: Tensor,
    squares: Float[Tensor, " dim"],
) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    """``sigma_c^2 = (RSS_c + 2 b) / (n_c - gamma_c + 2 a + 2)`` by group of channels, and gamma.

    ``gamma_c = tr(precision^-1 J_c' J_c) / sigma_c^2`` over all unknowns, states included.
    """
    dim = squares.shape[0]
    _, slope, cov = chain.smooth(problem.windows)
    inverse = torch.linalg.inv(precision)
    pulled = slope @ inverse
    degrees = []
    for channel in range(dim):
        local = linear.local[channel]
        block, side = local[..., :dim], local[..., dim:-1]
        cross = side + 0.5 * (block @ slope)
        total = (inverse * linear.shared[channel, :-1, :-1]).sum() + 2.0 * (pulled * cross).sum()
        degrees.append(total + (cov * block).sum())
    gamma = torch.stack(degrees) * estimate.precision
    spare = (problem.nodes.counts - gamma).clamp(min=0.0)
    return problem.noise.update(squares, spare), gamma


def levenberg_marquardt(
    problem: Problem,
    estimate: Estimate,
    *,
    max_iterations: int,
    tolerance: float,
    on_step: Callable[[float], None] | None = None,
) -> Solution:
    """Minimise the objective from ``estimate``; a step is taken only when the objective falls.

    The search ends when it falls by less than ``tolerance`` nats, or that many per hundred
    effective parameters, and the noise changes by little of its own uncertainty.
    """
    damping, converged, iterations = 1e-4, False, 0
    before, totals = None, []
    path, end, value = problem.evaluate(estimate)
    _check_finite(problem, path, value)
    while True:
        problem = problem.reweighted(estimate, path)
        linear = linearize(
            problem.field, estimate.theta, path, problem.nodes, problem.windows, problem.step
        )
        chain = problem.eliminate(linear, estimate, end)
        precision, gradient = problem.normal_equations(linear, estimate, chain)
        squares = linear.shared[:, -1, -1]
        noise, degrees = noise_update(problem, linear, estimate, chain, precision, squares)
        change = (noise / estimate.noise_std).log()
        settled = bool((change.abs() < _fine_enough(problem, degrees)).all())
        if before is not None:
            # Pooled again, since channels that share a level would be extrapolated differently.
            noise = problem.noise.start(estimate.noise_std * accelerated(change, before).exp())
        before = change
        estimate = replace(estimate, noise_std=noise)
        value = problem.objective(estimate, path, end)
        totals.append(float(value + (problem.nodes.counts * estimate.noise_std.log()).sum()))
        # Sums of squares under weights that change cannot be compared.
        stagnant = problem.noise.dof is None and _stagnates(totals, tolerance)
        if (converged and settled) or iterations >= max_iterations or stagnant:
            break
        accepted = None
        while accepted is None and damping < 1e8:
            accepted = _try_step(problem, linear, estimate, end, damping)
            if accepted is not None and not float(accepted[3]) <= float(value):
                accepted = None
            damping = damping * 10.0 if accepted is None else max(damping / 10.0, 1e-9)
        if accepted is None:
            converged = True
            if settled:
                break
            damping = 1e-4
            iterations += 1
            continue
        fall = float(value - accepted[3])
        estimate, path, end, value = accepted
        iterations += 1
        converged = fall < tolerance * max(1.0, 0.01 * float(degrees.sum()))
        if on_step is not None:
            on_step(float(value))
    return Solution(
        estimate,
        problem.nodes,
        path,
        precision,
        chain,
        squares,
        degrees,
        float(value),
        iterations,
        converged,
    )


def _fine_enough(problem: Problem, degrees: Tensor) -> Tensor:
    """Largest change of the logarithm of the noise that does not matter, per channel."""
    spare = (problem.nodes.counts - degrees).clamp(min=1.0)
    return (0.05 / (2.0 * spare).sqrt()).clamp(max=0.01)


def _stagnates(totals: list[float], tolerance: float) -> bool:
    """Whether the joint objective of unknowns and noise fell by little in the last steps.

    Where the model cannot follow the data, noise and path may go on exchanging residuals.
    """
    if len(totals) <= STAGNATION:
        return False
    return min(totals[:-STAGNATION]) - min(totals[-STAGNATION:]) < STAGNATION * tolerance


def accelerated(change: Float[Tensor, " dim"], before: Float[Tensor, " dim"]) -> Tensor:
    """Change of the noise's logarithm with the rest of its geometric series, at most fivefold.

    Successive changes of the fixed point shrink by a nearly constant ratio; where they do, the
    sum of all to come is known (Aitken's extrapolation). Changes that swing to and fro are halved,
    large and growing ones are left alone.
    """
    ratio = (change / before).nan_to_num(0.0)
    steady = (ratio > 0.0) & (ratio < 1.0) & (change.abs() < 0.1)
    onward = torch.where(steady, change / (1.0 - ratio).clamp(min=0.2), change)
    return torch.where(ratio < 0.0, 0.5 * change, onward)


def _check_finite(problem: Problem, path: Tensor, value: Tensor) -> None:
    """Say where the first path breaks down.

    Raises:
        FloatingPointError: the objective is not finite at the start of a search.
    """
    if bool(torch.isfinite(value)):
        return
    broken = ~path.isfinite().all(-1)
    window = int(broken.any(1).long().argmax())
    trajectory = int((problem.windows.chain == window).any(1).long().argmax())
    slot = int(broken[window].long().argmax())
    time = float(problem.nodes.times[problem.windows.nodes[window, slot]])
    raise FloatingPointError(
        f"the path of trajectory {trajectory} is not finite from scaled time {time:.4g} on; "
        "fit with a shorter solver step, GaussNewton(step=...), or check this trajectory for "
        "values in other units"
    )


def _try_step(
    problem: Problem, linear: Linearization, estimate: Estimate, end: Tensor, damping: float
) -> tuple[Estimate, Tensor, Tensor, Tensor] | None:
    """One damped step and where it leads; None when the numbers fail there."""
    try:
        chain = problem.eliminate(linear, estimate, end, damping)
        precision, gradient = problem.normal_equations(linear, estimate, chain)
        step = solve_damped(precision, gradient, problem.field.prior_precision(), damping)
    except torch.linalg.LinAlgError:  # more damping makes the systems well conditioned
        return None
    mean, slope, _ = chain.smooth(problem.windows)
    moved = mean + (slope @ step)
    new = replace(estimate, theta=estimate.theta + step, start=estimate.start + moved)
    path, end, value = problem.evaluate(new)
    return (new, path, end, value) if bool(torch.isfinite(value)) else None

"""Levenberg-Marquardt through the ODE over parameters and window states, with noise estimation."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.shooting.elimination import Chain
from sympgp.shooting.layout import Nodes
from sympgp.shooting.linearization import Linearization
from sympgp.shooting.noise_levels import accelerated, fine_enough, noise_update
from sympgp.shooting.problem import Estimate, Problem
from sympgp.shooting.reduction import Reduction

STAGNATION = 8
"""Steps without progress after which a search ends."""
DEAR = 0.5
"""Jumps beyond the linear model that cost more than this share of what a step gains are undone."""
LOST = 10.0
"""Units of round-off of its terms below which nothing is known of the precision."""


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
class Point:
    """The linearised problem at one place of the search.

    Attributes:
        problem: with the weights of the residuals there.
        linear: the linearised residuals.
        reduced: the normal equations of theta, states eliminated.
        precision: (P, P) of theta.
    """

    problem: Problem
    linear: Linearization
    reduced: Reduction
    precision: Float[Tensor, "params params"]

    @classmethod
    def at(cls, problem: Problem, estimate: Estimate, path: Tensor, end: Tensor) -> Point:
        """Linearise about a path.

        Raises:
            FloatingPointError: rounding leaves nothing of the precision, with the window.
        """
        linear = problem.linearize(estimate.theta, path)
        try:
            reduced = Reduction.of(problem, linear, estimate, end)
        except torch.linalg.LinAlgError as error:  # entries that are not finite
            raise _lost(problem, linear) from error
        precision, _ = reduced.normal_equations
        if not _known(problem, linear, estimate, precision):
            raise _lost(problem, linear)
        return cls(problem, linear, reduced, precision)


def _known(problem: Problem, linear: Linearization, estimate: Estimate, precision: Tensor) -> bool:
    """Whether digits are left of the precision, a difference of terms with and without states."""
    prior = problem.field.prior_precision().double()
    whole = linear.shared.diagonal(dim1=1, dim2=2)[:, :-1]
    whole = torch.einsum("c,ci->i", estimate.precision.double(), whole) + prior
    least = LOST * torch.finfo(whole.dtype).eps * whole
    stddev = prior.rsqrt()
    _, failed = torch.linalg.cholesky_ex(precision * stddev[:, None] * stddev)
    return bool((precision.diagonal() > least).all()) and not bool(failed)


def _lost(problem: Problem, linear: Linearization) -> FloatingPointError:
    """Says where paths depend too strongly on what is to be learned."""
    size = linear.local.abs().nan_to_num(torch.inf).amax((0, 2, 3))
    window = int(size.argmax())
    worst = torch.stack([size[window].cpu(), problem.windows.start[window].cpu().to(size.dtype)])
    rows = problem.ranks.gather(worst.unsqueeze(0).to(size.device))  # the worst of each rank
    largest, node = rows[rows[:, 0].argmax()].tolist()
    trajectory, time = _place(problem, int(node))
    growth = largest**0.5
    return FloatingPointError(
        f"the path of trajectory {trajectory} from scaled time {time:.4g} on changes by up to "
        f"{growth:.1e} times what its start and the parameters change by, too much for the "
        "precision of the parameters to be computed; the model may lack what moves the system "
        "(inputs, dissipation, the turns of an angle: see inputs=, dissipation=, periodic=), the "
        "solver step may be too long, GaussNewton(step=...), or the data may have gross outliers, "
        "see StudentTNoise()"
    )


def solve_damped(precision: Tensor, gradient: Tensor, prior: Tensor, damping: float) -> Tensor:
    """The step ``-(H + damping diag(prior + ...))^-1 g``, scaled by the prior for conditioning."""
    stddev = prior.rsqrt()
    white = precision * stddev[:, None] * stddev
    white = white + damping * torch.diag(white.diagonal())
    factor = torch.linalg.cholesky(white)
    return -stddev * torch.cholesky_solve((stddev * gradient).unsqueeze(-1), factor).squeeze(-1)


def levenberg_marquardt(
    problem: Problem,
    estimate: Estimate,
    *,
    max_iterations: int,
    tolerance: float,
    on_step: Callable[[float], None] | None = None,
    foresee: bool = False,
) -> Solution:
    """Minimise the objective from ``estimate``; a step is taken only when the objective falls.

    The search ends when it falls by less than ``tolerance`` nats, or that many per hundred
    effective parameters, and the noise changes by little of its own uncertainty.

    With ``foresee``, for fields held and noise known, it ends also where the linear model promises
    no more than that: without the last step, and the path and the linearisation that it takes.

    Raises:
        ValueError: ``foresee`` with parameters to be found.
    """
    free = problem.field.num_parameters
    if foresee and free:
        raise ValueError(f"foresee: expected a field with all parameters known, got {free} free")
    damping, converged, iterations = 1e-4, False, 0
    before, totals = None, []
    path, end, value = problem.evaluate(estimate)
    _check_finite(problem, path, value)
    problem = problem.reweighted(estimate, path)
    point = Point.at(problem, estimate, path, end)
    while True:
        squares = point.linear.shared[:, -1, -1]
        noise, degrees = noise_update(point.reduced, point.precision, squares)
        change = (noise / estimate.noise_std).log()
        settled = bool((change.abs() < fine_enough(problem, degrees)).all())
        if before is not None:
            # Pooled again, since channels that share a level would be extrapolated differently.
            noise = problem.noise.start(estimate.noise_std * accelerated(change, before).exp())
        before, anchor = change, estimate
        estimate = replace(estimate, noise_std=noise)
        value = problem.objective(estimate, path, end)
        totals.append(float(value + (problem.nodes.counts * estimate.noise_std.log()).sum()))
        enough = tolerance * max(1.0, 0.01 * float(degrees.sum()))
        converged = converged or (foresee and _promised(point, estimate, end) < enough)
        # Sums of squares under weights that change cannot be compared.
        stagnant = problem.noise.dof is None and _stagnates(totals, tolerance)
        if (converged and settled) or iterations >= max_iterations or stagnant:
            break
        reached = None
        while reached is None and damping < 1e8:
            reached = _try_step(problem, point.linear, estimate, end, damping, value)
            if reached is not None:
                # Two linearisations at a time are one too many: they are as large as the data.
                # Where the new one fails, the old one is found again.
                del point
                try:
                    arrived = problem.reweighted(reached[0], reached[1])
                    point = Point.at(arrived, *reached[:3])
                except FloatingPointError:  # a fall of the objective, but nothing to linearise
                    point, reached = Point.at(problem, anchor, path, end), None
            damping = damping * 10.0 if reached is None else max(damping / 10.0, 1e-9)
        if reached is None:
            converged = True
            if settled:
                break
            damping = 1e-4
            iterations += 1
            problem = problem.reweighted(estimate, path)
            point = Point.at(problem, estimate, path, end)
            continue
        fall = float(value - reached[3])
        estimate, path, end, value = reached
        problem = point.problem
        iterations += 1
        converged = fall < enough
        if on_step is not None:
            on_step(float(value))
    return Solution(
        estimate,
        problem.nodes,
        path,
        point.precision,
        point.reduced.chain(),
        squares,
        degrees,
        float(value),
        iterations,
        converged,
    )


def _promised(point: Point, estimate: Estimate, end: Tensor) -> float:
    """By how much the objective falls in the linear model, of a field held, over all ranks."""
    problem, none = point.problem, estimate.theta[:0]
    moved = point.reduced.moved(none.double())
    slope = problem.slope_along(point.linear, estimate, end, moved, none.to(moved))
    return -0.5 * float(problem.ranks.sum(slope))


def _stagnates(totals: list[float], tolerance: float) -> bool:
    """Whether the joint objective of unknowns and noise fell by little in the last steps.

    Where the model cannot follow the data, noise and path may go on exchanging residuals.
    """
    if len(totals) <= STAGNATION:
        return False
    return min(totals[:-STAGNATION]) - min(totals[-STAGNATION:]) < STAGNATION * tolerance


def _place(problem: Problem, node: int) -> tuple[int, float]:
    """Trajectory and scaled time of a node."""
    trajectory = bisect_right(problem.nodes.first, node) - 1
    return trajectory, float(problem.nodes.times[node])


def _check_finite(problem: Problem, path: Tensor, value: Tensor) -> None:
    """Say where the first path breaks down.

    Raises:
        FloatingPointError: the objective is not finite at the start of a search.
    """
    if bool(torch.isfinite(value)):
        return
    windows, broken = problem.windows, ~path.isfinite().all(-1)
    seen = broken & (windows.nodes < problem.nodes.first[-1])
    places = windows.nodes[seen] if bool(seen.any()) else windows.start[broken.any(1)]
    places = problem.ranks.gather(places[:1])
    trajectory, time = _place(problem, int(places[0]) if len(places) else 0)
    raise FloatingPointError(
        f"the path of trajectory {trajectory} is not finite from scaled time {time:.4g} on; "
        "fit with a shorter solver step, GaussNewton(step=...), or check this trajectory for "
        "values in other units"
    )


def _try_step(
    problem: Problem,
    linear: Linearization,
    estimate: Estimate,
    end: Tensor,
    damping: float,
    most: Tensor,
) -> tuple[Estimate, Tensor, Tensor, Tensor] | None:
    """One damped step and where it leads; None when the numbers fail there or it is no descent."""
    try:
        reduced = Reduction.of(problem, linear, estimate, end, damping)
        precision, gradient = reduced.normal_equations
        prior = problem.field.prior_precision().double()
        step = problem.ranks.broadcast(solve_damped(precision, gradient, prior, damping))
    except torch.linalg.LinAlgError:  # more damping makes the systems well conditioned
        return None
    moved = reduced.moved(step)
    found = replace(
        estimate,
        theta=estimate.theta + step.to(estimate.theta),
        start=estimate.start + moved.to(estimate.start),
    )
    reached = (found, *problem.evaluate(found))
    rest = problem.beyond(linear, step, moved, end, reached[2])
    price = 0.5 * ((rest / estimate.defect_std) ** 2).sum() if bool(rest.any()) else rest.sum()
    price = problem.ranks.sum(price)
    if price.isfinite() and not price <= DEAR * (most - reached[3]):
        closing = problem.closing(linear, estimate, rest, damping).to(found.start)
        found = replace(found, start=found.start + closing)
        reached = min(reached, (found, *problem.evaluate(found)), key=_height)
    return reached if reached[3] <= most else None


def _height(reached: tuple[Estimate, Tensor, Tensor, Tensor]) -> float:
    """The objective; infinite where it is not a number."""
    value = float(reached[3])
    return math.inf if math.isnan(value) else value

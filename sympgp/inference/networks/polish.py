"""Levenberg-Marquardt steps of one network at a time, in the smaller of data and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import penalty_shapes
from sympgp.inference.base import Report
from sympgp.inference.checkpoint import Checkpoint
from sympgp.inference.networks.density import Density, PairDensity, WindowDensity
from sympgp.inference.networks.descent import Unknowns
from sympgp.inference.networks.linear_gaussian import LinearGaussian
from sympgp.inference.networks.linearisation import (
    Point,
    channels,
    followed,
    linear_about,
    log_prob,
    residuals,
)

FIRST_DAMPING, LARGEST_DAMPING, GROWTH = 0.1, 1e6, 10.0
"""Precisions of the step over those of the prior: at first, at most, and their steps."""
FIRST = 0.2
"""Steps of Adam over those in all, where Gauss-Newton steps follow."""
AFFORDABLE = 3e10
"""Products of a step's largest matrices up to which these steps are worth their time."""
CLOSE = 0.5
"""Nats by which one of two steps has to raise the density to go on."""
SETTLED = 0.01
"""Change of the logarithm of the noise from which on a search goes on."""


class Ends(NamedTuple):
    """Of searches of several rows.

    Attributes:
        converged: how many ended by their tolerance.
        used: (D,) observations of each channel that a fit uses up, a mean over the rows.
        steps: of the row that took most.
    """

    converged: int
    used: Float[Tensor, " dim"]
    steps: int


def polished_rows(
    density: Density,
    begin: Unknowns,
    name: str,
    most: int,
    checkpoint: Checkpoint,
    report: Report,
    close: float | None = None,
) -> tuple[Unknowns, Ends]:
    """Row by row; a checkpoint knows those that are done.

    Rows that have no linear model, since their numbers are not finite, get weights that are NaN.

    Args:
        density: of the data and the unknowns.
        begin: rows to begin with.
        name: of this stage, in reports and in the checkpoint.
        most: steps of each row.
        checkpoint: where ends are kept.
        report: called after each step.
        close: see :func:`polish`.
    """
    found = []
    noise_std, count = begin.noise_std(density.noise), len(begin.theta)
    for k in range(count):
        own = f"{name}, network {k + 1} of {count}"
        known = checkpoint.finished(own)
        if known is None:
            start = None if begin.start is None else begin.start[k]
            at = Point(begin.theta[k], noise_std[k], start)
            try:
                end = polish(density, at, most, partial(report, own), close)
            except torch.linalg.LinAlgError:
                lost = at._replace(theta=torch.full_like(at.theta, math.nan))
                end = Polished(lost, 0, False, torch.full_like(at.noise_std, math.nan))
            values = {**end.at._replace(paths=None)._asdict(), "used": end.used}
            known = {key: v.cpu() for key, v in values.items() if v is not None}
            known |= {"converged": end.converged, "steps": end.steps}
            checkpoint.keep(own, known, True)
        found.append(known)
    rows = {
        key: torch.stack([one[key] for one in found]).to(begin.theta)
        for key in found[0]
        if key not in ("converged", "steps")
    }
    log = rows["noise_std"][:, density.noise.leaders].log()
    ends = Ends(
        sum(one["converged"] for one in found),
        rows["used"].nanmean(0),
        max(one["steps"] for one in found),
    )
    return Unknowns(rows["theta"], log, rows.get("start")), ends


def affordable(density: Density) -> bool:
    """Whether Jacobians by all weights, of data and of edges at their cost, are small enough."""
    rows, weights = float(density.counts.sum()), density.field.num_parameters
    if density.penalised:
        rows += sum(min(shape) for shape in penalty_shapes(density.field.basis))
    products = rows * weights * min(rows, weights) + _products_of_edges(density)
    return products <= AFFORDABLE


def affordable_part(density: Density) -> Density:
    """The density, without the cost of edges where their own Jacobians are too large."""
    large = _products_of_edges(density) > AFFORDABLE
    if large and isinstance(density, PairDensity | WindowDensity):
        return replace(density, penalised=False)
    return density


def _products_of_edges(density: Density) -> float:
    """``R P^2`` for R values of edges and P weights: their Jacobians are reduced to P rows."""
    shapes = penalty_shapes(density.field.basis) if density.penalised else []
    return float(sum(values * weights**2 for values, weights in shapes))


@dataclass(frozen=True)
class Polished:
    """The end of a search.

    Attributes:
        at: the unknowns.
        steps: accepted ones.
        converged: whether the density no longer rose.
        used: (D,) observations of each channel that the fit uses up.
    """

    at: Point
    steps: int
    converged: bool
    used: Float[Tensor, " dim"]


def polish(
    density: Density,
    at: Point,
    most: int,
    on_step: Callable[[float], None] | None = None,
    close: float | None = None,
) -> Polished:
    """Raise the joint density of one row in damped Gauss-Newton steps; the noise follows.

    The noise is that of its conditional mode, less what the fit uses up of the data; a step is
    taken only where the density at fixed noise rises, and the data have a linear model there.

    Args:
        density: of the data and the unknowns.
        at: where to begin.
        most: steps.
        on_step: called with the negative log density after each step.
        close: nats by which one of two steps has to raise the density to go on; ``CLOSE`` when
            None.

    Raises:
        LinAlgError: the data have no linear model at the beginning.
    """
    damping, steps, small, converged = FIRST_DAMPING, 0, 0, False
    close = CLOSE if close is None else close
    now = _with_noise(density, followed(density, at))
    value = log_prob(density, now.at)
    while steps < most and not converged:
        found = None
        while found is None and damping <= LARGEST_DAMPING:
            found = _raised(density, now, damping, value)
            damping = damping * GROWTH if found is None else damping / GROWTH
        if found is None:
            converged = True
            break
        before, (now, reached) = now.at.noise_std, found
        steps += 1
        if on_step is not None:
            on_step(-reached)
        moved = float((now.at.noise_std / before).log().abs().max())
        small = small + 1 if reached - value < close and moved < SETTLED else 0
        value, converged = log_prob(density, now.at), small > 1
    return Polished(now.at, steps, converged, now.used)


class _Stage(NamedTuple):
    """A point with its own noise, the linear model about it, and what that uses up."""

    at: Point
    linear: LinearGaussian
    used: Float[Tensor, " dim"]


def _raised(
    density: Density, now: _Stage, damping: float, value: float
) -> tuple[_Stage, float] | None:
    """A step and the density that it leads to; None where that is lower or cannot be had."""
    try:
        ahead = followed(density, stepped(density, now.linear, now.at, damping))
        reached = log_prob(density, ahead)
        return (_with_noise(density, ahead), reached) if reached > value else None
    except torch.linalg.LinAlgError:
        return None


def _with_noise(density: Density, at: Point) -> _Stage:
    """The noise that the residuals ask for, and the linear model with it."""
    linear, channel = linear_about(density, at), channels(density)
    squares, used = residuals(density, at, linear)
    noise = density.noise.update(squares, (density.counts - used).clamp(min=0.0))
    if isinstance(density, PairDensity) and density.pairs.covariance is not None:
        # rows of a state are mixed: there is no factor for each
        at = at._replace(noise_std=noise)
        return _Stage(at, linear_about(density, at), used)
    ratio = torch.ones_like(linear.target)
    ratio[: len(channel)] = (at.noise_std / noise)[channel]
    scaled = replace(
        linear,
        rows=linear.rows * ratio.unsqueeze(1),
        lever=linear.lever * ratio.unsqueeze(1),
        target=linear.target * ratio,
    )
    return _Stage(at._replace(noise_std=noise), scaled, used)


def stepped(
    density: Density,
    linear: LinearGaussian,
    at: Point,
    damping: float,
    centre: Float[Tensor, " params"] | None = None,
) -> Point:
    """The mode of the linear model with a prior ``N(theta, prior / damping)`` beside its own.

    Args:
        density: of the field.
        linear: about the point.
        at: the point.
        damping: see above.
        centre: of the model's own prior; zero when None.
    """
    pulled = damping / (1.0 + damping) * at.theta
    if centre is not None:
        pulled = pulled + centre / (1.0 + damping)
    own = replace(
        linear,
        target=linear.target - linear.rows @ pulled,
        stddev=linear.stddev / (1.0 + damping) ** 0.5,
    )
    theta: Float[Tensor, " params"] = pulled + own.mean()
    if density.field.dissipation.truncated:
        w, rho = density.field.split(theta)
        theta = torch.cat([w, rho.clamp(min=0.0)])
    start = at.start
    if start is not None:
        rest = (linear.target - linear.rows @ theta).unsqueeze(1)
        start = start + torch.linalg.lstsq(linear.lever, rest).solution.view_as(start)
    return Point(theta, at.noise_std, start)

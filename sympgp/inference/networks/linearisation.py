"""Data that are linear about one point of the unknowns, and Gauss-Newton steps through them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.energies import penalty_rows
from sympgp.fields import HamiltonianField
from sympgp.inference.linear_model import Rows
from sympgp.inference.networks.density import Density, PairDensity, WindowDensity
from sympgp.inference.networks.linear_gaussian import LinearGaussian
from sympgp.inference.rate_noise import RateNoise
from sympgp.noise import ScaledNoise
from sympgp.posterior.truncated import truncated_quantile
from sympgp.shooting.density import JointDensity, Paths
from sympgp.shooting.sensitivities import (
    INITIAL_VARIANCE,
    Drive,
    chain_sensitivities,
    freeze,
    nominal_path,
)

STEPS, HALVINGS, CLOSE = 20, 10, 1e-2
"""Most Gauss-Newton steps, most halvings of one, and the rise of the log density by which a step
is the last."""


class Point(NamedTuple):
    """A value of all unknowns, scaled units.

    Attributes:
        theta: (P + K,).
        noise_std: (D,).
        start: (W, D) window states; None of pairs.
        paths: of the only draw through all windows, where they have been followed already.
    """

    theta: Float[Tensor, " params"]
    noise_std: Float[Tensor, " dim"]
    start: Float[Tensor, "windows dim"] | None
    paths: Paths | None = None


class Residuals(NamedTuple):
    """What a fit leaves over and uses up, by channel.

    Attributes:
        squares: (D,) weighted sums of squared residuals.
        used: (D,) observations that the fit uses up.
    """

    squares: Float[Tensor, " dim"]
    used: Float[Tensor, " dim"]


def with_field(density: Density, field: HamiltonianField) -> Density:
    """The same data under another field."""
    if isinstance(density, WindowDensity):
        return replace(density, joint=replace(density.joint, field=field))
    if isinstance(density, PairDensity):
        return replace(density, field=field)
    raise TypeError(f"density: expected pairs or windows, got {type(density).__name__}")


def followed(density: Density, at: Point) -> Point:
    """With its paths, which the density and the linear model both need."""
    if at.start is None or not isinstance(density, WindowDensity):
        return at
    with torch.no_grad():
        return at._replace(paths=density.joint.paths(at.theta.unsqueeze(0), at.start.unsqueeze(0)))


def log_prob(density: Density, at: Point) -> float:
    """The joint log density; minus infinity where the numbers fail."""
    start = None if at.start is None else at.start.unsqueeze(0)
    theta, noise_std = at.theta.unsqueeze(0), at.noise_std.unsqueeze(0)
    with torch.no_grad():
        if isinstance(density, WindowDensity):
            terms = density.terms(theta, noise_std, start, known=at.paths)
        else:
            terms = density.terms(theta, noise_std, start)
    value = float(sum(float(term[0]) for term in terms.values()))
    return -math.inf if math.isnan(value) else value


def linear_about(density: Density, at: Point) -> LinearGaussian:
    """The model that is linear about a point, in theta and in deviations of the window states.

    Rows of the data come first; last those of edges that cost something.
    """
    if isinstance(density, PairDensity):
        return _with_penalty(density, at, _of_pairs(density, at))
    if isinstance(density, WindowDensity):
        return _with_penalty(density, at, _of_windows(density.joint, at))
    raise TypeError(f"density: expected pairs or windows, got {type(density).__name__}")


def _with_penalty(density: Density, at: Point, linear: LinearGaussian) -> LinearGaussian:
    """With the parabola that touches the penalty of edges at this point, where there is one."""
    basis, theta = density.field.basis, at.theta
    found = penalty_rows(basis, theta[: basis.num_weights]) if density.penalised else None
    if found is None:
        return linear
    own, target = found
    rows = own.new_zeros(len(own), len(theta))
    rows[:, : basis.num_weights] = own
    return replace(
        linear,
        rows=torch.cat([linear.rows, rows]),
        lever=torch.cat([linear.lever, own.new_zeros(len(own), linear.lever.shape[1])]),
        target=torch.cat([linear.target, target]),
    )


def _of_pairs(density: PairDensity, at: Point) -> LinearGaussian:
    field, pairs = density.field, density.pairs
    law = RateNoise.of(pairs, at.noise_std)
    jacobian = field.parameter_jacobian(pairs.z, at.theta)[pairs.observed]
    rest = pairs.values - field.bind(at.theta)(0.0, pairs.z)[pairs.observed]
    rows = law.white(jacobian)
    stddev = field.prior_precision().to(at.theta).rsqrt()
    target = law.white(rest) + rows @ at.theta
    return LinearGaussian(rows, rows.new_zeros(len(rows), 0), target, stddev)


def _of_windows(joint: JointDensity, at: Point) -> LinearGaussian:
    if at.start is None:
        raise ValueError("start: expected window states, got None")
    field, nodes, windows, theta = joint.field, joint.nodes, joint.windows, at.theta
    if at.paths is not None and bool(at.paths[2]):
        path, end = at.paths[0][0], at.paths[1][0]
    else:
        path, end = nominal_path(field.bind(theta), at.start, nodes, windows, joint.step)
    shape, index = path.shape, windows.nodes.reshape(-1)
    drive = Drive.over(nodes, index)
    flat = path.reshape(-1, shape[-1])
    frozen = freeze(field, theta, flat, nodes.dt[index], joint.step, drive)
    response = field.weighted_parameter_jacobian(frozen.stages, frozen.weights, theta)
    response = response.reshape(*shape, -1)
    transition = frozen.transition.reshape(*shape, shape[-1])
    before, after = chain_sensitivities(transition, response, torch.zeros_like(response[:, 0]))
    residual = nodes.values[windows.nodes] - path
    weights = observation_weights(joint, at.noise_std, residual)
    layout = Rows(windows, weights.sqrt(), nodes.mask[windows.nodes], joint.defect_std)
    here, ahead = layout.following()
    rows = layout.gather(before, after[here])
    rest = layout.gather(residual.unsqueeze(-1), (at.start[ahead] - end[here]).unsqueeze(-1))
    target = rest.squeeze(-1) + rows @ theta
    lever = layout.of_states(transition)
    own, off = _first_states(at.start, windows.chain[:, 0])
    return LinearGaussian(
        torch.cat([rows, rows.new_zeros(len(own), rows.shape[1])]),
        torch.cat([lever, own]),
        torch.cat([target, off]),
        field.prior_precision().to(at.theta).rsqrt(),
    )


def _first_states(start: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the priors of the trajectories' first states."""
    place = torch.zeros_like(start)
    place[first] = INITIAL_VARIANCE**-0.5
    given = place.flatten() > 0
    return torch.diag(place.flatten())[given], -(place * start).flatten()[given]


def observation_weights(
    joint: JointDensity,
    noise_std: Float[Tensor, " dim"],
    residual: Float[Tensor, "windows slots dim"],
) -> Float[Tensor, "windows slots dim"]:
    """What a squared residual counts: one over its variance, and less of outliers."""
    noise = joint.noise
    flat = noise.weights(residual.flatten(0, 1), noise_std).view_as(residual)
    weights = flat * noise.information / noise_std**2
    return weights if joint.inflation is None else weights / joint.inflation


def improved(density: Density, at: Point, steps: int = STEPS) -> Point:
    """Gauss-Newton steps at fixed noise, each halved until the density rises; none where none does.

    Dissipation that may not be negative stops at zero. A point without a linear model, since its
    numbers are not finite, is no step either.
    """
    at = followed(density, at)
    value, known = log_prob(density, at), at
    for _ in range(steps):
        try:
            linear = linear_about(density, at)
            mean = linear.mean()
            turn = linear.states(mean)
        except torch.linalg.LinAlgError:
            return known
        before, known = value, at
        for k in range(HALVINGS):
            ahead = _moved(density.field, at, 0.5**k, mean - at.theta, turn)
            ahead = followed(density, ahead)
            value = log_prob(density, ahead)
            if value > before:
                break
        else:
            return at
        at = ahead
        if value - before < CLOSE:
            break
    return at


def _moved(
    field: HamiltonianField,
    at: Point,
    size: float,
    step: Float[Tensor, " params"],
    turn: Float[Tensor, " local"],
) -> Point:
    """Part of a step in theta, and as much of that of the states."""
    theta = at.theta + size * step
    if field.dissipation.truncated:
        w, rho = field.split(theta)
        theta = torch.cat([w, rho.clamp(min=0.0)])
    start = None if at.start is None else at.start + size * turn.view_as(at.start)
    return Point(theta, at.noise_std, start)


def channels(density: Density) -> Int[Tensor, " observations"]:
    """The channel of each observation, in the order of the linear model's rows."""
    if isinstance(density, WindowDensity):
        return density.joint.nodes.mask[density.joint.windows.nodes].nonzero()[:, -1]
    if isinstance(density, PairDensity):
        return density.pairs.channel
    raise TypeError(f"density: expected pairs or windows, got {type(density).__name__}")


def residuals(density: Density, at: Point, linear: LinearGaussian | None = None) -> Residuals:
    """Residuals at a point, and what the linear model about it uses up of each channel."""
    linear = linear_about(density, at) if linear is None else linear
    if isinstance(density, PairDensity) and density.pairs.covariance is not None:
        pairs = density.pairs
        with torch.no_grad():
            off = pairs.rates - density.field.bind(at.theta)(0.0, pairs.z)
        law = RateNoise.of(pairs, at.noise_std)
        used = linear.used()[: len(pairs.channel)]
        return Residuals(*law.by_channel(off[pairs.observed], used))
    channel, noise_std = channels(density), at.noise_std
    rest = linear.target - linear.rows @ at.theta
    unit = density.noise.information if isinstance(density, WindowDensity) else 1.0
    num, zero = len(channel), torch.zeros_like(noise_std)
    squares = rest[:num].square() * noise_std[channel] ** 2 / unit
    return Residuals(
        zero.index_add(0, channel, squares), zero.index_add(0, channel, linear.used()[:num])
    )


def with_noise(density: Density, at: Point) -> tuple[Point, Float[Tensor, " dim"]]:
    """The noise that the residuals ask for, and the shape of its inverse-gamma posterior."""
    found = residuals(density, at)
    noise: ScaledNoise = density.noise
    spare = (density.counts - found.used).clamp(min=0.0)
    return at._replace(noise_std=noise.update(found.squares, spare)), noise.shape(spare)


def dissipation_draws(
    density: Density, at: Point, num: int, generator: torch.Generator
) -> Float[Tensor, "draws k"]:
    """Draws of the dissipation's parameters given the weights, of the model linear about a point.

    Gaussian, with the window states integrated out; cut at zero where none may be negative.
    """
    field = density.field
    first, count = field.num_weights, field.dissipation.num_parameters
    if not count:
        return at.theta.new_zeros(num, 0)
    whole = linear_about(density, at)
    own = LinearGaussian(
        whole.rows[:, first:],
        whole.lever,
        whole.target - whole.rows[:, :first] @ at.theta[:first],
        whole.stddev[first:],
    )
    if not field.dissipation.truncated:
        return own.sample(num, generator)
    uniform = torch.rand(num, generator=generator, dtype=torch.float64).to(at.theta)
    deviation = own.variance()[-1].sqrt()
    return truncated_quantile(own.mean()[-1], deviation, uniform).unsqueeze(1)

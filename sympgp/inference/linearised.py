"""Gaussian components from one linearisation of a shooting problem, and on other windows."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.distributed import ALONE
from sympgp.fields import HamiltonianField
from sympgp.inference.search import OSCILLATION, Search
from sympgp.posterior import GaussianComponent, WindowStates
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.problem import Estimate, Problem
from sympgp.shooting.sensitivities import nominal_path


def linearised(
    problem: Problem, estimate: Estimate, hyper: dict[str, Tensor], duration: float
) -> GaussianComponent:
    """Covariance of the linear model about an estimate, whose parameters stay the mean.

    Args:
        problem: data, windows and field.
        estimate: where.
        hyper: hyperparameters of the field.
        duration: of the windows, infinite where every trajectory is one.

    Raises:
        FloatingPointError: the path is not finite.
    """
    field = problem.field
    if not isinstance(field, HamiltonianField):
        raise TypeError(f"problem: expected a HamiltonianField, got {type(field).__name__}")
    path, end, value = problem.evaluate(estimate)
    if not bool(value.isfinite()):
        raise FloatingPointError(
            "the mean path is not finite; fit with a shorter solver step, StochasticVI(step=...)"
        )
    problem = problem.reweighted(estimate, path)
    linear = problem.linearize(estimate.theta, path)
    chain = problem.eliminate(linear, estimate, end)
    precision, _ = problem.normal_equations(linear, estimate, chain)
    spacing = duration if math.isfinite(duration) else OSCILLATION
    shape = problem.noise.shape(problem.nodes.counts / estimate.inflation)
    known = shape.isinf()
    return GaussianComponent(
        field=field,
        theta=estimate.theta,
        factor=cholesky(precision, "the precision of the weights"),
        noise_std=estimate.noise_std,
        noise_shape=shape,
        noise_rate=torch.where(known, 1.0, shape) * estimate.noise_std**2,
        noise_group=problem.noise.group,
        noise_dof=problem.noise.dof,
        hyperparameters=hyper,
        states=WindowStates.about(problem, estimate.start, chain, estimate.defect_std, spacing),
    )


def of_search(search: Search, hyper: dict[str, Tensor]) -> GaussianComponent:
    """The same about where a search stands, of all windows on every rank."""
    search = replace(search, ranks=ALONE)
    return linearised(search.problem(), search.estimate(), hyper, search.duration)


def joined(component: GaussianComponent, nodes: Nodes) -> GaussianComponent:
    """Every trajectory as one window, with the distribution that its first state had."""
    states = component.window_states
    windows = Windows.of_duration(nodes, math.inf)
    first = [states.smoothed_start(k) for k in range(len(states.chain))]
    mean, slope, cov = (torch.stack(part) for part in zip(*first, strict=True))
    return replace(
        component,
        states=replace(
            states,
            chain=windows.chain,
            times=nodes.times[windows.start],
            mean=mean,
            slope=slope,
            gain=torch.zeros_like(cov),
            cov=cov,
            ahead_mean=mean,
            ahead_slope=slope,
            jump_std=0.0,
        ),
    )


def window_means(component: GaussianComponent) -> Float[Tensor, "windows dim"]:
    """Mean first state of every window."""
    states = component.window_states
    delta, white = torch.zeros_like(component.theta), torch.zeros_like(states.mean)
    return states.sample(delta.unsqueeze(0), white.unsqueeze(0))[0]


def node_states(
    problem: Problem, theta: Float[Tensor, " params"], start: Float[Tensor, "windows dim"]
) -> Float[Tensor, "nodes dim"]:
    """States at all nodes, of the paths from these window states."""
    nodes, windows = problem.nodes, problem.windows
    path, _ = nominal_path(problem.field.bind(theta), start, nodes, windows, problem.step)
    found = torch.zeros_like(nodes.values)
    found[windows.nodes.reshape(-1)] = path.flatten(0, 1)
    return found

"""Which trajectories of many the first searches of a fit look at, and how all of them follow."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from sympgp.energies.base import Hyperparameters
from sympgp.inference.gaussian import component
from sympgp.inference.search import FIRST_WINDOW, Search
from sympgp.inference.start import Prepared
from sympgp.posterior import GaussianComponent
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.levenberg_marquardt import levenberg_marquardt
from sympgp.shooting.problem import Estimate

ENOUGH, LEAST = 40_000, 20
"""Observed entries, and trajectories, that are enough for the windows to grow on, for the size of
the jumps and the solver step, for hyperparameters and for a first optimum of the parameters."""
TIMES = 4
"""So many times as much has to be there for a part to be looked at first."""
FAIR, PLENTY = 0.5, 40.0
"""Each channel has this share of its observations in such a part, or this many."""
CHANGED = 0.05
"""Relative change of residuals' autocorrelation times that is worth another search."""
LOOSE = 0.3
"""Standard deviation of the jumps by which states first follow a field."""


def first_trajectories(nodes: Nodes) -> Int[Tensor, " chosen"] | None:
    """Trajectories with about ``ENOUGH`` observed entries, at least ``LEAST``, in their order.

    They are chosen evenly by their duration, the longest among them, since jumps show in long
    ones; those that last as long at random, since data are often recorded in some order. The
    choice is the same for the same data.

    None where all of them have not ``TIMES`` as much, or are not ``TIMES`` as many, and where a
    channel would hardly be observed in those chosen.
    """
    num, seen = nodes.num_trajectories, nodes.mask.sum()
    count = max(LEAST, math.ceil(num * ENOUGH / max(1, int(seen))))
    if TIMES * count > num:
        return None
    first = torch.tensor(nodes.first)
    times = nodes.times.cpu()
    mixed = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    span = times[first[1:] - 1] - times[first[:-1]]
    order = mixed[span[mixed].argsort(stable=True)]
    chosen = order[torch.linspace(0, num - 1, count, dtype=torch.float64).round().long()]
    chosen = chosen.sort().values.to(nodes.times.device)
    part, _ = nodes.of(chosen)
    fair = FAIR * nodes.counts * (part.mask.sum() / seen)
    if bool((part.counts < fair.clamp(max=PLENTY)).any()):
        return None
    return chosen


def extended(search: Search, prepared: Prepared, index: Int[Tensor, " own"]) -> Search:
    """A search on all data from one on some trajectories, whose nodes were ``index``.

    Parameters, noise, jumps and solver step stay. The states of the other trajectories are found
    with the field held, from the smoothed path and with short windows first.
    """
    states = prepared.path.stages[:, 0].clone()
    states[index] = search.states
    windows = Windows.of_duration(prepared.nodes, search.duration)
    whole = replace(search, nodes=prepared.nodes, states=states, windows=windows, solution=None)
    report = search.report
    report("following all trajectories", None)
    field = search.field.fixed(search.theta)
    # With the noise as it is: levels found with a field held would count what it misses.
    noise = replace(search.noise, known=search.noise_std)
    for duration in (min(FIRST_WINDOW, search.duration), search.duration):
        short = duration < search.duration
        one = replace(whole, windows=Windows.of_duration(prepared.nodes, duration))
        problem = replace(one.problem(), field=field, noise=noise)
        defect = max(LOOSE if short else 0.0, whole.defect_std)
        start = whole.states[problem.windows.start]
        solution = levenberg_marquardt(
            problem,
            Estimate(search.theta[:0], start, search.noise_std, defect, search.inflation),
            max_iterations=5 if short else search.max_iterations,
            tolerance=0.5,
            on_step=lambda value: report("following all trajectories", value),
            foresee=True,
        )
        whole.take(problem.windows, solution.path)
    return whole


def settled(
    search: Search,
    stage: str,
    hyper: Hyperparameters,
    prepared: Prepared,
    index: Int[Tensor, " own"] | None,
) -> GaussianComponent:
    """The Gaussian about where a search ends on all data, if it has seen some of them only.

    The law of the noise and the autocorrelation of residuals are those of all data, too.
    """
    if index is None:
        return component(search, hyper)
    whole, stage = extended(search, prepared, index), f"{stage}, all trajectories"
    whole.refine_noise()
    whole.solve(stage, 0.1)
    before = whole.inflation
    whole.measure_inflation()
    if bool(((whole.inflation / before).log().abs() > CHANGED).any()):
        whole.solve(stage, 0.1)
    search.iterations, search.converged = whole.iterations, whole.converged
    return component(whole, hyper)

"""Training on trajectories: rates of the smoothed path first, then windows that grow."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.fields import HamiltonianField
from sympgp.inference.base import Report
from sympgp.inference.checkpoint import Checkpoint
from sympgp.inference.networks.density import Density, PairDensity, WindowDensity
from sympgp.inference.networks.descent import Descent, Perturbation, Schedule, Unknowns, descend
from sympgp.inference.networks.polish import FIRST, Ends, affordable, polished_rows
from sympgp.inference.pairs import Pairs
from sympgp.inference.start import Prepared
from sympgp.noise import ScaledNoise
from sympgp.shooting.density import JointDensity
from sympgp.shooting.layout import Windows
from sympgp.shooting.sensitivities import Drive

DURATIONS, DEFECTS = (3.0, 12.0), (0.1, 0.03)
"""Scaled lengths of the first windows (half an oscillation, two), and sizes of their jumps."""
LONGEST = 40.0
"""Trajectories longer than this, six oscillations, stay in windows of the last length."""
STEPS = (8, 6, 20)
"""Damped Gauss-Newton steps on each kind of window, at most; the last is of the last windows."""
SHARE, SLOWER = 0.1, 0.3
"""Where they would be too large, steps of Adam on each kind of window over those on the rates, and
their learning rate over that on the rates, whose optimum is close."""
WORSE = 1.5
"""Windows that raise the noise of most networks by this factor were too long."""


@dataclass(frozen=True)
class Trained:
    """Rows at the end of training.

    Attributes:
        density: the last one.
        unknowns: rows there.
        steps: of all trainings: of Adam, which all rows take together, and of Gauss-Newton those
            of the row that took most.
        joined: whether every trajectory is one window.
        spacing: length of the windows, scaled, infinite where they are joined.
        ends: of Gauss-Newton steps, whose noise allows for what fits use up of the data; None
            after Adam, whose noise is that of the most probable ``log sigma``.
        rise: of the density at the end of Adam, see :meth:`Descent.rise`.
    """

    density: Density
    unknowns: Unknowns
    steps: int
    joined: bool = True
    spacing: float = math.inf
    ends: Ends | None = None
    rise: float = 0.0


@dataclass(frozen=True)
class Growth:
    """The stages of training on trajectories.

    Attributes:
        prepared: scaled data with a smoothed path.
        field: at fixed hyperparameters.
        schedule: of the rates; windows take shares of it.
        window: length of the last windows (scaled), as long as the data tolerate when None.
        seed: of the batches.
        checkpoint: where states are kept.
        report: progress.
        perturbed: see :class:`Descent`.
    """

    prepared: Prepared
    field: HamiltonianField
    schedule: Schedule
    window: float | None
    seed: int
    checkpoint: Checkpoint
    report: Report
    perturbed: Perturbation | None = None

    def train(self, theta: Float[Tensor, "rows params"]) -> Trained:
        """From rows of theta at which training can begin.

        Raises:
            FloatingPointError: the paths of all rows diverge.
        """
        prepared, rows = self.prepared, len(theta)
        unknowns = self._on_rates(theta)
        states = prepared.path.stages[:, 0].expand(rows, -1, -1)
        last: Trained | None = None
        lengths = self._lengths()
        steps = self._beginning().num_steps
        for k, (duration, defect) in enumerate(lengths):
            density = self._windows(duration, defect)
            joined = density.joint.windows.joined
            begin = unknowns._replace(start=states[:, density.joint.windows.start])
            name = "whole trajectories" if joined else f"windows of {duration:g}"
            most = STEPS[-1] if k + 1 == len(lengths) else STEPS[k]
            unknowns, taken, ends, rise = self._moved(density, begin, name, most)
            steps += taken
            if last is not None and _worse(unknowns, last.unknowns):
                return replace(last, steps=steps)
            spacing = math.inf if joined else duration
            last = Trained(density, unknowns, steps, joined, spacing, ends, rise)
            states = _node_states(density.joint, unknowns, states)
        if last is None:
            raise RuntimeError("there are no windows to train on")
        return last

    @property
    def exact(self) -> bool:
        """Whether Gauss-Newton steps follow: where they are small and nothing is perturbed."""
        return self.perturbed is None and affordable(self._windows(math.inf, 0.0))

    def _on_rates(self, theta: Tensor) -> Unknowns:
        """Rows that follow the rates of the smoothed path, with the smoother's noise."""
        prepared = self.prepared
        density = rate_density(prepared, self.field)
        begin = Unknowns.at(theta, density.noise, typical_size(density.pairs), None)
        name = "rates of the smoothed path"
        found = self._descended(density, begin, self._beginning(), name).unknowns()
        return Unknowns.at(found.theta, prepared.noise, prepared.path.noise_std, None)

    def _beginning(self) -> Schedule:
        """Of the rates: shorter where Gauss-Newton steps follow."""
        whole = self.schedule
        if not self.exact:
            return whole
        return replace(whole, num_steps=max(1, round(FIRST * whole.num_steps)))

    def _moved(
        self, density: WindowDensity, begin: Unknowns, name: str, most: int
    ) -> tuple[Unknowns, int, Ends | None, float]:
        """Rows at the optimum of these windows, or closer to it, and the steps that they took.

        Then how they ended, and by how much the density rose at last.
        """
        if self.exact:
            found, ends = polished_rows(density, begin, name, most, self.checkpoint, self.report)
            return found, ends.steps, ends, 0.0
        whole = self.schedule
        steps = max(1, round(SHARE * whole.num_steps))
        schedule = Schedule(steps, SLOWER * whole.learning_rate)
        search = self._descended(density, begin, schedule, name)
        return search.unknowns(), steps, None, search.rise()

    def _lengths(self) -> list[tuple[float, float]]:
        """Durations of the windows of each stage, and the sizes of their jumps."""
        nodes = self.prepared.nodes
        edges = zip(nodes.first[:-1], nodes.first[1:], strict=True)
        horizon = max(float(nodes.times[e - 1] - nodes.times[b]) for b, e in edges)
        most = min(horizon, LONGEST + 1.0) if self.window is None else min(horizon, self.window)
        found = [(d, s) for d, s in zip(DURATIONS, DEFECTS, strict=True) if 1.5 * d < most]
        if self.window is not None and self.window < horizon:
            return [*found, (self.window, DEFECTS[-1])]
        return [*found, (math.inf, 0.0)] if horizon <= LONGEST or self.window else found

    def _windows(self, duration: float, defect: float) -> WindowDensity:
        nodes = self.prepared.nodes
        windows = Windows.of_duration(nodes, duration)
        own = 0.0 if windows.joined else defect
        noise, step = self.prepared.noise, self.prepared.step
        return WindowDensity(JointDensity(nodes, windows, self.field, noise, own, step))

    def _descended(
        self, density: Density, begin: Unknowns, schedule: Schedule, name: str
    ) -> Descent:
        descent = Descent(density, begin, schedule, self.seed, self.perturbed)
        return descend(descent, name, self.checkpoint, self.report)


def rate_density(prepared: Prepared, field: HamiltonianField) -> PairDensity:
    """Rates of the smoothed path at the middle of each interval, as pairs."""
    nodes, path = prepared.nodes, prepared.path
    index = (nodes.dt > 0).nonzero().squeeze(1)
    stages, dt = path.stages[index], nodes.dt[index, None]
    rates = (stages[:, -1] - stages[:, 0]) / dt
    drive, inputs = Drive.over(nodes, index), None
    if drive is not None:
        inputs = 0.5 * (drive.begin + drive.end)
    one = torch.ones_like(rates[0])
    law = ScaledNoise(one * math.nan, torch.arange(len(one), device=one.device), one)
    pairs = Pairs(stages[:, stages.shape[1] // 2], rates, torch.ones_like(rates, dtype=torch.bool))
    return PairDensity(pairs, field, law, inputs)


def typical_size(pairs: Pairs) -> Float[Tensor, " dim"]:
    """Of the rates of each channel; one where all of them are zero or missing."""
    size = pairs.rates.square().sum(0) / pairs.counts.clamp(min=1.0)
    return torch.where(size > 0, size, 1.0).sqrt()


def _worse(found: Unknowns, before: Unknowns) -> bool:
    """Whether the noise of most rows rose, or their numbers failed."""
    change = found.log_noise - before.log_noise
    rise = torch.cat([change.new_zeros(len(change), 1), change], 1).amax(1)
    lost = ~found.theta.isfinite().all(1)
    return float(rise.masked_fill(lost, math.inf).median()) > math.log(WORSE)


def _node_states(
    density: JointDensity, found: Unknowns, before: Float[Tensor, "rows nodes dim"]
) -> Float[Tensor, "rows nodes dim"]:
    """States of every row at all nodes; those before where its paths diverge."""
    if found.start is None:
        raise RuntimeError("these rows have no states")
    with torch.no_grad():
        path, _, alive = density.paths(found.theta, found.start)
    states = torch.zeros_like(before)
    states[:, density.windows.nodes.flatten()] = path.flatten(1, 2)
    return torch.where(alive.view(-1, 1, 1), states, before)

"""How speed is measured: sizes, repeats that take turns, and their medians."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sympgp.benchmarks.speed_record import Aim, Measurement, Quantity

SHORTEST = 0.02
"""Seconds below which an action is done several times for one reading of the clock."""


Case = tuple[int, int, int, int]
"""Trajectories, points of each, features and degrees of freedom."""
AXES = ("trajectories", "points of each", "features", "degrees of freedom")
"""What a series can grow in, in the order of a case's entries."""


def describe(case: Case) -> str:
    """Sizes in words."""
    trajectories, points, features, num_dof = case
    return (
        f"{trajectories:,} trajectories x {points} points, {features} features, D = {2 * num_dof}"
    )


@dataclass(frozen=True)
class Growth:
    """A series of shooting problems that grow in one thing.

    Attributes:
        axis: one of ``AXES``.
        base: the problem.
        sizes: what the axis takes in place of the base's own, ascending.
        own: whether there is an aim of their memory, so that each has a process of its own.
    """

    axis: str
    base: Case
    sizes: tuple[int, ...]
    own: bool = False

    def cases(self) -> list[Case]:
        """The problems, in the order of the sizes."""
        where, found = AXES.index(self.axis), []
        for size in self.sizes:
            case = list(self.base)
            case[where] = size
            found.append((case[0], case[1], case[2], case[3]))
        return found


@dataclass(frozen=True)
class Sizes:
    """What is measured, and how large.

    Attributes:
        budget: seconds after which repeats of one thing end, the first one apart.
        evaluation: points, features and degrees of freedom of the field evaluation.
        rollouts: draws, initial states, steps and features.
        fits: systems with trajectories, rate and features, of the first protocol.
        forecasts: systems of the second one, and features.
        growth: series of Gauss-Newton iterations.
        pairs: draws, initial states, steps and features of rollouts on an accelerator.
        work: the problem whose iteration is compared on CPU and accelerator.
        many: trajectories of a whole fit whose memory is measured.
        processes: whether cases with an aim of their memory have each a process of its own.
        aims: whether the aims are of these sizes.
        engine: options of the Gauss-Newton engine, beside its defaults.
    """

    budget: float
    evaluation: tuple[int, int, int]
    rollouts: tuple[int, int, int, int]
    fits: tuple[tuple[str, int, float, int], ...]
    forecasts: tuple[tuple[str, int], ...]
    growth: tuple[Growth, ...]
    pairs: tuple[int, int, int, int]
    work: Case
    many: Case
    processes: bool = True
    aims: bool = True
    engine: Mapping[str, Any] = field(default_factory=dict)


STANDARD = Sizes(
    budget=12.0,
    evaluation=(20_000, 256, 2),
    rollouts=(1000, 25, 300, 100),
    fits=(
        ("pendulum-friction", 5, 5.0, 100),
        ("duffing", 5, 5.0, 100),
        ("duffing-friction", 5, 5.0, 100),
        ("double-pendulum", 5, 10.0, 250),
    ),
    forecasts=(("simple-pendulum", 100), ("spring-pendulum", 100), ("henon-heiles", 100)),
    growth=(
        Growth("trajectories", (1, 100, 250, 1), (40, 80, 160, 320), own=True),
        Growth("points of each", (100, 1, 100, 1), (25, 50, 100, 200)),
        Growth("features", (100, 50, 1, 1), (50, 100, 200, 400)),
        Growth("degrees of freedom", (100, 50, 100, 1), (1, 2, 4, 8)),
    ),
    pairs=(1000, 100, 1000, 256),
    work=(320, 100, 250, 1),
    many=(50, 100, 100, 1),
)
FULL = replace(
    STANDARD,
    budget=math.inf,
    growth=(
        Growth("trajectories", (1, 100, 250, 1), (1250, 2500, 5000, 10_000), own=True),
        Growth("points of each", (500, 1, 250, 1), (25, 50, 100, 200)),
        Growth("features", (500, 50, 1, 1), (125, 250, 500, 1000)),
        Growth("degrees of freedom", (500, 50, 250, 1), (1, 2, 4, 8)),
    ),
    work=(10_000, 100, 250, 1),
    many=(10_000, 100, 250, 1),
)
TINY = Sizes(
    budget=1.0,
    evaluation=(100, 8, 2),
    rollouts=(4, 2, 6, 5),
    fits=(("pendulum-friction", 2, 3.0, 5),),
    forecasts=(("simple-pendulum", 5),),
    growth=(
        Growth("trajectories", (1, 6, 5, 1), (2, 4), own=True),
        Growth("points of each", (4, 1, 5, 1), (4, 8)),
        Growth("features", (4, 6, 1, 1), (4, 8)),
        Growth("degrees of freedom", (4, 6, 5, 1), (1, 2)),
    ),
    pairs=(10, 10, 5, 8),
    work=(4, 6, 5, 1),
    many=(3, 12, 5, 1),
    processes=False,
    aims=False,
    engine={"num_components": 1, "hyperparameter_rounds": 1, "max_iterations": 5},
)
SIZES = {"tiny": TINY, "standard": STANDARD, "full": FULL}
"""By name: seconds, some minutes, and an hour or more on two cores."""


@dataclass(frozen=True)
class Timed:
    """Median seconds of several actions, by name, and over how many repeats."""

    seconds: Mapping[str, float]
    repeats: int


@dataclass
class Session:
    """One run of the benchmark: how to measure, and what was measured so far.

    Attributes:
        sizes: of everything.
        repeats: that medians are over, unless the budget ends first.
        accelerator: device to compare with the CPU; None without one.
        say: told what is being done.
        measurements: so far.
        notes: what was left out, and why.
    """

    sizes: Sizes
    repeats: int = 5
    accelerator: torch.device | None = None
    say: Callable[[str], None] = lambda text: None
    measurements: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *measurements: Measurement) -> None:
        """Keep measurements."""
        self.measurements.extend(measurements)

    def aim(self, quantity: Quantity, most: float) -> Aim | None:
        """The aim for these sizes, if there is one."""
        return Aim(quantity, most) if self.sizes.aims else None

    def note(self, text: str) -> None:
        """Keep and say what was left out."""
        self.notes.append(text)
        self.say(text)

    def time(
        self,
        actions: Mapping[str, Callable[[], object]],
        device: torch.device | None = None,
        warm: bool = True,
    ) -> Timed:
        """Median seconds of actions that take turns, so that a busy moment slows all of them.

        Args:
            actions: by name.
            device: that they run on, to wait for; None for the CPU.
            warm: do each once before, which is not counted.
        """
        counts = {name: _count(action, device) if warm else 1 for name, action in actions.items()}
        found: dict[str, list[float]] = {name: [] for name in actions}
        began = time.perf_counter()
        for done in range(self.repeats):
            if done and time.perf_counter() - began > self.sizes.budget:
                break
            for name, action in actions.items():
                found[name].append(_clock(action, counts[name], device))
        medians = {name: statistics.median(values) for name, values in found.items()}
        return Timed(medians, min(map(len, found.values())))


def _count(action: Callable[[], object], device: torch.device | None) -> int:
    """How often to do an action for one reading of the clock, once it has been done."""
    once = _clock(action, 1, device)
    if once < SHORTEST:  # the first time is longer: it fills caches
        once = _clock(action, 1, device)
    return max(1, min(1000, math.ceil(SHORTEST / max(once, 1e-9))))


def _clock(action: Callable[[], object], count: int, device: torch.device | None) -> float:
    """Seconds of one of ``count`` times."""
    wait(device)
    began = time.perf_counter()
    for _ in range(count):
        action()
    wait(device)
    return (time.perf_counter() - began) / count


def wait(device: torch.device | None) -> None:
    """Until the device has done what it was asked for."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)

"""Simulation-based calibration: true values from the prior, ranked among posterior draws.

Weights, friction, noise and initial states are drawn, trajectories are solved and observed, the
data are fitted, and the true values' ranks are kept, see :mod:`sympgp.benchmarks.ranks`. What is
needed for the ranks of an exact posterior to be exactly uniform:

- The prior must not depend on the data. It holds in fixed units here (``FixedEnergy``), although
  the engine works in units that it finds from the data.
- Simulations whose true paths leave a box are drawn anew, which conditions the prior on the box;
  posterior draws whose paths leave it are therefore left out too.
- The package's priors of the noise and of the initial states are too vague to simulate from.
  Both are drawn from narrower laws, and posterior draws are weighted by their ratio to the prior
  that the engine used. These weights are nearly constant, as both are known well from the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.benchmarks.ranks import Ranks
from sympgp.benchmarks.registry import make_engine
from sympgp.benchmarks.runs import Record, Run, Value, problems
from sympgp.benchmarks.simulation import (
    NOISE,
    NOISE_SPREAD,
    START,
    Design,
    quantities,
    simulate,
    solve,
)
from sympgp.inference import fit
from sympgp.noise import RATE, SHAPE
from sympgp.phase_space import CanonicalScaling
from sympgp.posterior import Posterior
from sympgp.shooting.sensitivities import INITIAL_VARIANCE

RANKED = 99
"""Draws L that true values are ranked among."""
RANK = "rank of "
"""Before the name of a quantity, the name of its score."""


@dataclass(frozen=True)
class CalibrationRun(Design, Run):
    """One simulation from the prior and its fit.

    Attributes:
        engine: name in the registry, with options.
        draws: posterior draws that are weighted, and the ranked ones chosen from.
        seed: of everything.
    """

    engine: str
    draws: int
    seed: int

    def describe(self) -> str:
        """The engine and the seed."""
        return f"{self.engine}, simulation {self.seed}"

    def score(self, data: Path | None = None) -> dict[str, Value]:
        """Simulate, fit and rank."""
        truth = simulate(self, self.seed)
        scaling = truth.scaling_of_fit()
        posterior = fit(
            truth.model(scaling),
            truth.data,
            inference=make_engine(self.engine),
            seed=self.seed,
            progress=False,
        )
        if not _same_units(posterior.scaling, scaling):
            raise RuntimeError("the engine chose other units than its prior was stated in")
        found = weighted_draws(posterior, self, self.draws, self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.multinomial(found.weights, RANKED, replacement=True, generator=generator)
        ranks = {
            f"{RANK}{name}": int((values[chosen] < truth.quantities[name]).sum())
            for name, values in found.values.items()
        }
        return {
            **ranks,
            "redrawn": truth.redrawn,
            "effective_draws": float(1.0 / found.weights.square().sum()),
            "joined": int(posterior.diagnostics.windows_joined),
            "fit_seconds": posterior.diagnostics.seconds,
            "problems": problems(posterior),
        }


def _same_units(one: CanonicalScaling, other: CanonicalScaling) -> bool:
    pairs = (
        (one.center, other.center),
        (one.scale, other.scale),
        (one.time_scale, other.time_scale),
        (one.time_origin, other.time_origin),
    )
    return all(torch.allclose(a, b) for a, b in pairs)


@dataclass(frozen=True)
class Weighted:
    """Posterior draws of the ranked quantities by name, and their normalised weights."""

    values: dict[str, Tensor]
    weights: Float[Tensor, " draws"]


def weighted_draws(posterior: Posterior, design: Design, count: int, seed: int) -> Weighted:
    """Draws of what is ranked, weighted towards the prior that was simulated from.

    Raises:
        ValueError: a posterior without initial states; no draw's paths stay in the box.
    """
    draws = posterior.sample(count, seed=seed)
    units = posterior.scaling
    paths, frictions, logs = [], [], []
    for component, part in zip(posterior.components, draws.parts, strict=False):
        if part.start is None:
            raise ValueError("posterior: expected draws of the initial states, got none")
        first = part.start[:, component.window_states.chain[:, 0]]
        own, inside = solve(part, first, units, design)
        paths.append(own)
        damping = component.field.dissipation
        frictions.append(damping.coefficients(component.field.split(part.theta)[1]).unsqueeze(-1))
        ratio = log_ratio(first, part.noise_std, units)
        logs.append(ratio.masked_fill(~inside.all(1), -math.inf))
    log = torch.cat(logs)
    if not bool(log.isfinite().any()):
        raise ValueError("posterior: expected a draw whose paths stay in the box, got none")
    values = quantities(draws, torch.cat(paths), torch.cat(frictions), design)
    return Weighted(values, log.softmax(0))


def log_ratio(
    start: Float[Tensor, "draws trajectories dim"],
    noise_std: Float[Tensor, "draws dim"],
    units: CanonicalScaling,
) -> Float[Tensor, " draws"]:
    """Log density of what was simulated from over the engine's prior, up to a constant.

    Args:
        start: initial states, scaled.
        noise_std: scaled.
        units: of both.
    """
    simulated = -0.5 * (units.to_user(start) / START).square().sum((1, 2))
    assumed = -0.5 * start.square().sum((1, 2)) / INITIAL_VARIANCE
    log = (noise_std * units.scale).log()
    simulated = simulated - 0.5 * ((log - math.log(NOISE)) / NOISE_SPREAD).square().sum(1)
    # inverse-gamma for the variance, as a density of the deviation's logarithm
    inverse = -2.0 * SHAPE * noise_std.log() - RATE / noise_std.square()
    return simulated - assumed - inverse.sum(1)


def calibration_runs(
    simulations: int = 100,
    engines: Sequence[str] = ("gauss-newton",),
    num_dof: int = 1,
    features: int = 15,
    friction: bool = True,
    num_trajectories: int = 3,
    rate: float | int = 4.0,
    duration: float | int = 5.0,
    hyper_spread: float | int = 0.0,
    draws: int = 1000,
) -> list[CalibrationRun]:
    """Simulations from number 0 on, each fitted with every engine; see :class:`CalibrationRun`.

    Raises:
        ValueError: too few observations or draws.
    """
    if not rate * duration >= 4:
        raise ValueError(
            "rate and duration: expected at least four intervals between observations, "
            f"got rate {rate:g} over a duration of {duration:g}"
        )
    if draws <= RANKED:
        raise ValueError(f"draws: expected more than the {RANKED} that are ranked, got {draws}")
    return [
        CalibrationRun(
            num_dof=num_dof,
            features=features,
            friction=friction,
            num_trajectories=num_trajectories,
            rate=float(rate),
            duration=float(duration),
            hyper_spread=float(hyper_spread),
            engine=engine,
            draws=draws,
            seed=seed,
        )
        for engine in engines
        for seed in range(simulations)
    ]


def collect_ranks(records: Iterable[Record]) -> list[Ranks]:
    """The ranks of every quantity over the runs that did not fail."""
    values: dict[str, list[int]] = {}
    for record in records:
        for key, value in record.scores.items():
            if key.startswith(RANK) and value is not None:
                values.setdefault(key.removeprefix(RANK), []).append(int(value))
    return [Ranks(name, tuple(ranks), RANKED) for name, ranks in values.items()]

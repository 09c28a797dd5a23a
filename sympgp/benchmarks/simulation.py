"""Draws from a prior with their data, and the quantities that they are judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.benchmarks.user_units import FixedEnergy, FixedFriction
from sympgp.benchmarks.well import WellEnergy
from sympgp.dissipation import Conservative, Dissipation
from sympgp.energies import FourierEnergy
from sympgp.energies.base import LogNormal
from sympgp.fields import HamiltonianField
from sympgp.inference.gauss_newton import DEFAULT_STEP
from sympgp.inference.start import prepare
from sympgp.integrators import RK4
from sympgp.models import HamiltonianModel
from sympgp.noise import GaussianNoise
from sympgp.phase_space import CanonicalScaling
from sympgp.posterior.draws import Draws, FunctionDraws
from sympgp.rollouts import solve_rollouts
from sympgp.trajectories import Trajectories
from sympgp.trajectories.naming import numbered

LENGTHSCALE, SIGNAL, WELL, DAMPING = 2.0, 0.5, 1.0, 0.1
"""Prior: lengthscales, scales of the Fourier features and of the well, deviation of the friction's
half-normal law. Motion then takes about six units of time to go round."""
NOISE, NOISE_SPREAD = 0.05, 0.3
"""Median of the noise, and standard deviation of its logarithm."""
START, BOX = 1.0, 5.0
"""Standard deviation of the initial states, and the half width of the box."""
POINT_MASS = 1e-3
"""Standard deviation of the logarithm of hyperparameters that are known."""
TRUE_STEPS, STEPS = 8, 2
"""Solver steps between times that are looked at, of the truth and of posterior draws."""
MOST_REDRAWN = 1000


@dataclass(frozen=True)
class Design:
    """What is drawn and observed.

    Attributes:
        num_dof: degrees of freedom.
        features: spectral points.
        friction: whether there is any.
        num_trajectories: observed ones.
        rate: observations in a unit of time.
        duration: of the observations; predictions go half as far again.
        hyper_spread: prior standard deviation of the logarithm of every hyperparameter, drawn anew
            for each simulation; zero where they are known.
    """

    num_dof: int
    features: int
    friction: bool
    num_trajectories: int
    rate: float
    duration: float
    hyper_spread: float

    @property
    def num_intervals(self) -> int:
        """Between the first and the last observation."""
        return math.floor(self.duration * self.rate * (1 + 1e-12))

    @property
    def times(self) -> list[float]:
        """Those that are looked at: twice as many as observations, and half as long again."""
        return [0.5 * k / self.rate for k in range(3 * self.num_intervals + 1)]

    @property
    def observed(self) -> slice:
        """Those at which there are observations."""
        return slice(0, 2 * self.num_intervals + 1, 2)


@dataclass(frozen=True)
class Truth:
    """A draw from the prior with its data.

    Attributes:
        energy: the prior of the Hamiltonian, user units.
        priors: of its hyperparameters.
        dissipation: the prior of the friction.
        data: noisy observations.
        quantities: what is ranked, by name.
        redrawn: draws that were left out because their paths left the box.
    """

    energy: WellEnergy
    priors: dict[str, LogNormal]
    dissipation: Dissipation
    data: Trajectories
    quantities: dict[str, float]
    redrawn: int

    def scaling_of_fit(self) -> CanonicalScaling:
        """The units that an engine finds from these data."""
        return prepare(self.data, GaussianNoise(), None, DEFAULT_STEP).scaling

    def model(self, scaling: CanonicalScaling) -> HamiltonianModel:
        """The prior in these units."""
        return HamiltonianModel(FixedEnergy(self.energy, self.priors, scaling), self.dissipation)


def hyperpriors(num_dof: int, spread: float) -> dict[str, LogNormal]:
    """Of the hyperparameters, in user units."""
    one = torch.ones((), dtype=torch.float64)
    medians = {
        "lengthscale": LENGTHSCALE * one.expand(2 * num_dof),
        "signal_scale": SIGNAL * one,
        "separable_scale": SIGNAL * one,
        "quadratic_scale": WELL * one,
    }
    return {name: LogNormal(value, max(spread, POINT_MASS)) for name, value in medians.items()}


def identity(num_dof: int) -> CanonicalScaling:
    """User units as they are."""
    one = torch.ones(2 * num_dof, dtype=torch.float64)
    return CanonicalScaling(0.0 * one, one, one[0], 0.0 * one[0], one)


def simulate(design: Design, seed: int) -> Truth:
    """Draw from the prior until all paths stay in the box, and observe them.

    Raises:
        RuntimeError: they never do.
    """
    generator = torch.Generator().manual_seed(seed)
    energy = WellEnergy(FourierEnergy(design.num_dof, design.features))
    priors = hyperpriors(design.num_dof, design.hyper_spread)
    damping: Dissipation = FixedFriction(DAMPING) if design.friction else Conservative()
    units = identity(design.num_dof)
    redrawn = 0
    while True:
        part, friction = _draw(design, energy, priors, damping, generator)
        paths, inside = solve(part, _start(part), units, design, TRUE_STEPS)
        if bool(inside.all()):
            break
        redrawn += 1
        if redrawn == MOST_REDRAWN:
            raise RuntimeError(f"none of {redrawn} draws from the prior stays in the box")
    observed = paths[0, :, design.observed]
    white = torch.randn(observed.shape, generator=generator, dtype=torch.float64)
    times = torch.tensor(design.times[design.observed], dtype=torch.float64)
    data = Trajectories(times, observed + part.noise_std * white)
    values = quantities(FunctionDraws([part], units, units.center), paths, friction, design)
    known = {name: float(value) for name, value in values.items()}
    return Truth(energy, priors, damping, data, known, redrawn)


def _draw(
    design: Design,
    energy: WellEnergy,
    priors: dict[str, LogNormal],
    damping: Dissipation,
    generator: torch.Generator,
) -> tuple[Draws, Tensor]:
    """One draw from the prior, in user units, and its friction (1, K)."""

    def white(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    dim = 2 * design.num_dof
    hyper = {
        name: prior.median * (prior.log_stddev * white(*prior.median.shape)).exp()
        for name, prior in priors.items()
    }
    field = HamiltonianField(energy.basis(hyper), damping.scaled(identity(design.num_dof)))
    theta = field.prior_precision().rsqrt() * white(1, field.num_parameters)
    weights, friction = field.split(theta)
    theta = torch.cat([weights, friction.abs()], 1)
    start = START * white(1, design.num_trajectories, dim)
    noise_std = NOISE * (NOISE_SPREAD * white(1, dim)).exp()
    part = Draws(field.bind(theta), field.basis, weights, theta, noise_std, start)
    return part, friction.abs()


def _start(part: Draws) -> Tensor:
    if part.start is None:
        raise RuntimeError("a draw from the prior without its initial states")
    return part.start


def solve(
    part: Draws,
    start: Float[Tensor, "draws trajectories dim"],
    units: CanonicalScaling,
    design: Design,
    substeps: int = STEPS,
) -> tuple[Float[Tensor, "draws trajectories time dim"], Bool[Tensor, "draws trajectories"]]:
    """Paths from the initial states, user units, and whether each stays in the box.

    Args:
        part: draws in scaled units.
        start: initial states, scaled.
        units: of both.
        design: says the times.
        substeps: solver steps from one to the next.
    """
    unit = float(units.time_scale)
    paths, left = solve_rollouts(
        part.field,
        start,
        [t / unit for t in design.times],
        RK4(step=0.5 / design.rate / substeps / unit),
        limit=BOX / units.scale,
        center=units.to_scaled(torch.zeros_like(units.center)),
    )
    return units.to_user(paths), ~left


def quantities(
    draws: FunctionDraws,
    paths: Float[Tensor, "draws trajectories time dim"],
    friction: Float[Tensor, "draws k"],
    design: Design,
) -> dict[str, Float[Tensor, " draws"]]:
    """What is ranked, user units: friction, noise, field, energy differences and future states.

    The points are A = (0.8, 0), B = (0, -0.8) and C = (1.2, -1.2) in (q, p), the same for every
    degree of freedom; the future states are those of the first trajectory.
    """
    n = design.num_dof
    names = numbered("q", n) + numbered("p", n)
    a, b = torch.zeros(2, 2 * n, dtype=torch.float64)
    a[:n], b[n:] = 0.8, -0.8
    points = torch.stack([a, b, 1.5 * (a + b), torch.zeros_like(a)])
    values = {"friction": friction[:, 0]} if design.friction else {}
    values |= {f"noise of {name}": draws.noise_std[:, d] for d, name in enumerate(names)}
    rates, energy = draws(points), draws.energy(points)
    for d, name in enumerate(names):
        values[f"d{name}/dt at A"] = rates[:, 0, d]
        values[f"d{name}/dt at B"] = rates[:, 1, d]
    values["H(A) - H(B)"] = energy[:, 0] - energy[:, 1]
    values["H(C) - H(0)"] = energy[:, 2] - energy[:, 3]
    last, seen = 3 * design.num_intervals, 2 * design.num_intervals
    for place in ((seen + last) // 2, last):
        for d, name in enumerate(names):
            values[f"{name} at time {design.times[place]:g}"] = paths[:, 0, place, d]
    return values

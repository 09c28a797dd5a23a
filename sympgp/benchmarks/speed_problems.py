"""Fields and shooting problems of given sizes, whose times do not depend on what is learned."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.benchmarks.speed_session import Case
from sympgp.energies.fourier_basis import FourierBasis, polynomial_terms
from sympgp.fields import HamiltonianField
from sympgp.inference.gauss_newton import DEFAULT_STEP
from sympgp.inference.search import OSCILLATION
from sympgp.integrators import RK4
from sympgp.models import SSGP
from sympgp.noise import GaussianNoise
from sympgp.phase_space import CanonicalScaling
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.problem import Estimate, Problem
from sympgp.systems import Pendulum
from sympgp.trajectories import Trajectories

INTERVAL, NOISE = 0.2, 0.05
"""Time between observations, an oscillation taking two pi, and the noise of each coordinate."""
STIFFER = 1.02
"""Energy of the start over the true one."""


def unit_scaling(num_dof: int, device: torch.device | str = "cpu") -> CanonicalScaling:
    """States in units of their spread, which is one."""
    one = torch.ones((), dtype=torch.float64, device=device)
    spread = one.expand(2 * num_dof).clone()
    return CanonicalScaling(torch.zeros_like(spread), spread, one, 0.0 * one, spread)


def fourier_field(
    num_dof: int, num_features: int, device: torch.device | str = "cpu"
) -> HamiltonianField:
    """The default field of a conservative system, at the medians of its hyperpriors."""
    model, scaling = SSGP(num_dof, num_features), unit_scaling(num_dof, device)
    priors = model.energy.hyperpriors(scaling.spread)
    basis = model.energy.basis({name: prior.median for name, prior in priors.items()})
    return HamiltonianField(basis, model.dissipation.scaled(scaling))


def fourier_basis(field: HamiltonianField) -> FourierBasis:
    """Its basis.

    Raises:
        TypeError: it has another one.
    """
    if not isinstance(field.basis, FourierBasis):
        raise TypeError(f"field: expected Fourier features, got {type(field.basis).__name__}")
    return field.basis


def random_weights(
    field: HamiltonianField, seed: int = 0, *draws: int
) -> Float[Tensor, "*draws params"]:
    """Draws from the prior."""
    generator = torch.Generator().manual_seed(seed)
    scale = field.prior_precision().rsqrt()
    white = torch.randn(*draws, len(scale), generator=generator, dtype=torch.float64)
    return white.to(scale) * scale


def oscillators(num_trajectories: int, num_points: int, num_dof: int) -> Trajectories:
    """Noisy harmonic oscillators, ``H = (q^2 + p^2) / 2``, from random initial states."""
    generator = torch.Generator().manual_seed(0)
    q, p = torch.randn(
        2, num_trajectories, 1, num_dof, generator=generator, dtype=torch.float64
    ).unbind()
    times = INTERVAL * torch.arange(num_points, dtype=torch.float64)
    c, s = times.cos().unsqueeze(-1), times.sin().unsqueeze(-1)
    clean = torch.cat([q * c + p * s, p * c - q * s], -1)
    white = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return Trajectories(times, clean + NOISE * white)


def pendulums(num_trajectories: int, num_points: int) -> Trajectories:
    """Noisy pendulums with friction, all followed in one batch."""
    system = Pendulum(friction=0.05)
    times = INTERVAL * torch.arange(num_points, dtype=torch.float64)
    x0 = system.sample_initial(num_trajectories, seed=0)
    solver = RK4(step=0.1 * INTERVAL)
    clean = solver.solve(lambda t, x: system.vector_field(x), x0, times)
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return Trajectories(times, clean + NOISE * white)


def shooting_problem(case: Case, device: torch.device | str = "cpu") -> tuple[Problem, Estimate]:
    """The oscillators' trajectories in windows of an oscillation, and a start near the truth.

    Costs depend on the sizes alone: every interval takes one RK4 step, whatever the weights.
    """
    num_trajectories, num_points, num_features, num_dof = case
    scaling = unit_scaling(num_dof, device)
    data = oscillators(num_trajectories, num_points, num_dof).to(device=device)
    nodes = Nodes.from_data(data, scaling)
    windows = Windows.of_duration(nodes, OSCILLATION)
    field = fourier_field(num_dof, num_features, device)
    noise_std = torch.full_like(scaling.spread, 2.0 * NOISE)
    estimate = Estimate(
        theta=STIFFER * harmonic_weights(field),
        start=nodes.values[windows.start],
        noise_std=noise_std,
        defect_std=NOISE,
        inflation=torch.ones_like(noise_std),
    )
    noise = GaussianNoise().scaled(scaling)
    return Problem(nodes, windows, field, noise, DEFAULT_STEP), estimate


def harmonic_weights(field: HamiltonianField) -> Float[Tensor, " params"]:
    """Weights with ``H = |z|^2 / 2``: the quadratic part alone."""
    basis = fourier_basis(field)
    features, dim = basis.frequencies.shape
    rows, columns = polynomial_terms(dim, basis.active, basis.separable)
    theta = torch.zeros_like(field.prior_precision())
    squares = theta[2 * features + dim : 2 * features + dim + len(rows)]
    squares[(rows == columns).to(squares.device)] = 1.0
    return theta

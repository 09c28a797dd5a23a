"""Theorems about the single systems, and the published data of those with several coordinates.

The conformance suite that every system passes is in test_systems.py.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sympgp.phase_space import split
from sympgp.systems import (
    DoublePendulum,
    HarmonicOscillator,
    HenonHeiles,
    Kepler,
    LotkaVolterra,
    OscillatorChain,
    Pendulum,
    SpringPendulum,
    System,
)


def grid(stop: float, count: int) -> Tensor:
    return torch.linspace(0.0, stop, count, dtype=torch.float64)


def normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def frequencies(system: System, x: Tensor) -> Tensor:
    """Angular frequencies of small oscillations about an equilibrium, ascending."""
    slope = torch.autograd.functional.jacobian(system.vector_field, x)
    values = torch.linalg.eigvals(slope)
    torch.testing.assert_close(values.real, torch.zeros_like(values.real), rtol=0, atol=1e-9)
    return values.imag[values.imag > 0].sort().values


def assert_uniform(values: Tensor, low: float, high: float):
    """The largest distance between the empirical and the uniform distribution function."""
    share = ((values - low) / (high - low)).sort().values
    assert 0 <= share[0] and share[-1] <= 1
    steps = torch.arange(1, len(share) + 1) / len(share)
    assert (share - steps).abs().max() < 1.9 / math.sqrt(len(share))  # exceeded once in 700


# --- pendula


def cartesian_energy(masses: list[float], gravity: float, positions, q: Tensor, v: Tensor):
    """Kinetic and potential energy of point masses from their heights and speeds."""
    places, velocities = torch.func.jvp(positions, (q,), (v,))
    return sum(
        m * (velocity.square().sum(-1) / 2 + gravity * place[..., 1])
        for m, place, velocity in zip(masses, places, velocities, strict=True)
    )


def test_the_double_pendulum_has_the_energy_of_its_two_masses():
    system = DoublePendulum(masses=(1.0, 0.3), lengths=(0.6, 1.4), gravity=5.0)

    def positions(q: Tensor) -> list[Tensor]:
        upper = 0.6 * torch.stack([q[:, 0].sin(), -q[:, 0].cos()], -1)
        return [upper, upper + 1.4 * torch.stack([q[:, 1].sin(), -q[:, 1].cos()], -1)]

    x = normal(20, 4)
    q, velocities = split(x)[0], split(system.vector_field(x))[0]
    energy = cartesian_energy([1.0, 0.3], 5.0, positions, q, velocities)
    torch.testing.assert_close(system.hamiltonian(x), energy)


def test_the_double_pendulum_is_that_of_the_protocol():
    x = normal(20, 4)
    (q1, q2), (p1, p2) = x[:, :2].T, x[:, 2:].T
    kinetic = 0.1 * p1**2 + 0.3 * p2**2 - 0.2 * p1 * p2 * (q1 - q2).cos()
    kinetic = kinetic / (0.2 * (0.2 + 0.1 * (q1 - q2).sin() ** 2))
    energy = kinetic - 0.3 * 9.8 * q1.cos() - 0.1 * 9.8 * q2.cos()
    torch.testing.assert_close(DoublePendulum().hamiltonian(x), energy)


def test_small_swings_of_the_double_pendulum_have_the_textbook_frequencies():
    """Equal lengths: omega^2 = (g / l) / (1 +- sqrt(m2 / (m1 + m2)))."""
    system = DoublePendulum(masses=(2.0, 0.7), lengths=(0.9, 0.9), gravity=9.81)
    root = math.sqrt(0.7 / 2.7)
    squares = torch.tensor([1 / (1 + root), 1 / (1 - root)], dtype=torch.float64) * 9.81 / 0.9
    torch.testing.assert_close(frequencies(system, torch.zeros(4).double()), squares.sqrt())


def test_the_double_pendulum_starts_at_rest_and_never_turns_over():
    x = DoublePendulum().sample_initial(5000, seed=3)
    assert_uniform(x[:, 0], -1.0, 1.0)
    assert_uniform(x[:, 1], -1.0, 1.0)
    assert (x[:, 2:] == 0).all()
    saddle = DoublePendulum().hamiltonian([0.0, math.pi, 0.0, 0.0])
    assert DoublePendulum().hamiltonian(x).max() < saddle


def test_the_spring_pendulum_has_the_energy_of_its_mass_and_spring():
    system = SpringPendulum(mass=2.0, length=1.5, stiffness=30.0, gravity=5.0)

    def positions(q: Tensor) -> list[Tensor]:
        return [(1.5 + q[:, :1]) * torch.stack([q[:, 1].sin(), -q[:, 1].cos()], -1)]

    x = 0.3 * normal(20, 4)
    q, velocities = split(x)[0], split(system.vector_field(x))[0]
    energy = cartesian_energy([2.0], 5.0, positions, q, velocities) + 15.0 * q[:, 0] ** 2
    torch.testing.assert_close(system.hamiltonian(x), energy)


def test_small_motions_of_the_spring_pendulum_have_the_textbook_frequencies():
    """omega^2 = k / m of the spring, g / r of the swing with the spring stretched to r."""
    rest = torch.tensor([0.981, 0.0, 0.0, 0.0], dtype=torch.float64)
    squares = torch.tensor([9.81 / 3.981, 10.0], dtype=torch.float64)
    torch.testing.assert_close(frequencies(SpringPendulum(), rest), squares.sqrt())


def test_the_spring_pendulum_and_the_square_pendulum_start_in_cubes():
    for values in SpringPendulum().sample_initial(5000, seed=4).T:
        assert_uniform(values, -0.25, 0.25)
    for values in Pendulum(half_width=0.7).sample_initial(5000, seed=4).T:
        assert_uniform(values, -0.7, 0.7)


# --- orbits


@pytest.mark.slow
def test_kepler_orbits_close_after_each_period():
    """To the accuracy that is promised of all systems over ten periods."""
    orbits = Kepler(mu=1.7)
    for x0 in orbits.sample_initial(3, seed=1):
        x = orbits.exact(x0, orbits.period(x0) * torch.tensor([0, 1, 10]))[0]
        torch.testing.assert_close(x[1], x0, rtol=0, atol=1e-9)
        torch.testing.assert_close(x[2], x0, rtol=0, atol=1e-8)


def test_kepler_orbits_are_ellipses_run_through_at_constant_angular_momentum():
    """|q| = L^2 / mu - e.q is the ellipse with its focus at the origin and eccentricity |e|."""
    orbits = Kepler(mu=1.7)
    x = orbits.exact(orbits.sample_initial(5, seed=2), grid(20.0, 101))
    momentum, vector = orbits.angular_momentum(x), orbits.eccentricity_vector(x)
    torch.testing.assert_close(momentum, momentum[:, :1].expand(-1, 101), rtol=0, atol=1e-9)
    torch.testing.assert_close(vector, vector[:, :1].expand(-1, 101, -1), rtol=0, atol=1e-9)
    q = split(x)[0]
    ellipse = momentum[:, :1] ** 2 / 1.7 - (vector[:, :1] * q).sum(-1)
    torch.testing.assert_close(q.norm(dim=-1), ellipse, rtol=0, atol=1e-9)
    axis = orbits.semi_major_axis(x[:, 0])
    squared = 1 - momentum[:, 0] ** 2 / (1.7 * axis)
    torch.testing.assert_close(vector[:, 0].norm(dim=-1), squared.sqrt())


def test_friction_takes_angular_momentum_at_its_rate():
    orbits, times = Kepler(friction=0.02), grid(10.0, 21)
    momentum = orbits.angular_momentum(orbits.exact(orbits.sample_initial(3), times))
    torch.testing.assert_close(momentum, momentum[:, :1] * (-0.02 * times).exp())


def test_escaping_orbits_have_no_period():
    fast = [1.0, 0.0, 0.0, 2.0]
    assert Kepler().semi_major_axis(fast) < 0 and Kepler().period(fast).isnan()


def test_kepler_starts_at_a_random_time_on_a_random_ellipse():
    orbits = Kepler(mu=1.7)
    x = orbits.sample_initial(5000, seed=6)
    axis, vector = orbits.semi_major_axis(x), orbits.eccentricity_vector(x)
    eccentricity = vector.norm(dim=-1)
    assert_uniform(axis, 0.8, 1.2)
    assert_uniform(eccentricity, 0.0, 0.5)
    assert_uniform(torch.atan2(vector[:, 1], vector[:, 0]), -math.pi, math.pi)
    assert (orbits.angular_momentum(x) > 0).all()
    # The share of the period since the pericentre, from Kepler's equation.
    q, p = split(x)
    cosine = (1 - q.norm(dim=-1) / axis) / eccentricity
    sine = (q * p).sum(-1) / (eccentricity * (1.7 * axis).sqrt())
    assert_uniform(torch.atan2(sine, cosine) - eccentricity * sine, -math.pi, math.pi)


def test_the_field_of_henon_and_heiles_looks_the_same_in_three_directions():
    system, x = HenonHeiles(mu=1.3), normal(20, 4)
    cosine, sine = -0.5, math.sqrt(0.75)
    turn = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    turned = torch.cat([x[:, :2] @ turn.T, x[:, 2:] @ turn.T], -1)
    torch.testing.assert_close(system.hamiltonian(turned), system.hamiltonian(x))
    saddle = torch.tensor([0.0, 1 / 1.3, 0.0, 0.0], dtype=torch.float64)
    assert system.vector_field(saddle).abs().max() < 1e-14
    torch.testing.assert_close(float(system.hamiltonian(saddle)), 1 / (6 * 1.3**2))


@pytest.mark.parametrize("mu", [0.8, 2.0])
def test_stars_start_uniformly_below_the_escape_energy_and_stay(mu: float):
    system, escape = HenonHeiles(mu=mu), 1 / (6 * mu**2)
    x = system.sample_initial(5000, seed=7)
    energy = system.hamiltonian(x)
    assert x.abs().max() <= 0.8 / mu and energy.max() < escape
    # A uniform density has the same share of any part of the set, by another source of draws.
    cube = np.random.default_rng(0).uniform(-0.8 / mu, 0.8 / mu, (200_000, 4))
    level = system.hamiltonian(cube)
    for part in (0.3, 0.6):
        share = (level < part * escape).sum() / (level < escape).sum()
        assert abs((energy < part * escape).double().mean() - share) < 0.03
    # Inside the triangle of the saddles all q2 are above -1 / (2 mu), in any of three directions.
    q = split(system.exact(x[:50], grid(40.0, 81)))[0]
    for angle in (0.0, 2 * math.pi / 3, 4 * math.pi / 3):
        assert (math.sin(angle) * q[..., 0] + math.cos(angle) * q[..., 1]).min() > -0.5 / mu


# --- populations


def test_predators_and_prey_follow_lotka_and_volterra():
    a, b, c, d = 1.0, 0.1, 1.5, 0.075
    system = LotkaVolterra(a=a, b=b, c=c, d=d)
    x = system.exact(system.sample_initial(3, seed=1), grid(10.0, 101))
    prey, predator = x.exp().unbind(-1)
    change = system.vector_field(x) * x.exp()
    torch.testing.assert_close(change[..., 0], prey * (a - b * predator))
    torch.testing.assert_close(change[..., 1], predator * (d * prey - c))
    balance = a * x[..., 1] - b * predator + c * x[..., 0] - d * prey
    torch.testing.assert_close(system.hamiltonian(x), balance)
    equilibrium = torch.tensor([[c / d, a / b]], dtype=torch.float64).log()
    assert system.vector_field(equilibrium).abs().max() < 1e-14
    torch.testing.assert_close(
        frequencies(system, equilibrium[0]), torch.tensor([math.sqrt(a * c)], dtype=torch.float64)
    )


def test_populations_start_on_a_ring_around_their_equilibrium():
    system = LotkaVolterra()
    equilibrium = torch.tensor([0.803 / 0.024, 0.545 / 0.028], dtype=torch.float64).log()
    offset = system.sample_initial(5000, seed=2) - equilibrium
    assert_uniform(offset.norm(dim=-1), 0.5, 1.2)
    assert_uniform(torch.atan2(offset[:, 1], offset[:, 0]), -math.pi, math.pi)


# --- chains


@pytest.mark.parametrize("periodic", [False, True])
def test_a_chain_is_the_discretised_nonlinear_wave(periodic: bool):
    """dp_i/dt = (c / h)^2 (u_(i+1) - 2 u_i + u_(i-1)) - V'(u_i), written out site by site."""
    n, ratio = 6, 3.0
    chain = OscillatorChain(n, coupling=ratio**2, stiffness=0.7, quartic=0.4, periodic=periodic)
    x = normal(2 * n)
    u = x[:n].tolist()
    expected = []
    for i in range(n):
        left = u[i - 1] if i > 0 or periodic else 0.0
        right = u[(i + 1) % n] if i < n - 1 or periodic else 0.0
        expected.append(ratio**2 * (right - 2 * u[i] + left) - 0.7 * u[i] - 0.4 * u[i] ** 3)
    force = chain.vector_field(x)[n:]
    torch.testing.assert_close(force, torch.tensor(expected, dtype=torch.float64))


def test_a_chain_of_one_is_an_oscillator_between_two_walls():
    chain = OscillatorChain(1, coupling=1.5, stiffness=0.5, quartic=0.0)
    x0, times = chain.sample_initial(3), grid(10.0, 51)
    assert chain.names == ("q", "p")
    oscillator = HarmonicOscillator(stiffness=0.5 + 2 * 1.5)
    torch.testing.assert_close(chain.exact(x0, times), oscillator.exact(x0, times))
    nonlinear = OscillatorChain(1, coupling=1.5, coupling_quartic=0.6, stiffness=0.5, quartic=0.8)
    q = torch.tensor([[0.9, 0.0]], dtype=torch.float64)
    force = -(0.5 + 3.0) * 0.9 - (0.8 + 2 * 0.6) * 0.9**3
    torch.testing.assert_close(float(nonlinear.vector_field(q)[0, 1]), force)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_each_normal_mode_of_a_linear_chain_oscillates_by_itself(n: int, periodic: bool):
    chain = OscillatorChain(n, coupling=2.0, stiffness=0.3, quartic=0.0, periodic=periodic)
    shapes, omega = chain.normal_modes()
    gram = shapes @ shapes.T
    torch.testing.assert_close(gram, gram.diagonal().diag(), rtol=0, atol=1e-12)
    assert (gram.diagonal() > 0.4).all() and (omega.diff() >= -1e-12).all()
    times = grid(5.0, 11)
    x = chain.exact(torch.cat([shapes, torch.zeros_like(shapes)], -1), times)
    expected = (omega[:, None] * times).cos()[..., None] * shapes[:, None]
    torch.testing.assert_close(x[..., :n], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("periodic", [False, True])
def test_long_waves_have_the_dispersion_of_the_wave_equation(periodic: bool):
    """omega^2 = m^2 + c^2 k^2 on a unit length, approached with the square of the spacing."""
    speed, mass = 1.3, 2.0
    errors = []
    for n in (40, 80):
        h = 1 / n if periodic else 1 / (n + 1)
        chain = OscillatorChain(n, coupling=(speed / h) ** 2, stiffness=mass**2, periodic=periodic)
        wave = 2 * math.pi  # of the second mode, whatever the ends
        found = float(chain.normal_modes(2)[1][1])
        errors.append((mass**2 + (speed * wave) ** 2 - found**2) / h**2)
    assert abs(errors[1] / errors[0] - 1) < 0.01


def test_a_ring_without_potential_keeps_its_momentum():
    ring = OscillatorChain(8, coupling_quartic=1.0, stiffness=0.0, quartic=0.0, periodic=True)
    x0 = ring.sample_initial(3)
    kick = torch.linspace(-0.5, 1.0, 8, dtype=torch.float64)
    x = ring.exact(x0 + torch.cat([torch.zeros(8), kick]), grid(10.0, 21))
    momentum = x[..., 8:].sum(-1)
    assert momentum[:, 0].abs().min() > 1
    torch.testing.assert_close(momentum, momentum[:, :1].expand(-1, 21), rtol=0, atol=1e-10)
    centre = x[..., :8].sum(-1)
    torch.testing.assert_close(centre, centre[:, :1] + momentum[:, :1] * grid(10.0, 21))


@pytest.mark.parametrize(("n", "periodic"), [(2, False), (10, False), (10, True), (50, False)])
def test_chains_start_as_waves_of_their_lowest_modes(n: int, periodic: bool):
    chain = OscillatorChain(n, periodic=periodic)
    x = chain.sample_initial(500, seed=9)
    shapes, omega = chain.normal_modes()
    weights = shapes / shapes.square().sum(-1, keepdim=True)
    q, p = x[:, :n] @ weights.T, x[:, n:] @ weights.T / omega
    amplitude = (q**2 + p**2).sqrt()
    for mode in range(min(3, n)):
        assert_uniform(amplitude[:, mode], 0.2, 0.6)
        assert_uniform(torch.atan2(p[:, mode], q[:, mode]), -math.pi, math.pi)
    assert (amplitude[:, 3:] < 1e-12).all()


@pytest.mark.parametrize("n", [10, 50])
def test_the_quartic_part_of_a_chain_matters_but_does_not_rule(n: int):
    chain, linear = OscillatorChain(n), OscillatorChain(n, quartic=0.0)
    x = chain.exact(chain.sample_initial(30, seed=1), grid(30.0, 121))
    x[..., n:] = 0  # potential energy alone
    whole, quadratic = (system.hamiltonian(x).mean(-1) for system in (chain, linear))
    share = 1 - quadratic / whole
    assert 0.03 < share.min() and share.max() < 0.25


# --- published data


def test_published_double_pendula_start_as_documented(sympgp_data: Path):
    states = np.random.RandomState(0).uniform(-1, 1, (25, 2))
    for split_number in range(3):
        name = f"double_pendulum_conservative_split{split_number}.npz"
        file = np.load(sympgp_data / "ssgp_protocol" / name)
        np.testing.assert_allclose(file["test"][:, 0, :2], states, rtol=0, atol=1e-12)
        assert (file["test"][:, 0, 2:] == 0).all() and (file["train_clean"][:, 0, 2:] == 0).all()


HGP = {
    "simplependulum": (Pendulum(mass=1.0, gravity=9.81, half_width=1.0), 1.0, 5e-5),
    "springpendulum": (SpringPendulum(), 0.25, 3e-4),
    "henonheiles": (HenonHeiles(), 1.0, 5e-4),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HGP)
@pytest.mark.parametrize("task", [1, 2])
def test_hgp_trajectories_are_reproduced(sympgp_data: Path, name: str, task: int):
    """Solved there in single precision; chaotic motion amplifies that to the tolerances here."""
    system, half_width, tolerance = HGP[name]
    folder = sympgp_data / "hgp_protocol"
    files = [np.load(folder / f"task{task}_{name}_seed{seed}.npz") for seed in (1, 2, 3)]
    truth = np.concatenate([file["y_test"] * file["y_std"] + file["y_mean"] for file in files])
    x0 = np.concatenate([file["x0_test_unscaled"] for file in files]).astype(float)
    times = files[0]["t_test"].astype(float) * files[0]["t_scale"]
    truth = torch.from_numpy(truth).double()
    torch.testing.assert_close(system.exact(x0, times), truth, rtol=0, atol=tolerance)
    assert abs(x0).max() <= half_width
    if name == "henonheiles":
        assert system.hamiltonian(x0).max() < 1 / (6 * 0.8**2)


def test_hgp_noise_is_relative_to_each_trajectory(sympgp_data: Path):
    """Variance 0.05 of the variance over time of that coordinate of that clean trajectory."""
    for path in sorted((sympgp_data / "hgp_protocol").glob("task*.npz")):
        file = np.load(path)
        clean = file["y_train_clean"] * file["y_std"]
        expected = math.sqrt(0.05) * clean.std(axis=1)
        np.testing.assert_allclose(file["noise_std_unscaled"], expected, rtol=1e-4)
        ratio = (file["y_train"] - file["y_train_clean"]) * file["y_std"] / expected[:, None]
        assert abs(ratio.std() - 1) < 4 / math.sqrt(2 * ratio.size)

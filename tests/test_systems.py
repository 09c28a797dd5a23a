"""Systems with known truth: their equations, their solutions, and what the simulator promises.

What is particular to systems other than the oscillators is in test_systems_many_dof.py.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from sympgp.phase_space import split, symplectic_matrix
from sympgp.systems import (
    DoublePendulum,
    Duffing,
    HarmonicOscillator,
    HenonHeiles,
    Kepler,
    LotkaVolterra,
    OscillatorChain,
    Pendulum,
    SpringPendulum,
    System,
    hare_lynx,
)

# Each with and without friction, and with parameters away from the defaults.
SYSTEMS = [
    HarmonicOscillator(),
    HarmonicOscillator(mass=2.0, stiffness=3.0, friction=0.3),
    Pendulum(),
    Pendulum(friction=0.05, mass=1.0, length=1.3, gravity=9.81, half_width=1.0),
    Duffing(),
    Duffing(friction=0.05),
    Duffing(0.1, alpha=1.0, beta=2.0),
    DoublePendulum(),
    DoublePendulum(friction=0.05, masses=(1.0, 0.3), lengths=(0.6, 1.4), gravity=5.0),
    SpringPendulum(),
    SpringPendulum(friction=0.1, mass=2.0, length=1.5, stiffness=30.0, gravity=5.0),
    HenonHeiles(),
    HenonHeiles(friction=0.05, mu=1.5),
    Kepler(),
    Kepler(friction=0.01, mu=2.0),
    LotkaVolterra(),
    LotkaVolterra(a=1.0, b=0.1, c=1.5, d=0.075),
    OscillatorChain(50),
    OscillatorChain(3, 0.1, coupling=2.0, coupling_quartic=0.5, stiffness=0.3, periodic=True),
]


def named(system: System) -> str:
    return f"{type(system).__name__}-{system.friction}"


every_system = pytest.mark.parametrize("system", SYSTEMS, ids=named)


def grid(stop: float, count: int) -> Tensor:
    return torch.linspace(0.0, stop, count, dtype=torch.float64)


@every_system
def test_the_field_is_the_dissipative_hamiltonian_one(system: System):
    """f = (J - R) grad H with R = diag(0, friction), the gradient by automatic differentiation."""
    n, generator = system.num_dof, torch.Generator().manual_seed(1)
    x = torch.randn(4, 5, 2 * n, generator=generator, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(system.hamiltonian(x).sum(), x)
    damping = torch.tensor([0.0, system.friction], dtype=torch.float64).repeat_interleave(n)
    structure = symplectic_matrix(n) - damping.diag()
    torch.testing.assert_close(system.vector_field(x), gradient @ structure.T)


@every_system
def test_exact_solutions_balance_energy(system: System):
    """H falls by the integral of friction |dH/dp|^2: Gauss-Legendre quadrature on panels."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(10))
    panel = 0.05
    inner = (panel * (torch.arange(200)[:, None] + (nodes + 1) / 2)).reshape(-1)
    x = system.exact(system.sample_initial(3, seed=2), torch.cat([grid(10.0, 2), inner]).sort()[0])
    velocity, _ = split(system.vector_field(x[:, 1:-1]))  # dq/dt = dH/dp
    loss = system.friction * velocity.square().sum(-1)
    lost = (loss * weights.repeat(200)).sum(-1) * panel / 2
    energy = system.hamiltonian(x)
    torch.testing.assert_close(energy[:, 0] - energy[:, -1], lost, rtol=0.0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "ten_periods"),
    [
        (Pendulum(), 28.0),
        (Duffing(), 60.0),
        (DoublePendulum(), 25.0),
        (SpringPendulum(), 40.0),
        (HenonHeiles(), 63.0),
        (Kepler(), 63.0),
        (LotkaVolterra(), 95.0),
        (OscillatorChain(5), 60.0),
    ],
    ids=lambda value: named(value) if isinstance(value, System) else "",
)
def test_exact_is_accurate_over_ten_periods(system: System, ten_periods: float):
    """One of ten trajectories solved together, against the tightest tolerance there is."""
    times = grid(ten_periods, 201)
    x0 = system.sample_initial(10, seed=3)
    states = system.exact(x0, times)

    def field(_: float, y: np.ndarray) -> np.ndarray:
        return system.vector_field(y).numpy()

    tight = solve_ivp(field, (0.0, ten_periods), x0[0], "DOP853", times, rtol=3e-14, atol=1e-15)
    torch.testing.assert_close(states[0], torch.from_numpy(tight.y.T), rtol=0, atol=1e-8)


@pytest.mark.parametrize("friction", [0.0, 0.3])
def test_exact_solves_the_damped_oscillator(friction: float):
    mass, stiffness = 2.0, 3.0
    times = grid(60.0, 601)
    x0 = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)
    decay = friction / mass / 2
    omega = math.sqrt(stiffness / mass - decay**2)
    q0, v0 = x0[:, :1], x0[:, 1:] / mass
    wave = q0 * (omega * times).cos() + (v0 + decay * q0) / omega * (omega * times).sin()
    solution = HarmonicOscillator(mass, stiffness, friction).exact(x0, times)
    torch.testing.assert_close(solution[..., 0], (-decay * times).exp() * wave, rtol=0, atol=1e-8)


@every_system
def test_exact_starts_at_the_first_time(system: System):
    """The equations do not depend on time: shifted times give the same states."""
    x0 = system.sample_initial(2)
    states = system.exact(x0, grid(3.0, 7))
    assert torch.equal(states[:, 0], x0)
    torch.testing.assert_close(system.exact(x0, grid(3.0, 7) + 100.0), states, rtol=0, atol=1e-8)
    torch.testing.assert_close(system.exact(x0[1], grid(3.0, 7)), states[1:], rtol=0, atol=1e-8)
    assert torch.equal(system.exact(x0, [5.0]), x0[:, None])


@pytest.mark.parametrize(("limit", "message"), [(100_000, "is less than"), (200, "too small")])
def test_exact_says_where_a_singularity_stops_it(monkeypatch, limit: int, message: str):
    """A body at rest falls into the centre after the time pi / sqrt(8)."""
    monkeypatch.setattr("sympgp.systems.reference.MAX_STEPS", limit)
    with pytest.raises(RuntimeError, match=rf"stops at t = 1\.1\d*, after .* {message}"):
        Kepler().exact([1.0, 0.0, 0.0, 0.0], [0.0, 2.0])


@every_system
def test_simulated_data_carry_the_names_and_units(system: System):
    dim = 2 * system.num_dof
    data = system.simulate(2, noise_std=[0.1] * dim)
    assert data.num_dof == system.num_dof and data.names == system.names
    assert len(set(system.names)) == dim and data.units == system.units
    assert system.sample_initial(4).shape == (4, dim)


def test_lists_and_arrays_are_states():
    expected = Pendulum().hamiltonian(torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    assert torch.equal(Pendulum().hamiltonian([[1, 2]]), expected)
    assert torch.equal(Pendulum().hamiltonian(np.array([[1.0, 2.0]])), expected)
    single = torch.tensor([1.0, 2.0], dtype=torch.float32)
    assert Duffing().vector_field(single).dtype == torch.float32


# --- initial states


def test_the_pendulum_starts_on_a_ring_in_the_directions_of_a_square():
    x = Pendulum().sample_initial(20_000, seed=3)
    radius = x.norm(dim=-1)
    assert 1.3 <= radius.min() and radius.max() <= 2.3
    assert abs(radius.mean() - 1.8) < 0.01
    # A square holds 4/pi as much towards its corners as a disc: the density of the angle is
    # 1 / (8 cos^2), so that P(angle within 22.5 degrees of an axis) is tan(22.5 degrees).
    angle = torch.atan2(x[:, 1], x[:, 0])
    near_axis = (torch.remainder(angle + math.pi / 8, math.pi / 2) < math.pi / 4).double().mean()
    assert abs(near_axis - math.tan(math.pi / 8)) < 0.015
    assert Pendulum().hamiltonian(x).max() < 6.0


def test_duffing_starts_uniformly_between_two_energies():
    x = Duffing().sample_initial(20_000, seed=4)
    energy = Duffing().hamiltonian(x)
    assert len(x) == 20_000 and 0.5 <= energy.min() and energy.max() <= 2.0
    # Area between the two levels, by counting cells: a uniform density has the same share.
    axis = torch.linspace(-3, 3, 1201, dtype=torch.float64)
    cells = torch.cartesian_prod(axis, axis)
    level = Duffing().hamiltonian(cells)
    share = ((level >= 0.5) & (level <= 1.0)).sum() / ((level >= 0.5) & (level <= 2.0)).sum()
    assert abs((energy <= 1.0).double().mean() - share) < 0.015


@pytest.mark.parametrize(("alpha", "beta"), [(-4.0, 0.3), (1.0, 2.0), (0.0, 5.0)])
def test_duffing_starts_between_two_energies_of_its_own_scale(alpha, beta):
    system = Duffing(alpha=alpha, beta=beta)
    unit = alpha**2 / beta if alpha else 1.0
    energy = system.hamiltonian(system.sample_initial(500, seed=0)) / unit
    assert 0.5 <= energy.min() < 0.6 and 1.9 < energy.max() <= 2.0
    # the force is the spring's, and so are the wells of a negative stiffness
    q = torch.tensor([[0.0, 0.0], [1.5, 0.0]], dtype=torch.float64)
    expected = -alpha * q[:, 0] - beta * q[:, 0] ** 3
    torch.testing.assert_close(system.vector_field(q)[:, 1], expected)
    if alpha < 0:
        bottom = torch.tensor([math.sqrt(-alpha / beta), 0.0], dtype=torch.float64)
        assert float(system.vector_field(bottom).abs().max()) < 1e-12
        assert float(system.hamiltonian(bottom)) == pytest.approx(-(alpha**2) / beta / 4)


def test_the_oscillator_starts_at_amplitudes_between_a_half_and_three_halves():
    system = HarmonicOscillator(mass=5.0, stiffness=0.2)
    amplitude = (2 * system.hamiltonian(system.sample_initial(1000, seed=5))).sqrt()
    assert 0.5 <= amplitude.min() and amplitude.max() <= 1.5


# --- the simulator


@every_system
def test_a_seed_fixes_everything(system: System):
    one, same, other = (system.simulate(2, duration=2, missing=0.2, seed=s) for s in (7, 7, 8))
    for a, b, c in zip(one.states, same.states, other.states, strict=True):
        assert torch.equal(a.nan_to_num(9.0), b.nan_to_num(9.0))
        assert not torch.equal(a.nan_to_num(9.0), c.nan_to_num(9.0))
    assert torch.equal(
        torch.stack(system.simulate(2, duration=2, noise_std=0.0, seed=7).states)[:, 0],
        system.sample_initial(2, seed=7),
    )


def test_the_protocol_has_51_points_up_to_and_including_10():
    data = Pendulum().simulate(num_trajectories=5, rate=5, duration=10, noise_std=0.1)
    assert len(data) == 5 and data.num_observations == 5 * 51 * 2
    torch.testing.assert_close(data.times[0], grid(10.0, 51))
    assert data.units == {"q": "rad"} and data.names == ("q", "p")


@pytest.mark.parametrize(("rate", "duration", "count"), [(10, 0.7, 8), (3, 1.0, 4), (5, 1.1, 6)])
def test_the_grid_survives_rounding(rate: int, duration: float, count: int):
    assert len(Duffing().simulate(1, rate, duration).times[0]) == count


def test_no_noise_gives_the_truth_behind_noisy_data():
    settings = {"num_trajectories": 40, "irregular": True, "seed": 11}
    system = Duffing(friction=0.05)
    std = torch.tensor([0.1, 0.4], dtype=torch.float64)
    noisy = system.simulate(noise_std=std, missing=0.3, **settings)
    clean = system.simulate(noise_std=0.0, **settings)
    torch.testing.assert_close(noisy.times, clean.times)
    errors = torch.cat([a - b for a, b in zip(noisy.states, clean.states, strict=True)])
    observed = ~errors.isnan()
    count = observed.sum(0)
    assert (abs(count / len(errors) - 0.7) < 0.04).all()  # 2040 entries: 4 standard errors
    spread = ((errors**2).nansum(0) / count).sqrt()
    assert (abs(spread / std - 1) < 4 / (2 * count).sqrt()).all()
    assert (abs(errors.nansum(0) / count) < 4 * std / count.sqrt()).all()
    assert len({tuple(t.tolist()) for t in noisy.times}) == 40


def test_irregular_states_lie_on_the_exact_solution():
    system = Pendulum(friction=0.05)
    data = system.simulate(3, noise_std=0.0, irregular=True, seed=1)
    x0 = system.sample_initial(3, seed=1)
    for start, t, x in zip(x0, data.times, data.states, strict=True):
        assert len(t) == 51 and 0 <= t[0] and t[-1] <= 10
        with_start = torch.cat([torch.zeros(1, dtype=torch.float64), t])
        torch.testing.assert_close(system.exact(start, with_start)[0, 1:], x, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Pendulum(friction=-0.1), "friction: expected a finite number, at least 0, got -0"),
        (lambda: Duffing(friction=math.nan), "friction: expected a finite number"),
        (lambda: Duffing(alpha=math.inf), "alpha: expected a finite number, got inf"),
        (lambda: Duffing(beta=0.0), "beta: expected a positive number, got 0"),
        (lambda: HarmonicOscillator(mass=0.0), "mass: expected a positive number, got 0"),
        (lambda: HarmonicOscillator(stiffness=-1.0), "stiffness: expected a finite number, at le"),
        (lambda: Pendulum(half_width=0.0), "half_width: expected a positive number, got 0"),
        (lambda: DoublePendulum(masses=(1.0, 0.0)), "masses: expected a positive number, got 0"),
        (lambda: DoublePendulum(lengths=(1.0,)), r"lengths: expected two .* got \(1.0,\)"),
        (lambda: Kepler(mu=-1), "mu: expected a finite number, at least 0, got -1"),
        (lambda: LotkaVolterra(friction=0.1), "friction: expected 0, as populations have none"),
        (lambda: OscillatorChain(0), "num_oscillators: expected at least 1, got 0"),
        (lambda: OscillatorChain(3, coupling=-1), "coupling: expected a finite number, at least"),
        (lambda: OscillatorChain(3).normal_modes(4), "count: expected 1 to 3, got 4"),
        (lambda: Kepler().period([1.0, 2.0]), r"x: .* width 4, got shape \(2,\)"),
        (lambda: OscillatorChain(3).simulate(noise_std=[0.1]), "a number or 6 numbers"),
        (lambda: Pendulum().hamiltonian([1.0, 2.0, 3.0]), r"x: .* width 2, got shape \(3,\)"),
        (lambda: Pendulum().vector_field(1.0), r"x: .* width 2, got shape \(\)"),
        (lambda: Pendulum().exact([[1.0]], [0.0, 1.0]), r"x0: .* width 2, got shape \(1, 1\)"),
        (lambda: Pendulum().exact([1.0, math.nan], [0.0, 1.0]), "x0: expected finite states"),
        (lambda: Pendulum().exact([1.0, 0.0], [0.0, 1.0, 1.0]), "times: .* strictly increasing"),
        (lambda: Pendulum().exact([1.0, 0.0], []), "times: .* strictly increasing"),
        (lambda: Pendulum().sample_initial(0), "num_trajectories: expected at least 1, got 0"),
        (lambda: Pendulum().simulate(0), "num_trajectories: expected at least 1, got 0"),
        (lambda: Pendulum().simulate(rate=0), "at least two observations"),
        (lambda: Pendulum().simulate(duration=-1), "duration: expected a finite number"),
        (lambda: Pendulum().simulate(noise_std=-0.1), "noise_std: expected a number or 2 numbers"),
        (lambda: Pendulum().simulate(noise_std=[0.1] * 3), "noise_std: expected a number or 2"),
        (lambda: Pendulum().simulate(missing=1.0), "missing: expected a probability below 1"),
        (lambda: Pendulum().simulate(missing=math.nan), "missing: expected a probability below 1"),
    ],
)
def test_bad_arguments_are_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


# --- measured and published data


def test_hare_and_lynx_come_with_the_package():
    data = hare_lynx()
    assert data.names == ("log hare", "log lynx") and data.units["time"] == "year"
    assert torch.equal(data.times[0], torch.arange(1900, 1921, dtype=torch.float64))
    counts = data.states[0].exp()
    # First, last and both peaks as published, and the sums of the columns.
    expected = {1900: (30.0, 4.0), 1903: (77.4, 35.2), 1904: (36.3, 59.4), 1920: (24.7, 8.6)}
    for year, pelts in expected.items():
        torch.testing.assert_close(counts[year - 1900].tolist(), list(pelts))
    torch.testing.assert_close(counts.sum(0).tolist(), [715.7, 423.5])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pendulum", "duffing", "double_pendulum"])
@pytest.mark.parametrize("kind", ["conservative", "friction"])
def test_published_trajectories_are_reproduced(sympgp_data: Path, name: str, kind: str):
    """The noise-free trajectories of the NeurIPS 2022 protocol, solved there to about 1e-5."""
    types = {"pendulum": Pendulum, "duffing": Duffing, "double_pendulum": DoublePendulum}
    folder = sympgp_data / "ssgp_protocol"
    files = [np.load(folder / f"{name}_{kind}_split{number}.npz") for number in range(3)]
    system = types[name](friction=float(files[0]["friction"]))
    for times, states in (("test_times", "test"), ("times", "train_clean")):
        truth = torch.from_numpy(np.concatenate([file[states] for file in files]))
        solution = system.exact(truth[:, 0], files[0][times])
        torch.testing.assert_close(solution, truth, rtol=0, atol=2e-5)

"""Rollouts: batches, divergence, moments and bands, energies, files."""

import math
import warnings
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sympgp.integrators import RK4, DivergenceWarning, Dopri5, ImplicitMidpoint
from sympgp.rollouts import Rollouts, solve_rollouts, statistics
from sympgp.rollouts.student_t import LONGEST_SERIES, signed_probability

INTEGRATORS = [RK4(0.05), ImplicitMidpoint(0.05), Dopri5(1e-9, 1e-11)]

# Degrees of freedom of a finite series, of two that there is none for, and of Gaussian noise.
DOFS = [4.0, 3.5, 200.0, None]
every_kind = pytest.mark.parametrize(
    ("kind", "noise_dof"), [("latent", None), *(("predictive", dof) for dof in DOFS)]
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_rollouts(num_draws=50, num_trajectories=2, num_times=4, dim=2, **settings) -> Rollouts:
    samples = randn(num_draws, num_trajectories, num_times, dim)
    times = torch.arange(num_times, dtype=torch.float64)
    diverged = torch.zeros(num_draws, num_trajectories, dtype=torch.bool)
    return Rollouts(samples, times, diverged, **settings)


def with_diverged(rollouts: Rollouts, lost: dict[tuple[int, int], int], **settings) -> Rollouts:
    """The same rollouts with some (draw, trajectory) diverged from some time index on."""
    samples, diverged = rollouts.samples.clone(), rollouts.diverged.clone()
    for (s, n), start in lost.items():
        samples[s, n, start:] = math.nan
        diverged[s, n] = True
    with pytest.warns(DivergenceWarning):
        return Rollouts(samples, rollouts.times, diverged, **settings)


def oscillators(frequencies: Tensor):
    """Draw s is an oscillator of its own frequency, H = w (q^2 + p^2) / 2."""
    omega = frequencies.view(-1, 1, 1)

    def field(t, x):
        q, p = x.unbind(-1)
        return omega * torch.stack([p, -q], -1)

    return field


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_every_draw_from_every_start_follows_its_own_field(integrator):
    frequencies = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    x0 = randn(4, 2).expand(3, 4, 2)
    times = torch.tensor([0.0, 0.3, 1.0, 1.1], dtype=torch.float64)
    samples, diverged = solve_rollouts(oscillators(frequencies), x0, times, integrator)
    angle = frequencies[:, None] * times
    q, p = x0[..., None, :].unbind(-1)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    exact = torch.stack([q * cos + p * sin, p * cos - q * sin], -1)
    assert samples.shape == (3, 4, 4, 2) and not diverged.any()
    tolerance = 5e-3 if isinstance(integrator, ImplicitMidpoint) else 1e-5
    assert (samples - exact).abs().max() < tolerance


def growth(rates: Tensor):
    rate = rates.view(-1, 1, 1)
    return lambda t, x: rate * x


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_a_rollout_that_leaves_the_box_is_nan_from_then_on(integrator):
    rates = torch.tensor([0.1, 3.0, -1.0], dtype=torch.float64)
    x0 = torch.tensor([[[1.0, 0.0], [2.0, 0.0]]], dtype=torch.float64).expand(3, 2, 2)
    times = torch.linspace(0, 2, 5, dtype=torch.float64)
    free, _ = solve_rollouts(growth(rates), x0, times, integrator)
    samples, diverged = solve_rollouts(growth(rates), x0, times, integrator, limit=10.0)
    assert diverged.tolist() == [[False, False], [True, True], [False, False]]
    # exp(3 t) passes 10 at t = 0.77 and 2 exp(3 t) at t = 0.54: between the times 0.5 and 1
    assert samples[1].isnan().all(-1).tolist() == [[False, False, True, True, True]] * 2
    torch.testing.assert_close(samples[::2], free[::2], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(samples[1, :, :2], free[1, :, :2], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_box_has_a_centre_and_a_width_for_each_coordinate(integrator):
    x0 = torch.tensor([[[5.0, 0.0]], [[5.0, 0.0]]], dtype=torch.float64)
    speed = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    limit = torch.tensor([0.5, 2.0], dtype=torch.float64)
    center = torch.tensor([5.0, 0.0], dtype=torch.float64)
    _, diverged = solve_rollouts(
        lambda t, x: speed.expand_as(x), x0, [0.0, 1.0], integrator, limit, center
    )
    assert diverged.tolist() == [[True], [False]]


def test_a_rollout_that_comes_back_stays_diverged():
    """Once outside, the state is not to be trusted even if it returns."""
    field = oscillators(torch.ones(1, dtype=torch.float64))
    x0 = torch.tensor([[[0.0, 2.0]]], dtype=torch.float64)
    times = torch.tensor([0.0, 1.5, 3.1], dtype=torch.float64)
    samples, diverged = solve_rollouts(field, x0 * 1.0, times, RK4(0.01), limit=1.0)
    assert diverged.all() and samples.isnan().all()  # p = 2 is outside at the start
    samples, _ = solve_rollouts(
        field, x0, times, RK4(0.01), limit=torch.tensor([1.0, 3.0], dtype=torch.float64)
    )
    assert samples.isnan().all(-1).flatten().tolist() == [False, True, True]


def test_one_rollout_that_blows_up_does_not_stop_the_others():
    """dx/dt = r x^2 reaches infinity at t = 1 / (r x0); a step length is shared by the batch."""
    rates = torch.tensor([0.1, 5.0], dtype=torch.float64).view(2, 1, 1)
    x0 = torch.ones(2, 1, 2, dtype=torch.float64)
    times = torch.linspace(0, 1, 6, dtype=torch.float64)
    for integrator in (RK4(0.02), ImplicitMidpoint(0.02), Dopri5(1e-8, 1e-10)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            samples, diverged = solve_rollouts(
                lambda t, x: rates * x**2, x0, times, integrator, limit=1e3
            )
        assert diverged.tolist() == [[False], [True]]
        exact = 1 / (1 - 0.1 * times)
        tolerance = 1e-4 if isinstance(integrator, ImplicitMidpoint) else 1e-6
        assert (samples[0, 0] - exact[:, None]).abs().max() < tolerance
        assert samples[1, 0, 2:].isnan().all()


def test_a_limit_that_is_not_positive_is_refused():
    x0 = torch.ones(1, 1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="limit: expected a positive half width"):
        solve_rollouts(lambda t, x: x, x0, [0.0, 1.0], RK4(0.1), limit=-1.0)


@pytest.mark.parametrize("integrator", [RK4(0.1), ImplicitMidpoint(0.1, max_iterations=3)])
def test_nothing_is_left_on_the_cpu(integrator):
    with FakeTensorMode():
        options = {"dtype": torch.float64, "device": "cuda"}
        x0, center = torch.empty(5, 3, 2, **options), torch.empty(2, **options)
        field = oscillators(torch.empty(5, **options))
        for limit in (None, 10.0, torch.empty(2, **options)):
            samples, diverged = solve_rollouts(field, x0, [0.0, 0.5], integrator, limit, center)
            assert samples.device.type == "cuda" and samples.shape == (5, 3, 2, 2)
            assert diverged.device.type == "cuda" and diverged.shape == (5, 3)


def test_moments_are_those_of_the_draws():
    rollouts = make_rollouts()
    torch.testing.assert_close(rollouts.mean, rollouts.samples.mean(0))
    torch.testing.assert_close(rollouts.std, rollouts.samples.std(0))
    assert (rollouts.num_draws, rollouts.num_trajectories) == (50, 2)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_the_latent_band_is_the_quantiles_of_the_draws(level):
    """Weibull's plotting positions, against NumPy's."""
    rollouts = make_rollouts()
    lower, upper = rollouts.band(level)
    tails = [(1 - level) / 2, (1 + level) / 2]
    expected = torch.as_tensor(
        np.quantile(rollouts.samples.numpy(), tails, axis=0, method="weibull")
    )
    torch.testing.assert_close(torch.stack([lower, upper]), expected)


def test_the_latent_band_holds_one_more_draw_as_often_as_it_says():
    """Bands of 39 draws at level 0.9 over 20,000 independent points: 0.90, not 0.85."""
    points, num_draws = 20_000, 39
    draws = randn(num_draws + 1, points, 1, 2)
    rollouts = Rollouts(draws[1:], torch.zeros(1), torch.zeros(num_draws, points, dtype=torch.bool))
    lower, upper = rollouts.band(0.9)
    share = ((draws[0] >= lower) & (draws[0] <= upper)).double().mean()
    assert abs(share - 0.9) < 4 * math.sqrt(0.09 / (2 * points))


def test_bands_of_gaussian_draws_are_gaussian():
    """Against the normal quantile, within five standard errors of an order statistic."""
    num_draws, level = 40_000, 0.9
    samples = 2 + 3 * randn(num_draws, 1, 1, 2)
    rollouts = Rollouts(samples, torch.zeros(1), torch.zeros(num_draws, 1, dtype=torch.bool))
    z = NormalDist().inv_cdf((1 + level) / 2)
    error = 3 * math.sqrt(0.05 * 0.95 / num_draws) / NormalDist().pdf(z)
    for end, expected in zip(rollouts.band(level), (2 - 3 * z, 2 + 3 * z), strict=True):
        assert (end - expected).abs().max() < 5 * error


@given(level=st.floats(0.01, 0.99), sigma=st.floats(0.1, 3.0))
def test_predictive_bands_of_certain_states_are_the_noise(level, sigma):
    """Where all draws agree, the predictive band is x +- z sigma."""
    samples = torch.tensor([1.0, -2.0], dtype=torch.float64).expand(7, 1, 3, 2)
    noise_std = sigma * torch.tensor([1.0, 0.5], dtype=torch.float64).expand(7, 2)
    diverged = torch.zeros(7, 1, dtype=torch.bool)
    rollouts = Rollouts(samples, torch.arange(3.0), diverged, noise_std=noise_std)
    lower, upper = rollouts.band(level, kind="predictive")
    z = NormalDist().inv_cdf((1 + level) / 2)
    torch.testing.assert_close(upper, samples[0] + z * noise_std[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(lower, samples[0] - z * noise_std[0], rtol=0, atol=1e-6)


@given(
    t=st.floats(-1e200, 1e200) | st.floats(-10, 10),
    dof=st.integers(1, int(LONGEST_SERIES) + 2) | st.floats(0.5, 300),
)
def test_students_probabilities_are_those_of_scipy(t, dof):
    signed = signed_probability(torch.tensor([t, math.inf], dtype=torch.float64), float(dof))
    assert signed[0].item() == pytest.approx(2 * stats.t.cdf(t, dof) - 1, rel=1e-12, abs=1e-14)
    assert signed[1] == 1.0


@given(level=st.floats(0.01, 0.99), sigma=st.floats(0.1, 3.0), dof=st.floats(0.5, 50.0))
def test_students_bands_of_certain_states_are_the_noise(level, sigma, dof):
    samples = torch.tensor([1.0, -2.0], dtype=torch.float64).expand(2, 1, 3, 2)
    noise_std = sigma * torch.tensor([1.0, 0.5], dtype=torch.float64).expand(2, 2)
    diverged = torch.zeros(2, 1, dtype=torch.bool)
    for size in (1, 2):  # a single draw is enough
        rollouts = Rollouts(
            samples[:size],
            torch.arange(3.0),
            diverged[:size],
            noise_std=noise_std[:size],
            noise_dof=dof,
        )
        lower, upper = rollouts.band(level, kind="predictive")
        law = stats.t(dof, samples[0].numpy(), noise_std[0].numpy())
        for end, share in ((lower, (1 - level) / 2), (upper, (1 + level) / 2)):
            torch.testing.assert_close(end, torch.from_numpy(law.ppf(share)), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.99])
@pytest.mark.parametrize("noise_dof", [2.5, 3.0])
def test_students_band_holds_noisy_observations_as_often_as_it_says(noise_dof, level):
    """Observations of the draws themselves, each with its own noise: those of the mixture."""
    noise_std = randn(20, 2, seed=1).abs() + 0.1
    rollouts = make_rollouts(num_draws=20, noise_std=noise_std, noise_dof=noise_dof)
    num, generator = 10_000, np.random.default_rng(0)
    draw = torch.from_numpy(generator.integers(20, size=num))
    noise = torch.from_numpy(generator.standard_t(noise_dof, (num, 2, 4, 2)))
    observed = rollouts.samples[draw] + noise_std[draw][:, None, None] * noise
    lower, upper = rollouts.band(level, kind="predictive")
    share = ((observed >= lower) & (observed <= upper)).double().mean((0, 1, 2))
    # eight points share the draw of an observation: its own 10,000 count alone
    assert (share - level).abs().max() < 4 * math.sqrt(level * (1 - level) / num)


def test_the_predictive_band_widens_by_the_noise():
    """N(0, 1) draws with N(0, s^2) noise: a band of N(0, 1 + s^2), the latent one of N(0, 1)."""
    num_draws, level = 4000, 0.9
    grid = (torch.arange(num_draws, dtype=torch.float64) + 0.5) / num_draws
    draws = math.sqrt(2) * torch.erfinv(2 * grid - 1)  # normal quantiles: no sampling error
    samples = draws.view(-1, 1, 1, 1).expand(num_draws, 1, 1, 2)
    noise_std = torch.tensor([0.5, 2.0], dtype=torch.float64).expand(num_draws, 2)
    diverged = torch.zeros(num_draws, 1, dtype=torch.bool)
    rollouts = Rollouts(samples, torch.zeros(1), diverged, noise_std=noise_std)
    z = NormalDist().inv_cdf((1 + level) / 2)
    latent, predictive = rollouts.band(level)[1], rollouts.band(level, "predictive")[1]
    assert (latent - z).abs().max() < 2e-3
    expected = z * torch.tensor([1.25, 5.0], dtype=torch.float64).sqrt()
    assert (predictive[0, 0] - expected).abs().max() < 2e-3


@pytest.mark.parametrize("noise_dof", DOFS)
def test_predictive_quantiles_solve_the_mixture(noise_dof):
    """The share of the mixture below each end is the tail's; the noise differs by draw."""
    noise_std = randn(20, 2, seed=1).abs() + 0.1
    rollouts = make_rollouts(num_draws=20, noise_std=noise_std, noise_dof=noise_dof)
    law = stats.norm if noise_dof is None else stats.t(noise_dof)
    sigma = rollouts.noise_std[:, None, None, :]
    for end, share in zip(rollouts.band(0.8, "predictive"), (0.1, 0.9), strict=True):
        below = law.cdf(((end - rollouts.samples) / sigma).numpy()).mean(0)
        np.testing.assert_allclose(below, share, rtol=0, atol=1e-6)


def test_many_degrees_of_freedom_give_the_gaussian_band():
    noise_std = randn(50, 2, seed=1).abs() + 0.1
    gaussian = make_rollouts(noise_std=noise_std).band(0.9, "predictive")
    student = make_rollouts(noise_std=noise_std, noise_dof=1e9).band(0.9, "predictive")
    torch.testing.assert_close(student, gaussian, rtol=0, atol=1e-6)


@pytest.mark.parametrize("noise_dof", DOFS)
def test_without_noise_the_predictive_band_is_that_of_the_draws(noise_dof):
    """Each draw is a step of 1/50: a tail of 0.095 ends at the fifth."""
    none = torch.zeros(50, 2, dtype=torch.float64)
    rollouts = make_rollouts(noise_std=none, noise_dof=noise_dof)
    lower, upper = rollouts.band(0.81, kind="predictive")
    ordered = rollouts.samples.sort(0).values
    torch.testing.assert_close(lower, ordered[4], rtol=0, atol=1e-6)
    torch.testing.assert_close(upper, ordered[45], rtol=0, atol=1e-6)


@pytest.mark.parametrize("noise_dof", DOFS)
def test_predictive_bands_have_the_kind_of_numbers_of_the_draws(noise_dof):
    wide = make_rollouts(noise_std=torch.ones(50, 2, dtype=torch.float64), noise_dof=noise_dof)
    narrow = Rollouts(
        wide.samples.float(),
        wide.times.float(),
        wide.diverged,
        noise_std=wide.noise_std.float(),
        noise_dof=noise_dof,
    )
    for end, expected in zip(
        narrow.band(kind="predictive"), wide.band(kind="predictive"), strict=True
    ):
        assert end.dtype == torch.float32
        torch.testing.assert_close(end.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("noise_dof", [3.0, 4.0])
def test_students_probabilities_stay_on_the_device(noise_dof):
    with FakeTensorMode():
        signed = signed_probability(torch.empty(5, 3, device="cuda"), noise_dof)
        assert signed.device.type == "cuda" and signed.shape == (5, 3)


@every_kind
def test_bands_do_not_depend_on_the_chunks(kind, noise_dof, monkeypatch):
    noise_std = torch.ones(50, 2, dtype=torch.float64)
    rollouts = make_rollouts(noise_std=noise_std, noise_dof=noise_dof)
    whole = rollouts.band(kind=kind)
    monkeypatch.setattr(statistics, "CHUNK_ELEMENTS", 300)
    for end, again in zip(whole, rollouts.band(kind=kind), strict=True):
        assert torch.equal(end, again)


@every_kind
def test_diverged_draws_are_left_out(kind, noise_dof):
    noise_std = 0.3 + randn(50, 2, seed=3).abs()
    noise = {"noise_std": noise_std, "noise_dof": noise_dof}
    rollouts = make_rollouts(**noise)
    lost = {(0, 0): 1, (7, 0): 3, (7, 1): 0}
    partial = with_diverged(rollouts, lost, **noise)
    for n, left in [
        (0, [s for s in range(50) if s not in (0, 7)]),
        (1, [*range(7), *range(8, 50)]),
    ]:
        kept = Rollouts(
            rollouts.samples[left, n : n + 1],
            rollouts.times,
            rollouts.diverged[left, n : n + 1],
            noise_std=noise_std[left],
            noise_dof=noise_dof,
        )
        torch.testing.assert_close(partial.mean[n], kept.mean[0])
        torch.testing.assert_close(partial.std[n], kept.std[0])
        for end, expected in zip(partial.band(kind=kind), kept.band(kind=kind), strict=True):
            torch.testing.assert_close(end[n], expected[0])


@pytest.mark.parametrize("noise_dof", DOFS)
def test_where_all_draws_diverged_there_is_no_mean(noise_dof):
    noise = {"noise_std": torch.ones(3, 2, dtype=torch.float64), "noise_dof": noise_dof}
    lost = {(s, 1): 2 for s in range(3)}
    partial = with_diverged(make_rollouts(num_draws=3), lost, **noise)
    for value in (
        partial.mean,
        partial.median,
        partial.std,
        *partial.band(),
        *partial.band(kind="predictive"),
    ):
        assert value[1].isnan().all() and value[0].isfinite().all()


def test_divergence_is_reported_once_with_its_place_and_time():
    rollouts = make_rollouts(num_draws=10, num_trajectories=3, num_times=6)
    samples, diverged = rollouts.samples.clone(), rollouts.diverged.clone()
    for s, n, start in [(2, 0, 4), (5, 0, 3), (9, 2, 1)]:
        samples[s, n, start:] = math.nan
        diverged[s, n] = True
    with pytest.warns(DivergenceWarning) as record:
        Rollouts(samples, 0.5 * rollouts.times, diverged)
    assert len(record) == 1
    message = str(record[0].message)
    assert message.startswith("3 of 30 rollouts diverged")
    assert "2 of trajectory 0 (the first at t = 1.5)" in message
    assert "1 of trajectory 2 (the first at t = 0.5)" in message
    assert "trajectory 1" not in message


def test_the_median_is_that_of_the_draws_left():
    rollouts = with_diverged(make_rollouts(num_draws=8), {(3, 0): 1})
    kept = [s for s in range(8) if s != 3]
    torch.testing.assert_close(rollouts.median[0], rollouts.samples[kept, 0].median(0).values)
    both = rollouts.samples[:, 1].sort(0).values[3:5].mean(0)
    torch.testing.assert_close(rollouts.median[1], both)


def test_a_single_draw_has_a_mean_and_no_spread():
    rollouts = make_rollouts(num_draws=1)
    assert torch.equal(rollouts.mean, rollouts.samples[0])
    assert rollouts.std.isnan().all()
    assert torch.equal(rollouts.band()[0], rollouts.samples[0])


def own_energy(x: Tensor) -> Tensor:
    scale = 1 + torch.arange(x.shape[0], dtype=x.dtype).view(-1, 1, 1)
    return scale * x.square().sum(-1) / 2


def test_energies_are_each_draws_own():
    rollouts = make_rollouts(num_draws=3, energies=own_energy)
    energy = rollouts.energy()
    assert energy.shape == (3, 2, 4)
    torch.testing.assert_close(energy[2], 3 * rollouts.samples[2].square().sum(-1) / 2)
    given = make_rollouts(num_draws=3, energies=energy)
    assert torch.equal(given.energy(), energy)


def test_energy_is_conserved_by_a_symplectic_rollout_of_every_draw():
    frequencies = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    x0 = randn(4, 2).expand(3, 4, 2)
    times = torch.linspace(0, 20, 41, dtype=torch.float64)
    samples, diverged = solve_rollouts(oscillators(frequencies), x0, times, ImplicitMidpoint(0.1))

    def energies(x):
        return frequencies.view(-1, 1, 1) * x.square().sum(-1) / 2

    energy = Rollouts(samples, times, diverged, energies).energy()
    torch.testing.assert_close(energy, energy[..., :1].expand_as(energy), rtol=1e-11, atol=0)


def test_the_energy_of_a_diverged_rollout_ends():
    partial = with_diverged(make_rollouts(), {(4, 1): 2}, energies=lambda x: torch.ones(50, 2, 4))
    assert partial.energy()[4, 1].isnan().tolist() == [False, False, True, True]
    assert partial.energy().isnan().sum() == 2


def test_no_energy_is_an_error_of_type():
    with pytest.raises(TypeError, match="no energies"):
        make_rollouts().energy()


def test_energies_of_another_shape_are_refused():
    rollouts = make_rollouts(energies=lambda x: x)
    with pytest.raises(ValueError, match=r"energies: expected values of shape \(50, 2, 4\)"):
        rollouts.energy()


def test_names_by_default_and_units():
    assert make_rollouts().names == ("q", "p")
    assert make_rollouts(dim=4).names == ("q1", "q2", "p1", "p2")
    rollouts = make_rollouts(names=["angle", "speed"], units={"angle": "rad", "force": "N"})
    assert rollouts.names == ("angle", "speed")
    assert rollouts.units == {"angle": "rad"}


def full_rollouts(dtype=torch.float64, noise_dof=None) -> Rollouts:
    rollouts = make_rollouts(num_draws=5, num_times=3)
    return Rollouts(
        rollouts.samples.to(dtype),
        rollouts.times.to(dtype),
        rollouts.diverged,
        energies=own_energy,
        noise_std=torch.full((5, 2), 0.1, dtype=dtype),
        names=("angle", "p"),
        units={"angle": "rad", "time": "days", "energy": "J"},
        seed=17,
        noise_dof=noise_dof,
    )


def test_the_dataset_has_named_dimensions_and_units():
    dataset = full_rollouts().to_xarray()
    assert dataset["state"].dims == ("draw", "trajectory", "time", "coordinate")
    assert dataset["energy"].dims == ("draw", "trajectory", "time")
    assert dataset["noise_std"].dims == ("draw", "coordinate")
    assert dataset["diverged"].dims == ("draw", "trajectory")
    assert list(dataset["coordinate"].values) == ["angle", "p"]
    assert dataset["time"].attrs["units"] == "days"
    assert dataset["energy"].attrs["units"] == "J"
    assert dataset["coordinate"].attrs["units"] == ["rad", ""]
    plain = make_rollouts().to_xarray()
    assert set(plain.data_vars) == {"state", "diverged"}
    assert not plain["time"].attrs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_file_gives_the_same_rollouts_back(tmp_path, dtype):
    rollouts = full_rollouts(dtype)
    rollouts.solver_error = 0.25
    path = tmp_path / "rollouts.nc"
    rollouts.to_netcdf(path)
    again = Rollouts.from_netcdf(path)
    assert again.samples.dtype == dtype and again.solver_error == 0.25
    for name in ("samples", "times", "diverged", "noise_std", "mean", "std"):
        assert torch.equal(getattr(again, name), getattr(rollouts, name)), name
    assert torch.equal(again.energy(), rollouts.energy())
    for kind in ("latent", "predictive"):
        assert torch.equal(again.band(kind=kind)[0], rollouts.band(kind=kind)[0])
    assert (again.names, again.units, again.seed) == (rollouts.names, rollouts.units, 17)


@pytest.mark.parametrize("noise_dof", [4, 3.5, None])
def test_the_law_of_the_noise_is_kept(tmp_path, noise_dof):
    rollouts = full_rollouts(noise_dof=noise_dof)
    rollouts.to_netcdf(tmp_path / "rollouts.nc")
    for again in (
        Rollouts.from_xarray(rollouts.to_xarray()),
        Rollouts.from_netcdf(tmp_path / "rollouts.nc"),
    ):
        assert again.noise_dof == noise_dof and type(again.noise_dof) is type(rollouts.noise_dof)
        band, expected = again.band(kind="predictive"), rollouts.band(kind="predictive")
        assert torch.equal(torch.stack(band), torch.stack(expected))
    assert ("noise_dof" in rollouts.to_xarray().attrs) == (noise_dof is not None)


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    rollouts = full_rollouts()
    for path, message in [
        (tmp_path, "path: expected a file to write, got the folder"),
        (tmp_path / "nowhere" / "rollouts.nc", "path: the folder '.*nowhere' does not exist"),
        (tmp_path / ("x" * 300), "path: cannot write '.*': File name too long"),
    ]:
        with pytest.raises(ValueError, match=message):
            rollouts.to_netcdf(path)
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_over(tmp_path):
    make_rollouts().to_netcdf(tmp_path / "rollouts.nc")
    full_rollouts().to_netcdf(tmp_path / "rollouts.nc")
    assert Rollouts.from_netcdf(tmp_path / "rollouts.nc").seed == 17


@pytest.mark.parametrize("unit", ["days", "years", "days since 1900-01-01"])
def test_times_in_a_file_stay_numbers(tmp_path, unit):
    rollouts = make_rollouts(units={"time": unit})
    rollouts.to_netcdf(tmp_path / "rollouts.nc")
    again = Rollouts.from_netcdf(tmp_path / "rollouts.nc")
    assert torch.equal(again.times, rollouts.times) and again.units == {"time": unit}


def test_a_file_keeps_what_diverged(tmp_path):
    partial = with_diverged(make_rollouts(), {(4, 1): 2})
    partial.to_netcdf(tmp_path / "rollouts.nc")
    with pytest.warns(DivergenceWarning, match="trajectory 1"):
        again = Rollouts.from_netcdf(str(tmp_path / "rollouts.nc"))
    assert torch.equal(again.diverged, partial.diverged)
    assert torch.equal(again.samples.isnan(), partial.samples.isnan())


def test_xarray_opens_the_file_without_a_warning(tmp_path):
    import xarray

    full_rollouts().to_netcdf(tmp_path / "rollouts.nc")
    with xarray.open_dataset(tmp_path / "rollouts.nc", decode_timedelta=False) as dataset:
        assert dataset["state"].shape == (5, 2, 3, 2)


def test_another_file_is_refused(tmp_path):
    import xarray

    text = tmp_path / "notes.nc"
    text.write_text("not a data set")
    with pytest.raises(ValueError, match=r"expected a NetCDF file of rollouts.*notes\.nc"):
        Rollouts.from_netcdf(text)
    other = tmp_path / "other.nc"
    xarray.Dataset({"rain": ("day", [1.0, 2.0])}).to_netcdf(other, engine="h5netcdf")
    with pytest.raises(ValueError, match=r"other\.nc.*variable 'state'.*\['rain'\]"):
        Rollouts.from_netcdf(other)
    turned = full_rollouts().to_xarray().transpose("time", ...)
    with pytest.raises(ValueError, match="dimensions"):
        Rollouts.from_xarray(turned)
    with pytest.raises(FileNotFoundError):
        Rollouts.from_netcdf(tmp_path / "missing.nc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": torch.zeros(2, 1, 3, 3)}, "samples: expected .draws, trajectories"),
        ({"times": torch.zeros(4)}, r"times: expected shape \(3,\), got \(4,\)"),
        ({"diverged": torch.zeros(2, 2, dtype=torch.bool)}, r"diverged: expected shape \(2, 1\)"),
        ({"energies": torch.zeros(2, 1, 2)}, r"energies: expected shape \(2, 1, 3\)"),
        ({"noise_std": torch.zeros(1, 2)}, r"noise_std: expected shape \(2, 2\)"),
        ({"noise_std": -torch.ones(2, 2)}, "noise_std: expected standard deviations"),
        ({"angles": {"p": 1.0}}, "angles: expected some of q, got 'p'"),
        ({"angles": {"q": 0.0}}, "angles: expected a positive period of q, got 0.0"),
        ({"noise_dof": 0}, "noise_dof: expected a positive number or None, got 0"),
        ({"noise_dof": math.nan}, "noise_dof: expected a positive number or None, got nan"),
        ({"noise_dof": math.inf}, "noise_dof: expected a positive number or None, got inf"),
        ({"samples": torch.full((2, 1, 3, 2), math.nan)}, "draw 0 of trajectory 0"),
        ({"names": ("q",)}, "names: expected 2"),
        ({"names": ("q", "q")}, "names: expected distinct"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    settings = {
        "samples": torch.zeros(2, 1, 3, 2),
        "times": torch.arange(3.0),
        "diverged": torch.zeros(2, 1, dtype=torch.bool),
    } | change
    # Shapes are checked by the class itself, for users without the run-time checks of the tests.
    unchecked = Rollouts.__init__
    while hasattr(unchecked, "__wrapped__"):
        unchecked = unchecked.__wrapped__
    with pytest.raises(ValueError, match=message):
        unchecked(object.__new__(Rollouts), **settings)


def test_band_arguments_are_checked():
    rollouts = make_rollouts()
    for level in (0.0, 1.0, 90.0):
        with pytest.raises(ValueError, match="level: expected a probability"):
            rollouts.band(level)
    with pytest.raises(ValueError, match="'latent' or 'predictive', got 'noisy'"):
        rollouts.band(kind="noisy")
    with pytest.raises(ValueError, match="needs noise_std"):
        rollouts.band(kind="predictive")

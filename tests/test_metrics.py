"""Metrics: worked by hand, against brute force, and for what must not change them."""

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import jaxtyping
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from sympgp.metrics import coverage, crps, energy_mse, nlpd, trajectory_mse
from sympgp.rollouts import Rollouts
from sympgp.systems import Pendulum

NAN = math.nan


@dataclass
class DrawsOnly:
    """Rollouts reduced to what the metrics use."""

    samples: Tensor
    diverged: Tensor
    noise_std: Tensor | None = None
    noise_dof: float | None = None

    @property
    def mean(self) -> Tensor:
        return self._valid().nanmean(0)

    def band(self, level: float = 0.9, kind: str = "latent") -> tuple[Tensor, Tensor]:
        x = self._valid()
        if kind == "predictive":
            generator = torch.Generator().manual_seed(5)
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = x + self.noise_std[:, None, None] * noise
        tail = (1 - level) / 2
        return x.nanquantile(tail, 0), x.nanquantile(1 - tail, 0)

    def _valid(self) -> Tensor:
        return self.samples.masked_fill(self.diverged[:, :, None, None], NAN)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rollouts(draws: int = 12, n: int = 3, times: int = 5, noise: float = 0.3) -> DrawsOnly:
    samples = normal(draws, n, times, 2)
    samples[:, :, 0] = samples[0, :, 0]  # the start is given exactly
    std = noise * torch.linspace(0.8, 1.2, 2 * draws, dtype=torch.float64).reshape(draws, 2)
    return DrawsOnly(samples, torch.zeros(draws, n, dtype=torch.bool), std)


def student_t(score, dof: float = 3.0):
    """The predictive score of the same draws with Student's t noise."""
    return lambda r, y, **k: score(replace(r, noise_dof=dof), y, kind="predictive", **k)


SCORES = {
    "coverage": coverage,
    "coverage-predictive": lambda r, y, **k: coverage(r, y, kind="predictive", **k),
    "crps": crps,
    "crps-predictive": lambda r, y, **k: crps(r, y, kind="predictive", **k),
    "crps-student-t": student_t(crps),
    "nlpd": nlpd,
    "nlpd-predictive": lambda r, y, **k: nlpd(r, y, kind="predictive", **k),
    "nlpd-student-t": student_t(nlpd),
}
every_score = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())


# --- errors of point predictions


def test_trajectory_mse_by_hand():
    truth = [[[0.0, 0.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]]
    prediction = [[[0.0, 0.0], [1.0, 3.0]], [[2.0, 1.0], [3.0, 0.0]]]
    # squared errors summed over coordinates: 0, 4, 1, 9
    assert trajectory_mse(prediction, truth) == 3.5
    assert trajectory_mse(prediction, truth, per_trajectory=True).tolist() == [2.0, 5.0]
    assert trajectory_mse(np.array(prediction), torch.tensor(truth)) == 3.5
    assert trajectory_mse(prediction[0], truth[0]) == 2.0


def test_trajectory_mse_with_gaps_is_the_sum_of_each_coordinates_mean():
    truth = [[[0.0, 0.0], [1.0, NAN], [NAN, NAN]]]
    prediction = [[[2.0, 3.0], [1.0, 7.0], [5.0, 5.0]]]
    assert trajectory_mse(prediction, truth) == (4 + 0) / 2 + 9
    positions = [[[0.0, NAN], [1.0, NAN], [1.0, NAN]]]
    assert trajectory_mse(prediction, positions) == (4 + 0 + 16) / 3
    both = trajectory_mse(prediction * 2, [truth[0], [[NAN] * 2] * 3], per_trajectory=True)
    assert both[0] == 11 and both[1].isnan()


def test_energy_mse_by_hand():
    def hamiltonian(x: Tensor) -> Tensor:
        return x.sum(-1)

    truth = [[[0.0, 0.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, NAN]]]
    prediction = [[[0.0, 0.0], [1.0, 3.0]], [[2.0, 1.0], [9.0, 9.0]]]
    assert energy_mse(prediction, truth, hamiltonian) == (0 + 4 + 1) / 3
    per_trajectory = energy_mse(prediction, truth, hamiltonian, per_trajectory=True)
    assert per_trajectory.tolist() == [2.0, 1.0]


def test_energy_mse_vanishes_on_a_level_set():
    system = Pendulum()
    times = torch.linspace(0.0, 5.0, 20, dtype=torch.float64)
    x = system.exact(system.sample_initial(2), times)
    assert energy_mse(x.flip(1), x, system.hamiltonian) < 1e-16
    assert trajectory_mse(x.flip(1), x) > 0.1


def test_the_mean_of_the_draws_is_the_prediction():
    draws, truth = rollouts(), normal(3, 5, 2, seed=1)
    assert trajectory_mse(draws, truth) == trajectory_mse(draws.samples.mean(0), truth)
    energy = Pendulum().hamiltonian
    assert energy_mse(draws, truth, energy) == energy_mse(draws.samples.mean(0), truth, energy)


# --- scores of distributions


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage_is_the_level_when_truth_is_a_draw(level: float):
    draws = DrawsOnly(normal(400, 40, 26, 2), torch.zeros(400, 40, dtype=torch.bool))
    truth = normal(40, 26, 2, seed=1)
    assert abs(coverage(draws, truth, level) - level) < 0.04  # 2000 entries: 4 standard errors
    draws.noise_std = torch.full((400, 2), 2.0, dtype=torch.float64)
    noisy = truth + 2.0 * normal(40, 26, 2, seed=2)
    assert coverage(draws, noisy, level) < level - 0.1
    assert abs(coverage(draws, noisy, level, kind="predictive") - level) < 0.04


def test_coverage_by_hand_per_channel_and_with_the_start():
    samples = torch.tensor([-1.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1).expand(2, 1, 3, 2)
    draws = DrawsOnly(samples, torch.zeros(2, 1, dtype=torch.bool))
    truth = [[[0.0, 5.0], [0.5, 2.0], [0.9, -0.9]]]
    assert coverage(draws, truth, 1.0) == 3 / 4
    assert coverage(draws, truth, 1.0, per_channel=True).tolist() == [1.0, 0.5]
    assert coverage(draws, truth, 1.0, include_start=True) == 4 / 6
    assert coverage(draws, truth, 0.9) == 2 / 4  # the band is [-0.9, 0.9], edges included


@pytest.mark.parametrize("draws", [2, 3, 50])
def test_crps_is_the_fair_estimator(draws: int):
    predicted, truth = rollouts(draws), normal(3, 5, 2, seed=1)
    x, y = predicted.samples[:, :, 1:], truth[:, 1:]
    pairs = (x[:, None] - x[None]).abs().sum((0, 1)) / (2 * draws * (draws - 1))
    expected = ((x - y).abs().mean(0) - pairs).mean((0, 1))
    torch.testing.assert_close(crps(predicted, truth, per_channel=True), expected)
    torch.testing.assert_close(crps(predicted, truth), expected.mean())


@pytest.mark.parametrize("draws", [2, 10])
def test_crps_does_not_depend_on_the_number_of_draws_on_average(draws: int):
    """For N(0, 1) and the truth y = 1: y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi)."""
    predicted = DrawsOnly(normal(draws, 200, 101, 2), torch.zeros(draws, 200, dtype=torch.bool))
    expected = math.erf(1 / math.sqrt(2)) + 2 * math.exp(-0.5) / math.sqrt(2 * math.pi)
    expected -= 1 / math.sqrt(math.pi)
    # 40,000 entries of standard deviation below 0.9
    assert abs(crps(predicted, torch.ones(200, 101, 2)) - expected) < 4 * 0.9 / math.sqrt(40_000)


def test_predictive_crps_is_that_of_noisy_draws():
    """Draws all at 0 with noise 2 are N(0, 4), whose score at 0 is 2 (sqrt(2) - 1) / sqrt(pi)."""
    still = torch.zeros(10, 200, 101, 2, dtype=torch.float64)
    noise = torch.full((10, 2), 2.0, dtype=torch.float64)
    predicted = DrawsOnly(still, torch.zeros(10, 200, dtype=torch.bool), noise)
    truth = torch.zeros(200, 101, 2)
    expected = 2 * (math.sqrt(2) - 1) / math.sqrt(math.pi)
    assert abs(crps(predicted, truth, kind="predictive") - expected) < 0.015
    assert crps(predicted, truth) == 0.0
    again = crps(predicted, truth, kind="predictive")
    assert again == crps(predicted, truth, kind="predictive")
    assert again != crps(predicted, truth, kind="predictive", seed=1)


def test_latent_nlpd_is_that_of_the_gaussian_with_the_draws_moments():
    predicted, truth = rollouts(), normal(3, 5, 2, seed=1)
    x = predicted.samples[:, :, 1:]
    gaussian = torch.distributions.Normal(x.mean(0), x.std(0))
    expected = -gaussian.log_prob(truth[:, 1:]).mean((0, 1))
    torch.testing.assert_close(nlpd(predicted, truth, per_channel=True), expected)
    torch.testing.assert_close(nlpd(predicted, truth), expected.mean())


def test_predictive_nlpd_is_that_of_the_mixture():
    predicted, truth = rollouts(), normal(3, 5, 2, seed=1)
    normals = torch.distributions.Normal(predicted.samples, predicted.noise_std[:, None, None])
    density = normals.log_prob(truth).exp().mean(0)
    expected = -density[:, 1:].log().mean()
    torch.testing.assert_close(nlpd(predicted, truth, kind="predictive"), expected)
    start = -density.log().mean()
    torch.testing.assert_close(nlpd(predicted, truth, kind="predictive", include_start=True), start)


# --- Student's t noise


@pytest.mark.parametrize("dof", [2.5, 4.0, 30.0])
def test_students_nlpd_is_that_of_the_mixture(dof):
    predicted, truth = rollouts(), normal(3, 5, 2, seed=1)
    noise_std = predicted.noise_std[:, None, None].numpy()
    density = stats.t.pdf(truth.numpy(), dof, predicted.samples.numpy(), noise_std).mean(0)
    expected = -np.log(density)[:, 1:].mean((0, 1))
    score = student_t(nlpd, dof)(predicted, truth, per_channel=True)
    torch.testing.assert_close(score, torch.from_numpy(expected))


@pytest.mark.parametrize("dof", [None, 2.5, 4.0])
def test_the_predictive_density_integrates_to_one(dof):
    samples = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    noise_std = torch.tensor([[0.5], [1.0], [0.7]], dtype=torch.float64)
    predicted = DrawsOnly(samples, torch.zeros(3, 1, dtype=torch.bool), noise_std, dof)

    def density(y: float) -> float:
        return math.exp(-nlpd(predicted, [[[y]]], kind="predictive", include_start=True))

    total, _ = integrate.quad(density, -math.inf, math.inf)
    assert total == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("dof", [3.0, 6.5])
def test_students_crps_is_that_of_noisy_draws(dof):
    """Draws all at 0 with noise 2 t: at 0 the score is 2 int (F - 1(t > 0))^2 dt."""
    still = torch.zeros(20, 100, 101, 2, dtype=torch.float64)
    noise = torch.full((20, 2), 2.0, dtype=torch.float64)
    predicted = DrawsOnly(still, torch.zeros(20, 100, dtype=torch.bool), noise, dof)
    tail, _ = integrate.quad(lambda t: stats.t.sf(t, dof) ** 2, 0, math.inf)
    truth = torch.zeros(100, 101, 2)
    score = crps(predicted, truth, kind="predictive")
    assert abs(score - 2 * 2 * tail) < 0.005  # 5 standard errors
    assert abs(crps(replace(predicted, noise_dof=None), truth, kind="predictive") - score) > 0.02
    assert score == crps(predicted, truth, kind="predictive")
    assert score != crps(predicted, truth, kind="predictive", seed=1)


def test_many_degrees_of_freedom_are_gaussian_noise():
    predicted, truth = rollouts(), normal(3, 5, 2, seed=1)
    for score in (crps, nlpd):
        gaussian = score(predicted, truth, kind="predictive")
        torch.testing.assert_close(
            student_t(score, 1e8)(predicted, truth), gaussian, rtol=1e-3, atol=0
        )


def test_students_bands_cover_students_noise():
    """At level 0.99 heavy tails leave a Gaussian band of the same scale."""
    samples, generator = normal(200, 50, 41, 2), np.random.default_rng(0)
    times, diverged = torch.arange(41.0), torch.zeros(200, 50, dtype=torch.bool)
    noise_std = torch.full((200, 2), 2.0, dtype=torch.float64)
    noise = torch.from_numpy(generator.standard_t(3.0, (50, 41, 2)))
    truth = normal(50, 41, 2, seed=1) + 2.0 * noise
    shares = [
        coverage(
            Rollouts(samples, times, diverged, noise_std=noise_std, noise_dof=dof),
            truth,
            0.99,
            kind="predictive",
        )
        for dof in (3.0, None)
    ]
    assert abs(shares[0] - 0.99) < 0.008  # 4000 entries: 5 standard errors
    assert shares[1] < 0.96


def test_draws_that_know_of_no_degrees_of_freedom_have_gaussian_noise(monkeypatch):
    predicted, truth = rollouts(), normal(3, 5, 2, seed=1)
    plain = SimpleNamespace(
        samples=predicted.samples, diverged=predicted.diverged, noise_std=predicted.noise_std
    )
    for score in (crps, nlpd):
        expected = score(predicted, truth, kind="predictive")
        with monkeypatch.context() as patch:
            # Users run without the checks of the tests, which ask for the attribute.
            patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
            assert score(plain, truth, kind="predictive") == expected


# --- what must not change a score


@every_score
def test_an_unknown_entry_equals_leaving_it_out(score):
    predicted, truth = rollouts(), normal(3, 5, 2, seed=1)
    gone = truth.clone()
    gone[:, 4], gone[2] = NAN, NAN
    # All draws and the noise are kept: a score of the predictive kind draws noise for each entry.
    kept = score(predicted, gone, per_channel=True)
    separate = [
        score(
            predicted, truth.where(mask, torch.tensor(NAN, dtype=torch.float64)), per_channel=True
        )
        for mask in _single_points(truth, range(2), range(1, 4))
    ]
    torch.testing.assert_close(kept, torch.stack(separate).mean(0))


def _single_points(truth: Tensor, rows: range, times: range) -> list[Tensor]:
    masks = []
    for i in rows:
        for k in times:
            mask = torch.zeros_like(truth, dtype=torch.bool)
            mask[i, k] = True
            masks.append(mask)
    return masks


@every_score
def test_the_start_is_left_out_unless_asked_for(score):
    predicted, truth = rollouts(), normal(3, 5, 2, seed=1)
    changed = truth.clone()
    changed[:, 0] += 100.0
    assert score(predicted, changed) == score(predicted, truth)
    predicted.samples[:, :, 0] = normal(12, 3, 2, seed=4)
    assert score(predicted, changed, include_start=True) != score(predicted, changed)


@pytest.mark.parametrize(
    "score", [coverage, crps, nlpd, SCORES["nlpd-predictive"], SCORES["nlpd-student-t"]]
)
def test_a_diverged_draw_equals_a_draw_never_made(score):
    predicted, truth = rollouts(), normal(3, 5, 2, seed=1)
    shorter = DrawsOnly(predicted.samples[1:], predicted.diverged[1:], predicted.noise_std[1:])
    broken = replace(predicted, samples=predicted.samples.clone())
    broken.diverged = predicted.diverged.clone()
    broken.diverged[0] = True
    broken.samples[0, :, 3:] = NAN  # finite, and still to be left out, before it diverged
    torch.testing.assert_close(score(broken, truth), score(shorter, truth))


def test_trajectories_without_any_draw_left_show():
    predicted, truth = rollouts(), torch.zeros(3, 5, 2)
    predicted.samples = predicted.samples.clamp(-1, 1) * 0.1
    predicted.samples[::2, :, 1:] = -0.2
    predicted.samples[1::2, :, 1:] = 0.2
    assert coverage(predicted, truth) == 1.0
    predicted.diverged[:, 1] = True
    assert coverage(predicted, truth) == pytest.approx(2 / 3)
    assert crps(predicted, truth).isnan() and nlpd(predicted, truth).isnan()
    assert nlpd(predicted, truth, kind="predictive").isnan()
    truth[1] = NAN
    assert crps(predicted, truth).isfinite() and nlpd(predicted, truth).isfinite()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r, y: trajectory_mse(r, y[:, :4]),
            r"truth: expected shape \(3, 5, 2\).*\(3, 4, 2\)",
        ),
        (lambda r, y: trajectory_mse([1.0, 2.0], y), r"prediction: expected shape \(N, T, 2n\)"),
        (lambda r, y: trajectory_mse(r, y * NAN), "truth: expected a known entry, got only NaN"),
        (lambda r, y: energy_mse(r, y[:2], torch.sum), r"truth: expected shape"),
        (
            lambda r, y: energy_mse(r, y * torch.tensor([1.0, NAN]), torch.sum),
            "truth: expected a point at which every coordinate is known",
        ),
        (lambda r, y: coverage(r, y[0]), r"truth: expected shape \(3, 5, 2\).*\(1, 5, 2\)"),
        (lambda r, y: coverage(r, y, kind="both"), "kind: expected 'latent' or 'predictive', got"),
        (lambda r, y: crps(r, y, kind="both"), "kind: expected 'latent' or 'predictive', got"),
        (lambda r, y: nlpd(r, y, kind="both"), "kind: expected 'latent' or 'predictive', got"),
        (lambda r, y: crps(_one(r), y), "rollouts: expected at least two draws, got one"),
        (lambda r, y: nlpd(_one(r), y), "rollouts: expected at least two draws, got one"),
        (lambda r, y: coverage(r, _start(y)), "a known entry after the first time, got none"),
        (
            lambda r, y: nlpd(replace(r, noise_std=None), y, kind="predictive"),
            "kind: expected 'latent' for rollouts without observation noise",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call(rollouts(), normal(3, 5, 2, seed=1))


def _one(draws: DrawsOnly) -> DrawsOnly:
    return DrawsOnly(draws.samples[:1], draws.diverged[:1], draws.noise_std[:1])


def _start(truth: Tensor) -> Tensor:
    start = truth.clone()
    start[:, 1:] = NAN
    return start

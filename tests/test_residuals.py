"""Residuals: normal and white where the model holds; what checks find where it does not."""

import numpy as np
import pytest
import torch
from problems import NAN, randn, tensor
from scipy import stats
from torch import Tensor

from sympgp import SSGP, Friction, GaussianNoise, GaussNewton, StudentTNoise, fit
from sympgp.noise import Noise
from sympgp.posterior.residuals import DOUBT, LAGS, Residuals, _normal_scores
from sympgp.systems import Duffing, Pendulum
from sympgp.systems.base import System
from sympgp.trajectories import Trajectories

QUICK = GaussNewton(num_components=1)


def series(values: list[Tensor]) -> Residuals:
    """Standardized residuals of several trajectories and nothing else."""
    dim = values[0].shape[1]
    times = tuple(torch.arange(len(x), dtype=torch.float64) for x in values)
    labels = tuple(str(k) for k in range(len(values)))
    names = tuple(f"x{d}" for d in range(dim))
    return Residuals(times, tuple(values), tuple(values), names, {}, labels)


def autoregression(correlation: float, count: int, dim: int = 1, seed: int = 0) -> Tensor:
    white = randn(count, dim, seed=seed)
    rows = [white[0]]
    for shock in white[1:]:
        rows.append(correlation * rows[-1] + (1 - correlation**2) ** 0.5 * shock)
    return torch.stack(rows)


# autocorrelation


def test_autocorrelations_are_sums_of_products_over_all_trajectories():
    """Never across from one trajectory to the next; one at lag zero."""
    values = [randn(7, 2, seed=1), randn(3, 2, seed=2), randn(12, 2, seed=3)]
    found = series(values).autocorrelation(max_lag=5)
    for d in range(2):
        power = sum(float((x[:, d] ** 2).sum()) for x in values)
        for lag in range(6):
            pairs = [(x[k, d], x[k - lag, d]) for x in values for k in range(lag, len(x))]
            expected = sum(float(a * b) for a, b in pairs) / power
            assert float(found[lag, d]) == pytest.approx(expected, abs=1e-12)
    assert found[0].tolist() == pytest.approx([1.0, 1.0])


def test_lags_count_what_was_observed():
    """Missing entries leave no holes; each coordinate has its own."""
    values = randn(40, 2)
    sparse = values.clone()
    sparse[::3, 0] = NAN
    found = series([sparse]).autocorrelation(3)
    left = values[~sparse[:, 0].isnan()]
    torch.testing.assert_close(found[:, 0], series([left]).autocorrelation(3)[:, 0])
    torch.testing.assert_close(found[:, 1], series([values]).autocorrelation(3)[:, 1])


@pytest.mark.parametrize("correlation", [0.5, -0.6])
def test_autocorrelations_of_an_autoregression(correlation):
    found = series([autoregression(correlation, 6000)]).autocorrelation(4)[:, 0]
    expected = [correlation**k for k in range(5)]
    assert found.tolist() == pytest.approx(expected, abs=0.06)


def test_lags_longer_than_the_trajectories_have_no_correlation():
    assert series([randn(4, 1)]).autocorrelation(8)[4:].abs().max() == 0.0
    with pytest.raises(ValueError, match="max_lag: expected at least 0, got -1"):
        series([randn(4, 1)]).autocorrelation(-1)


# whiteness


def test_whiteness_is_the_test_of_ljung_and_box():
    """Of one long series, with its own factor ``(n + 2) / (n - k)`` in place of ``n / (n - k)``."""
    values = autoregression(0.1, 300, seed=7)
    rho = series([values]).autocorrelation(LAGS)[1:, 0].numpy()
    count = len(values)
    statistic = count * (count + 2) * sum(r**2 / (count - k - 1) for k, r in enumerate(rho))
    expected = stats.chi2.sf(statistic, LAGS)
    assert 1e-4 < expected < 0.5
    assert float(series([values]).whiteness()[0]) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("parts", [1, 8])
def test_probabilities_of_white_residuals_are_uniform(parts):
    """Over many simulated series, in one trajectory and in several short ones."""
    generator = torch.Generator().manual_seed(parts)
    values = torch.randn(240, 600, generator=generator, dtype=torch.float64)
    found = series(list(values.chunk(parts))).whiteness().numpy()
    assert stats.kstest(found, "uniform").pvalue > 1e-3
    assert 0.002 < np.mean(found < 0.01) < 0.03


def test_heavy_tails_are_white_too():
    values = torch.as_tensor(np.random.default_rng(0).standard_t(3, size=(240, 400)))
    found = series([values]).whiteness().numpy()
    assert np.mean(found < 0.01) < 0.04 and np.mean(found < 0.5) < 0.65


@pytest.mark.parametrize("correlation", [0.5, -0.5])
def test_correlated_residuals_are_not_white(correlation):
    found = series([autoregression(correlation, 100, 200)]).whiteness()
    assert float((found < 0.01).double().mean()) > 0.8


def test_few_observations_in_a_row_say_nothing():
    """Twenty pairs of a lag are asked for, over all trajectories."""
    assert series([randn(20, 1)]).whiteness().isnan().all()
    assert series([randn(21, 1)]).whiteness().isfinite().all()
    assert series([randn(3, 1, seed=k) for k in range(10)]).whiteness().isfinite().all()
    assert series([randn(2, 1, seed=k) for k in range(19)]).whiteness().isnan().all()


# standard scores


@pytest.mark.parametrize("dof", [1.0, 3.0, 30.0])
def test_heavy_tails_become_normal_scores(dof):
    probability = np.linspace(0.001, 0.999, 41)
    found = _normal_scores(torch.as_tensor(stats.t(dof).ppf(probability)), dof)
    torch.testing.assert_close(found, torch.as_tensor(stats.norm.ppf(probability)))
    far = _normal_scores(tensor([-1e6, 0.0, 1e6, NAN]), dof)
    assert bool(far[:3].isfinite().all()) and bool(far[3].isnan())
    assert float(far[0]) < -4.0 and float(far[1]) == 0.0 and float(far[2]) > 4.0


def test_gaussian_residuals_are_their_own_scores():
    values = randn(5, 2)
    assert torch.equal(_normal_scores(values, None), values)


# fits


def simulated(system: System | None = None, seed: int = 1) -> Trajectories:
    system = Pendulum() if system is None else system
    return system.simulate(4, rate=5, duration=8, noise_std=0.05, missing=0.05, seed=seed)


def fitted(
    data: Trajectories,
    noise: Noise | None = None,
    friction: bool = False,
    engine: GaussNewton = QUICK,
):
    dissipation = Friction() if friction else None
    model = SSGP(num_features=20, dissipation=dissipation, noise=noise)
    return fit(model, data, inference=engine, progress=False)


@pytest.fixture(scope="module")
def posterior():
    return fitted(simulated(seed=4), engine=GaussNewton(num_components=2))


def pooled(posterior) -> np.ndarray:
    values = torch.cat(list(posterior.residuals(num_samples=40).standardized))
    return values[~values.isnan()].numpy()


def test_residuals_are_observations_less_the_mean_path(posterior):
    left = posterior.residuals(num_samples=30, seed=4)
    paths = posterior.fitted(num_samples=30, seed=4)
    data = posterior.data
    for k, x in enumerate(data.states):
        expected = x - paths[k].mean[0]
        torch.testing.assert_close(left.values[k], expected, equal_nan=True)
        scaled = expected / posterior.noise_std
        torch.testing.assert_close(left.standardized[k], scaled, equal_nan=True)
        assert torch.equal(left.values[k].isnan(), x.isnan())
        assert torch.equal(left.times[k], data.times[k])
    assert (left.names, left.units, left.labels) == (data.names, data.units, data.labels)


def test_residuals_of_a_good_fit_are_standard_normal(posterior):
    values = pooled(posterior)
    assert len(values) == posterior.data.num_observations
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert float(values.std()) == pytest.approx(1.0, abs=0.1)
    assert bool((posterior.residuals().whiteness() > DOUBT).all())


def test_a_good_fit_passes_its_check(posterior):
    check = posterior.check(num_samples=50)
    assert check.fits and not check.findings
    assert check.verdict.startswith("the structure fits:")
    assert f"Verdict: {check.verdict}." in posterior.summary()
    assert set(check.predictive) == {"spread", "correlation", "tails"}
    for values in check.predictive.values():
        assert values.shape == (2,) and bool(((values > 0.02) & (values <= 1.0)).all())
    torch.testing.assert_close(check.whiteness, check.residuals.whiteness())


def test_checks_are_those_of_their_seed(posterior):
    first, again = (posterior.check(num_samples=20, seed=3) for _ in range(2))
    assert first.verdict == again.verdict
    for name, values in first.predictive.items():
        assert torch.equal(values, again.predictive[name])


@pytest.fixture(scope="module")
def outlying() -> Trajectories:
    """A tenth of all entries is off by ten deviations or more."""
    data = simulated()
    states = []
    for k, x in enumerate(data.states):
        hit = torch.rand(x.shape, generator=torch.Generator().manual_seed(k)) < 0.1
        states.append(x + 0.5 * hit * (1.0 + 0.5 * randn(*x.shape, seed=k).abs()))
    return Trajectories(list(data.times), states)


def test_outliers_are_found_out(outlying):
    check = fitted(outlying, GaussianNoise()).check()
    assert any("outliers that its noise does not allow for" in found for found in check.findings)
    assert "with reservations" in check.verdict or not check.fits
    assert bool((check.predictive["tails"] < DOUBT).any())


@pytest.mark.slow
def test_outliers_are_allowed_for_by_heavy_tails(outlying):
    posterior = fitted(outlying, StudentTNoise(dof=2))
    check = posterior.check()
    assert not any("outliers" in found for found in check.findings)
    values = pooled(posterior)
    scale = np.concatenate([x.numpy().ravel() for x in posterior.residuals().values])
    assert np.nanmax(np.abs(scale)) > 8.0 * float(posterior.noise_std.max())
    assert np.abs(values).max() < 4.5


class VanDerPol(System):
    """``dp/dt = (1 - q^2) p - q``: gains energy near the origin and loses it far off."""

    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        return (q**2 + p**2).sum(-1) / 2

    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        return q, p

    def vector_field(self, x) -> Tensor:
        q, p = x[..., :1], x[..., 1:]
        return torch.cat([p, (1.0 - q**2) * p - q], -1)

    def _draw_initial(self, count: int, generator: torch.Generator) -> Tensor:
        return 4.0 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 2.0


@pytest.mark.parametrize(
    ("system", "friction"), [(Pendulum(friction=0.3), False), (VanDerPol(), True)]
)
@pytest.mark.slow
def test_data_of_another_structure_are_found_out(system, friction):
    """Damped data under a conservative model; a limit cycle under friction."""
    posterior = fitted(simulated(system), friction=friction)
    check = posterior.check(num_samples=50)
    assert not check.fits
    assert check.verdict.startswith("the structure does not fit the data: ")
    assert any("correlated in time" in found for found in check.findings)
    assert "the structure does not fit" in posterior.summary()
    values = np.concatenate([x.numpy().ravel() for x in check.residuals.values])
    assert float(np.nanstd(values)) > 0.05


@pytest.mark.parametrize("std", [0.01, 0.2])
@pytest.mark.slow
def test_known_noise_of_a_wrong_size_is_found_out(std):
    check = fitted(simulated(), GaussianNoise(std=std)).check()
    assert any("than the noise" in found for found in check.findings)


@pytest.mark.xfail(strict=True, reason="measured before the lengthscales are learned")
@pytest.mark.slow
def test_residuals_that_are_white_count_in_full():
    """Observations are not discounted for correlations that the final fit is without."""
    posterior = fitted(simulated(Duffing(), seed=1))
    left = posterior.residuals()
    assert bool((left.whiteness() > 0.05).all())
    assert float(left.autocorrelation(1)[1].abs().max()) < 0.15
    assert max(posterior.diagnostics.inflation) < 1.5


# many data sets


@pytest.mark.slow
def test_good_fits_pass_their_checks_nearly_always():
    """Twenty data sets: few reservations, and standard normal residuals together."""
    reserved, values = 0, []
    for seed in range(20):
        posterior = fitted(simulated(Pendulum(friction=0.1), seed=seed), friction=True)
        check = posterior.check()
        assert check.fits
        reserved += bool(check.findings)
        values.append(pooled(posterior))
    assert reserved <= 2
    assert stats.kstest(np.concatenate(values), "norm").pvalue > 1e-3


@pytest.mark.slow
def test_missing_friction_is_always_found_out():
    for seed in range(10):
        assert not fitted(simulated(Pendulum(friction=0.3), seed=seed)).check().fits


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="strongly correlated residuals alone are a reservation")
def test_limit_cycles_are_always_found_out():
    for seed in range(10):
        assert not fitted(simulated(VanDerPol(), seed=seed), friction=True).check().fits

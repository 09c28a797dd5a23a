"""Pictures that judge a fit: residuals and calibration."""

import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from known import (
    KnownResiduals,
    honest,
    legend_texts,
    lines,
    make_rollouts,
    note_of,
    pendulum,
    white,
)
from matplotlib.collections import PolyCollection
from scipy.stats import norm

from sympgp import metrics, plots
from sympgp.plots.counts import count_inside, tolerance_band
from sympgp.rollouts import Rollouts


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def envelope(ax) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantiles, lower and upper end of the grey band of a quantile plot."""
    (band,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
    outline = band.get_paths()[0].vertices
    count = (len(outline) - 3) // 2
    return outline[1 : count + 1, 0], outline[1 : count + 1, 1], outline[count + 2 : -1, 1][::-1]


def test_residuals_have_time_distribution_and_autocorrelation_of_each_coordinate():
    found = KnownResiduals(white())
    axes = plots.residuals(found, max_lag=8)
    assert axes.shape == (2, 3)
    values = torch.cat(found.standardized).numpy()
    for d, row in enumerate(axes):
        times, shown = lines(row[0])["residuals"].get_data()
        np.testing.assert_array_equal(times, torch.cat(found.times))
        np.testing.assert_array_equal(shown, values[:, d])
        dots = row[1].get_lines()[-1]
        np.testing.assert_allclose(dots.get_xdata(), norm.ppf((np.arange(180) + 0.5) / 180))
        np.testing.assert_array_equal(dots.get_ydata(), np.sort(values[:, d]))
        lags, correlation = row[2].get_lines()[-1].get_data()
        np.testing.assert_array_equal(lags, np.arange(1, 9))
        np.testing.assert_allclose(correlation, found.autocorrelation(8)[1:, d])
        limits = [line.get_ydata()[0] for line in row[2].get_lines()[1:3]]
        np.testing.assert_allclose(limits, [-1.96 / math.sqrt(180), 1.96 / math.sqrt(180)])
    assert [ax.get_xlabel() for ax in axes[1]] == [
        "time [s]",
        "standard normal quantile",
        "lag [observations]",
    ]
    assert axes[0, 0].get_ylabel().startswith("q: residual")
    assert legend_texts(axes[0, 0]) == ["95% limits of white noise", "residuals"]


def test_a_posterior_is_asked_for_its_residuals():
    found = KnownResiduals(white())
    axes = plots.residuals(SimpleNamespace(residuals=lambda: found))
    assert len(lines(axes[0, 0])["residuals"].get_xdata()) == 180


def test_missing_residuals_are_left_out():
    parts = white()
    parts[1][10:, 1] = math.nan
    parts[2][:, 1] = math.nan
    axes = plots.residuals(KnownResiduals(parts))
    assert len(lines(axes[1, 0])["residuals"].get_xdata()) == 70
    assert len(axes[1, 1].get_lines()[-1].get_xdata()) == 70
    limit = axes[1, 2].get_lines()[2].get_ydata()[0]
    assert limit == pytest.approx(1.96 / math.sqrt(70))
    nothing = [part.clone().index_fill_(1, torch.tensor([1]), math.nan) for part in white()]
    assert plots.residuals(KnownResiduals(nothing)).shape == (2, 3)


def test_the_band_of_a_quantile_plot_holds_95_percent_of_each_order_statistic():
    ax = plots.residuals(KnownResiduals(white(1, 40)))[0, 1]
    quantiles, lower, upper = envelope(ax)
    assert len(quantiles) == 40
    draws = np.sort(np.random.default_rng(0).standard_normal((4000, 40)), 1)
    inside = ((lower <= draws) & (draws <= upper)).mean(0)
    # four standard errors of a share of 4,000
    assert np.abs(inside - 0.95).max() < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_many_residuals_are_thinned_with_their_ends_kept():
    found = KnownResiduals(white(5, 2000))
    dots = plots.residuals(found)[0, 1].get_lines()[-1]
    values = np.sort(torch.cat(found.standardized)[:, 0].numpy())
    assert 200 < len(dots.get_xdata()) <= 500
    assert dots.get_ydata()[0] == values[0] and dots.get_ydata()[-1] == values[-1]
    rank = np.searchsorted(values, dots.get_ydata())
    np.testing.assert_allclose(dots.get_xdata(), norm.ppf((rank + 0.5) / len(values)))


def test_of_many_coordinates_some_are_drawn_and_it_says_so():
    names = tuple(f"q{i}" for i in range(1, 11)) + tuple(f"p{i}" for i in range(1, 11))
    found = KnownResiduals(white(dim=20), names)
    axes = plots.residuals(found)
    drawn = [ax.get_ylabel().split(":")[0] for ax in axes[:, 0]]
    assert drawn == ["q1", "q2", "q3", "p1", "p2", "p3"]
    assert note_of(axes[0, 0]) == "6 of 20 coordinates"
    axes = plots.residuals(found, coordinates=["p10", 4])
    assert [ax.get_ylabel().split(":")[0] for ax in axes[:, 0]] == ["p10", "q5"]
    assert note_of(axes[0, 0]) == ""


def test_residuals_are_drawn_into_given_axes():
    figure, given = plt.subplots(2, 3)
    found = KnownResiduals(white())
    assert (plots.residuals(found, given) == given).all()
    assert figure.legends == []
    with pytest.raises(ValueError, match="ax: expected 3 axes, got 6"):
        plots.residuals(found, given, coordinates=["q"])
    with pytest.raises(ValueError, match="coordinates: expected one of q, p .* got 'x'"):
        plots.residuals(found, coordinates=["x"])
    with pytest.raises(ValueError, match="coordinates: expected different"):
        plots.residuals(found, coordinates=["q", 0])
    with pytest.raises(ValueError, match="max_lag: expected at least 1, got 0"):
        plots.residuals(found, max_lag=0)


LEVELS = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99])


@pytest.mark.parametrize("kind", ["latent", "predictive"])
@pytest.mark.parametrize("include_start", [False, True])
def test_the_calibration_curve_is_the_coverage_at_every_level(kind, include_start):
    rollouts, truth = honest()
    settings = {"kind": kind, "include_start": include_start}
    ax = plots.calibration(rollouts, truth, levels=LEVELS, **settings)
    expected = [metrics.coverage(rollouts, truth, level, **settings) for level in LEVELS]
    levels, shares = lines(ax)["observed"].get_data()
    np.testing.assert_array_equal(levels, LEVELS)
    np.testing.assert_allclose(shares, expected)
    assert ax.get_xlabel() == f"probability of the {kind} band"
    ax = plots.calibration(rollouts, truth, levels=LEVELS, per_channel=True, **settings)
    expected = torch.stack(
        [metrics.coverage(rollouts, truth, x, per_channel=True, **settings) for x in LEVELS]
    )
    for d, name in enumerate("qp"):
        np.testing.assert_allclose(lines(ax)[name].get_ydata(), expected[:, d])


def test_a_start_that_is_given_exactly_is_inside_every_band():
    rollouts, truth = honest()
    samples, truth = rollouts.samples.clone(), truth.nan_to_num()
    samples[:, :, 0] = truth[:, 0]
    certain = Rollouts(samples, rollouts.times, torch.zeros(samples.shape[:2], dtype=torch.bool))
    inside, counts = count_inside([(certain, truth)], LEVELS, "latent", True)
    without, fewer = count_inside([(certain, truth)], LEVELS, "latent", False)
    assert (inside - without == 1).all() and (counts - fewer == 1).all()


def test_a_trajectory_whose_draws_all_diverged_is_not_covered():
    rollouts, truth = honest()
    rollouts.diverged[:, 3] = True
    inside, counts = count_inside([(rollouts, truth)], LEVELS, "latent", False)
    assert (inside[3] == 0).all() and (counts[3] > 0).all() and (inside[2] > 0).any()


def test_several_rollouts_are_counted_together():
    pairs = [honest(seed=seed, num_trajectories=seed + 1) for seed in range(6)]
    ax = plots.calibration(pairs, levels=LEVELS)
    counts = torch.tensor([truth[:, 1:].isfinite().sum() for _, truth in pairs])
    each = torch.stack(
        [torch.stack([metrics.coverage(*pair, level) for level in LEVELS]) for pair in pairs]
    )
    expected = (each * counts[:, None]).sum(0) / counts.sum()
    np.testing.assert_allclose(lines(ax)["observed"].get_ydata(), expected)
    assert "90% of resampled parts" in legend_texts(ax)
    # a part with one shape of truth more
    single = [(rollouts, truth[0]) for rollouts, truth in pairs[:1]]
    assert "observed" in lines(plots.calibration(single, levels=LEVELS))


def test_few_trajectories_have_no_tolerance_band():
    ax = plots.calibration(*honest(num_trajectories=4))
    assert legend_texts(ax) == ["ideal", "observed"]
    ax = plots.calibration(*honest(num_trajectories=5))
    assert legend_texts(ax) == ["ideal", "90% of resampled trajectories", "observed"]
    # few parts do not become many because each has many trajectories
    ax = plots.calibration([honest(seed=seed) for seed in range(3)])
    assert legend_texts(ax) == ["ideal", "observed"]


def test_the_tolerance_band_holds_the_truth_although_entries_depend_on_each_other():
    """Entries of a trajectory are all inside or all outside: 1,600 entries, 40 of them free."""
    generator = np.random.default_rng(0)
    inside = 40.0 * (generator.random((400, 40, 3)) < [0.5, 0.7, 0.9])
    held = []
    for replicate in inside:
        lower, upper = tolerance_band(replicate, np.full(40, 40.0))
        held.append((lower <= [0.5, 0.7, 0.9]) & ([0.5, 0.7, 0.9] <= upper))
    share = np.mean(held, 0)
    # 90% up to Monte Carlo error (0.015) and the bootstrap's own, of a skewed share at 0.9
    assert (share > 0.83).all() and (share < 0.95).all()


def test_arguments_of_calibration_that_do_not_fit_are_refused():
    rollouts, truth = honest()
    plain = Rollouts(rollouts.samples, rollouts.times, torch.zeros(30, 12, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"truth: expected shape \(12, 7, 2\)"):
        plots.calibration(rollouts, truth[:3])
    with pytest.raises(ValueError, match=r"truth: expected shape \(12, 7, 2\)"):
        plots.calibration(rollouts, truth[0])
    with pytest.raises(ValueError, match="truth: expected a known entry after the first time"):
        plots.calibration(rollouts, torch.full_like(truth, math.nan))
    with pytest.raises(ValueError, match="truth: expected states"):
        plots.calibration(rollouts)
    with pytest.raises(ValueError, match="rollouts: expected rollouts and their truth"):
        plots.calibration([(rollouts, truth)], truth)
    with pytest.raises(ValueError, match=r"levels: expected probabilities in \(0, 1\)"):
        plots.calibration(rollouts, truth, levels=[0.5, 1.0])
    with pytest.raises(ValueError, match="kind: a predictive band needs noise_std"):
        plots.calibration(plain, truth, kind="predictive")
    with pytest.raises(ValueError, match="kind: expected 'latent' or 'predictive'"):
        plots.calibration(rollouts, truth, kind="both")
    with pytest.raises(ValueError, match=r"rollouts: expected the coordinates .*'q'"):
        plots.calibration([(rollouts, truth), (make_rollouts(pendulum()), truth)])


def test_calibration_is_drawn_into_given_axes():
    figure, given = plt.subplots()
    assert plots.calibration(*honest(), given) is given
    assert figure.legends == [] and given.get_legend() is not None

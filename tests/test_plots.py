"""Pictures: what they show, what their labels say, which axes they use."""

import math
import subprocess
import sys
import warnings
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from known import KnownPendulum, legend_texts, lines, make_rollouts, note_of, pendulum
from matplotlib.collections import PolyCollection
from matplotlib.patches import FancyArrowPatch

from sympgp import plots
from sympgp.integrators import DivergenceWarning
from sympgp.plots import style
from sympgp.plots.levels import even_levels, spread_levels
from sympgp.plots.plane import make_plane
from sympgp.rollouts import Rollouts


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def band_edges(ax) -> tuple[float, float]:
    (band,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
    values = band.get_paths()[0].vertices[:, 1]
    return values.min(), values.max()


def test_bands_show_mean_band_and_data_of_every_coordinate():
    posterior = pendulum()
    rollouts = make_rollouts(posterior)
    axes = plots.bands(rollouts, posterior.data, trajectory=1)
    assert axes.shape == (2,)
    assert [ax.get_ylabel() for ax in axes] == ["angle [rad]", "momentum [kg m²/s]"]
    assert axes[1].get_xlabel() == "time [s]" and axes[0].get_xlabel() == ""
    lower, upper = rollouts.band(0.9)
    for d, ax in enumerate(axes):
        drawn = lines(ax)
        np.testing.assert_allclose(drawn["mean"].get_ydata(), rollouts.mean[1, :, d])
        np.testing.assert_allclose(drawn["data"].get_ydata(), posterior.data.states[1][:, d])
        expected = (lower[1, :, d].min().item(), upper[1, :, d].max().item())
        assert band_edges(ax) == pytest.approx(expected)
    assert legend_texts(axes[0]) == ["90% latent band", "mean", "start of forecast", "data"]


def test_bands_mark_where_the_data_end():
    posterior = pendulum()
    ax = plots.bands(make_rollouts(posterior, stop=8.0), posterior.data)[0]
    assert lines(ax)["start of forecast"].get_xdata()[0] == 5.0
    ax = plots.bands(make_rollouts(posterior, stop=4.0), posterior.data)[0]
    assert "start of forecast" not in lines(ax)
    ax = plots.bands(make_rollouts(posterior))[0]
    assert set(lines(ax)) == {"mean"}


def test_what_the_fit_has_not_seen_is_drawn_open():
    posterior = pendulum()
    ax = plots.bands(make_rollouts(posterior), posterior.data, forecast_start=2.0)[0]
    drawn = lines(ax)
    assert drawn["data"].get_xdata().max() == 2.0
    assert drawn["not seen"].get_xdata().min() > 2.0
    assert len(drawn["data"].get_xdata()) + len(drawn["not seen"].get_xdata()) == 21
    assert drawn["not seen"].get_markerfacecolor() == "white"


def test_predictive_bands_are_wider_and_say_so():
    posterior = pendulum()
    rollouts = make_rollouts(posterior)
    latent = plots.bands(rollouts, level=0.5)[0]
    predictive = plots.bands(rollouts, level=0.5, kind="predictive")[0]
    assert np.ptp(band_edges(predictive)) > np.ptp(band_edges(latent))
    assert legend_texts(predictive)[0] == "50% predictive band"


@pytest.mark.parametrize("shape", ["all", "one"])
def test_bands_take_the_truth_of_all_or_one(shape):
    posterior = pendulum()
    rollouts = make_rollouts(posterior)
    truth = rollouts.samples[3] if shape == "all" else rollouts.samples[3, 2]
    ax = plots.bands(rollouts, truth=truth, trajectory=2)[1]
    np.testing.assert_allclose(lines(ax)["truth"].get_ydata(), rollouts.samples[3, 2, :, 1])


def test_bands_of_two_degrees_of_freedom_have_four_panels():
    posterior = pendulum(2)
    axes = plots.bands(make_rollouts(posterior), posterior.data)
    assert [ax.get_ylabel() for ax in axes] == ["q1", "q2", "p1", "p2"]
    assert [ax.get_xlabel() for ax in axes] == ["", "time", "", "time"]
    # q beside p: the panels of one degree of freedom share a row
    rows = [ax.get_subplotspec().rowspan.start for ax in axes]
    assert rows == [0, 1, 0, 1]


def test_missing_observations_leave_gaps_and_no_failure():
    posterior = pendulum(missing=[1])
    axes = plots.bands(make_rollouts(posterior), posterior.data)
    assert np.isnan(lines(axes[1])["data"].get_ydata()).all()


@pytest.mark.parametrize("count", [2, 4])
def test_functions_draw_into_the_axes_they_are_given(count):
    posterior = pendulum(count // 2)
    rollouts = make_rollouts(posterior)
    figure, given = plt.subplots(1, count)
    returned = plots.bands(rollouts, posterior.data, ax=given)
    assert list(returned) == list(given)
    assert all(ax.get_xlabel().startswith("time") for ax in given)
    assert plots.energy(rollouts, given[0]) is given[0]
    assert plots.phase_portrait(posterior, ax=given[1]) is given[1]
    assert list(plots.hamiltonian(posterior, ax=given[:2])) == list(given[:2])
    assert len(plt.get_fignums()) == 1 and figure.legends == []


def test_fit_and_forecast_share_axes_and_one_legend():
    posterior = pendulum()
    axes = plots.bands(make_rollouts(posterior, stop=4.0), posterior.data)
    plots.bands(make_rollouts(posterior), ax=axes)
    assert axes[0].get_legend() is None and len(axes[0].figure.legends) == 1
    assert legend_texts(axes[0]) == ["90% latent band", "mean", "data"]


def test_another_number_of_axes_is_refused():
    posterior = pendulum()
    _, given = plt.subplots(1, 3)
    with pytest.raises(ValueError, match="ax: expected 2 axes, got 3"):
        plots.bands(make_rollouts(posterior), ax=given)
    with pytest.raises(ValueError, match="ax: expected 4 axes, got 1"):
        plots.vector_field(posterior, ax=given[0])


def test_arguments_that_do_not_fit_are_refused():
    posterior = pendulum()
    rollouts = make_rollouts(posterior)
    with pytest.raises(ValueError, match="trajectory: expected 0 to 2 for these rollouts, got 3"):
        plots.bands(rollouts, trajectory=3)
    with pytest.raises(ValueError, match="trajectory: expected 0 to 1 for these data, got 2"):
        plots.bands(rollouts, posterior.data[:2], trajectory=2)
    with pytest.raises(ValueError, match=r"data: expected the coordinates .*angle"):
        plots.bands(rollouts, KnownPendulum().data)
    with pytest.raises(ValueError, match=r"truth: expected shape \(33, 2\) or \(3, 33, 2\)"):
        plots.bands(rollouts, truth=torch.zeros(4, 2))
    with pytest.raises(ValueError, match="truth: expected energies at the 33 times"):
        plots.energy(rollouts, truth=torch.zeros(4))
    with pytest.raises(ValueError, match="dof: expected 0 to 0, got 1"):
        plots.phase_portrait(posterior, dof=1)
    with pytest.raises(ValueError, match="region: expected"):
        plots.hamiltonian(posterior, region=((1.0, 0.0), (0.0, 1.0)))


def test_energy_shows_mean_and_band_of_the_draws():
    posterior = pendulum()
    rollouts = make_rollouts(posterior)
    truth = torch.full((33,), -0.5, dtype=torch.float64)
    ax = plots.energy(rollouts, trajectory=1, truth=truth)
    energy = rollouts.energy()[:, 1]
    np.testing.assert_allclose(lines(ax)["mean"].get_ydata(), energy.mean(0))
    ends = np.quantile(energy.numpy(), [0.05, 0.95], axis=0, method="weibull")
    assert band_edges(ax) == pytest.approx((ends[0].min(), ends[1].max()))
    assert (lines(ax)["truth"].get_ydata() == -0.5).all()
    assert ax.get_xlabel() == "time [s]"
    assert ax.get_ylabel() == "energy [rad·(kg m²/s)/s]"


def test_diverged_draws_do_not_reach_the_pictures():
    posterior = pendulum()
    rollouts = make_rollouts(posterior)
    samples, diverged = rollouts.samples.clone(), rollouts.diverged.clone()
    samples[4, 0, 7:] = math.nan
    diverged[4, 0] = True
    with pytest.warns(DivergenceWarning):
        partial = Rollouts(samples, rollouts.times, diverged, rollouts.energies)
    for drawn in (plots.bands(partial)[0], plots.energy(partial)):
        assert np.isfinite(lines(drawn)["mean"].get_ydata()).all()
        assert np.isfinite(band_edges(drawn)).all()


def test_the_portrait_shows_field_uncertainty_and_data():
    posterior = pendulum()
    rollouts = make_rollouts(posterior)
    ax = plots.phase_portrait(posterior, rollouts=rollouts)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("angle [rad]", "momentum [kg m²/s]")
    assert note_of(ax) == ""
    assert any(isinstance(patch, FancyArrowPatch) for patch in ax.patches)
    np.testing.assert_allclose(
        np.c_[lines(ax)["data"].get_data()], torch.cat(posterior.data.states)
    )
    assert legend_texts(ax) == ["far from data", "6 of 60 rollouts", "data"]
    colorbar = ax.figure.axes[1]
    assert colorbar.get_ylabel() == "std of the field / its typical size"


def shade(ax) -> list:
    """The outlines of the filled contours of the uncertainty."""
    return [path.vertices for path in ax.collections[0].get_paths()]


def test_the_shade_is_relative_to_the_size_of_the_field():
    """In other units of time field and deviation change alike, and the shade stays."""
    posterior = pendulum()
    once = shade(plots.phase_portrait(posterior))
    fast = pendulum()
    field = posterior.vector_field
    fast.vector_field = lambda x: SimpleNamespace(
        mean=1000 * field(x).mean, stddev=1000 * field(x).stddev
    )
    again = shade(plots.phase_portrait(fast))
    assert sum(len(part) for part in once) > 100
    for a, b in zip(once, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_only_some_rollouts_are_drawn():
    posterior = pendulum()
    rollouts = make_rollouts(posterior, num_draws=50)
    before = len(plots.phase_portrait(posterior).get_lines())
    for chosen in (rollouts, make_rollouts(posterior, num_draws=1)):
        ax = plots.phase_portrait(posterior, rollouts=chosen)
        assert 3 <= len(ax.get_lines()) - before <= 8
    assert "rollouts" in legend_texts(ax)


def test_the_portrait_covers_the_data_with_a_margin():
    posterior = pendulum()
    ax = plots.phase_portrait(posterior)
    states = torch.cat(posterior.data.states)
    for d, (low, high) in enumerate([ax.get_xlim(), ax.get_ylim()]):
        width = (states[:, d].max() - states[:, d].min()).item()
        assert low == pytest.approx(states[:, d].min().item() - 0.15 * width)
        assert high == pytest.approx(states[:, d].max().item() + 0.15 * width)
    ax = plots.phase_portrait(posterior, region=((-3.0, 3.0), (-1.0, 2.0)))
    assert ax.get_xlim() == (-3.0, 3.0) and ax.get_ylim() == (-1.0, 2.0)


@pytest.mark.parametrize("dof", [0, 1])
def test_other_coordinates_are_held_at_the_mean_of_the_data(dof):
    posterior = pendulum(2)
    ax = plots.phase_portrait(posterior, dof=dof)
    held = [1 - dof, 3 - dof]
    x = posterior.asked[0]
    mean = torch.cat(posterior.data.states).mean(0)
    torch.testing.assert_close(x[:, held], mean[held].expand(len(x), 2))
    assert x[:, dof].std() > 0.1 and x[:, 2 + dof].std() > 0.1
    names = [posterior.names[d] for d in held]
    values = [f"{names[k]} = {mean[d]:.3g}" for k, d in enumerate(held)]
    assert note_of(ax) == f"section at {', '.join(values)} (means of the data)"
    assert "data, projected" in legend_texts(ax)
    assert ax.get_xlabel() == f"q{dof + 1}" and ax.get_ylabel() == f"p{dof + 1}"


def test_points_are_far_from_data_when_they_are():
    posterior = pendulum()
    region = ((-20.0, 20.0), (-20.0, 20.0))
    plane = make_plane(posterior, None, 0, None, None, region, None, 41)
    spread = torch.cat(posterior.data.states).std(0)
    distance = torch.cdist(plane.x / spread, torch.cat(posterior.data.states) / spread).amin(1)
    far = torch.from_numpy(plane.far).flatten()
    assert far[distance > 3].all() and not far[distance < 0.3].any()
    # the grid is laid out as matplotlib reads it: rows along p, columns along q
    assert plane.x[1, 0] == plane.q[1] and plane.x[41, 1] == plane.p[1]


def test_positions_alone_need_a_region_or_rollouts():
    posterior = pendulum(missing=[1])
    with pytest.raises(ValueError, match="region: expected .* was not observed"):
        plots.phase_portrait(posterior)
    ax = plots.phase_portrait(posterior, rollouts=make_rollouts(posterior))
    assert "data" not in lines(ax)
    assert plots.phase_portrait(posterior, region=((-1.0, 1.0), (-1.0, 1.0))) is not None


def test_the_vector_field_has_mean_beside_deviation():
    posterior = pendulum()
    axes = plots.vector_field(posterior)
    assert axes.shape == (2, 2)
    bars = [ax.get_ylabel() for ax in axes[0, 0].figure.axes[4:]]
    assert bars == [
        "mean of d(angle)/dt [rad/s]",
        "std of d(angle)/dt [rad/s]",
        "mean of d(momentum)/dt\n[(kg m²/s)/s]",
        "std of d(momentum)/dt\n[(kg m²/s)/s]",
    ]


def test_the_hamiltonian_has_mean_beside_deviation():
    posterior = pendulum(2)
    axes = plots.hamiltonian(posterior, dof=1)
    assert axes.shape == (2,)
    assert [ax.get_ylabel() for ax in axes[0].figure.axes[2:]] == ["mean of H", "std of H"]
    assert note_of(axes[0]).startswith("section at q1 = ")


def test_a_field_without_an_energy_keeps_its_error():
    posterior = pendulum()

    def no_energy(x):
        raise TypeError("no energy")

    posterior.hamiltonian = no_energy
    with pytest.raises(TypeError, match="no energy"):
        plots.hamiltonian(posterior)


def test_a_certain_field_at_rest_is_drawn_quietly():
    """No data spread, no field, no uncertainty: nothing is divided by zero."""
    posterior = pendulum()
    posterior.vector_field = lambda x: SimpleNamespace(mean=0 * x, stddev=0 * x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.phase_portrait(posterior)
        plots.vector_field(posterior)


def test_a_section_is_where_it_is_asked_for():
    posterior = pendulum(2)
    ax = plots.hamiltonian(posterior, coordinates=("q2", "q1"), at={"p1": 0.5})[0]
    x, mean = posterior.asked[0], torch.cat(posterior.data.states).mean(0)
    assert (x[:, 2] == 0.5).all() and (x[:, 3] == mean[3]).all()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("q2", "q1")
    # rows of the grid along the vertical coordinate
    assert x[0, 0] == x[1, 0] and x[0, 1] < x[1, 1]
    assert note_of(ax) == f"section at p1 = 0.5, p2 = {mean[3]:.3g} (mean of the data)"


def test_a_section_across_many_coordinates_says_how_many_are_held():
    ax = plots.hamiltonian(pendulum(3), at={"q2": 1.0})[0]
    assert note_of(ax) == "section at q2 = 1, 3 other coordinates at the mean of the data"


def test_a_section_that_is_not_there_is_refused():
    posterior = pendulum(2)
    with pytest.raises(ValueError, match="coordinates: expected one of q1, q2, p1, p2 .*'x'"):
        plots.phase_portrait(posterior, coordinates=("q1", "x"))
    with pytest.raises(ValueError, match="coordinates: expected two, got"):
        plots.vector_field(posterior, coordinates=("q1", "q2", "p1"))
    with pytest.raises(ValueError, match="at: expected values of q2, p2, got one of 'q1'"):
        plots.hamiltonian(posterior, at={"q1": 0.0})


def test_a_point_far_in_a_held_coordinate_is_far():
    posterior = pendulum(2)

    def far(q2):
        at = {"q2": q2, "p2": 0.0}
        return make_plane(posterior, None, 0, None, at, None, None, 21).far

    assert far(50.0).all() and not far(1.0).all()


def test_contours_have_their_values_on_them():
    posterior = pendulum()
    for ax in plots.hamiltonian(posterior):
        written = {float(text.get_text()) for text in ax.texts if text.get_visible()}
        (bar,) = [c.colorbar for c in ax.collections if c.colorbar is not None]
        assert len(written) >= 3 and written <= {float(f"{v:.6g}") for v in bar._boundaries}


def test_contours_of_the_mean_are_where_data_are():
    """In a picture of mostly empty space too, whose corners have a hundred times their energy."""
    posterior = pendulum()
    states = torch.cat(posterior.data.states)
    highest = posterior.hamiltonian(states).mean.max().item()
    ax = plots.hamiltonian(posterior, region=((-20.0, 20.0), (-20.0, 20.0)), size=201)[0]
    (bar,) = [c.colorbar for c in ax.collections if c.colorbar is not None]
    assert highest <= bar._boundaries[-2] < 5 * highest
    assert bar.extend in ("max", "both")


@pytest.mark.parametrize("largest", [0.003, 1.0, 4e6])
@pytest.mark.parametrize("ratio", [1.5, 10.0, 200.0, 1e9])
def test_levels_are_few_and_round_and_reach_the_largest_value(largest, ratio):
    values = np.geomspace(largest / ratio, largest, 1000)
    levels = spread_levels(values)
    assert 3 <= len(levels) <= 11 and (np.diff(levels) > 0).all()
    assert levels[-1] >= largest > levels[-2] and levels[0] <= max(largest / 100, values[10])
    assert all(float(f"{level:.3g}") == pytest.approx(level) for level in levels)


def test_levels_of_one_value_are_no_failure():
    for make in (even_levels, spread_levels):
        for value in (0.0, 3.0):
            assert len(make(np.full((4, 4), value))) >= 2


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({}, ("q", "dq/dt", "H")),
        ({"q": "m"}, ("q [m]", "dq/dt", "H")),
        ({"q": "m", "time": "s"}, ("q [m]", "dq/dt [m/s]", "H")),
        ({"q": "m", "p": "kg m/s", "time": "s"}, ("q [m]", "dq/dt [m/s]", "H [m·(kg m/s)/s]")),
        ({"q": "m", "energy": "J"}, ("q [m]", "dq/dt", "H [J]")),
        (
            {"q": "log of thousands", "p": "log of thousands", "time": "year"},
            ("q [log of thousands]", "dq/dt [(log of thousands)/year]", "H"),
        ),
    ],
)
def test_labels_have_names_and_units(units, expected):
    assert style.label("q", units) == expected[0]
    assert style.rate_label("q", units) == expected[1]
    assert style.energy_label("H", ("q", "p"), units) == expected[2]


def test_pictures_can_be_written(tmp_path):
    posterior = pendulum()
    plots.phase_portrait(posterior, rollouts=make_rollouts(posterior))
    path = tmp_path / "portrait.png"
    plt.gcf().savefig(path)
    assert path.stat().st_size > 20_000


def test_matplotlib_is_loaded_by_the_first_picture_only():
    code = "import sys, sympgp.plots; print('matplotlib' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip() == "False"

"""Pictures of many trajectories and of sections: small multiples, pairs, Poincare sections."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from known import legend_texts, lines, make_rollouts, note_of, pendulum

from sympgp import plots
from sympgp.integrators import DivergenceWarning
from sympgp.plots.crossings import crossings
from sympgp.rollouts import Rollouts
from sympgp.trajectories import Trajectories


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def fitted(rollouts: Rollouts) -> list[Rollouts]:
    """Rollouts of one trajectory each, of different times."""
    parts = []
    for i in range(rollouts.num_trajectories):
        stop = len(rollouts.times) - 2 * i
        parts.append(
            Rollouts(
                rollouts.samples[:, [i], :stop],
                rollouts.times[:stop],
                rollouts.diverged[:, [i]],
                names=rollouts.names,
                units=rollouts.units,
            )
        )
    return parts


def test_small_multiples_have_a_column_for_each_trajectory():
    posterior = pendulum()
    rollouts = make_rollouts(posterior)
    axes = plots.small_multiples(rollouts, posterior.data, truth=rollouts.samples[4])
    assert axes.shape == (2, 3)
    for i in range(3):
        assert axes[0, i].get_title() == f"trajectory {i}"
        for d in range(2):
            drawn = lines(axes[d, i])
            np.testing.assert_allclose(drawn["mean"].get_ydata(), rollouts.mean[i, :, d])
            np.testing.assert_allclose(drawn["truth"].get_ydata(), rollouts.samples[4, i, :, d])
            data = posterior.data.states[i][:, d]
            np.testing.assert_allclose(drawn["data"].get_ydata(), data)
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["angle [rad]", "momentum [kg m²/s]"]
    assert [ax.get_xlabel() for ax in axes[1]] == ["time [s]"] * 3
    assert axes[0, 0].get_ylim() == axes[0, 2].get_ylim()
    assert note_of(axes[0, 0]) == ""
    assert legend_texts(axes[0, 0]) == [
        "90% latent band",
        "mean",
        "truth",
        "start of forecast",
        "data",
    ]


def test_small_multiples_take_a_list_of_rollouts_with_times_of_their_own():
    posterior = pendulum()
    parts = fitted(make_rollouts(posterior))
    truth = [part.samples[2, 0] for part in parts]
    axes = plots.small_multiples(parts, posterior.data, truth=truth, trajectories=[2, 0])
    assert axes.shape == (2, 2) and axes[0, 0].get_title() == "trajectory 2"
    for column, i in enumerate((2, 0)):
        drawn = lines(axes[1, column])
        np.testing.assert_array_equal(drawn["mean"].get_xdata(), parts[i].times)
        np.testing.assert_allclose(drawn["truth"].get_ydata(), truth[i][:, 1])
    assert note_of(axes[0, 0]) == ""


def test_of_many_trajectories_and_coordinates_some_are_drawn_and_it_says_so():
    states = torch.rand(9, 4, 20, generator=torch.Generator().manual_seed(0)).double()
    labels = [f"run {i}" for i in "abcdefghi"]
    data = Trajectories([0.0, 1.0, 2.0, 3.0], states, labels=labels)
    axes = plots.small_multiples(data)
    assert axes.shape == (8, 6)
    assert [ax.get_ylabel() for ax in axes[:, 0]] == [f"{x}{i}" for x in "qp" for i in range(1, 5)]
    assert axes[0, 1].get_title() == "run b"
    assert note_of(axes[0, 0]) == "6 of 9 trajectories and 8 of 20 coordinates"
    axes = plots.small_multiples(data, trajectories=range(9), coordinates=["p9"])
    assert axes.shape == (1, 9) and note_of(axes[0, 0]) == ""
    assert legend_texts(axes[0, 0]) == ["data"]


def test_bands_of_many_coordinates_leave_some_out():
    posterior = pendulum(12)
    axes = plots.bands(make_rollouts(posterior), posterior.data)
    assert len(axes) == 20 and note_of(axes[0]) == "20 of 24 coordinates"
    axes = plots.bands(make_rollouts(posterior), coordinates=["p12", "q2"])
    assert [ax.get_ylabel() for ax in axes] == ["p12", "q2"]


def test_diverged_draws_do_not_reach_small_multiples_pairs_or_sections():
    posterior = pendulum(2)
    rollouts = make_rollouts(posterior)
    samples, diverged = rollouts.samples.clone(), rollouts.diverged.clone()
    samples[0, :, 7:] = 1e9
    diverged[0] = True
    with pytest.warns(DivergenceWarning):
        partial = Rollouts(samples, rollouts.times, diverged)
    for axes in (
        plots.small_multiples(partial),
        plots.pairs(partial),
        plots.section(partial, direction=0),
    ):
        for ax in np.ravel(axes):
            assert max(map(abs, ax.get_xlim() + ax.get_ylim())) < 100


def test_trajectories_without_any_draw_left_are_no_failure():
    rollouts = make_rollouts(pendulum(2))
    diverged = rollouts.diverged.clone()
    diverged[:, 1] = True
    with pytest.warns(DivergenceWarning):
        partial = Rollouts(rollouts.samples, rollouts.times, diverged)
    assert len(plots.pairs(partial)[0].get_lines()) == 4
    plots.section(partial, direction=0)
    plots.small_multiples(partial)


def test_pairs_are_the_triangle_of_all_coordinates():
    posterior = pendulum(2)
    rollouts = make_rollouts(posterior)
    axes = plots.pairs(rollouts, posterior.data, truth=rollouts.samples[3])
    assert len(axes) == 6
    states = torch.cat(posterior.data.states)
    order = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    for ax, (x, y) in zip(axes, order, strict=True):
        drawn = lines(ax)
        np.testing.assert_array_equal(np.c_[drawn["data"].get_data()], states[:, [x, y]])
        known = [np.c_[line.get_data()] for line in ax.get_lines() if line.get_label() == "truth"]
        np.testing.assert_array_equal(known, rollouts.samples[3][..., [x, y]])
        cell = ax.get_subplotspec()
        assert (cell.colspan.start, cell.rowspan.start) == (x, y - 1)
    assert [ax.get_xlabel() for ax in axes[3:]] == ["q1", "q2", "p1"]
    assert [axes[k].get_ylabel() for k in (0, 1, 3)] == ["q2", "p1", "p2"]
    assert legend_texts(axes[0]) == ["6 of 60 rollouts", "truth", "data"]
    assert len(axes[0].figure.axes) == 6


def test_pairs_of_one_trajectory():
    posterior = pendulum(2)
    rollouts = make_rollouts(posterior)
    (ax,) = plots.pairs(fitted(rollouts), posterior.data, coordinates=["p2", "q1"], trajectory=1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("p2", "q1")
    data = lines(ax)["data"]
    np.testing.assert_array_equal(np.c_[data.get_data()], posterior.data.states[1][:, [3, 0]])
    assert legend_texts(ax) == ["8 of 20 rollouts", "data"]
    drawn = ax.get_lines()[0].get_ydata()
    np.testing.assert_array_equal(drawn, rollouts.samples[0, 1, :-2, 0])


def test_pairs_of_data_alone_and_of_many_coordinates():
    posterior = pendulum(10)
    axes = plots.pairs(posterior.data)
    assert len(axes) == 15 and note_of(axes[0]) == "6 of 20 coordinates"
    figure, given = plt.subplots(1, 3)
    assert list(plots.pairs(posterior.data, ax=given, coordinates=[0, 1, 10])) == list(given)
    assert [ax.get_xlabel() for ax in given] == ["q1", "q1", "q2"]
    assert figure.legends == []


def circles(times, num_paths=5):
    """Two uncoupled oscillators of frequencies 1 and sqrt(2), with other phases in each path."""
    phase = torch.linspace(0.1, 1.5, num_paths, dtype=torch.float64).view(-1, 1, 1)
    a, b = times.view(1, -1, 1) + phase, math.sqrt(2) * times.view(1, -1, 1) + 2 * phase
    return torch.cat([torch.sin(a), 2 * torch.sin(b), torch.cos(a), 2 * torch.cos(b)], -1)


def as_rollouts(samples, times) -> Rollouts:
    return Rollouts(samples[:, None], times, torch.zeros(len(samples), 1, dtype=torch.bool))


def test_a_section_lies_where_the_paths_cross():
    """Both oscillators are known at the times 2 pi k - phase, where the first one's q is zero."""
    times = torch.arange(0.0, 40.0, 0.1, dtype=torch.float64)
    samples = circles(times)
    ax = plots.section(as_rollouts(samples, times), truth=samples[2])
    phase = np.linspace(0.1, 1.5, 5)
    when = 2 * np.pi * np.arange(1, 8)[None] - phase[:, None]
    angle = (np.sqrt(2) * when + 2 * phase[:, None])[when < 39.9]
    expected = np.stack([2 * np.sin(angle), 2 * np.cos(angle)], 1)
    found = np.c_[lines(ax)["draws"].get_data()]
    assert found.shape == expected.shape
    order = [np.lexsort(points.round(3).T) for points in (found, expected)]
    np.testing.assert_allclose(found[order[0]], expected[order[1]], atol=2e-5)
    known = np.c_[lines(ax)["truth"].get_data()]
    np.testing.assert_allclose(np.linalg.norm(known, axis=1), 2, atol=2e-5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("q2", "p2")
    assert note_of(ax) == "section at q1 = 0, crossed upwards"


def test_crossings_are_of_fourth_order_in_the_spacing_of_the_times():
    errors, steps = [], [0.4, 0.2, 0.1, 0.05]
    for step in steps:
        times = torch.arange(0.0, 30.0, step, dtype=torch.float64)
        states = crossings(times.numpy(), circles(times).numpy(), 0, 0.3, 0)
        errors.append(np.abs(states[:, 0] ** 2 + states[:, 2] ** 2 - 1).max())
    slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert (slopes > 3.5).all()


@pytest.mark.parametrize(("direction", "momenta"), [(1, [1]), (-1, [-1]), (0, [-1, 1])])
def test_crossings_go_in_the_direction_asked_for(direction, momenta):
    times = torch.arange(0.0, 30.0, 0.1, dtype=torch.float64)
    states = crossings(times.numpy(), circles(times).numpy(), 0, 0.0, direction)
    np.testing.assert_allclose(states[:, 0], 0, atol=1e-9)
    assert sorted(set(np.sign(states[:, 2]))) == momenta


def test_a_path_that_meets_the_value_at_a_time_crosses_once():
    times = np.arange(5.0)
    path = np.stack([times - 2, times**2], 1)[None]
    np.testing.assert_allclose(crossings(times, path, 0, 0.0, 1), [[0.0, 4.0]], atol=1e-9)
    assert len(crossings(times, path, 0, 0.0, -1)) == 0


def test_a_section_takes_names_positions_and_lists():
    times = torch.arange(0.0, 20.0, 0.1, dtype=torch.float64)
    rollouts = as_rollouts(circles(times), times)
    ax = plots.section([rollouts, rollouts], crossing=("p2", 0.5), direction=-1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("q1", "p1")
    assert note_of(ax) == "section at p2 = 0.5, crossed downwards"
    both = len(lines(ax)["draws"].get_xdata())
    figure, given = plt.subplots()
    ax = plots.section(rollouts, (3, 0.5), -1, coordinates=("p1", "q2"), ax=given)
    assert ax is given and (ax.get_xlabel(), ax.get_ylabel()) == ("p1", "q2")
    assert 2 * len(lines(ax)["draws"].get_xdata()) == both > 0
    assert note_of(ax) == "section at p2 = 0.5, crossed downwards"


def test_arguments_that_do_not_fit_are_refused():
    posterior = pendulum(2)
    rollouts = make_rollouts(posterior)
    with pytest.raises(ValueError, match="crossing: expected one of q1, .*got 'x'"):
        plots.section(rollouts, crossing=("x", 0.0))
    with pytest.raises(ValueError, match="crossing: expected a value that q1 crosses"):
        plots.section(rollouts, crossing=("q1", 1e3))
    with pytest.raises(ValueError, match=r"direction: expected \+1, -1 or 0, got 2"):
        plots.section(rollouts, direction=2)
    with pytest.raises(ValueError, match="coordinates: expected two, got"):
        plots.section(rollouts, coordinates=["q2"])
    with pytest.raises(ValueError, match="rollouts: expected two or more degrees of freedom"):
        plots.section(make_rollouts(pendulum()))
    with pytest.raises(ValueError, match=r"truth: expected shape \(33, 4\) or \(3, 33, 4\)"):
        plots.section(rollouts, truth=torch.zeros(7, 4))
    with pytest.raises(ValueError, match="coordinates: expected two or more"):
        plots.pairs(rollouts, coordinates=["q1"])
    with pytest.raises(ValueError, match="ax: expected 6 axes, got 1"):
        plots.pairs(rollouts, ax=plt.gca())
    with pytest.raises(ValueError, match="trajectory: expected 0 to 2"):
        plots.pairs(rollouts, trajectory=3)
    with pytest.raises(ValueError, match="trajectories: expected 0 to 2 .* got 3"):
        plots.small_multiples(rollouts, trajectories=[3])
    with pytest.raises(ValueError, match="trajectories: expected at least one"):
        plots.small_multiples(rollouts, trajectories=[])
    with pytest.raises(ValueError, match="data: expected 3 trajectories as in the rollouts, got 2"):
        plots.small_multiples(rollouts, posterior.data[:2])
    with pytest.raises(ValueError, match="truth: expected states of 3 trajectories, got 2"):
        plots.small_multiples(rollouts, truth=rollouts.samples[0, :2])
    with pytest.raises(ValueError, match="source: expected rollouts beside data or truth"):
        plots.small_multiples(posterior.data, posterior.data)
    with pytest.raises(ValueError, match="rollouts: expected at least one, got none"):
        plots.pairs([])
    with pytest.raises(ValueError, match="rollouts: expected the coordinates"):
        plots.pairs([rollouts, make_rollouts(pendulum())])

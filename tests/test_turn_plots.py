"""Angles in pictures: everything within one turn, nothing across the seam; driven systems."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from known import legend_texts, lines, note_of, pendulum
from matplotlib.collections import PolyCollection

from sympgp import plots
from sympgp.plots.plane import make_plane
from sympgp.plots.turns import clipped_band, path_pieces, periods_of, pieces
from sympgp.rollouts import Rollouts
from sympgp.trajectories import Trajectories

TURN = 2 * math.pi


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def whirling(width: float = 0.3, **settings) -> Rollouts:
    """Draws of an angle that turns over, first forwards and then backwards."""
    times = torch.linspace(0.0, 10.0, 201, dtype=torch.float64)
    angle = 9.0 * (times * math.pi / 10.0).sin()
    offset = torch.linspace(-width, width, 21, dtype=torch.float64)
    samples = torch.stack([angle + offset[:, None], times.expand(21, -1)], -1).unsqueeze(1)
    diverged = torch.zeros(21, 1, dtype=torch.bool)
    return Rollouts(samples, times, diverged, names=("angle", "momentum"), **settings)


def test_pieces_of_a_curve_are_the_curve_turn_by_turn():
    """Each is shifted by whole turns, and together they hold every point within the limits once."""
    values = whirling().mean[0, :, 0].numpy()
    seen = np.zeros(len(values), int)
    for rows, shift in pieces(values, values, TURN):
        assert shift / TURN == round(shift / TURN)
        part = values[rows] + shift
        seen[rows] += np.abs(part) <= math.pi
        assert np.abs(np.diff(part)).max() < 0.2  # no line across the seam
    assert (seen == 1).all()
    assert list(pieces(values, values, None)) == [(slice(None), 0.0)]
    assert list(pieces(values * np.nan, values, TURN)) == []


def test_a_step_from_one_turn_to_the_next_reaches_the_seam_on_both_sides():
    parts = [values for values, _ in path_pieces(*np.array([[3.0, 3.4], [0.0, 1.0]]), TURN, None)]
    np.testing.assert_allclose(parts, [[3.0, 3.4], [3.0 - TURN, 3.4 - TURN]])


def test_a_band_is_not_drawn_over_itself():
    lower, upper = clipped_band(np.array([-1.0, -9.0]), np.array([1.0, 11.0]), TURN)
    np.testing.assert_allclose(upper - lower, [2.0, TURN])
    np.testing.assert_allclose(upper + lower, [0.0, 2.0])


def test_bands_of_an_angle_stay_within_one_turn():
    rollouts = whirling()
    states = rollouts.samples[10, 0, ::10]
    data = Trajectories(rollouts.times[::10], states, names=("angle", "momentum"))
    axes = plots.bands(rollouts, data, truth=rollouts.samples[10, 0], wrap="angle")
    assert axes[0].get_ylim() == pytest.approx((-math.pi, math.pi))
    points = lines(axes[0])["data"].get_ydata()
    assert np.abs(points).max() <= math.pi
    np.testing.assert_allclose(np.sin(points), states[:, 0].sin(), atol=1e-12)
    edges = np.concatenate(
        [
            c.get_paths()[0].vertices[:, 1]
            for c in axes[0].collections
            if isinstance(c, PolyCollection)
        ]
    )
    assert edges.min() < -math.pi < math.pi < edges.max()  # they reach the seam
    assert axes[1].get_ylim()[1] > 9.9  # the momentum is as it was
    texts = legend_texts(axes[0])
    assert len(texts) == len(set(texts)) == 4


def test_small_multiples_and_pairs_wrap_too():
    rollouts = whirling()
    axes = plots.small_multiples(rollouts, wrap={"angle": 4.0})
    assert axes[0, 0].get_ylim() == pytest.approx((-2.0, 2.0))
    (panel,) = plots.pairs(rollouts, wrap=["angle"])
    assert panel.get_xlim() == pytest.approx((-math.pi, math.pi))
    assert all(np.abs(np.diff(line.get_xdata())).max() < 0.2 for line in panel.get_lines())


def test_what_is_known_as_an_angle_is_drawn_within_one_turn():
    known, plain = whirling(angles={"angle": 4.0}), whirling()
    assert plots.bands(known)[0].get_ylim() == pytest.approx((-2.0, 2.0))
    assert plots.small_multiples(known)[0, 0].get_ylim() == pytest.approx((-2.0, 2.0))
    assert plots.pairs(known)[0].get_xlim() == pytest.approx((-2.0, 2.0))
    ax = plots.phase_portrait(pendulum(angles={"angle": TURN}), size=11)
    assert ax.get_xlim() == pytest.approx((-math.pi, math.pi))
    # what is said goes first, () says none
    assert plots.bands(known, wrap="angle")[0].get_ylim() == pytest.approx((-math.pi, math.pi))
    assert plots.bands(known, wrap=())[0].get_ylim() == plots.bands(plain)[0].get_ylim()


def test_the_plane_of_an_angle_is_one_turn_and_does_not_know_which():
    """Whole turns more in the data change nothing, nor does the seam in what is far from them."""
    posterior = pendulum()
    turned = posterior.data.with_states(
        [
            x + torch.tensor([k * TURN, 0.0], dtype=torch.float64)
            for k, x in enumerate(posterior.data.states)
        ]
    )
    one, other = (
        make_plane(posterior, data, 0, None, None, None, None, 21, "angle")
        for data in (posterior.data, turned)
    )
    assert one.q[[0, -1]] == pytest.approx((-math.pi, math.pi))
    np.testing.assert_allclose(one.observed, other.observed, atol=1e-12)
    assert one.far is not None and np.array_equal(one.far, other.far)
    assert np.array_equal(one.far[:, 0], one.far[:, -1])


def test_paths_in_phase_space_are_cut_at_the_seam():
    posterior = pendulum()
    rollouts = whirling()
    rollouts.names = posterior.names
    ax = plots.phase_portrait(posterior, rollouts=rollouts, wrap="angle", size=11)
    paths = [line for line in ax.get_lines() if line.get_color() == "#009E73"]
    assert len(paths) > 8
    assert all(np.abs(np.diff(line.get_xdata())).max() < 0.2 for line in paths)
    assert sum("rollouts" in text for text in legend_texts(ax)) == 1


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        ("momentum", "wrap: expected one of angle"),
        (["phi"], "wrap: expected one of angle"),
        ({"angle": 0.0}, "wrap: expected a positive period of angle, got 0.0"),
        ({"angle": math.inf}, "wrap: expected a positive period of angle, got inf"),
    ],
)
def test_what_is_no_angle_is_refused(wrap, message: str):
    with pytest.raises(ValueError, match=message):
        periods_of(wrap, ("angle", "momentum"))


def test_pictures_of_the_field_of_a_driven_system_say_that_it_is_not_driven():
    posterior = pendulum()
    data = posterior.data
    inputs = [torch.ones(len(t), 1) for t in data.times]
    posterior.data = Trajectories(
        data.times, data.states, inputs, data.names, data.units, input_names=("torque",)
    )
    ax = plots.phase_portrait(posterior, size=11)
    assert note_of(ax) == "without inputs (torque = 0)"
    assert note_of(plots.vector_field(posterior, size=11).flat[0]) == "without inputs (torque = 0)"
    assert note_of(plots.hamiltonian(posterior, size=11)[0]) == ""

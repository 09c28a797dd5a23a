"""Angles: turns told from samples, and angles brought back into one turn."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import NAN, randn, tensor
from torch import Tensor

from sympgp import SSGP, Friction, GaussNewton, Rollouts, fit, load
from sympgp.systems import Pendulum
from sympgp.trajectories import Trajectories, unwrapped, wrapped

TURN = 2 * math.pi
SPEEDS = [-2.6, -1.1, 0.3, 1.1, 2.6]
"""Radians a sample: up to 0.41 turns."""


def data_of(times, angle, period: float = TURN, momentum=None) -> Trajectories:
    """One trajectory with the angle wrapped."""
    second = torch.full_like(angle, NAN) if momentum is None else momentum
    return Trajectories(times, torch.stack([wrapped(angle, period), second], 1))


def same_path(found: Trajectories, angle, period: float = TURN) -> bool:
    """Equal up to one number of turns for the whole path."""
    seen = ~found.states[0][:, 0].isnan()
    turns = (found.states[0][:, 0] - angle)[seen] / period
    return bool((turns - turns[0].round()).abs().max() < 1e-9)


def whirling(rate: float, count: int = 60) -> tuple:
    """Times, and an angle whose rate varies by a quarter."""
    times = 0.2 * torch.arange(count, dtype=torch.float64)
    return times, 0.7 + rate * times + 0.25 * rate * (0.8 * times).sin()


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1), center=st.floats(-10, 10))
def test_wrapped_angles_lie_in_one_turn_and_differ_by_whole_turns(values, center):
    y = wrapped(tensor(values), 3.0, center)
    assert bool((y >= center - 1.5 - 1e-9).all() and (y <= center + 1.5 + 1e-9).all())
    turns = (tensor(values) - y) / 3.0
    torch.testing.assert_close(turns, turns.round(), atol=1e-9, rtol=0)
    inside = wrapped(y, 3.0, center)
    assert bool(((inside == y) | ((inside - y).abs() > 2.9)).all())


def test_truth_is_brought_near_a_prediction():
    """Angles of another turn then compare with draws that are not wrapped."""
    mean = tensor([20.0, -9.0, 0.5])
    truth = wrapped(mean + tensor([0.1, -0.2, NAN]))
    near = wrapped(truth, TURN, mean)
    torch.testing.assert_close(near, mean + tensor([0.1, -0.2, NAN]), equal_nan=True)


def test_wrapped_takes_arrays_and_keeps_missing_ones():
    values = torch.tensor([NAN, 7.0])
    assert wrapped(values.numpy())[1] == pytest.approx(7.0 - TURN)
    assert wrapped(values).isnan().tolist() == [True, False]
    with pytest.raises(ValueError, match="period: expected a positive number, got -1"):
        wrapped(values, -1.0)


@pytest.mark.parametrize("turns", [-0.45, -0.2, 0.1, 0.45])
@pytest.mark.parametrize("momentum", [False, True])
def test_whirling_both_ways_is_followed(turns, momentum):
    """At 5 Hz with up to 0.45 turns a sample on the average."""
    times, angle = whirling(turns * TURN / 0.2)
    p = randn(len(times)) if momentum else None
    found = unwrapped(data_of(times, angle, momentum=p), "q")
    assert same_path(found, angle)
    if momentum:
        assert torch.equal(found.states[0][:, 1], p)


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_start_does_not_set_the_direction(seed):
    """First increments near half a turn: with noise they seem to go the other way."""
    times = 0.2 * torch.arange(50, dtype=torch.float64)
    angle = 0.45 * TURN / 0.2 * times + 0.25 * randn(50, seed=seed)
    assert same_path(unwrapped(data_of(times, angle), 0), angle)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", SPEEDS)
def test_uneven_times_and_noise(rate, seed):
    steps = 0.2 * (1 + 0.5 * randn(60, seed=seed + 50).sin())
    times = steps.cumsum(0)
    angle = rate / 0.2 * times + 0.1 * randn(60, seed=seed)
    assert same_path(unwrapped(data_of(times, angle), "q"), angle)


def test_a_long_step_between_short_ones_is_followed():
    times = torch.cat([torch.arange(20) * 0.01, torch.arange(1, 20) * 0.2 + 0.19]).double()
    angle = 8.0 * times + 0.02 * randn(len(times))
    assert same_path(unwrapped(data_of(times, angle), "q"), angle)


@pytest.mark.parametrize("rate", SPEEDS)
def test_gaps_are_crossed_at_the_rate(rate):
    """Missing entries, and rows that are not there at all."""
    times, angle = whirling(rate)
    angle = rate / 0.2 * times + 0.05 * randn(len(times))
    holes = angle.clone()
    holes[20:26] = NAN
    holes[40:43] = NAN
    assert same_path(unwrapped(data_of(times, holes), "q"), angle)
    rows = ~holes.isnan()
    assert same_path(unwrapped(data_of(times[rows], holes[rows]), "q"), angle[rows])


def test_an_oscillation_stays_in_its_turn_across_a_gap():
    times = 0.2 * torch.arange(100, dtype=torch.float64)
    angle = 2.2 * (0.8 * times).sin()
    for begin in range(30, 80, 3):
        holes = angle.clone()
        holes[begin : begin + 18] = NAN
        data = Trajectories(times, torch.stack([holes, angle], 1))
        assert torch.equal(unwrapped(data, "q").states[0].nan_to_num(), data.states[0].nan_to_num())


@pytest.mark.parametrize("rate", SPEEDS)
def test_unwrapped_data_come_back_unchanged(rate):
    """To the bit, with gaps, outliers and any rate; and a second time nothing happens."""
    times, angle = whirling(1.5 * rate / 0.2)
    angle[10:30] = NAN
    angle[40] += 3.0
    data = Trajectories(times, torch.stack([angle, angle.cos()], 1))
    assert torch.equal(unwrapped(data, "q").states[0].nan_to_num(), data.states[0].nan_to_num())
    once = unwrapped(data_of(times, whirling(rate / 0.2)[1]), "q")
    assert torch.equal(unwrapped(once, "q").states[0][:, 0], once.states[0][:, 0])


def test_a_librating_pendulum_is_left_alone():
    data = Pendulum().simulate(4, rate=5, duration=10, noise_std=0.05, seed=1)
    for one, other in zip(unwrapped(data, "q").states, data.states, strict=True):
        assert torch.equal(one, other)


def test_a_simulated_pendulum_goes_over_the_top():
    """Both ways at 5 Hz with missing entries; each trajectory begins where it was observed."""
    system = Pendulum()
    x0 = tensor([[0.5, 3.0], [-0.5, -3.2]])
    times = torch.linspace(0, 15, 76, dtype=torch.float64)
    truth = system.exact(x0, times)
    states = truth.clone()
    states[..., 0] = wrapped(states[..., 0] + 0.1 * randn(2, 76))
    states[:, ::7, 0] = NAN
    found = unwrapped(Trajectories(times, states), "q")
    for one, other in zip(found.states, truth, strict=True):
        gap = (one - other)[:, 0]
        assert gap[~gap.isnan()].abs().max() < 0.5


def test_degrees_and_several_coordinates_with_periods_of_their_own():
    times, angle = whirling(1.3 / 0.2)
    degrees, turns = angle * 180 / math.pi, angle / TURN
    nothing = torch.full_like(angle, NAN)
    columns = [wrapped(degrees, 360.0, 180.0), wrapped(turns, 1.0), angle, *[nothing] * 3]
    data = Trajectories(
        times, torch.stack(columns, 1), names=["a", "b", "c", "l", "m", "n"], units={"a": "deg"}
    )
    found = unwrapped(data, ["b", 0], [1.0, 360.0])
    assert same_path(found, degrees, 360.0)
    torch.testing.assert_close(found.states[0][:, 1], turns)
    assert torch.equal(found.states[0][:, 2], angle)
    assert found.units == data.units and found.names == data.names


def test_everything_else_is_kept():
    times, angle = whirling(1.3 / 0.2)
    states = torch.stack([wrapped(angle), angle.cos()], 1)
    data = Trajectories(
        times, states, times[:, None], labels=["run"], input_names=["torque"], dtype=torch.float32
    )
    found = unwrapped(data, "q")
    assert found.dtype == torch.float32 and found.labels == ("run",)
    assert torch.equal(found.inputs[0], data.inputs[0]) and found.input_names == ("torque",)
    assert (found.states[0][:, 0] - angle).abs().max() < 1e-4
    assert data.states[0][:, 0].abs().max() < 3.2  # what was given is as it was


def test_few_values_are_left_alone():
    for values in ([3.0, NAN, NAN], [3.0, -3.0, NAN], [3.0, 0.0, NAN]):
        x = torch.stack([tensor(values), torch.zeros(3).double()], 1)
        found = unwrapped(Trajectories(torch.arange(3.0), x), "q").states[0][:2, 0]
        assert found.isnan().tolist() == x[:2, 0].isnan().tolist()
    pair = unwrapped(Trajectories([0.0, 1.0], [[3.0, 0], [-3.0, 0]]), "q")
    assert float(pair.states[0][1, 0]) == pytest.approx(TURN - 3.0)


@pytest.mark.parametrize(
    ("coordinates", "period", "message"),
    [
        ("p", TURN, "coordinates: expected an angle among .*'q'.*got the momentum 'p'"),
        (1, TURN, "coordinates: .*got the momentum 'p'"),
        ("angle", TURN, "coordinates: expected some of .*'q'.*got 'angle'"),
        (-1, TURN, "coordinates: .*numbers from 0 to 0, got -1"),
        (["q", 0], TURN, "coordinates: expected each of them once"),
        ("q", 0.0, "period: expected a positive number, got 0.0"),
        ("q", [1.0, 2.0], "period: expected one number or 1, got 2"),
    ],
)
def test_what_is_no_angle_is_refused(coordinates, period, message):
    data = Trajectories([0.0, 1.0], [[1.0, 0.0], [2.0, 0.0]])
    with pytest.raises(ValueError, match=message):
        unwrapped(data, coordinates, period)


# A fit to angles


def whirlers(noise: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """Times, truth and noisy states of pendula that turn over both ways and that swing."""
    times = torch.linspace(0, 6, 46, dtype=torch.float64)
    truth = Pendulum().exact([[0.5, 2.8], [-0.5, -3.0], [2.0, 0.5]], times)
    return times, truth, truth + noise * randn(*truth.shape)


@pytest.fixture(scope="module")
def whirl():
    """The fit to wrapped data, with the truth ten samples further."""
    times, truth, noisy = whirlers()
    noisy[..., 0] = wrapped(noisy[..., 0])
    data = Trajectories(times, noisy).between(0.0, 5.0)
    return fit(SSGP(num_features=25, mass=0.5, periodic=(0,)), data, progress=False), times, truth


def test_forecasts_go_on_across_the_seam(whirl):
    """Draws are not wrapped: they go on from where the data are, turn after turn."""
    posterior, times, truth = whirl
    ahead = times > 5.0
    for i in range(3):
        found = posterior.forecast(times[ahead], i, 20)
        error = found.mean[0] - truth[i, ahead]
        error[:, 0] = wrapped(error[:, 0])
        assert float(error.square().sum(-1).mean()) < 0.01
        assert float(found.samples[..., 0].diff(dim=-1).abs().max()) < 1.0
    assert float(posterior.fitted(num_samples=5)[0].mean[0, -1, 0].abs()) > 2 * TURN
    assert bool((posterior.noise_std - 0.05).abs().max() < 0.015)


def test_the_field_repeats_with_every_turn(whirl):
    posterior, *_ = whirl
    x = tensor([[3.0, 0.2], [0.4, -1.0]])
    y = x + tensor([TURN, 0.0])
    for one in (posterior.vector_field, posterior.hamiltonian):
        torch.testing.assert_close(one(x).mean, one(y).mean, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(one(x).stddev, one(y).stddev, atol=1e-8, rtol=1e-8)
    draws = posterior.sample(3)
    torch.testing.assert_close(draws(x), draws(y), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("form", ["unwrapped", "degrees"])
def test_wrapped_and_unwrapped_data_and_degrees_give_one_posterior(whirl, form):
    posterior, times, _ = whirl
    _, _, noisy = whirlers()
    unit = 1.0
    if form == "degrees":
        unit = 180 / math.pi
        noisy[..., 0] = wrapped(unit * noisy[..., 0], 360.0)
    data = Trajectories(times, noisy).between(0.0, 5.0)
    # The mass is in units of momentum per rate of the angle.
    model = SSGP(num_features=25, mass=0.5 / unit, periodic=(0,), period=unit * TURN)
    found = fit(model, data, progress=False)
    x, units = tensor([[3.0, 0.2], [0.4, -1.0], [10.0, 2.0]]), tensor([unit, 1.0])
    one, other = posterior.vector_field(x), found.vector_field(units * x)
    torch.testing.assert_close(other.mean / units, one.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(other.stddev / units, one.stddev, atol=1e-5, rtol=1e-3)
    turns = (found.data.states[0][:, 0] / unit - posterior.data.states[0][:, 0]) / TURN
    torch.testing.assert_close(turns, turns[:1].round().expand(len(turns)), atol=1e-9, rtol=0)


@pytest.mark.parametrize("index", [1, -1, 2])
def test_an_angle_that_is_no_coordinate_is_refused(index):
    with pytest.raises(ValueError, match="periodic: "):
        SSGP(num_dof=1, num_features=5, periodic=(index,))


@pytest.mark.slow
def test_a_whirling_pendulum_with_nothing_known():
    """H of the whole state, periodic in the angle, from wrapped data; five seconds ahead."""
    times = torch.linspace(0, 15, 151, dtype=torch.float64)
    truth = Pendulum().exact([[0.5, 2.8], [-0.5, -3.0], [1.0, 0.0], [2.0, 0.5]], times)
    noisy = truth + 0.05 * randn(*truth.shape)
    noisy[..., 0] = wrapped(noisy[..., 0])
    data = Trajectories(times, noisy).between(0.0, 10.0)
    model = SSGP(num_features=50, periodic=(0,), dissipation=Friction())
    posterior = fit(model, data, progress=False)
    ahead = times > 10.0
    for i in range(4):
        error = posterior.forecast(times[ahead], i, 50).mean[0] - truth[i, ahead]
        error[:, 0] = wrapped(error[:, 0])
        assert float(error.square().sum(-1).mean()) < 0.02


@pytest.fixture(scope="module")
def posterior():
    """Of a pendulum that turns over, recorded within one turn, from one Gaussian."""
    system = Pendulum()
    times = torch.arange(0.0, 6.01, 0.2, dtype=torch.float64)
    paths = system.exact(tensor([[0.0, 2.9], [0.5, 0.0]]), times)
    noisy = paths + 0.02 * randn(*paths.shape)
    noisy[..., 0] = wrapped(noisy[..., 0])
    data = Trajectories(times, noisy, names=("angle", "momentum"))
    model = SSGP(num_features=12, periodic=(0,))
    return fit(model, data, inference=GaussNewton(num_components=1), progress=False)


def test_a_posterior_knows_its_angles_and_so_do_its_files(posterior, tmp_path):
    assert posterior.angles == {"angle": TURN}
    posterior.save(tmp_path / "fit.pt")
    assert load(tmp_path / "fit.pt").angles == {"angle": TURN}
    rollouts = posterior.rollout([0.0, 2.9], [0.0, 1.0], num_samples=3)
    assert rollouts.angles == {"angle": TURN}
    rollouts.to_netcdf(tmp_path / "new.nc")
    assert Rollouts.from_netcdf(tmp_path / "new.nc").angles == {"angle": TURN}
    assert posterior.fitted(num_samples=2)[0].angles == {"angle": TURN}


def test_new_data_within_one_turn_are_followed_across_the_seam(posterior):
    whole = posterior.data[0]
    within = torch.cat([wrapped(whole.states[0][:, :1]), whole.states[0][:, 1:]], 1)
    found = [
        posterior.condition(data).initial_states.mean
        for data in (whole, whole.with_states([within]))
    ]
    off = (found[1] - found[0])[0] / tensor([TURN, 1.0])
    assert abs(float(off[0]) - round(float(off[0]))) < 1e-6 and abs(float(off[1])) < 1e-6

"""Inputs: carried by the data, laid out with the nodes, and as functions of time in rollouts."""

import math

import pandas
import pytest
import torch
import xarray
from containers import assert_same, ragged
from hypothesis import given
from hypothesis import strategies as st
from problems import NAN, canonical, identity_scaling, randn, tensor

from sympgp.inference.smoothing import smooth
from sympgp.inference.start import prepare
from sympgp.noise import GaussianNoise
from sympgp.shooting.layout import Nodes, Windows
from sympgp.trajectories import InputFunction, InputSignal, Signal, Trajectories, as_signal

KINDS = ("linear", "held")
TIMES = tensor([0.0, 0.5, 2.0, 2.5])
VALUES = tensor([[0.0, 1.0], [1.0, -1.0], [1.0, 0.5], [-2.0, 3.0]])


def driven(times=None, seen=None, inputs=None, num_dof: int = 1) -> Trajectories:
    """One trajectory, observed in the rows ``seen``, with a wavy torque."""
    t = torch.linspace(0, 6, 61, dtype=torch.float64) if times is None else times
    x = torch.stack([(1.3 * t).sin(), (1.3 * t).cos()], 1) + 0.02 * randn(len(t), 2)
    if seen is not None:
        hidden = torch.ones(len(t), dtype=torch.bool)
        hidden[seen] = False
        x[hidden] = NAN
    return Trajectories(t, x, (3.0 * t).sin()[:, None] if inputs is None else inputs)


# readers and writers


def test_a_file_with_inputs_comes_back(tmp_path):
    data = ragged()
    data.to_csv(tmp_path / "data.csv")
    data.to_netcdf(tmp_path / "data.nc")
    half = {"q": ["x", "y"], "p": ["px", "py"], "u": ["force"]}
    assert_same(Trajectories.from_csv(tmp_path / "data.csv", **half), data)
    assert_same(Trajectories.from_file(tmp_path / "data.csv", **half), data)
    assert_same(Trajectories.from_file(tmp_path / "data.nc"), data)
    assert_same(Trajectories.from_netcdf(tmp_path / "data.nc", **half), data)
    assert_same(Trajectories.from_pandas(data.to_pandas(), **half), data)


def test_rows_with_inputs_alone_are_kept(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("time,q,p,torque [N m]\n0,1,2,3\n1,,,4\n2,,,5\n3,1,1,6\n")
    data = Trajectories.from_csv(path, u=["torque"])
    assert data.inputs[0].flatten().tolist() == [3, 4, 5, 6] and data.units == {"torque": "N m"}
    assert data.states[0].isnan().all(1).tolist() == [False, True, True, False]
    data.to_netcdf(tmp_path / "data.nc")
    assert_same(Trajectories.from_netcdf(tmp_path / "data.nc"), data)


def test_missing_inputs_are_refused_where_they_stand(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("time,q,p,torque\n0,1,2,3\n1,1,2,\n2,1,2,inf\n")
    with pytest.raises(
        ValueError, match="line 3, column 'torque': expected a finite number, .*none"
    ):
        Trajectories.from_csv(path, u=["torque"])
    frame = pandas.read_csv(path)
    with pytest.raises(ValueError, match="row 1 .*column 'torque': expected a finite number"):
        Trajectories.from_pandas(frame, u="torque")
    with pytest.raises(
        ValueError, match="inputs of trajectory 0: expected a finite number, got nan"
    ):
        Trajectories.from_xarray(frame.set_index("time").to_xarray(), q="q", p="p", u="torque")
    with pytest.raises(ValueError, match="u: .* has no column 'force'"):
        Trajectories.from_csv(path, u=["force"])


def test_selections_carry_their_inputs():
    data = ragged()
    inputs = [t[:, None] * 10 for t in data.times]
    data = Trajectories(
        list(data.times), list(data.states), inputs, units={"u": "N"}, labels=data.labels
    )
    for part in (data[1:], data[[2, 0]], data.between(1.5, 4.5, drop_single=True), data + data):
        for t, u in zip(part.times, part.inputs, strict=True):
            assert torch.equal(u, 10 * t[:, None])
        assert part.units == {"u": "N"} and part.input_names == ("u",)
    single = data.to(dtype=torch.float32)
    assert single.inputs[0].dtype == torch.float32
    with pytest.raises(ValueError, match="concatenate: expected the same input_names"):
        _ = data + Trajectories([0.0, 1.0], randn(2, 4), names=data.names)


def test_other_states_keep_everything_else():
    data = ragged()
    other = data.with_states([2.0 * x for x in data.states])
    assert torch.equal(other.states[0], 2.0 * data.states[0])
    assert_same(other.with_states(data.states), data)


def test_an_array_of_inputs_along_time_alone():
    values = xarray.DataArray([[1.0, 2.0, 3.0]] * 2, dims=("trajectory", "time"))
    torque = xarray.DataArray([4.0, 5.0, 6.0], dims="time")
    data = Trajectories.from_xarray(
        xarray.Dataset({"q": values, "p": values, "torque": torque}, {"time": [0.0, 1.0, 2.0]}),
        q="q",
        u="torque",
    )
    assert [u.flatten().tolist() for u in data.inputs] == [[4.0, 5.0, 6.0]] * 2


# nodes


@pytest.mark.parametrize("kind", KINDS)
def test_each_interval_has_one_straight_piece(kind):
    """Inputs at any time within an interval are on the line between the node's two values."""
    uneven = tensor([0.0, 0.3, 0.4, 1.0, 1.1, 1.9, 2.0, 2.6, 6.0, 6.2, 6.5])
    data = driven(uneven, seen=[1, 2, 5, 7, 8, 9])
    scaling = canonical()
    nodes = Nodes.from_data(data, scaling, kind)
    signal = InputSignal(data.times[0], data.inputs[0], kind)
    assert nodes.inputs.shape == (len(nodes.times), 2, 1)
    for share in (0.01, 0.3, 0.99):
        moving = nodes.dt > 0
        times = scaling.time_origin + scaling.time_scale * (nodes.times + share * nodes.dt)
        line = (1 - share) * nodes.inputs[:, 0] + share * nodes.inputs[:, 1]
        torch.testing.assert_close(line[moving], signal(times[moving]), atol=1e-9, rtol=0)
    if kind == "held":
        assert torch.equal(nodes.inputs[:, 0], nodes.inputs[:, 1])
    ends = nodes.times[[0, nodes.first[-1] - 1]] * scaling.time_scale + scaling.time_origin
    torch.testing.assert_close(ends, tensor([0.3, 6.2]))  # not beyond what was observed


def test_rows_matter_only_where_the_input_bends():
    """States at 2 Hz, inputs at 20 Hz: nodes where the slope or the held value changes."""
    times = 0.05 * torch.arange(121, dtype=torch.float64)
    seen = torch.arange(0, 121, 10)
    ramp = torch.stack([(times - 1.3).clamp(min=0.0), (times > 4.12).double()], 1)
    linear = Nodes.from_data(driven(times, seen, ramp), identity_scaling())
    extra = linear.times[:-1][~linear.mask[:-1].any(1)]
    torch.testing.assert_close(extra, tensor([1.3, 4.1, 4.15]))
    held = Nodes.from_data(driven(times, seen, ramp[:, 1:]), identity_scaling(), "held")
    torch.testing.assert_close(held.times[:-1][~held.mask[:-1].any(1)], tensor([4.15]))
    plain = driven(times, seen)
    alone = Nodes.from_data(Trajectories(list(plain.times), list(plain.states)), identity_scaling())
    assert alone.inputs is None and len(alone.times) == len(seen) + 1
    for one in (linear, held):
        assert torch.equal(one.values[one.mask], alone.values[alone.mask])


def test_nodes_of_several_trajectories_and_their_padding():
    data = driven() + driven(tensor([1.0, 1.1]), inputs=tensor([[5.0], [7.0]]))
    nodes = Nodes.from_data(data, identity_scaling())
    second = nodes.first[1]
    assert nodes.inputs[second].tolist() == [[5.0], [7.0]]
    assert nodes.inputs[second + 1].tolist() == [[7.0], [7.0]]
    assert not bool(nodes.inputs[-1].any()) and len(nodes.inputs) == len(nodes.times)
    assert nodes.reweighted(nodes.weights).inputs is nodes.inputs
    windows = Windows.of_duration(nodes, 1.0)
    assert int(nodes.mask[windows.nodes].sum()) == data.num_observations


def test_interpolation_is_one_of_two():
    with pytest.raises(ValueError, match="interpolation: expected 'linear' or 'held', got 'cubic'"):
        Nodes.from_data(driven(), identity_scaling(), "cubic")


def test_smoothing_and_scaling_are_those_of_the_observed_rows():
    """Inputs sampled 20 times as often, over several pieces of the smoother."""
    times = 0.01 * torch.arange(4001, dtype=torch.float64)
    data = driven(times, torch.arange(0, 4001, 20))
    plain = Trajectories(list(data.times), list(data.states))
    one, other = (prepare(d, GaussianNoise(), None, 0.25) for d in (data, plain))
    for name in ("center", "scale", "time_scale", "spread"):
        torch.testing.assert_close(
            getattr(one.scaling, name), getattr(other.scaling, name), rtol=5e-3, atol=1e-6
        )
    torch.testing.assert_close(one.path.noise_std, other.path.noise_std)
    seen = one.nodes.mask.any(1)
    dense = smooth(one.nodes, 1).stages
    torch.testing.assert_close(dense[seen, 0], other.path.stages[other.nodes.mask.any(1), 0])
    truth = one.scaling.to_user(dense[:-1, 0])[:, 0] - (1.3 * times).sin()
    assert truth.abs().max() < 0.1
    joined = dense[:-2, -1] - dense[1:-1, 0]
    assert joined.abs().max() < 0.1


# signals


def test_samples_are_met_and_lines_lie_between():
    for kind in KINDS:
        signal = InputSignal(TIMES, VALUES, kind)
        torch.testing.assert_close(signal(TIMES), VALUES)
        assert signal.num_inputs == 2 and torch.equal(signal.breaks, TIMES)
    linear, held = InputSignal(TIMES, VALUES), InputSignal(TIMES, VALUES, "held")
    torch.testing.assert_close(linear(0.2), tensor([0.4, 0.2]))
    torch.testing.assert_close(
        linear(tensor([[1.25], [2.25]])), tensor([[[1.0, -0.25]], [[-0.5, 1.75]]])
    )
    torch.testing.assert_close(held(tensor([0.49, 0.5, 2.4999])), VALUES[[0, 1, 2]])


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e3), st.sampled_from(KINDS))
def test_times_within_rounding_of_the_ends_are_inside(start, span, kind):
    signal = InputSignal(start + span * TIMES / 2.5, VALUES, kind)
    for end, value in zip((start, start + span), VALUES[[0, -1]], strict=True):
        for nudge in (-1e-10, 0.0, 1e-10):
            torch.testing.assert_close(signal(end + nudge * span), value, atol=1e-5, rtol=0)
    for beyond in (start - 0.01 * span, start + 1.01 * span):
        with pytest.raises(ValueError, match="inputs: they are given from t = .* needed at"):
            signal(beyond)


def test_a_held_input_is_not_shifted_by_rounding():
    times = 0.1 * torch.arange(50, dtype=torch.float64)
    signal = InputSignal(times, torch.arange(50.0).double()[:, None], "held")
    sums = torch.full((49,), 0.1, dtype=torch.float64).cumsum(0)
    assert signal(sums).flatten().tolist() == list(range(1, 50))


def test_pieces_are_limits_from_inside():
    times = tensor([0.0, 0.25, 0.5, 2.0, 2.5])
    held = InputSignal(TIMES, VALUES, "held").pieces(times)
    torch.testing.assert_close(held[:, 0], VALUES[[0, 0, 1, 2]])
    assert torch.equal(held[:, 0], held[:, 1])
    linear = InputSignal(TIMES, VALUES)
    torch.testing.assert_close(
        linear.pieces(times), torch.stack([linear(times[:-1]), linear(times[1:])], 1)
    )


@pytest.mark.parametrize(
    "inputs",
    [
        VALUES.tolist(),
        VALUES.numpy(),
        ([-1.0, 0.0, 0.5, 2.0, 2.5, 9.0], torch.cat([VALUES[:1], VALUES, VALUES[:1]])),
        InputSignal(TIMES, VALUES),
    ],
)
def test_what_users_hand_over(inputs):
    signal = as_signal(inputs, TIMES, 2)
    assert isinstance(signal, Signal)
    torch.testing.assert_close(signal(TIMES), VALUES)
    torch.testing.assert_close(signal(1.25), tensor([1.0, -0.25]))
    assert as_signal(VALUES, TIMES, 2, "held")(1.9).tolist() == VALUES[1].tolist()


def test_one_input_may_be_a_row_of_numbers():
    signal = as_signal([0.0, 1.0, 1.0, 0.0], TIMES, 1)
    assert signal(0.25).tolist() == [0.5]
    assert as_signal(([0.0, 5.0], [0.0, 5.0]), TIMES, 1)(2.0).tolist() == [2.0]


def test_functions_of_time():
    signal = as_signal(lambda t: [math.sin(t), t], TIMES, 2)
    assert isinstance(signal, InputFunction) and signal.num_inputs == 2 and not len(signal.breaks)
    torch.testing.assert_close(signal(TIMES), torch.stack([TIMES.sin(), TIMES], 1))
    torch.testing.assert_close(signal(0.3), tensor([math.sin(0.3), 0.3]))
    assert as_signal(math.sin, TIMES, 1)(tensor([[0.3]])).shape == (1, 1, 1)
    torch.testing.assert_close(signal.pieces(TIMES)[0], tensor([[0.0, 0.0], [math.sin(0.5), 0.5]]))
    single = as_signal(math.sin, TIMES.float(), 1)
    assert single(0.5).dtype == torch.float32


@pytest.mark.parametrize(
    ("inputs", "num_inputs", "message"),
    [
        (None, 2, r"inputs: the field has 2 input\(s\).*\(4, 2\).*got None"),
        (VALUES, 0, "inputs: expected None, since this field has no inputs"),
        (VALUES, 1, r"inputs: expected shape \(4, 1\).*got \(4, 2\)"),
        (VALUES[:3], 2, r"inputs: expected shape \(4, 2\).*got \(3, 2\)"),
        (VALUES[:, 0], 2, r"inputs: expected shape \(4, 2\).*got \(4,\)"),
        ([[0.0], [NAN], [0.0], [0.0]], 1, r"inputs: expected finite .*nan in row 1.*t = 0.5"),
        (([0.0, 1.0], [[0.0], [1.0]]), 1, "inputs: they are given from t = 0 to 1.*0 to 2.5"),
        (([1.0, 0.0], [[0.0], [1.0]]), 1, "inputs: expected times that increase strictly"),
        (lambda t: [t, t], 1, r"inputs: .*shape \(1,\), got \(2,\) at t = 0"),
        (lambda t: NAN, 1, "inputs: expected finite numbers, got .nan. at t = 0"),
        (InputSignal(TIMES, VALUES), 1, r"inputs: expected 1 channel\(s\), got 2"),
        (InputSignal(TIMES[1:], VALUES[1:]), 2, "inputs: they are given from t = 0.5 to 2.5"),
    ],
)
def test_unsuitable_inputs_are_refused(inputs, num_inputs, message):
    with pytest.raises(ValueError, match=message):
        as_signal(inputs, TIMES, num_inputs)


def test_signals_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"inputs: expected times \(T,\) and values \(T, K\)"):
        InputSignal(TIMES[:3], VALUES)
    with pytest.raises(ValueError, match="interpolation: expected 'linear' or 'held'"):
        InputSignal(TIMES, VALUES, "cubic")

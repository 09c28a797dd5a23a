"""Trajectories: what goes in comes out, once, and what is wrong is refused by name."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from containers import NAN, assert_same, ragged
from hypothesis import given
from hypothesis import strategies as st

from sympgp.trajectories import Trajectories

TIMES = [0.0, 0.5, 2.0]
STATES = [[1.0, 0.0], [0.5, -1.0], [-1.0, NAN]]


# --- what is accepted


@pytest.mark.parametrize(
    ("times", "states"),
    [
        (TIMES, STATES),
        (TIMES, [STATES]),
        ([TIMES], [STATES]),
        (torch.tensor(TIMES), torch.tensor(STATES, dtype=torch.float64)),
        (torch.tensor(TIMES, dtype=torch.float32), torch.tensor(STATES, dtype=torch.float32)),
        (np.array([TIMES]), np.array([STATES])),
        (np.array(TIMES, dtype=">f4"), np.array(STATES)[::-1][::-1]),
        ([np.array(TIMES)], (torch.tensor(STATES),)),
        (TIMES, [torch.tensor(row) for row in STATES]),
        ([torch.tensor(t) for t in TIMES], [[torch.tensor(v) for v in row] for row in STATES]),
        (TIMES, [[1, 0], [0.5, -1], [-1, None]]),
        (TIMES, np.ma.masked_invalid(STATES)),
        (pd.Series(TIMES, index=[7, 8, 9]), pd.DataFrame(STATES, columns=["u", "v"])),
        (pd.Series(TIMES), pd.DataFrame(STATES).astype("Float64")),
    ],
)
def test_every_form_of_the_same_data_gives_the_same_trajectories(times, states):
    expected = Trajectories(torch.tensor(TIMES, dtype=torch.float64), [STATES])
    assert_same(Trajectories(times, states), expected)


def test_facts_and_defaults():
    data = ragged()
    assert (data.num_dof, data.state_dim, data.num_points, data.num_observations) == (2, 4, 9, 35)
    assert data.dtype == torch.float64 and data.device.type == "cpu"
    assert data.inputs[0].dtype == torch.float64
    assert repr(data).startswith("Trajectories(3 trajectories, 9 points, 35 observations")
    plain = Trajectories([0, 1], torch.zeros(3, 2, 4))
    assert plain.names == ("q1", "q2", "p1", "p2") and plain.labels == ("0", "1", "2")
    assert plain.units == {} and plain.inputs is None and plain.input_names == ()
    assert Trajectories([0, 1], torch.zeros(2, 2)).names == ("q", "p")
    assert Trajectories([0, 1], torch.zeros(2, 2), torch.zeros(2, 2)).input_names == ("u1", "u2")


def test_later_changes_of_the_source_stay_outside():
    times, states = np.array(TIMES), np.array(STATES)
    data = Trajectories(times, states)
    times[:], states[:] = 0.0, 7.0
    assert_same(data, Trajectories(TIMES, STATES))


def test_gradients_do_not_enter():
    states = torch.tensor(STATES, requires_grad=True)
    assert not Trajectories(TIMES, states).states[0].requires_grad


def test_a_dtype_is_kept_and_changed_on_request():
    data = Trajectories(TIMES, STATES, dtype=torch.float32)
    assert data.dtype == data[0].dtype == data.states[0].dtype == torch.float32
    assert_same(data.to(dtype=torch.float64), Trajectories(TIMES, STATES))


def test_times_keep_their_digits_whatever_the_type_of_the_states():
    clock = torch.tensor([1.6e9, 1.6e9 + 0.2, 1.6e9 + 0.5], dtype=torch.float64)
    states = [[1.0, 0.0], [0.5, 0.1], [0.0, 0.2]]
    for data in (
        Trajectories(clock, states, dtype=torch.float32),
        Trajectories(clock, states).to(dtype=torch.float32),
    ):
        assert torch.equal(data.times[0], clock) and data.between(1.6e9 + 0.1).dtype == data.dtype


def test_an_empty_unit_is_none():
    assert Trajectories(TIMES, STATES, units={"q": "", "p": "m/s"}).units == {"p": "m/s"}


# --- taking apart and joining


def test_indexing_iteration_and_joining_are_inverse():
    data = ragged()
    assert_same(Trajectories.concatenate(list(data)), data)
    assert_same(data[:1] + data[1:], data)
    assert_same(data[[2, 0]], data[2] + data[0])
    assert_same(data[-1], data[2])
    assert_same(data[np.array([True, True, True]).nonzero()[0]], data)
    assert data[1].labels == ("b",) and len(data[1]) == 1


def test_joined_labels_stay_distinct():
    data = ragged()
    joined = data + data[0] + data[[0, 1]]
    assert joined.labels == ("a", "b", "c", "a-2", "a-3", "b-2")
    assert data[[0, 0]].labels == ("a", "a-2")


@pytest.mark.parametrize("index", [[], slice(3, 3), [True, False, True], True])
def test_an_index_that_selects_nothing_or_is_a_mask_is_refused(index):
    with pytest.raises(ValueError, match=r"index: expected integers or a slice"):
        ragged()[index]


@pytest.mark.parametrize("index", [3, -4, [0, 3]])
def test_an_index_out_of_range_is_refused(index):
    with pytest.raises(IndexError, match="out of range for 3 trajectories"):
        ragged()[index]


def test_joining_refuses_what_differs():
    data = Trajectories(TIMES, STATES, units={"q": "m"})
    for other, message in [
        (Trajectories(TIMES, STATES, names=["a", "b"]), "same names everywhere"),
        (Trajectories(TIMES, STATES, TIMES_AS_INPUTS), "same input_names everywhere"),
        (Trajectories(TIMES, STATES, units={"q": "km"}), "same unit of 'q' everywhere.*'m'.*'km'"),
    ]:
        with pytest.raises(ValueError, match=message):
            data + other
    with pytest.raises(ValueError, match="at least one container"):
        Trajectories.concatenate([])


TIMES_AS_INPUTS = [[t] for t in TIMES]


def test_joining_takes_the_widest_type_and_all_units():
    narrow = Trajectories(TIMES, STATES, units={"q": "m"}, dtype=torch.float32)
    wide = Trajectories(TIMES, STATES, units={"time": "s"})
    joined = narrow + wide
    assert joined.dtype == torch.float64 and joined.units == {"q": "m", "time": "s"}


@given(cut=st.floats(2.0, 8.0))
def test_cutting_in_time_loses_and_repeats_nothing(cut):
    data = Trajectories(torch.arange(11.0), torch.arange(44.0).reshape(2, 11, 2))
    early, late = data.between(stop=cut), data.between(cut)
    assert all((t < cut).all() for t in early.times) and all((t >= cut).all() for t in late.times)
    for i in range(2):
        assert torch.equal(torch.cat([early.states[i], late.states[i]]), data.states[i])


def test_cutting_drops_trajectories_with_nothing_left():
    data = ragged()  # times 0-2, 1-2 and 2-5
    assert data.between(0, 2.0, drop_single=True).labels == ("a",)
    assert data.between(0, 3.0, drop_single=True).labels == ("a", "b")
    assert data.between(3.0, 9.0).labels == ("c",)
    assert torch.equal(data.between(3.0, 5.0).inputs[0], torch.ones(2, 1, dtype=torch.float64))
    unseen = Trajectories([0, 1, 2, 3], [[NAN, NAN], [NAN, NAN], [1, 1], [2, 2]]) + Trajectories(
        [0, 1, 2, 3], torch.zeros(4, 2)
    )
    assert unseen.between(0, 2).labels == ("0-2",)


def test_cutting_off_everything_but_a_point_is_refused():
    with pytest.raises(ValueError, match=r"two or more points of trajectory 0 \('a'\).*got one"):
        ragged().between(2.0)
    with pytest.raises(ValueError, match=r"nothing is observed in \[9.*run from 0.0 to 5.0"):
        ragged().between(9.0)


# --- what is refused, and how

BAD = {
    "odd dimension": ((TIMES, np.ones((3, 3))), "even number of columns.*got 3"),
    "no columns": ((TIMES, np.ones((3, 0))), "even number of columns.*got 0"),
    "times repeat": (
        ([TIMES, [0, 1, 1]], [STATES, STATES]),
        "times of trajectory 1: expected strictly increasing.*entry 2, 1.0, repeats",
    ),
    "times fall": (
        ([0, 2, 1], STATES),
        "times of trajectory 0: .*entry 2, 1.0, comes after 2.0",
    ),
    "time is NaN": (([0, NAN, 1], STATES), "times of trajectory 0.*finite.*nan in row 1"),
    "one point": (([TIMES, [0]], [STATES, [[0, 1]]]), "trajectory 1: .*two points, got one point"),
    "no points": (([TIMES, []], [STATES, np.ones((0, 2))]), "trajectory 1.*two points, got no po"),
    "infinite": (
        (TIMES, [STATES, [[0, 1], [2, math.inf], [0, 1]]]),
        "states of trajectory 1: expected a finite number, or NaN.*inf in row 1, column 1",
    ),
    "nothing observed": ((TIMES, [STATES, np.full((3, 2), NAN)]), "trajectory 1: .*only NaN"),
    "lengths": (([TIMES, [0, 1]], [STATES, STATES]), "trajectory 1: .*got 2 times and 3 states"),
    "shared times too short": (([0, 1], [STATES[:2], STATES]), "trajectory 1: .*2 times and 3 st"),
    "count of times": (([TIMES] * 3, [STATES] * 2), "times: .*2 trajectories.*got 3"),
    "widths": (([TIMES] * 2, [STATES, np.ones((3, 4))]), "trajectory 1.*2 columns.*got 4"),
    "no trajectory": (([], []), "states: expected at least one trajectory"),
    "empty array": ((TIMES, np.ones((0, 3, 2))), r"states: expected shape .*got shape \(0, 3, 2\)"),
    "vector of states": ((TIMES, TIMES), r"states: expected shape .*got shape \(3,\)"),
    "scalar time": ((1.0, STATES), r"times: expected shape .*got shape \(\)"),
    "matrix of times": (([[[0, 1, 2]]], STATES), r"times: .*got shape \(1, 1, 3\)"),
    "ragged rows": ((TIMES, [[1, 2], [1], [1, 2]]), "states: expected numbers in a regular array"),
    "ragged tensors": ((TIMES, [torch.ones(2), torch.ones(3)]), r"states: .*one shape, got"),
    "booleans": ((TIMES, np.ones((3, 2), bool)), "states: expected real numbers, got booleans"),
    "boolean tensor": ((TIMES, torch.ones(3, 2) > 0), "states: expected real.*got booleans"),
    "complex": ((TIMES, np.ones((3, 2)) * 1j), "states: expected real.*got complex"),
    "complex tensor": ((TIMES, torch.ones(3, 2) * 1j), "states: expected real.*got complex"),
    "strings": ((TIMES, [["1", "2"]] * 3), "states: expected real numbers, got strings"),
    "string times": ((["a", "b", "c"], STATES), "times: expected real numbers, got strings"),
    "one string": (("abc", STATES), "times: expected real numbers, got strings"),
    "objects": ((TIMES, [[object(), 1]] * 3), "states: expected real numbers, got <object"),
    "a list item": ((TIMES, [STATES, [["x", 1]] * 3]), r"states\[1\]: expected real.*got strings"),
    "dates": ((np.array(["2020", "2021", "2022"], "M8[Y]"), STATES), "times: .*got dates"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_data_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Trajectories(*arguments)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            [0, 1, 1, 2],
            "entry 2, 1.0, repeats .*1 point came before .*: entry 2 is as entry 1; remo",
        ),
        ([0, 1, 2, 0, 1, 2], r"from 2.0 .entry 2. to 0.0 .entry 3., which .* 2 recordings.*a list"),
        ([0, 2, 1, 3], "entry 2, 1.0, comes after 2.0: .*1 point out of place.*sort times and sta"),
    ],
)
def test_times_that_do_not_increase_are_explained(times, message):
    states = [[1.0, t + (k > 3)] for k, t in enumerate(times)]
    with pytest.raises(ValueError, match=f"times of trajectory 0: .*{message}"):
        Trajectories(times, states)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["q"]}, r"names: expected 2, one per column, got 1: \('q',\)"),
        ({"names": ["q", "q"]}, "names: expected distinct strings, got 'q' twice"),
        ({"names": ["q", "time"]}, "names: 'time' cannot name"),
        ({"names": "qp"}, "names: expected a sequence of strings"),
        ({"labels": ["a", "b"]}, "labels: expected 1, one per trajectory, got 2"),
        ({"units": {"x": "m"}}, "units: expected units of q, p, time, got one of 'x'"),
        ({"inputs": [[1.0], [2.0]]}, r"inputs of trajectory 0: expected shape \(3, K\)"),
        ({"inputs": [TIMES_AS_INPUTS] * 2}, "inputs: expected those of 1 traj.*got 2"),
        ({"inputs": [[1.0], [NAN], [0.0]]}, "inputs of trajectory 0: .*finite.*nan in row 1"),
        ({"inputs": TIMES_AS_INPUTS, "input_names": ["q"]}, "input_names: .*'q' twice"),
        ({"input_names": ["u"]}, "input_names: expected 0"),
    ],
)
def test_bad_descriptions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Trajectories(TIMES, STATES, **arguments)


def test_a_label_names_the_trajectory_in_messages():
    with pytest.raises(ValueError, match=r"states of trajectory 1 \('run 7'\)"):
        Trajectories(TIMES, [STATES, np.full((3, 2), math.inf)], labels=["run 6", "run 7"])

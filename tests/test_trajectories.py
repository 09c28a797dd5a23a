"""Trajectories: what goes in comes out, once, and what is wrong is refused by name."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sympgp.trajectories import Trajectories

NAN = math.nan
TIMES = [0.0, 0.5, 2.0]
STATES = [[1.0, 0.0], [0.5, -1.0], [-1.0, NAN]]


def ragged() -> Trajectories:
    """Three trajectories of 3, 2 and 4 points with inputs, units and labels."""
    generator = torch.Generator().manual_seed(0)
    lengths = (3, 2, 4)
    states = [torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in lengths]
    states[2][1, 3] = NAN
    return Trajectories(
        [torch.arange(n, dtype=torch.float64) + i for i, n in enumerate(lengths)],
        states,
        [torch.ones(n, 1) for n in lengths],
        names=["x", "y", "px", "py"],
        units={"x": "m", "time": "s", "force": "N"},
        labels=["a", "b", "c"],
        input_names=["force"],
    )


def assert_same(one: Trajectories, other: Trajectories) -> None:
    """Equal in every bit, NaN included."""
    assert len(one) == len(other)
    parts = [(one.times, other.times), (one.states, other.states)]
    if one.inputs is not None:
        parts.append((one.inputs, other.inputs))
    for a, b in parts:
        for x, y in zip(a, b, strict=True):
            assert x.dtype == y.dtype
            assert torch.equal(x.nan_to_num(1e300), y.nan_to_num(1e300))
    for attribute in ("names", "input_names", "labels", "units"):
        assert getattr(one, attribute) == getattr(other, attribute)


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
    assert data.dtype == data[0].dtype == data.times[0].dtype == torch.float32
    assert_same(data.to(dtype=torch.float64), Trajectories(TIMES, STATES))
    with pytest.raises(ValueError, match="strictly increasing"):
        Trajectories([1e9, 1e9 + 1], STATES[:2]).to(dtype=torch.float32)


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


# --- tables


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@given(
    values=st.lists(
        st.tuples(
            st.sampled_from("abc"), *[st.floats(allow_infinity=False, width=64) for _ in range(2)]
        ),
        min_size=12,
        max_size=30,
    )
)
def test_a_csv_file_holds_every_bit_whatever_the_order_of_rows(tmp_path_factory, values):
    rows = [(label, 0.1 * k, q, p) for k, (label, q, p) in enumerate(values)]
    frame = pd.DataFrame(rows, columns=["trajectory", "time", "q", "p"])
    groups = [group for _, group in frame.groupby("trajectory", sort=False)]
    seen = [len(g) > 1 and not g[["q", "p"]].isna().all(axis=None) for g in groups]
    if not all(seen):
        return
    expected = Trajectories(
        [g["time"].to_numpy() for g in groups],
        [g[["q", "p"]].to_numpy() for g in groups],
        labels=[g["trajectory"].iloc[0] for g in groups],
    )
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    frame.to_csv(path, index=False)
    assert_same(Trajectories.from_csv(path), expected)
    assert_same(Trajectories.from_pandas(frame), expected)
    assert_same(Trajectories.from_pandas(expected.to_pandas()), expected)


def test_to_pandas_and_back_with_inputs_and_names():
    data = ragged()
    frame = data.to_pandas()
    assert list(frame) == ["trajectory", "time", "x", "y", "px", "py", "force"]
    back = Trajectories.from_pandas(
        frame, q=["x", "y"], p=["px", "py"], u="force", units=data.units
    )
    assert_same(back, data)


def test_csv_gaps_comments_blank_lines_and_other_columns(tmp_path):
    path = write(
        tmp_path,
        '\ufeff# a pendulum, "quoted\n\n"t", angle,note,velocity\r\n0,1,"x\n# y, z",\n   \n'
        "# between\n1,NA,,2\n2,#N/A,,+.3e1\n3, ,,nan\n4,1,,2\n,,,\n",
    )
    data = Trajectories.from_csv(path, q=["angle"], p=["velocity"], time="t", units={"t": "s"})
    expected = [[1, NAN], [NAN, 2], [NAN, 3], [NAN, NAN], [1, 2]]
    assert_same(
        data,
        Trajectories(range_list(5), expected, names=["angle", "velocity"], units={"time": "s"}),
    )


def range_list(count: int) -> list[float]:
    return [float(i) for i in range(count)]


@pytest.mark.parametrize(
    ("q", "names"),
    [
        ("a", ("a", "p")),
        (["a", "b"], ("a", "b", "p1", "p2")),
        ("p", ("p", "p_p")),
    ],
)
def test_positions_alone_leave_the_momenta_missing(tmp_path, q, names):
    path = write(tmp_path, "time,a,b,p\n0,1,2,3\n1,2,3,4\n")
    data = Trajectories.from_csv(path, q=q, p=None)
    assert data.names == names
    assert data.states[0][:, data.num_dof :].isnan().all()
    assert data.num_observations == 2 * data.num_dof


def test_inputs_are_read(tmp_path):
    path = write(tmp_path, "time,q,p,torque\n0,1,2,3\n1,2,3,4\n")
    data = Trajectories.from_csv(path, u=["torque"])
    assert data.inputs[0].tolist() == [[3], [4]] and data.input_names == ("torque",)


def test_the_trajectory_column_is_optional_unless_it_has_a_name_of_its_own(tmp_path):
    path = write(tmp_path, "time,q,p,run\n0,1,2,a\n1,2,3,a\n0,1,2,b\n1,2,3,b\n")
    assert Trajectories.from_csv(path, trajectory="run").labels == ("a", "b")
    single = write(tmp_path, "time,q,p\n0,1,2\n1,2,3\n")
    assert len(Trajectories.from_csv(single, trajectory="trajectory")) == 1
    with pytest.raises(ValueError, match="trajectory: .* no column 'run', only 'time', 'q', 'p'"):
        Trajectories.from_csv(single, trajectory="run")


HEAD = "time,q,p\n0,1,2\n"
BAD_FILES = {
    "empty": ("", "data.csv is empty"),
    "blank": ("\n# x\n\n", "data.csv is empty"),
    "binary": (b"\x89PNG\0\1", "is not a CSV file: it holds binary data"),
    "not UTF-8": (b"time,q,p\n0,1,2\n1,2,3 \xb0\n", "line 3: expected text in UTF-8.*0xb0"),
    "only names": ("time,q,p\n", "has no rows of data"),
    "unknown column": ("time,angle,p\n0,1,2\n", "no column 'q', only 'time', 'angle', 'p'$"),
    "semicolons": ("time;q;p\n0;1;2\n", "no column 'time'.*separated by commas"),
    "no names": ("0,1,2\n1,2,3\n", "no column 'time', only '0', '1', '2' .the first line"),
    "column twice": ("time,q,p,q\n0,1,2,3\n", "q: .*data.csv has 2 columns named 'q'"),
    "too few cells": (HEAD + "\n1,2\n", "line 4: expected 3 cells .*got 2"),
    "too many cells": (HEAD + "1,2,3,4\n", "line 3: expected 3 cells .*got 4"),
    "not a number": (HEAD + "\n# x\n1,2,abc\n", "line 5, column 'p': expected a number, got 'abc'"),
    "after a long cell": (
        'time,q,p,note\n0,1,2,"a\nb\n\nc"\n1,1_0,2,\n',
        "line 6, column 'q': expected a number, got '1_0'",
    ),
    "a boolean": (HEAD + "1,True,3\n", "line 3, column 'q': .*got 'True'"),
    "thousands": (HEAD + '1,"1,000",3\n', "line 3, column 'q': .*got '1,000'"),
    "infinite": (HEAD + "1,2,-inf\n", "line 3, column 'p': expected a finite number.*got -inf"),
    "too large": (HEAD + "1,1e999,2\n", "line 3, column 'q': expected a finite number"),
    "no time": (HEAD + ",1,2\n", "line 3, column 'time': expected a finite number, got none"),
    "time repeats": (HEAD + "\n0,1,3\n", "line 4: .*'0' has 0.0 after 0.0 .*line 2"),
    "time falls": (
        "time,q,p,trajectory\n0,1,2,a\n5,1,2,b\n1,1,2,a\n6,1,2,b\n0.5,1,2,a\n",
        "line 6: .*trajectory 'a' has 0.5 after 1.0 .*line 4",
    ),
    "one point": (
        "time,q,p,trajectory\n0,1,2,a\n1,1,2,a\n\n0,1,2,b\n",
        "line 5: .*two points of trajectory 'b', got one",
    ),
    "no label": ("time,q,p,trajectory\n0,1,2,a\n1,1,2,\n", "line 3: expected the name of a tr"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_refused_with_the_place(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        Trajectories.from_csv(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"there is no file {tmp_path / 'no.csv'}")
    ):
        Trajectories.from_csv(tmp_path / "no.csv")
    with pytest.raises(ValueError, match="is a folder, expected a CSV file"):
        Trajectories.from_csv(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"q": ["a", "a"], "p": ["b", "c"]}, "q: column 'a' is already used as q"),
        ({"q": "a", "p": "a"}, "p: column 'a' is already used as q"),
        ({"q": "time"}, "q: column 'time' is already used as time"),
        ({"u": "p"}, "u: column 'p' is already used as p"),
        ({"trajectory": "q"}, "q: column 'q' is already used as trajectory"),
        ({"q": ["a", "b"]}, "p: expected one column for each of the 2 of q, got 1"),
        ({"q": []}, "q: expected at least one column"),
    ],
)
def test_bad_roles_are_refused_before_the_file_is_opened(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        Trajectories.from_csv(tmp_path / "missing.csv", **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": [1.0, "2.0"]}, "row 1 of the data frame .*column 'q': expected a number, got '2.0'"),
        ({"q": [True, False]}, "row 0 of the data frame .*column 'q': expected a number, got True"),
        ({"q": [1.0, 2j]}, "row 0 .*column 'q': expected a number"),
        ({"p": [0.0, math.inf]}, "row 1 .*column 'p': expected a finite number, or none.*got inf"),
        ({"time": [0.0, None]}, "row 1 .*column 'time': expected a finite number, got none"),
        ({"time": [1.0, 1.0]}, "row 1 .*'0' has 1.0 after 1.0 .row 0"),
        ({"trajectory": ["a", None]}, "row 1 .*expected the name of a trajectory"),
        ({"trajectory": ["a", "b"]}, "row 0 .*two points of trajectory 'a'"),
    ],
)
def test_a_bad_frame_is_refused_with_the_row(change, message):
    frame = pd.DataFrame({"time": [0.0, 1.0], "q": [1.0, 2.0], "p": [0.0, 1.0], **change})
    with pytest.raises(ValueError, match=message):
        Trajectories.from_pandas(frame)


def test_a_frame_without_the_column_lists_its_own():
    with pytest.raises(ValueError, match="q: the data frame has no column 'q', only 'time', 'x'"):
        Trajectories.from_pandas(pd.DataFrame({"time": [0], "x": [1]}), p=None)


def test_numbers_name_trajectories_of_a_frame():
    frame = pd.DataFrame({"time": [0, 0, 1, 1], "q": 1.0, "p": 2.0, "trajectory": [7, 3, 7, 3]})
    assert Trajectories.from_pandas(frame).labels == ("7", "3")

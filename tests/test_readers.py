"""Tables in files and in memory: every bit comes back, every complaint has its place."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from containers import NAN, arguments, assert_same, ragged
from hypothesis import given, settings
from hypothesis import strategies as st

from sympgp.trajectories import Trajectories


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


@settings(max_examples=50)
@given(given=arguments())
def test_tables_that_are_written_come_back(tmp_path_factory, given):
    data = Trajectories(**given)
    roles = {"q": data.names[: data.num_dof], "p": data.names[data.num_dof :]}
    double = data.to(dtype=torch.float64)
    frame = data.to_pandas()
    assert list(frame) == ["trajectory", "time", *data.names, *data.input_names]
    again = Trajectories.from_pandas(frame, **roles, u=data.input_names or None)
    assert_same(again, double)
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    data.to_csv(path)
    assert_same(Trajectories.from_csv(path, **roles, u=data.input_names or None), double)


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


def test_what_is_no_frame_is_refused():
    with pytest.raises(ValueError, match="frame: expected a pandas DataFrame, got dict"):
        Trajectories.from_pandas({"time": [0, 1], "q": [1, 2], "p": [3, 4]})


def test_numbers_name_trajectories_of_a_frame():
    frame = pd.DataFrame({"time": [0, 0, 1, 1], "q": 1.0, "p": 2.0, "trajectory": [7, 3, 7, 3]})
    assert Trajectories.from_pandas(frame).labels == ("7", "3")


# --- data frames, and what is written


def test_units_travel_with_the_frame():
    frame = ragged().to_pandas()
    assert frame.attrs["units"] == ragged().units
    roles = {"q": ["x", "y"], "p": ["px", "py"]}
    assert Trajectories.from_pandas(frame, **roles).units == {"x": "m", "time": "s"}
    given = Trajectories.from_pandas(frame, **roles, units={"x": "km", "px": "N s"})
    assert given.units == {"x": "km", "px": "N s", "time": "s"}
    frame.attrs["units"] = "m"  # somebody else's
    assert Trajectories.from_pandas(frame, **roles).units == {}


def test_the_index_of_a_frame_may_hold_times_and_trajectories():
    frame = ragged().to_pandas()
    roles = {"q": ["x", "y"], "p": ["px", "py"], "u": "force"}
    indexed = frame.set_index(["trajectory", "time"])
    assert_same(Trajectories.from_pandas(indexed, **roles), ragged())
    assert_same(Trajectories.from_pandas(frame.set_index("time"), **roles), ragged())


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_dates_of_a_frame_become_seconds(zone):
    # In Berlin the clock goes from two to three between these.
    dates = pd.to_datetime([1711846799000, 1711846800500], unit="ms").tz_localize("UTC")
    dates = dates.tz_convert(zone)
    frame = pd.DataFrame({"time": dates, "q [rad]": [1.0, 2.0], "p": [3, None]})
    data = Trajectories.from_pandas(frame)
    assert data.times[0].tolist() == [0.0, 1.5] and data.units == {"time": "s", "q": "rad"}
    steps = pd.DataFrame({"time": dates - dates[1], "q": [1.0, 2.0], "p": 3})
    assert Trajectories.from_pandas(steps).times[0].tolist() == [-1.5, 0.0]
    with pytest.raises(ValueError, match="units: expected 's' for times that are dates, got 'ms'"):
        Trajectories.from_pandas(frame, units={"time": "ms"})
    frame.loc[1, "time"] = None
    with pytest.raises(ValueError, match="row 1 .*column 'time': expected a finite number, got no"):
        Trajectories.from_pandas(frame)


def test_labels_that_look_like_something_else_are_kept(tmp_path):
    labels = ["#1", "a,b", 'say "so"', "two\r\nlines", "one\rline", "NA", "1.0"]
    data = Trajectories([0, 1], np.ones((7, 2, 2)), labels=labels)
    data.to_csv(tmp_path / "data.csv")
    assert_same(Trajectories.from_csv(tmp_path / "data.csv"), data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [" a"]}, "labels: expected names without blanks around them.*got ' a'"),
        ({"labels": [""]}, "labels: expected names without blanks around them.*got ''"),
        ({"names": ["q", "p "]}, "names: expected names and units that can be told apart"),
        ({"units": {"q": " m"}}, "names: expected names and units that can be told apart"),
        ({"names": ["q", "q [m]"], "units": {"q": "m"}}, r"told apart.*'q \[m\]', 'q \[m\]'"),
    ],
)
def test_what_a_file_would_not_keep_is_not_written(tmp_path, arguments, message):
    data = Trajectories([0, 1], [[1, 2], [3, 4]], **arguments)
    with pytest.raises(ValueError, match=message):
        data.to_csv(tmp_path / "data.csv")
    assert not (tmp_path / "data.csv").exists()


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ValueError, match="path: cannot write .*data.csv.*no folder .*none"):
        ragged().to_csv(tmp_path / "none" / "data.csv")
    with pytest.raises(ValueError, match="path: expected a CSV file to write, got the folder"):
        ragged().to_csv(tmp_path)

"""Times that do not increase: what they look like is said, with the place and what to do."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sympgp.trajectories import Trajectories

ROW = "expected strictly increasing times, but trajectory '0' has"


def table(*rows: str, names: str = "time,q,p") -> str:
    return "\n".join([names, *rows, ""])


A = ("0,1,2", "1,2,3", "2,3,4", "3,4,5")
B = ("0,5,6", "1,6,7", "2,7,8", "3,8,9")


def labelled(rows: tuple[str, ...], label: str) -> list[str]:
    return [f"{row},{label}" for row in rows]


RUNS = "time,q,p,run"
FILES = {
    # (a) the same row again
    "a row twice": (
        table(*A[:2], A[1], A[2], A[2]),
        f"line 4: {ROW} 1.0 after 1.0 .*line 3.: 2 points came before with the same time and "
        "values: line 4 is as line 3; remove the repeats",
    ),
    "a row twice, with a gap": (
        table("0,,2", "0,,2", "1,1,1"),
        "1 point came before .*line 3 is",
    ),
    "a file twice": (table(*A, "", *A), "line 7: .*4 points came before.*line 7 is as line 2; rem"),
    "an overlap": (table(*A, *A[2:], "4,1,1"), "line 6: .*2 points came before.* 6 is as line 4"),
    # (b) the same time, other values
    "two values": (
        table(*A[:3], "2,3,4.5", A[3], "3,0,0"),
        f"line 5: {ROW} 2.0 after 2.0 .*2 times with more than one point and different values: "
        "p is 4.0 and 4.5 at time 2.0 .line 4 and line 5.; keep one of them or their mean",
    ),
    "gaps filled": (
        table("0,1,", "0,,2", "1,2,", "1,,3", "2,,4"),
        r"line 3: .*2 times with more than one point, each filling gaps of the others: time 0.0 "
        r".line 2 and line 3.; join the rows of each time .*groupby\(\['time'\]\)",
    ),
    "gaps filled in a trajectory": (
        table("0,1,,a", "0,,2,a", "1,2,,a", "1,,3,a", names="time,q,p,trajectory"),
        r"each filling gaps of the others: .*frame.groupby\(\['trajectory', 'time'\]\).first",
    ),
    "one time": (table("7,1,2", "7,2,3", "7,3,4"), "all 3 points have one time, 7.0; check that"),
    # (c) one recording after another
    "two recordings": (
        table(*A, *B),
        f"line 6: {ROW} 0.0 after 3.0 .*time jumps back once, first from 3.0 .line 5. to 0.0 "
        ".line 6., which looks like 2 recordings one after the other, of 4, 4 points; give each a "
        "name .*column 'trajectory', .*Trajectories.concatenate",
    ),
    "recordings of other lengths and times": (
        table(*A, "0.5,1,1", "1.5,1,1", "2.5,0,0", "0.2,1,1", "2.2,1,1", "2.3,4,4"),
        "line 6: .*back 2 times, .*3 recordings one after the other, of 4, 3, 3 points",
    ),
    "a column tells": (
        table(*labelled(A, "a"), *labelled(B, "b"), names=RUNS),
        "line 6: .*2 recordings one after .*column 'run' may tell recordings apart: trajectory='ru",
    ),
    "two columns tell": (
        table(
            *labelled(A, "1,x"), *labelled(B, "2,x"), *labelled(A[1:], "2,y"), names=f"{RUNS},on"
        ),
        "3 recordings one after the other, of 4, 4, 3 points; give each a name",
    ),
    "a label used twice": (
        table(*labelled(A, "a"), *labelled(B, "a"), *labelled(A, "b"), *labelled(B, "b")).replace(
            "q,p", "q,p,trajectory"
        ),
        r"line 6: .*trajectory 'a' has .*2 recordings one after the other.*give each a name of its "
        r"own \(trajectories out of order: 2\)",
    ),
    # (d) recordings row by row
    "interleaved": (
        table(*(row for pair in zip(A, B, strict=True) for row in pair)),
        f"line 3: {ROW} 0.0 after 0.0 .*every time comes 2 times, which looks like 2 recordings "
        "with interleaved points; give each a name",
    ),
    "interleaved clocks": (
        table("0,1,1", "10,2,2", "20,3,3", "1,1,1", "11,1,1", "21,3,4", *A[2:3], "12,1,1", "22,1,1")
        + "3,1,1\n",
        f"line 5: {ROW} 1.0 after 20.0 .*back 3 times, after every 3 points, .*3 recordings with i",
    ),
    "interleaved, and a column tells": (
        table(*(row for pair in zip(A, B, strict=True) for row in pair))
        .replace("\n", ",a\n")
        .replace("p,a", "p,trolley")
        .replace("5,6,a", "5,6,b")
        .replace("6,7,a", "6,7,b")
        .replace("7,8,a", "7,8,b")
        .replace("8,9,a", "8,9,b"),
        "every time comes 2 times, .*column 'trolley' may tell .*trajectory='trolley'",
    ),
    # (e) one recording in disorder
    "a row astray": (
        table(A[0], A[2], A[1], A[3]),
        f"line 4: {ROW} 1.0 after 2.0 .*no time repeats, but 1 point out of place, near 1.0 "
        ".line 4.; sort the rows by time",
    ),
    "halves exchanged": (
        table("4,1,1", "5,1,1", "6,1,1", "7,1,1", *A),
        "line 6: .*no time repeats, but time jumps back once; sort the rows by time",
    ),
    "backwards": (table(*A[::-1]), "line 3: .*the times run backwards, from 3.0 to 0.0; turn the"),
    "all kinds": (
        table("0,1,1", "1,1,1", "1,2,2", "0,3,3", "5,1,1", "2,2,2", "2,3,3"),
        "line 4: .*time jumps back 2 times, and 3 points of a time that came before; check how",
    ),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_a_disorder_is_explained_with_its_place(tmp_path: Path, text: str, message: str):
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        Trajectories.from_csv(path)
    assert str(caught.value).startswith(f"{path}, line ")


def test_the_advice_about_a_column_helps(tmp_path: Path):
    path = tmp_path / "data.csv"
    path.write_text(table(*labelled(A, "a"), *labelled(B, "b"), names=RUNS))
    data = Trajectories.from_csv(path, trajectory="run")
    assert data.labels == ("a", "b") and data.num_points == 8


def test_rows_of_a_frame_are_named():
    frame = pd.DataFrame(
        {"time": [0, 1, 2, 0, 1, 2], "q": range(6), "p": 0, "run": [1] * 3 + [2] * 3}
    )
    message = (
        "row 3 of the data frame .*from 2.0 .row 2 of the .* to 0.0 .row 3 .*2 recordings one .*"
        "column 'run' may tell recordings apart: trajectory='run'"
    )
    with pytest.raises(ValueError, match=message):
        Trajectories.from_pandas(frame)
    assert len(Trajectories.from_pandas(frame, trajectory="run")) == 2


# What is said of arrays, and what then makes them trajectories, is one thing.


def explanation(times: np.ndarray, states: np.ndarray) -> str:
    with pytest.raises(ValueError, match="strictly increasing times, but entry") as caught:
        Trajectories(times, states)
    return str(caught.value)


LENGTHS = st.lists(st.integers(3, 6), min_size=2, max_size=4)


@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_recordings_one_after_the_other_are_counted(lengths, seed):
    generator = np.random.default_rng(seed)
    parts = [0.01 * generator.random() + np.arange(length) for length in lengths]
    states = generator.normal(size=(sum(lengths), 2))
    said = explanation(np.concatenate(parts), states)
    listed = ", ".join(map(str, lengths))
    assert f"{len(lengths)} recordings one after the other, of {listed} points" in said
    assert "hand them over as a list of times" in said
    cuts = np.cumsum(lengths)[:-1]
    assert len(Trajectories(parts, np.split(states, cuts))) == len(lengths)


@given(times=st.permutations(list(range(12))).filter(lambda p: (np.diff(p) < 0).any()))
def test_a_shuffled_recording_is_never_taken_for_repeated_points(times):
    order = np.argsort(times)
    states = np.stack([times, times], -1).astype(float)
    said = explanation(np.array(times), states)
    assert "came before" not in said and "more than one point" not in said
    if "sort times and states" in said:
        assert Trajectories(np.array(times)[order], states[order]).num_points == 12


@given(picked=st.lists(st.integers(0, 7), min_size=1, max_size=5))
def test_repeated_points_are_counted(picked):
    rows = [*range(8), *picked]
    times, states = np.arange(8.0)[rows], np.eye(8)[rows]
    count = f"{len(picked)} point{'s' if len(picked) > 1 else ''} came before"
    said = explanation(times, states)
    assert count in said and f"entry 8 is as entry {picked[0]}; remove the repeats" in said
    kept = np.unique(times, return_index=True)[1]
    assert Trajectories(times[kept], states[kept]).num_points == 8


@given(count=st.integers(2, 4), length=st.integers(5, 8))
def test_interleaved_recordings_are_counted(count, length):
    times = np.arange(float(length))
    states = np.arange(2.0 * count * length).reshape(-1, 2)
    for together in (times.repeat(count), (times[:, None] + 100.0 * np.arange(count)).ravel()):
        assert f"{count} recordings with interleaved points" in explanation(together, states)
        parts = [together[k::count] for k in range(count)]
        assert len(Trajectories(parts, [states[k::count] for k in range(count)])) == count

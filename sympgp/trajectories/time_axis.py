"""What is wrong with times that do not increase, in words, and what to do about it."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RECORDINGS = "recordings"
"""The kind of disorder in which several trajectories were taken for one."""

# By kind of disorder, for the rows of a table and for arrays.
TABLE_ADVICE = {
    "duplicates": "remove the repeats, as pandas.DataFrame.drop_duplicates does",
    "complements": "join the rows of each time into one, as frame.groupby({keys}).first() does",
    "conflicts": "keep one of them or their mean",
    "constant": "check that this is the column of the times",
    "backwards": "turn the rows round",
    "unsorted": "sort the rows by time",
    "mixed": "check how the table was put together",
    RECORDINGS: "give each a name of its own in a column 'trajectory', or read them one by one and "
    "join them by Trajectories.concatenate",
}
ARRAY_ADVICE = {
    "duplicates": "remove the repeats",
    "complements": "join the points of each time into one",
    "conflicts": "keep one of them or their mean",
    "constant": "check that these are the times",
    "backwards": "turn times and states round",
    "unsorted": "sort times and states by time",
    "mixed": "check how they were put together",
    RECORDINGS: "hand them over as a list of times and a list of states, an entry for each",
}

_LIKE = ", which looks like "
_WOVEN = " recordings with interleaved points"


@dataclass(frozen=True)
class Disorder:
    """Why times do not increase: a key of ``TABLE_ADVICE``, and what was found, in words."""

    kind: str
    text: str


@dataclass(frozen=True)
class Points:
    """The points of one trajectory as they came.

    Attributes:
        times: (T,) finite times.
        values: (T, K) what was measured, NaN where missing.
        names: Names of the K columns.
        place: From the number of a point to where it stands, such as ``line 7``.
    """

    times: np.ndarray
    values: np.ndarray
    names: Sequence[str]
    place: Callable[[int], str]

    def at(self, row: int) -> str:
        """Time and place of a point."""
        return f"{self.times[row]} ({self.place(row)})"


def diagnose(points: Points) -> Disorder:
    """Say in what way the times, which do not increase strictly, are out of order."""
    found = _find_duplicates(points)
    if found is None and (np.diff(points.times) >= 0).all():
        found = _find_repeats(points)
    return found or _find_falls(points)


def _find_duplicates(points: Points) -> Disorder | None:
    """Points that came before, time and values alike, where nothing else is wrong."""
    rows = np.column_stack([points.times, points.values]) + 0.0  # no -0.0
    # Compared bit by bit, since NaN is to equal NaN.
    bits = np.where(np.isnan(rows), np.nan, rows).view(np.int64)
    _, first, inverse = np.unique(bits, axis=0, return_index=True, return_inverse=True)
    before = first[inverse.reshape(-1)]
    again = np.flatnonzero(before < np.arange(len(rows)))
    kept = np.delete(points.times, again)
    if not len(again) or len(kept) < 2 or not _increases(kept):
        return None
    where = f"{points.place(int(again[0]))} is as {points.place(int(before[again[0]]))}"
    text = f"{_count(len(again), 'point')} came before with the same time and values: {where}"
    return Disorder("duplicates", text)


def _find_repeats(points: Points) -> Disorder:
    """Times that never fall but repeat."""
    times, values = points.times, points.values
    repeats = np.flatnonzero(np.diff(times) == 0) + 1
    sizes = np.diff(np.flatnonzero(np.concatenate([[True], np.diff(times) > 0, [True]])))
    if len(sizes) == 1:
        return Disorder("constant", f"all {len(times)} points have one time, {times[0]}")
    apart = values[repeats] != values[repeats - 1]
    differ = apart & ~np.isnan(values[repeats]) & ~np.isnan(values[repeats - 1])
    pair = int(differ.any(1).argmax())
    row = int(repeats[pair])
    where = f"{points.place(row - 1)} and {points.place(row)}"
    several = f"{_count(int((sizes > 1).sum()), 'time')} with more than one point"
    if not differ.any():
        text = f"{several}, each filling gaps of the others: time {times[row]} ({where})"
        return Disorder("complements", text)
    if sizes.min() == sizes.max():
        return Disorder(RECORDINGS, f"every time comes {sizes[0]} times{_LIKE}{sizes[0]}{_WOVEN}")
    column = int(differ[pair].argmax())
    text = (
        f"{several} and different values: {points.names[column]} is {values[row - 1, column]} "
        f"and {values[row, column]} at time {times[row]} ({where})"
    )
    return Disorder("conflicts", text)


def _find_falls(points: Points) -> Disorder:
    """Times that fall somewhere."""
    times = points.times
    falls = np.flatnonzero(np.diff(times) < 0) + 1
    if len(falls) == len(times) - 1:
        text = f"the times run backwards, from {times[0]} to {times[-1]}"
        return Disorder("backwards", text)
    pieces = np.split(times, falls)
    back = f"time jumps back {'once' if len(falls) == 1 else f'{len(falls)} times'}"
    width = len(pieces[0])
    if _is_interleaved(times, pieces):
        text = f"{back}, after every {_count(width, 'point')}{_LIKE}{width}{_WOVEN}"
        return Disorder(RECORDINGS, text)
    distinct = len(np.unique(times)) == len(times)
    astray = len(times) - _longest_rise(times)
    if distinct and astray <= max(1, len(times) // 10):
        text = f"no time repeats, but {_count(astray, 'point')} out of place"
        return Disorder("unsorted", f"{text}, near {points.at(int(falls[0]))}")
    if _are_recordings(pieces, distinct):
        first = f"from {points.at(int(falls[0]) - 1)} to {points.at(int(falls[0]))}"
        lengths = [str(len(piece)) for piece in pieces]
        listed = ", ".join(lengths[:5]) + (", ..." if len(lengths) > 5 else "")
        text = f"{back}, first {first}{_LIKE}{len(pieces)} recordings one after the other"
        return Disorder(RECORDINGS, f"{text}, of {listed} points")
    if distinct:
        return Disorder("unsorted", f"no time repeats, but {back}")
    repeated = len(times) - len(np.unique(times))
    text = f"{back}, and {_count(repeated, 'point')} of a time that came before"
    return Disorder("mixed", text)


def _is_interleaved(times: np.ndarray, pieces: Sequence[np.ndarray]) -> bool:
    """Whether every m-th point belongs to one recording, for the length m of the pieces."""
    width = len(pieces[0])
    regular = all(len(piece) == width for piece in pieces[:-1]) and len(pieces[-1]) <= width
    # As many pieces as points in a piece, or fewer, are rather recordings one after another.
    if not regular or not 1 < width < len(pieces):
        return False
    return all(_increases(times[j::width]) for j in range(width))


def _are_recordings(pieces: Sequence[np.ndarray], distinct: bool) -> bool:
    """Whether pieces that increase are recordings, and not one recording in the wrong order."""
    shortest = 3 if distinct else 2  # shuffled rows increase over two points on average
    if sum(map(len, pieces)) < shortest * len(pieces) or not all(map(_increases, pieces)):
        return False
    in_order = sorted(pieces, key=lambda piece: piece[0])
    return any(a[-1] >= b[0] for a, b in zip(in_order, in_order[1:], strict=False))


def _increases(times: np.ndarray) -> bool:
    return bool((np.diff(times) > 0).all())


def _longest_rise(times: np.ndarray) -> int:
    """Length of the longest strictly increasing subsequence (patience sorting)."""
    ends: list[float] = []
    for time in times.tolist():
        place = bisect_left(ends, time)
        ends[place : place + 1] = [time]
    return len(ends)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""Names of trajectories and columns, and units: defaults, and refusing what cannot be one."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

RESERVED_NAMES = ("time", "trajectory")


def describe(index: int, labels: Sequence[str]) -> str:
    """Name a trajectory in a message, by its place and by its label where that says more."""
    label = labels[index]
    return f"trajectory {index}" if label == str(index) else f"trajectory {index} ({label!r})"


def check_labels(labels: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Return the trajectories' names: those given, or their numbers from 0."""
    if labels is None:
        return tuple(str(i) for i in range(count))
    labels = _check_strings(labels, "labels")
    if len(labels) != count:
        raise ValueError(f"labels: expected {count}, one per trajectory, got {len(labels)}")
    return labels


def check_names(names: Sequence[str] | None, count: int, argument: str) -> tuple[str, ...]:
    """Return the names of the columns: those given, or q, p (or u), numbered where several."""
    if names is None:
        letters = {"input_names": "u", "covariate_names": "c"}
        if argument in letters:
            return numbered(letters[argument], count)
        return numbered("q", count // 2) + numbered("p", count // 2)
    names = _check_strings(names, argument)
    if len(names) != count:
        raise ValueError(f"{argument}: expected {count}, one per column, got {len(names)}: {names}")
    for name in names:
        if name in RESERVED_NAMES or not name.strip():
            raise ValueError(
                f"{argument}: {name!r} cannot name a column of states, inputs or covariates"
            )
    return names


def numbered(letter: str, count: int) -> tuple[str, ...]:
    """Return ``(letter,)``, or ``(letter1, letter2, ...)`` if there are several."""
    return (letter,) if count == 1 else tuple(f"{letter}{i + 1}" for i in range(count))


def make_distinct(labels: Sequence[str]) -> list[str]:
    """Return the labels with a number, from 2, behind each one that occurs again."""
    result: list[str] = []
    taken = set(labels)
    seen: set[str] = set()
    for label in labels:
        candidates = (f"{label}-{number}" for number in itertools.count(2))
        fresh = next(c for c in candidates if c not in taken) if label in seen else label
        seen.add(label)
        taken.add(fresh)
        result.append(fresh)
    return result


def check_distinct(values: Sequence[str], argument: str) -> None:
    """Refuse a string that occurs twice."""
    if len(set(values)) < len(values):
        twice = next(value for i, value in enumerate(values) if value in values[:i])
        raise ValueError(f"{argument}: expected distinct strings, got {twice!r} twice")


def _check_strings(values: Sequence[str], argument: str) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{argument}: expected a sequence of strings, got {values!r}")
    check_distinct(values, argument)
    return tuple(values)


def check_units(units: Mapping[str, str] | None, names: Sequence[str]) -> dict[str, str]:
    """Return the units, refusing one of a column that does not exist; an empty one is none."""
    known = (*names, "time")
    for name in units or {}:
        if name not in known:
            raise ValueError(f"units: expected units of {', '.join(known)}, got one of {name!r}")
    return {name: unit for name, unit in (units or {}).items() if unit}


def merge_units(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return all units together, refusing two different ones of the same column."""
    units: dict[str, str] = {}
    for part in parts:
        for name, unit in part.items():
            check_same(f"unit of {name!r}", [units.setdefault(name, unit), unit])
    return units


def check_same(kind: str, values: Sequence[Any]) -> None:
    """Refuse to join what differs."""
    for value in values:
        if value != values[0]:
            raise ValueError(
                f"concatenate: expected the same {kind} everywhere, got {values[0]!r} and {value!r}"
            )

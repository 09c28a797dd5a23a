"""Which column of a long table plays which part."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sympgp.trajectories.naming import numbered

DEFAULT_LABEL = "trajectory"
# In brackets of one kind, which may hold another pair of them.
_UNIT = re.compile(r"\s*(?:\[((?:[^\[\]]|\[[^\[\]]*\])*)\]|\(((?:[^()]|\([^()]*\))*)\))")


@dataclass(frozen=True)
class Layout:
    """Where in a table the columns stand.

    Attributes:
        places: Place of every column of numbers, in the order of ``Roles.numeric``.
        label: Place of the column that tells the trajectories apart; None if there is none.
        units: Units written behind the names of the columns, by name; time's under ``"time"``.
    """

    places: list[int]
    label: int | None
    units: dict[str, str]


@dataclass(frozen=True)
class Roles:
    """Which column of a table plays which part."""

    q: tuple[str, ...]
    p: tuple[str, ...] | None
    time: str
    trajectory: str | None
    u: tuple[str, ...]
    covariates: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        q: str | Sequence[str],
        p: str | Sequence[str] | None,
        time: str,
        trajectory: str | None,
        u: str | Sequence[str] | None,
        covariates: str | Sequence[str] | None = None,
    ) -> "Roles":
        """Check the names given by a user, before any file is read."""
        roles = cls(
            _as_names(q),
            None if p is None else _as_names(p),
            time,
            trajectory,
            () if u is None else _as_names(u),
            () if covariates is None else _as_names(covariates),
        )
        if not roles.q:
            raise ValueError("q: expected at least one column, got none")
        if roles.p is not None and len(roles.p) != len(roles.q):
            raise ValueError(
                f"p: expected one column for each of the {len(roles.q)} of q, got {len(roles.p)}"
            )
        arguments: dict[str, str] = {}
        for argument, column in roles._uses():
            if column in arguments:
                raise ValueError(
                    f"{argument}: column {column!r} is already used as {arguments[column]}"
                )
            arguments[column] = argument
        return roles

    def _uses(self) -> list[tuple[str, str]]:
        listed = [("q", self.q), ("p", self.p or ()), ("u", self.u)]
        listed.append(("covariates", self.covariates))
        single = [("time", self.time), ("trajectory", self.trajectory)]
        uses = [(argument, name) for argument, name in single if name is not None]
        return uses + [(argument, name) for argument, names in listed for name in names]

    @property
    def numeric(self) -> list[str]:
        """Columns that hold numbers: time, coordinates, momenta, inputs, covariates."""
        return [self.time, *self.q, *(self.p or ()), *self.u, *self.covariates]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the 2n columns of the states."""
        if self.p is not None:
            return self.q + self.p
        momenta = numbered("p", len(self.q))
        if set(momenta) & {*self.q, *self.u, *self.covariates}:
            momenta = tuple(f"p_{name}" for name in self.q)
        return self.q + momenta

    def label_column(self, available: Sequence[str]) -> str | None:
        """Return the column that tells the trajectories apart; None if there is none."""
        if self.trajectory not in (None, DEFAULT_LABEL):
            return self.trajectory
        # The usual column is optional, and gives way where it plays another part.
        found = DEFAULT_LABEL in available and DEFAULT_LABEL not in self.numeric
        return DEFAULT_LABEL if found else None

    def count_found(self, available: Sequence[str]) -> int:
        """Return how many of the columns of numbers a table has."""
        return sum(bool(_find(column, available)) for column in self.numeric)

    def locate(self, available: Sequence[str], where: str, hint: str = "") -> Layout:
        """Return where the columns stand, refusing one that is not there, or there twice.

        A column is found by its name alone or with a unit behind it: ``angle`` is also
        ``angle [rad]`` and ``angle (rad)``, unless there is an ``angle``.
        """
        label = self.label_column(available)
        uses = [use for use in self._uses() if use[0] != "trajectory"]
        places, units = {}, {}
        for argument, column in uses + ([] if label is None else [("trajectory", label)]):
            found = _find(column, available)
            if not found:
                listed = ", ".join(map(repr, available))
                raise ValueError(
                    f"{argument}: {where} has no column {column!r}, only {listed}"
                    f"{suggest(column, available)}{hint or _hint(available)}"
                )
            if len(found) > 1:
                listed = ", ".join(dict.fromkeys(repr(available[place]) for place, _ in found))
                which = "" if listed == repr(column) else f": {listed}"
                raise ValueError(
                    f"{argument}: {where} has {len(found)} columns named {column!r}{which}"
                )
            places[column], unit = found[0]
            if unit and column != label:
                units["time" if column == self.time else column] = unit
        order = [places[column] for column in self.numeric]
        return Layout(order, None if label is None else places[label], units)


def _find(column: str, available: Sequence[str]) -> list[tuple[int, str]]:
    """Return the places of a column and the units written behind its name."""
    exact = [(place, "") for place, name in enumerate(available) if name == column]
    return exact or list(_find_with_unit(column, available))


def _find_with_unit(column: str, available: Sequence[str]) -> Iterator[tuple[int, str]]:
    for place, name in enumerate(available):
        unit = _UNIT.fullmatch(name[len(column) :]) if name.startswith(column) else None
        if unit:
            yield place, (unit[1] if unit[2] is None else unit[2]).strip()


def suggest(name: str, available: Sequence[str]) -> str:
    """Return a question after the name that was meant, if one comes close."""
    if len(available) < 2:
        return ""  # where nothing is told apart, nothing is alike
    # From the last to the first: of names that differ in case only, the first is kept.
    spelled = {re.sub(r"\s*[\[(].*", "", a).casefold(): a for a in reversed(available)}
    close = difflib.get_close_matches(name.casefold(), spelled, n=1)
    return f" (did you mean {spelled[close[0]]!r}?)" if close else ""


def _hint(available: Sequence[str]) -> str:
    if all(re.fullmatch(r"[-+.,\deE]+", name) for name in available):
        return " (the first line is expected to name the columns)"
    if len(available) == 1 and re.search(r"\W", available[0]):
        return " (the line was taken for a single cell: sep names the character between cells)"
    return ""


def _as_names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)

"""Which column of a long table plays which part."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sympgp.trajectories.checks import numbered

DEFAULT_LABEL = "trajectory"


@dataclass(frozen=True)
class Roles:
    """Which column of a table plays which part."""

    q: tuple[str, ...]
    p: tuple[str, ...] | None
    time: str
    trajectory: str | None
    u: tuple[str, ...]

    @classmethod
    def of(
        cls,
        q: str | Sequence[str],
        p: str | Sequence[str] | None,
        time: str,
        trajectory: str | None,
        u: str | Sequence[str] | None,
    ) -> "Roles":
        """Check the names given by a user, before any file is read."""
        roles = cls(
            _as_names(q),
            None if p is None else _as_names(p),
            time,
            trajectory,
            () if u is None else _as_names(u),
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
        single = [("time", self.time), ("trajectory", self.trajectory)]
        uses = [(argument, name) for argument, name in single if name is not None]
        return uses + [(argument, name) for argument, names in listed for name in names]

    @property
    def numeric(self) -> list[str]:
        """Columns that hold numbers: time, coordinates, momenta, inputs."""
        return [self.time, *self.q, *(self.p or ()), *self.u]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the 2n columns of the states."""
        if self.p is not None:
            return self.q + self.p
        momenta = numbered("p", len(self.q))
        if set(momenta) & {*self.q, *self.u}:
            momenta = tuple(f"p_{name}" for name in self.q)
        return self.q + momenta

    def label_column(self, available: Sequence[str]) -> str | None:
        """Return the column that tells the trajectories apart; None if there is none."""
        if self.trajectory not in (None, DEFAULT_LABEL):
            return self.trajectory
        # The usual column is optional, and gives way where it plays another part.
        found = DEFAULT_LABEL in available and DEFAULT_LABEL not in self.numeric
        return DEFAULT_LABEL if found else None

    def check(self, available: Sequence[str], where: str) -> None:
        """Refuse a table in which a column is not there, or there twice."""
        label = self.label_column(available)
        uses = [use for use in self._uses() if use[0] != "trajectory"]
        for argument, column in uses + ([] if label is None else [("trajectory", label)]):
            count = list(available).count(column)
            if count == 0:
                listed = ", ".join(map(repr, available))
                raise ValueError(
                    f"{argument}: {where} has no column {column!r}, only {listed}{_hint(available)}"
                )
            if count > 1:
                raise ValueError(f"{argument}: {where} has {count} columns named {column!r}")


def _hint(available: Sequence[str]) -> str:
    if len(available) == 1 and re.search(r"[;\t|]", available[0]):
        return (
            " (cells are expected to be separated by commas; read another format with "
            "pandas.read_csv and use from_pandas)"
        )
    if all(re.fullmatch(r"[-+.\deE]+", name) for name in available):
        return " (the first line is expected to name the columns)"
    return ""


def _as_names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)

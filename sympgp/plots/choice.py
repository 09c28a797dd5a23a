"""Which coordinates and trajectories a picture shows."""

from __future__ import annotations

from collections.abc import Sequence

Coordinate = str | int
"""A coordinate by its name or its position in a state."""


def position(coordinate: Coordinate, names: Sequence[str], argument: str) -> int:
    """Position of a coordinate in a state.

    Raises:
        ValueError: there is none of this name or position.
    """
    if isinstance(coordinate, str) and coordinate in names:
        return list(names).index(coordinate)
    if isinstance(coordinate, int) and 0 <= coordinate < len(names):
        return coordinate
    raise ValueError(
        f"{argument}: expected one of {', '.join(names)} or its position from 0 to "
        f"{len(names) - 1}, got {coordinate!r}"
    )


def positions(
    coordinates: Sequence[Coordinate] | None, names: Sequence[str], most: int
) -> tuple[list[int], str]:
    """Positions of the chosen coordinates, and a note of how many are left out.

    Args:
        coordinates: names or positions; by default all, or where there are more than ``most``,
            as many coordinates with their momenta as fit.
        names: all names, coordinates first.
        most: number of coordinates that are drawn without being asked for.

    Raises:
        ValueError: a coordinate that is not there or comes twice; none at all.
    """
    dim = len(names)
    if coordinates is None:
        num_dof = dim // 2 if dim <= most else most // 2
        chosen = [first + i for first in (0, dim // 2) for i in range(num_dof)]
    else:
        chosen = [position(name, names, "coordinates") for name in coordinates]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"coordinates: expected different coordinates, got {coordinates!r}")
    return chosen, "" if len(chosen) == dim else f"{len(chosen)} of {dim} coordinates"


def select(trajectories: Sequence[int] | None, count: int, most: int) -> tuple[list[int], str]:
    """The chosen trajectories, by default the first ``most``, and a note of how many are left out.

    Raises:
        ValueError: a trajectory that is not there, or none at all.
    """
    chosen = list(range(min(count, most)) if trajectories is None else trajectories)
    for index in chosen:
        check_index("trajectories", index, count, "data")
    if not chosen:
        raise ValueError("trajectories: expected at least one, got none")
    return chosen, "" if len(chosen) == count else f"{len(chosen)} of {count} trajectories"


def check_index(name: str, index: int, count: int, where: str) -> None:
    """Refuse a trajectory that is not there."""
    if not 0 <= index < count:
        raise ValueError(f"{name}: expected 0 to {count - 1} for these {where}, got {index}")


def check_names(argument: str, names: Sequence[str], expected: Sequence[str]) -> None:
    """Refuse other coordinates than those of the rollouts."""
    if names != expected:
        raise ValueError(
            f"{argument}: expected the coordinates {expected} of the rollouts, got {names}"
        )

"""Coordinates that are angles, as users name them."""

from __future__ import annotations

from collections.abc import Sequence

from sympgp.energies.arguments import is_number


def checked_angles(
    periodic: Sequence[int], period: float | Sequence[float | int], num_dof: int, on: str = "state"
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Indices of periodic coordinates and their periods, both in the order of the coordinates.

    Args:
        periodic: indices from 0 to n - 1.
        period: one number for all, or one for each.
        num_dof: degrees of freedom n.
        on: "p" for a function of momenta, which has no angles.

    Raises:
        ValueError: an angle that is a momentum or no entry of the state, or named twice; a period
            that is not positive, or another number of them.
    """
    last = num_dof - 1
    if not isinstance(periodic, Sequence) or isinstance(periodic, str):
        raise ValueError(f"periodic: expected indices such as (0,), got {periodic!r}")
    for i in periodic:
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < 2 * num_dof:
            raise ValueError(f"periodic: expected indices from 0 to {last}, got {i!r}")
        if i > last:
            raise ValueError(
                f"periodic: expected coordinates, from 0 to {last}; entry {i} of the state is the "
                f"momentum of coordinate {i - num_dof}"
            )
    if len(set(periodic)) < len(periodic):
        raise ValueError(f"periodic: expected every index once, got {tuple(periodic)}")
    if periodic and on == "p":
        raise ValueError('periodic: expected none for a function of momenta, on="p"')
    every = list(period) if isinstance(period, Sequence) else [period] * len(periodic)
    if len(every) != len(periodic):
        raise ValueError(
            f"period: expected one number or one for each of {len(periodic)} periodic "
            f"coordinates, got {period!r}"
        )
    if not all(is_number(one) and one > 0 for one in every):
        raise ValueError(f"period: expected positive numbers, got {period!r}")
    order = sorted(range(len(every)), key=lambda i: periodic[i])
    return tuple(periodic[i] for i in order), tuple(float(every[i]) for i in order)

"""Checks of the arguments that several kinds of dissipation share."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any


def check_positive(name: str, value: Any) -> None:
    """Refuse anything but a positive finite number.

    Raises:
        ValueError: it is something else.
    """
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {value!r}")


def check_not_negative(name: str, value: Any) -> None:
    """Refuse anything but a finite number of at least zero.

    Raises:
        ValueError: it is something else.
    """
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a number of at least zero, got {value!r}")


def check_integer(name: str, value: Any, least: int) -> None:
    """Refuse anything but an integer of at least ``least``.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Refuse what is not among the choices.

    Raises:
        ValueError: it is not.
    """
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}: expected one of {listed}, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

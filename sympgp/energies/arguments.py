"""Refusing arguments that make no energy: each by its name, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is not a whole number of at least ``least``.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def check_widths(name: str, value: Any) -> None:
    """Refuse what is no sequence of widths of layers; there may be none.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{name}: expected widths such as (64, 64), got {value!r}")
    for width in value:
        check_count(name, width)


def check_positive(name: str, value: Any) -> None:
    """Refuse what is not a finite number above zero.

    Raises:
        ValueError: it is not.
    """
    if not (is_number(value) and value > 0):
        raise ValueError(f"{name}: expected a positive number, got {value!r}")


def check_one_of(name: str, value: Any, known: Iterable[str]) -> None:
    """Refuse what is none of the names that are known.

    Raises:
        ValueError: it is not.
    """
    names = tuple(known)
    if not isinstance(value, str) or value not in names:
        listed = ", ".join(f'"{one}"' for one in names)
        raise ValueError(f"{name}: expected one of {listed}, got {value!r}")


def is_number(value: Any) -> bool:
    """Whether it is a finite real number."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and math.isfinite(value)

"""Kinds of values that options about the system take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import click


class Angle(click.ParamType):
    """A coordinate that is an angle, written ``NAME`` or ``NAME:PERIOD``."""

    name = "angle"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float | None]:
        """The name, and the period where it is said."""
        if isinstance(value, tuple):
            return value
        name, colon, number = value.rpartition(":")
        if not colon:
            return value.strip(), None
        try:
            period = float(number)
        except ValueError:
            period = math.nan
        if not name.strip() or not (math.isfinite(period) and period > 0):
            self.fail(
                f"expected NAME or NAME:PERIOD with a positive period, such as angle:360, "
                f"got {value!r}",
                param,
                ctx,
            )
        return name.strip(), period


class ParameterPrior(click.ParamType):
    """A parameter of a formula: ``NAME=NUMBER``, or ``NAME=KIND:NUMBERS`` for a prior.

    Of one that differs by trajectory, ``NAME=pooled:KIND:NUMBERS`` or
    ``NAME=covariates:KIND:NUMBERS``.
    """

    name = "prior"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """The name, and its value or a distribution of PyTorch."""
        if isinstance(value, tuple):
            return value
        name, _, said = value.partition("=")
        kind, colon, listed = said.rpartition(":")
        how, differs, kind = kind.rpartition(":")
        try:
            numbers = [float(part) for part in listed.split(",")]
            prior = _prior(kind.strip(), numbers) if colon else numbers[0]
            prior = _by_trajectory(how.strip(), prior) if differs else prior
            known = bool(name.strip()) and (bool(colon) or len(numbers) == 1)
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            self.fail(
                "expected NAME=NUMBER or NAME=PRIOR, such as k=lognormal:9.8,0.5, m=normal:1,0.1, "
                f"c=halfnormal:1, a=uniform:0,2 or k=pooled:lognormal:9.8,0.5, got {value!r}",
                param,
                ctx,
            )
        return name.strip(), prior


def _by_trajectory(how: str, prior: Any) -> Any:
    """A parameter that differs by trajectory, in the way of this name.

    Raises:
        KeyError: no such way.
    """
    import sympgp as sg

    return {"pooled": sg.Pooled, "covariates": sg.FromCovariates}[how](prior)


def _prior(kind: str, numbers: Sequence[float]) -> Any:
    """A distribution by its name on the command line.

    Raises:
        KeyError: no such kind.
        TypeError: another number of parameters.
        ValueError: parameters that it cannot have.
    """
    from torch import distributions

    def lognormal(median: float, stddev: float) -> Any:
        return distributions.LogNormal(math.log(median), stddev)

    kinds: dict[str, Callable[..., Any]] = {
        "lognormal": lognormal,
        "normal": distributions.Normal,
        "halfnormal": distributions.HalfNormal,
        "uniform": distributions.Uniform,
    }
    return kinds[kind](*numbers)

"""Which of several models predicts the same data best, with standard errors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.posterior import Posterior
from sympgp.posterior.cross_validation import (
    PredictiveDensity,
    deviation_of_sum,
    loo,
    waic,
)

if TYPE_CHECKING:
    from pandas import DataFrame
else:
    DataFrame = Any

ERRORS = 2.0
"""Standard errors of a difference within which two models are not told apart."""
SMALL = 4.0
"""Differences below this are not told apart either: models that predict so alike have a skewed
difference, whose standard error is too small (Sivula et al. 2020)."""


class ComparisonWarning(UserWarning):
    """Estimates of predictive densities that are not to be trusted."""


CRITERIA = {"loo": loo, "waic": waic}


def compare(
    posteriors: Mapping[str, Posterior],
    *,
    criterion: str = "loo",
    num_samples: int = 1000,
    seed: int = 0,
) -> DataFrame:
    """Rank posteriors of the same data by their expected log predictive densities, best first.

    Two models tie when their difference is within two of its standard errors, which a normal
    error exceeds once in twenty times, or below 4 nats, where that standard error is known to be
    too small. ``table.attrs["verdict"]`` says it in words.

    Args:
        posteriors: by name; two or more, of the same observations.
        criterion: "loo" or "waic", functions of :mod:`sympgp.posterior.cross_validation`.
        num_samples: draws of each posterior, 100 or more.
        seed: of the draws.

    Returns:
        A table with the names as index and the columns

        - rank: 0 is the best.
        - elpd_loo (or elpd_waic): sum of the log predictive densities, user units.
        - p_loo (or p_waic): effective number of parameters.
        - elpd_diff: how much less than the best.
        - dse: standard error of that difference, the draws' Monte Carlo error included.
        - se: standard error of the sum.
        - weight: of the mixture of all that predicts best (stacking).
        - warning: whether there is something not to be trusted; a warning says what.
        - tie: whether it is not told apart from the best; of the best, whether any other is not.

    Raises:
        ValueError: fewer than two posteriors, of different observations, or without trajectories.

    Warns:
        ComparisonWarning: densities that are not to be trusted.

    Sources: Vehtari, Gelman and Gabry (2017), see ``loo``; Yao, Vehtari, Simpson and Gelman,
    *Using stacking to average Bayesian predictive distributions*, Bayesian Analysis 13 (2018);
    Sivula, Magnusson, Matamoros and Vehtari, *Uncertainty in Bayesian leave-one-out
    cross-validation based model comparison*, arXiv:2008.10296.

    Example:
        >>> import warnings
        >>> from sympgp.systems import Pendulum
        >>> from sympgp import SSGP, Friction, GaussNewton, fit
        >>> data = Pendulum(friction=0.2).simulate(4, rate=5, duration=8, noise_std=0.05)
        >>> models = {"conservative": SSGP(num_features=20)}
        >>> models["friction"] = SSGP(num_features=20, dissipation=Friction())
        >>> quick = {"inference": GaussNewton(num_components=1), "progress": False}
        >>> fits = {name: fit(model, data, **quick) for name, model in models.items()}
        >>> with warnings.catch_warnings():  # a few observations may be hard to leave out
        ...     warnings.simplefilter("ignore", ComparisonWarning)
        ...     table = compare(fits, num_samples=400)
        >>> table.index[0], bool(table["tie"].any())
        ('friction', False)
    """
    _check(posteriors, criterion)
    found = {name: CRITERIA[criterion](one, num_samples, seed) for name, one in posteriors.items()}
    for name, own in found.items():
        for worry in own.worries:
            warnings.warn(f"{name}: {worry}", ComparisonWarning, stacklevel=2)
    return ranked(found, criterion)


def ranked(found: Mapping[str, PredictiveDensity], criterion: str) -> DataFrame:
    """The table of :func:`compare` from the densities of each model."""
    import pandas

    names = sorted(found, key=lambda name: -found[name].total)
    best = found[names[0]]
    weight = stacking([found[name].pointwise for name in names]).tolist()
    rows = []
    for rank, name in enumerate(names):
        own = found[name]
        gap, error = _difference(best, own) if rank else (0.0, 0.0)
        rows.append(
            {
                "rank": rank,
                f"elpd_{criterion}": own.total,
                f"p_{criterion}": float(own.flexibility.sum()),
                "elpd_diff": gap,
                "dse": error,
                "se": own.standard_error,
                "weight": weight[rank],
                "warning": bool(own.worries),
                "tie": rank > 0 and (gap <= ERRORS * error or gap < SMALL),
            }
        )
    rows[0]["tie"] = any(row["tie"] for row in rows)
    table = pandas.DataFrame(rows, index=names)
    table.attrs["verdict"] = _verdict(table)
    return table


def stacking(pointwise: list[Float[Tensor, " observations"]]) -> Float[Tensor, " models"]:
    """Weights of the mixture with the largest ``sum_i log sum_k w_k p_ik``, which is concave."""
    logs = torch.stack(pointwise).double()
    # By expectation maximisation: every step raises the sum.
    densities = (logs - logs.max(0).values).exp()
    weight = torch.full_like(densities[:, 0], 1.0 / len(pointwise))
    for _ in range(10_000):
        before = weight
        weight = weight * (densities / (weight @ densities)).mean(1)
        if float((weight - before).abs().max()) < 1e-9:
            break
    return weight / weight.sum()


def _difference(best: PredictiveDensity, other: PredictiveDensity) -> tuple[float, float]:
    """Difference of the sums and its standard error."""
    gap = best.pointwise - other.pointwise
    errors = (deviation_of_sum(gap), best.monte_carlo_error, other.monte_carlo_error)
    return float(gap.sum()), math.hypot(*errors)


def _verdict(table: DataFrame) -> str:
    best, *others = table.index
    level = [name for name in others if table.loc[name, "tie"]]
    if level:
        return f"tie: {best} is not told apart from {', '.join(level)}"
    gap, error = table.loc[others[0], ["elpd_diff", "dse"]]
    return f"{best} predicts best, by {gap:.1f} +- {error:.1f} nats over {others[0]}"


def _check(posteriors: Any, criterion: str) -> None:
    if criterion not in CRITERIA:
        raise ValueError(f"criterion: expected one of {sorted(CRITERIA)}, got {criterion!r}")
    if not isinstance(posteriors, Mapping) or len(posteriors) < 2:
        raise ValueError("posteriors: expected two or more by name, {name: posterior, ...}")
    first, *others = posteriors
    for name, posterior in posteriors.items():
        if not isinstance(posterior, Posterior):
            raise ValueError(
                f"posteriors: expected a posterior of trajectories for {name!r}, "
                f"got a {type(posterior).__name__}"
            )
        if posterior.conditioned or posterior.counterfactual:
            raise ValueError(
                f"posteriors: {name!r} is not about the trajectories that it was learned from"
            )
    for name in others:
        why = _differ(posteriors[first], posteriors[name])
        if why:
            raise ValueError(
                f"posteriors: {first!r} and {name!r} were not learned from the same observations: "
                f"{why}"
            )


def _differ(one: Posterior, other: Posterior) -> str | None:
    """Why two posteriors' data are different; None if they are the same."""
    if len(one.data) != len(other.data):
        return f"{len(one.data)} trajectories and {len(other.data)}"
    if one.data.num_observations != other.data.num_observations:
        return f"{one.data.num_observations} observations and {other.data.num_observations}"
    for k in range(len(one.data)):
        for name in ("times", "states"):
            left, right = (
                np.asarray(getattr(posterior.data, name)[k].detach().cpu().double())
                for posterior in (one, other)
            )
            same = left.shape == right.shape
            if not (same and np.allclose(left, right, rtol=1e-6, equal_nan=True)):
                return f"the {name} of trajectory {k} differ"
    return None

"""Residuals of a fit, and whether they look like what the model says they are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import chdtrc, ndtri, stdtr
from torch import Tensor

from sympgp.integrators.base import DivergenceWarning
from sympgp.rollouts import Rollouts

if TYPE_CHECKING:
    from sympgp.posterior.posterior import Posterior
else:
    Posterior = Any

LAGS = 10
"""Lags of the test of whiteness, as far as the trajectories are long enough."""
PAIRS = 20
"""Least number of pairs of observations of a lag that enters it."""
DOUBT = 0.01
"""Probability below which a check counts as failed, shared by the coordinates."""


@dataclass(frozen=True, eq=False)
class Residuals:
    """Differences between observations and the fitted paths' posterior mean.

    Attributes:
        times: (T_i,) of each trajectory.
        values: (T_i, D), observation less mean, user units; NaN where not observed.
        standardized: (T_i, D), as standard normal numbers if the model holds: over the noise's
            standard deviation, and through the distribution function of Student's t noise.
        names: of the D coordinates.
        units: by name.
        labels: of the trajectories.
    """

    times: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    standardized: tuple[Tensor, ...]
    names: tuple[str, ...]
    units: Mapping[str, str]
    labels: tuple[str, ...]

    def autocorrelation(self, max_lag: int = 20) -> Float[Tensor, "lags dim"]:
        """``sum_t r_t r_(t-k) / sum_t r_t^2`` for k = 0, .., max_lag, over all trajectories.

        Lags count each coordinate's own observations, whatever the time between them.

        Raises:
            ValueError: a negative lag.
        """
        if max_lag < 0:
            raise ValueError(f"max_lag: expected at least 0, got {max_lag}")
        columns = [_correlations(series, max_lag)[0] for series in _series(self.standardized)]
        return torch.as_tensor(np.stack(columns, 1))

    def whiteness(self) -> Float[Tensor, " dim"]:
        """P-values that each coordinate's residuals are uncorrelated (Ljung and Box, 1978).

        ``Q = sum_k rho_k^2 n^2 / n_k`` over up to ten lags with n_k pairs each is compared with a
        chi-squared distribution; small values speak against white noise. NaN where a coordinate
        has too few observations in a row.
        """
        return torch.tensor(
            [_whiteness(series) for series in _series(self.standardized)], dtype=torch.float64
        )


def _series(parts: tuple[Tensor, ...]) -> list[list[np.ndarray]]:
    """Observed values of each coordinate, trajectory by trajectory."""
    arrays = [part.detach().cpu().double().numpy() for part in parts]
    return [
        [own[np.isfinite(own)] for own in (array[:, d] for array in arrays)]
        for d in range(arrays[0].shape[1])
    ]


def _correlations(series: list[np.ndarray], max_lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Autocorrelations for lags 0 to max_lag, and their numbers of pairs."""
    power = sum(float(r @ r) for r in series)
    products, pairs = np.zeros(max_lag + 1), np.zeros(max_lag + 1)
    for lag in range(max_lag + 1):
        for r in series:
            if len(r) > lag:
                products[lag] += float(r[lag:] @ r[: len(r) - lag])
                pairs[lag] += len(r) - lag
    return products / max(power, np.finfo(float).tiny), pairs


def _whiteness(series: list[np.ndarray]) -> float:
    rho, pairs = _correlations(series, LAGS)
    use = pairs[1:] >= PAIRS
    if not use.any():
        return float("nan")
    statistic = float((rho[1:][use] ** 2 * pairs[0] ** 2 / pairs[1:][use]).sum())
    return float(chdtrc(int(use.sum()), statistic))


def residuals(posterior: Posterior, paths: Sequence[Rollouts]) -> Residuals:
    """See ``Posterior.residuals``; ``paths`` are the fitted ones."""
    data = posterior.data
    pairs = zip(data.states, paths, strict=True)
    values = tuple((x - path.mean[0]).to(posterior.dtype) for x, path in pairs)
    dof = posterior.components[0].noise_dof
    standard = tuple(_normal_scores(value / posterior.noise_std, dof) for value in values)
    return Residuals(
        data.times, values, standard, posterior.names, dict(posterior.units), data.labels
    )


def _normal_scores(scaled: Tensor, dof: float | None) -> Tensor:
    """Standard normal numbers from residuals over the noise's scale."""
    if dof is None:
        return scaled
    tail = stdtr(dof, -scaled.abs().cpu().double().numpy())
    return scaled.sign() * torch.as_tensor(-ndtri(tail)).to(scaled)


@dataclass(frozen=True, eq=False)
class FitCheck:
    """Checks of a fit against its own assumptions.

    Attributes:
        residuals: about the posterior mean.
        whiteness: (D,) p-values, see :meth:`Residuals.whiteness`.
        predictive: by name of a statistic, (D,) posterior predictive p-values: the probability
            that data replicated under the posterior show at least as much of it.
        findings: what failed, in plain words.
        fits: whether nothing speaks against the structure.
    """

    residuals: Residuals
    whiteness: Float[Tensor, " dim"]
    predictive: Mapping[str, Float[Tensor, " dim"]]
    findings: tuple[str, ...]
    fits: bool

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.fits and not self.findings:
            return "the structure fits: what is left over looks like independent noise"
        if self.fits:
            return f"the structure fits, with reservations: {'; '.join(self.findings)}"
        return f"the structure does not fit the data: {'; '.join(self.findings)}"


STATISTICS = {
    "spread": lambda r: np.mean(r**2),
    "correlation": lambda r: np.abs(np.mean(r[1:] * r[:-1])) if len(r) > 1 else 0.0,
    "tails": lambda r: np.mean(r**4) / np.mean(r**2) ** 2,
}
"""Of one coordinate's standardized residuals, all trajectories in a row."""


def check(posterior: Posterior, num_samples: int, seed: int) -> FitCheck:
    """See ``Posterior.check``."""
    with warnings.catch_warnings():  # draws that diverged say nothing here
        warnings.simplefilter("ignore", DivergenceWarning)
        wide = posterior.in_dtype(torch.float64)
        paths = wide.fitted(num_samples=num_samples, seed=seed)
    left = residuals(posterior, paths)
    whiteness = left.whiteness()
    predictive = predictive_checks(posterior, paths, seed)
    findings, fits = [], True
    limit = DOUBT / len(left.names)
    for d, name in enumerate(left.names):
        if float(whiteness[d]) < limit:
            findings.append(
                f"residuals of {name} are correlated in time (p = {float(whiteness[d]):.1g})"
            )
        if float(predictive["spread"][d]) < limit:
            fits = False
            findings.append(f"residuals of {name} are larger than the noise")
        elif float(predictive["spread"][d]) > 1.0 - limit:
            findings.append(f"residuals of {name} are smaller than the noise")
        if float(predictive["tails"][d]) < limit:
            findings.append(f"{name} has outliers that its noise does not allow for")
    if posterior.diagnostics.jump_gain >= JUMPS:
        fits = False
        findings.insert(0, "the paths have to jump to follow the data")
    share = posterior.noise_std / (posterior.scaling.spread * posterior.scaling.scale)
    for name, part in zip(left.names, share.tolist(), strict=True):
        if part > UNEXPLAINED:
            fits = False
            findings.append(f"{name} is mostly noise to this model ({part:.0%} of its deviation)")
    return FitCheck(left, whiteness, predictive, tuple(findings), fits)


JUMPS = 3.0
"""Log evidence of jumps from which on the data do not follow one ODE."""
UNEXPLAINED = 0.9
"""Share of a coordinate's deviation that the noise may take."""


def predictive_checks(
    posterior: Posterior, paths: Sequence[Rollouts], seed: int
) -> dict[str, Tensor]:
    """Posterior predictive p-values of each statistic and coordinate.

    For each draw the statistic of the data's residuals about its own path is compared with that
    of noise replicated under the same draw (Gelman, Meng and Stern, 1996).
    """
    generator = np.random.default_rng(seed)
    dof = posterior.components[0].noise_dof
    count = len(posterior.names)
    exceed = {name: np.zeros(count) for name in STATISTICS}
    total = np.zeros(count)
    scaled = []
    for states, path in zip(posterior.data.states, paths, strict=True):
        noise_std = path.noise_std
        if noise_std is None:
            raise RuntimeError("fitted paths carry no noise")
        own = (states - path.samples[:, 0]) / noise_std.unsqueeze(1)
        scaled.append(_normal_scores(own, dof).cpu().double().numpy())
    for d in range(count):
        seen = [~np.isnan(x[:, d].cpu().numpy()) for x in posterior.data.states]
        if not any(own.any() for own in seen):
            total[d] = np.nan
            continue
        rows = np.concatenate([r[:, keep, d] for r, keep in zip(scaled, seen, strict=True)], 1)
        rows = rows[np.isfinite(rows).all(1)]
        for own in rows:
            replicated = generator.standard_normal(len(own))
            for name, statistic in STATISTICS.items():
                exceed[name][d] += statistic(replicated) >= statistic(own)
        total[d] = len(rows) or np.nan
    return {name: torch.as_tensor(values / total) for name, values in exceed.items()}

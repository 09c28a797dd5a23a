"""The search for hyperparameters, noise and friction of pairs (x, dx/dt)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies import Hyperparameters, LogNormal
from sympgp.inference.evidence import log_prior, pack, prior_precision, unpack
from sympgp.inference.pairs import NoiseParameters, Pairs, PreparedPairs
from sympgp.inference.regression import Regression, Solution
from sympgp.noise import ScaledNoise

START_NOISE = 0.1
"""First guess: a share of the rates' size."""
FRICTION_REACH = 20.0
"""How far dissipation parameters may move, by the standard deviation of their prior."""
WIDE = 3.5
"""How far the logarithms of hyperparameters may move from the medians of their priors, where these
have a standard deviation of one or less; further in proportion where it is larger."""
SLOPE, SHIFT = 0.02, 0.01
"""Slope of the log posterior at which L-BFGS may end, and the step of its Hessian's differences."""
NEWTON, HALVINGS, GAIN, FLATTEST = 10, 8, 1e-5, 0.05
"""Most Newton steps, most halvings of one, the log posterior still to be gained at the end, and the
least curvature that steps are made with."""
ROUNDS, TOLERANCE = 50, 1e-3
"""Most fixed-point rounds of noise and friction, and their relative change at the end."""


@dataclass(frozen=True)
class Found:
    """The most probable hyperparameters, noise and friction.

    Attributes:
        priors: of the hyperparameters.
        mean: (K,) their logarithms.
        covariance: (K, K) of a Laplace approximation, noise and friction integrated out.
        noise_std: (D,).
        rho: friction.
        evaluations: of the evidence.
        converged: whether the search ended by its tolerance.
        stuck: hyperparameters at the ends of their ranges.
    """

    priors: dict[str, LogNormal]
    mean: Float[Tensor, " hyper"]
    covariance: Float[Tensor, "hyper hyper"]
    noise_std: Float[Tensor, " dim"]
    rho: Float[Tensor, " k"]
    evaluations: int
    converged: bool
    stuck: tuple[str, ...]


@dataclass(frozen=True)
class Objective:
    """Log posterior of ``[log hyperparameters, log noise levels, rho]``, H integrated out.

    Attributes:
        regression: gives the evidence.
        pairs: the data.
        priors: of the hyperparameters.
        noise: levels and their prior.
        friction_scale: (K,) prior standard deviations of rho; none where it is held.
    """

    regression: Regression
    pairs: Pairs
    priors: dict[str, LogNormal]
    noise: NoiseParameters
    friction_scale: Float[Tensor, " k"]

    def split(self, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log hyperparameters, log noise levels, friction."""
        count = len(vector) - len(self.noise.leaders) - len(self.friction_scale)
        return tuple(vector.split([count, len(self.noise.leaders), len(self.friction_scale)]))

    def terms(self, vector: Tensor) -> dict[str, Tensor]:
        """The named parts, whose sum is maximised."""
        log, log_noise, rho = self.split(vector)
        std = self.noise.unpack(log_noise)
        hyper, held = unpack(self.priors, log), self.regression.held_rho()
        friction = rho if held is None else held
        return {
            "evidence": self.regression.evidence(self.pairs, hyper, friction, std),
            "hyperparameters": log_prior(self.priors, log) if self.priors else log.sum(),
            "noise": self.noise.log_prior(std),
            "dissipation": -0.5 * ((rho / self.friction_scale) ** 2).sum(),
        }

    def __call__(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative value and gradient."""
        like = self.pairs.rates
        vector = torch.as_tensor(values).to(like).requires_grad_(True)
        total = sum(self.terms(vector).values(), torch.zeros(()).to(like))
        (gradient,) = torch.autograd.grad(total, vector)
        return -float(total.detach()), -gradient.cpu().numpy().astype(float)


def first_noise(prepared: PreparedPairs, pairs: Pairs) -> Float[Tensor, " dim"]:
    """A tenth of the rates, where it is not known."""
    size = (pairs.rates.square().sum(0) / pairs.counts.clamp(min=1.0)).sqrt()
    size = torch.where(size > 0.0, size, size.max())
    return prepared.noise.start(START_NOISE * size)


def search(
    regression: Regression, prepared: PreparedPairs, pairs: Pairs, last: Found | None = None
) -> Found:
    """Maximise evidence and hyperpriors over hyperparameters, noise and friction together.

    Args:
        regression: the prior over H.
        prepared: the scaled data.
        pairs: those of them to use.
        last: where to begin; at the medians of the hyperpriors when None.
    """
    from scipy.optimize import minimize

    law = NoiseParameters(prepared.noise)
    priors = regression.hyperpriors(prepared.scaling.spread)
    damping, held = regression.dissipation, regression.held_rho()
    scale = damping.prior_stddev if held is None else damping.prior_stddev[:0]
    objective = Objective(regression, pairs, priors, law, scale)
    medians = scale.new_zeros(0)
    if priors:  # a formula has none
        medians = pack(priors, {name: prior.median for name, prior in priors.items()})
    noise = law.pack(first_noise(prepared, pairs))
    friction = damping.start() if held is None else scale
    start = torch.cat([medians, noise, friction])
    if last is not None:
        friction = last.rho if held is None else scale
        start = torch.cat([last.mean, law.pack(last.noise_std), friction])
    centre, ends = medians.tolist(), noise.tolist()
    reach = [
        WIDE * max(1.0, prior.log_stddev)
        for prior in priors.values()
        for _ in range(prior.median.numel())
    ]
    bounds = [(c - r, c + r) for c, r in zip(centre, reach, strict=True)]
    least = 0.0 if damping.truncated else -FRICTION_REACH
    bounds += [(n - 9.0, n + 3.0) for n in ends]
    bounds += [(least * s, FRICTION_REACH * s) for s in scale.tolist()]
    if not bounds:  # a formula with known noise
        none = medians.new_zeros(0, 0)
        known, rho = law.unpack(noise), friction if held is None else held
        return Found(priors, medians, none, known, rho, 0, True, ())
    found = minimize(
        objective,
        np.clip(start.cpu().numpy().astype(float), *np.array(bounds).T),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxfun": 80, "ftol": 1e-6, "gtol": SLOPE},
    )
    optimum = _newton(objective, found.x, np.array(bounds))
    log, log_noise, rho = objective.split(torch.as_tensor(optimum.values).to(medians))
    share = float(pairs.counts.sum() / prepared.pairs.counts.sum())
    return Found(
        priors,
        log,
        _laplace(objective, optimum, share).to(log),
        law.unpack(log_noise),
        rho if held is None else held,
        int(found.nfev) + optimum.evaluations,
        optimum.converged,
        _stuck(priors, optimum.values, bounds),
    )


@dataclass(frozen=True)
class Optimum:
    """Where Newton's method ended.

    Attributes:
        values: the point.
        free: coordinates that no bound holds.
        hessian: of the objective in these.
        evaluations: of the objective.
        converged: whether half the Newton decrement fell below ``GAIN``.
    """

    values: np.ndarray
    free: np.ndarray
    hessian: np.ndarray
    evaluations: int
    converged: bool


def _newton(objective: Objective, values: np.ndarray, bounds: np.ndarray) -> Optimum:
    """Newton's method from where L-BFGS slows down: noise and friction are the stiffer by far."""
    low, high = bounds.T
    value, slope = objective(values)
    evaluations, converged = 1, False
    for _ in range(NEWTON):
        held = ((values <= low) & (slope > 0)) | ((values >= high) & (slope < 0))
        free = np.flatnonzero(~held)
        rows = [objective(values + SHIFT * np.eye(len(values))[k])[1] - slope for k in free]
        hessian = np.stack(rows)[:, free] / SHIFT
        hessian = 0.5 * (hessian + hessian.T)
        evaluations += len(free)
        eigenvalues, vectors = np.linalg.eigh(hessian)
        along = (vectors.T @ slope[free]) / np.maximum(np.abs(eigenvalues), FLATTEST)
        step = np.zeros_like(values)
        step[free] = -vectors @ along
        converged = -0.5 * float(step @ slope) < GAIN
        if converged:
            break
        for _ in range(HALVINGS):
            trial = np.clip(values + step, low, high)
            moved, tilted = objective(trial)
            evaluations += 1
            if moved < value:
                values, value, slope = trial, moved, tilted
                break
            step = 0.5 * step
        else:
            break
    return Optimum(values, free, hessian, evaluations, converged)


def _stuck(
    priors: dict[str, LogNormal], values: np.ndarray, bounds: list[tuple[float, float]]
) -> tuple[str, ...]:
    """Names of hyperparameters that ended at the ends of their ranges."""
    names = [name for name, prior in priors.items() for _ in range(prior.median.numel())]
    at_end = [
        name
        for name, value, (low, high) in zip(names, values, bounds, strict=False)
        if min(value - low, high - value) < 1e-6
    ]
    return tuple(dict.fromkeys(at_end))


def _laplace(objective: Objective, optimum: Optimum, share: float) -> Tensor:
    """Covariance of the log hyperparameters, noise and friction integrated out.

    What a bound holds stays there, with the prior's uncertainty where it is a hyperparameter. The
    data searched are a ``share`` of all.
    """
    if not objective.priors:
        return torch.zeros(0, 0, dtype=torch.float64)
    precision = prior_precision(objective.priors)
    count, size = len(precision), len(optimum.values)
    prior = np.concatenate([precision, np.zeros(size - count)])
    hessian = np.diag(np.where(prior > 0.0, prior, 1.0))
    data = optimum.hessian - np.diag(prior[optimum.free])
    hessian[np.ix_(optimum.free, optimum.free)] = data / share + np.diag(prior[optimum.free])
    # Directions of noise and friction have data of their own; a floor is for the others.
    own, mixed, rest = hessian[:count, :count], hessian[:count, count:], hessian[count:, count:]
    if rest.size:
        own = own - mixed @ np.linalg.pinv(rest, hermitian=True) @ mixed.T
    eigenvalues, vectors = np.linalg.eigh(0.5 * (own + own.T))
    floor = float(precision.min())
    return torch.as_tensor((vectors / np.maximum(eigenvalues, floor)) @ vectors.T)


def refine(
    regression: Regression,
    pairs: Pairs,
    noise: ScaledNoise,
    hyperparameters: Hyperparameters,
    rho: Float[Tensor, " k"],
    noise_std: Float[Tensor, " dim"],
) -> tuple[Solution, Float[Tensor, " dim"], bool]:
    """Friction by Gauss-Newton and noise by its fixed point, in turns; and whether they settled."""
    solution = regression.solve(pairs, hyperparameters, rho, noise_std)
    settled = False
    for _ in range(ROUNDS):
        spare = (pairs.counts - solution.degrees).clamp(min=0.0)
        std = noise.update(solution.squares, spare)
        before = solution.rho
        solution = solution.refined(std)
        change = float((std / noise_std).log().abs().max())
        moved = float((solution.rho - before).abs().sum())
        noise_std = std
        if change < TOLERANCE and moved < TOLERANCE * (1.0 + float(before.abs().sum())):
            settled = True
            break
    return solution, noise_std, settled

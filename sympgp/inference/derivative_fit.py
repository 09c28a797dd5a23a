"""Inference from pairs (x, dx/dt): hyperparameters by evidence, then a mixture of regressions."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.energies import Hyperparameters, quasi_random_frequencies
from sympgp.inference.base import Report
from sympgp.inference.derivative_search import Found, first_noise, refine, search
from sympgp.inference.evidence import unpack
from sympgp.inference.feature_regression import FeatureRegression
from sympgp.inference.pairs import (
    Pairs,
    PreparedPairs,
    check_state_noise,
    prepare_pairs,
    untold_noise,
)
from sympgp.inference.regression import NoiseFit, Regression, Solution
from sympgp.inference.search import WORSE
from sympgp.inference.state_noise import CLOSE, ROUNDS, located, moved_by
from sympgp.models import HamiltonianModel
from sympgp.posterior.component import Component
from sympgp.posterior.derivative_posterior import DerivativePosterior
from sympgp.posterior.diagnostics import Diagnostics
from sympgp.trajectories import StateDerivatives

COMPONENTS = 4
"""Regressions in the mixture."""
SEARCHES = 2
"""How often hyperparameters are sought again where states have noise."""
LINEARISATIONS = 2
"""How often the evidence of a field that is not linear is taken about a better solution."""
SPARE_SHARE = 0.3
"""Below this share of observations that the fit does not use up, the noise is not trusted."""
STEP = 0.2
"""Solver step of rollouts, scaled time; they take half of it."""


@dataclass(frozen=True, kw_only=True)
class DerivativeEngine(ABC):
    """Engines for pairs of states and derivatives; instances hold settings only.

    Args:
        num_components: regressions in the mixture, over draws of the hyperparameters; one ignores
            their uncertainty.

    Raises:
        ValueError: a number below one.
    """

    num_components: int = COMPONENTS

    @property
    def takes_state_noise(self) -> bool:
        """Whether states may have noise."""
        return False

    def __post_init__(self) -> None:
        value = self.num_components
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"num_components: expected a whole number of at least 1, got {value!r}"
            )

    @abstractmethod
    def regression(self, model: HamiltonianModel, prepared: PreparedPairs) -> Regression:
        """The regression under the model's prior."""

    def searched(self, pairs: Pairs) -> Pairs:
        """The pairs that the hyperparameters are sought from: all of them."""
        return pairs

    def run(
        self, model: HamiltonianModel, data: StateDerivatives, seed: int, report: Report
    ) -> DerivativePosterior:
        """Infer the posterior.

        Args:
            model: priors of the field.
            data: on the device to compute with; computed with in float64.
            seed: of every random choice.
            report: to be called as the work goes on.

        Raises:
            ValueError: model and data that do not fit together.
        """
        began = time.perf_counter()
        check_state_noise(self, self.takes_state_noise, data)
        data = data.to(dtype=torch.float64)  # covariances of gradients need the digits
        prepared = prepare_pairs(model, data)
        model = model.in_units(prepared.scaling, prepared.pairs.z)
        regression = self.regression(model, prepared)
        report("hyperparameters", None)
        regression, found = self._found(regression, prepared)
        prepared, regression, found, placed = self._placed(regression, prepared, found, report)
        count = self.num_components if found.priors else 1
        fitted = self._mixture(regression, prepared, found, count, seed, report)
        spare = [1.0 - part.solution.degrees / prepared.pairs.counts for part in fitted]
        notes = _notes(found, torch.stack(spare).mean(0), data)
        if len(fitted) < count:
            notes += (f"{count - len(fitted)} of {count} components fitted worse: left out",)
        diagnostics = Diagnostics(
            engine=type(self).__name__,
            seconds=time.perf_counter() - began,
            iterations=found.evaluations,
            converged=found.converged and placed and all(part.settled for part in fitted),
            windows_joined=True,
            window_time=0.0,
            jump_gain=0.0,
            solver_step=STEP * float(prepared.scaling.time_scale),
            solver_error=0.0,
            inflation=(1.0,) * data.state_dim,
            notes=notes,
        )
        components = tuple(part.component(prepared) for part in fitted)
        return DerivativePosterior(
            components, prepared.scaling, model.dissipation, data, diagnostics
        )

    def _found(self, regression: Regression, prepared: PreparedPairs) -> tuple[Regression, Found]:
        """Search; where the evidence is of a linear model, about one solution after another."""
        pairs = prepared.pairs
        priors = regression.hyperpriors(prepared.scaling.spread)
        medians = {name: prior.median for name, prior in priors.items()}
        regression = regression.started(pairs, medians, first_noise(prepared, pairs))
        found = search(regression, prepared, self.searched(pairs))
        for _ in range(0 if regression.exact else LINEARISATIONS):
            hyper = unpack(priors, found.mean)
            solution, std, _ = refine(
                regression, pairs, prepared.noise, hyper, found.rho, found.noise_std
            )
            regression = regression.about(solution)
            last = replace(found, noise_std=std, rho=solution.rho)
            found = search(regression, prepared, self.searched(pairs), last)
        return regression, found

    def _placed(
        self, regression: Regression, prepared: PreparedPairs, found: Found, report: Report
    ) -> tuple[PreparedPairs, Regression, Found, bool]:
        """With the states where they may have been, hyperparameters that suit, and whether settled.

        Nothing is to be done where states are exact.
        """
        placed, std = True, prepared.state_std
        if std is None:
            return prepared, regression, found, placed
        seen, priors = prepared.pairs, found.priors
        for _ in range(SEARCHES):
            report("places of the states", None)
            hyper = unpack(priors, found.mean)
            for _ in range(ROUNDS):
                before = prepared.pairs
                solution, noise_std, _ = refine(
                    regression, before, prepared.noise, hyper, found.rho, found.noise_std
                )
                ahead = located(seen, before, solution.rates, solution.slope, noise_std, std)
                prepared = replace(prepared, pairs=ahead)
                found = replace(found, noise_std=noise_std, rho=solution.rho)
                placed = moved_by(ahead, before, std) < CLOSE
                if placed:
                    break
            regression = regression.about(solution)
            found = search(regression, prepared, self.searched(prepared.pairs), found)
        return prepared, regression, found, placed

    def _mixture(
        self,
        regression: Regression,
        prepared: PreparedPairs,
        found: Found,
        count: int,
        seed: int,
        report: Report,
    ) -> list[_Fitted]:
        """Fits about draws of the hyperparameters, each with features of its own."""
        pairs = prepared.pairs
        root = cholesky(found.covariance, "the covariance of the hyperparameters")
        points = _stratified(count, len(found.mean), seed).to(root)
        fitted = []
        for k in range(count):
            report(f"component {k + 1} of {count}", None)
            hyper = unpack(found.priors, found.mean + root @ points[k])
            own = regression if k == 0 else regression.redraw(seed + 7919 * k)
            part = _Fitted(
                hyper, *refine(own, pairs, prepared.noise, hyper, found.rho, found.noise_std)
            )
            if bool((part.std <= WORSE * found.noise_std).all()):
                fitted.append(part)
        if not fitted:
            hyper = unpack(found.priors, found.mean)
            single = refine(regression, pairs, prepared.noise, hyper, found.rho, found.noise_std)
            fitted.append(_Fitted(hyper, *single))
        return fitted


@dataclass(frozen=True)
class DerivativeRegression(DerivativeEngine):
    """Bayesian linear regression of dx/dt on the model's symplectic features ``Psi(x)``.

    The default for pairs of states and derivatives; its cost is linear in their number. Friction
    multiplies the weights and is found with them by Gauss-Newton, as are dissipation of other
    kinds and parameters of formulas; each component of the mixture has hyperparameters and
    spectral points of its own.

    Example:
        >>> DerivativeRegression(num_components=2)
        DerivativeRegression(num_components=2)
    """

    @property
    def takes_state_noise(self) -> bool:
        """They may."""
        return True

    def regression(self, model: HamiltonianModel, prepared: PreparedPairs) -> Regression:
        """The features of the model's energy."""
        priors = model.energy.hyperpriors(prepared.scaling.spread)
        basis = model.energy.basis({name: prior.median for name, prior in priors.items()})
        damping = model.dissipation.scaled(prepared.scaling)
        return FeatureRegression(model.energy, damping, basis.linear)


def derivative_engine(inference: object, integrator: object) -> DerivativeEngine:
    """The engine for pairs: the one given, or the default when None.

    Raises:
        ValueError: an engine for trajectories; an integrator.
    """
    if integrator is not None:
        raise ValueError(
            "integrator: nothing is integrated to fit pairs of states and derivatives, so None is "
            f"expected; got {integrator!r}"
        )
    engine = DerivativeRegression() if inference is None else inference
    if not isinstance(engine, DerivativeEngine):
        raise ValueError(
            "inference: expected DerivativeRegression(), ExactGP() (Fourier energies only) or a "
            "network engine such as MAP() for pairs of states and derivatives, got "
            f"{type(engine).__name__}"
        )
    return engine


@dataclass(frozen=True)
class _Fitted:
    """One regression of a mixture.

    Attributes:
        hyperparameters: by name.
        solution: the regression's.
        std: (D,) noise.
        settled: whether noise and friction did.
    """

    hyperparameters: Hyperparameters
    solution: Solution
    std: Tensor
    settled: bool

    def component(self, prepared: PreparedPairs) -> Component:
        """A component, whose noise has an inverse-gamma posterior with its mode at ``std^2``."""
        noise = prepared.noise
        spare = (prepared.pairs.counts - self.solution.degrees).clamp(min=0.0)
        shape = noise.shape(spare)
        rate = torch.where(shape.isinf(), 1.0, shape + 1.0) * self.std**2
        return self.solution.component(
            NoiseFit(self.std, shape, rate, noise.group), self.hyperparameters
        )


def _stratified(count: int, dim: int, seed: int) -> Tensor:
    """Quasi-random normal points (count, dim) of mean zero and unit variance; zero for one."""
    if count == 1:
        return torch.zeros(1, dim, dtype=torch.float64)
    points = quasi_random_frequencies(count, dim, seed)
    points = points - points.mean(0)
    return points / points.std(0, correction=0)


def _notes(found: Found, spare: Tensor, data: StateDerivatives) -> tuple[str, ...]:
    """What a user should know of the search and the noise."""
    notes = [f"the {name} ended at the end of its range" for name in found.stuck]
    notes += untold_noise(data, spare * data.observed.sum(0))
    for name, count, left in zip(
        data.names, data.observed.sum(0).tolist(), spare.tolist(), strict=True
    ):
        if not count:
            notes.append(f"no derivative of {name} was measured: it follows from the others alone")
        elif data.state_noise is None and left < SPARE_SHARE:
            notes.append(
                f"the derivative of {name} has hardly more observations than the fit has freedom: "
                "its noise, and with it the bands, may be far too small"
            )
    return tuple(notes)

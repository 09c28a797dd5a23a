"""Parameters that differ by trajectory: what a user says of them, and what tells trajectories."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.arguments import check_positive
from sympgp.trajectories import Trajectories, as_tensor

MOST_TRAJECTORIES = 1000
"""Deviations are dense unknowns of the fit, one a trajectory."""
LEAST_CHANGE = 1e-9
"""A covariate that varies by less than this share of its size is constant."""


class ByTrajectory(ABC):
    """A parameter of :class:`PhysicsEnergy` that differs from trajectory to trajectory."""

    prior: Any
    pooled: bool
    spread: float
    hidden: tuple[int, ...] | None
    effect: float
    seed: int


@dataclass(frozen=True)
class Pooled(ByTrajectory):
    """A parameter with a value of its own in every trajectory, partially pooled.

    ``k_i = T(w + delta_i)`` with ``delta_i ~ N(0, tau^2)``, where ``T(w)``, ``w ~ N(0, 1)``, has
    the prior: of a log-normal one with deviation s the logarithms of the trajectories' values
    deviate by ``s tau`` from the population's. The data say how large tau is, under the hyperprior
    ``log tau ~ N(log spread, 1)``, so that trajectories with few observations borrow from all
    others as much as these are alike.

    Source: Gelman and Hill, *Data Analysis Using Regression and Multilevel/Hierarchical Models*
    (2007), chapter 12.

    Args:
        prior: of the population's median, as for any parameter.
        spread: median of tau's hyperprior.

    Raises:
        ValueError: a spread that is not positive.

    Example:
        >>> from torch.distributions import LogNormal
        >>> from sympgp import PhysicsEnergy
        >>> PhysicsEnergy("p**2/2 - k*cos(q)", {"k": Pooled(LogNormal(0.0, 1.0))}).pooled
        True
    """

    prior: Any
    spread: float = 0.3

    pooled = True
    hidden = None
    effect = 0.5
    seed = 0

    def __post_init__(self) -> None:
        check_positive("spread", self.spread)


@dataclass(frozen=True)
class FromCovariates(ByTrajectory):
    """A parameter predicted from each trajectory's covariates by a small network.

    ``k(c) = T(w + g(c))`` with a network g of tanh units in the standardised covariates
    (:class:`CovariateNetwork`); its scale follows from the data under the hyperprior
    ``log scale ~ N(log effect, 1)``.

    Args:
        prior: of the parameter at a typical trajectory, as for any parameter.
        hidden: units of each hidden layer; none for a linear function.
        effect: median of the hyperprior of g's standard deviation.
        pooled: whether trajectories also deviate from the network by ``delta_i``, see
            :class:`Pooled`.
        spread: median of the hyperprior of these deviations.
        seed: of the network's fixed draws.

    Raises:
        ValueError: a number of units below one; an effect or spread that is not positive.

    Example:
        >>> from torch.distributions import LogNormal
        >>> from sympgp import PhysicsEnergy
        >>> k = FromCovariates(LogNormal(0.0, 1.0), hidden=(8,))
        >>> PhysicsEnergy("p**2/2 - k*cos(q)", {"k": k}).by_covariates
        True
    """

    prior: Any
    hidden: tuple[int, ...] = (8,)
    effect: float = 0.5
    pooled: bool = False
    spread: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        units = (self.hidden,) if isinstance(self.hidden, int) else tuple(self.hidden)
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in units):
            raise ValueError(f"hidden: expected whole numbers of at least 1, got {self.hidden!r}")
        object.__setattr__(self, "hidden", units)
        check_positive("effect", self.effect)
        check_positive("spread", self.spread)


def unwrapped(parameters: Any) -> tuple[Any, dict[str, ByTrajectory]]:
    """Parameters with plain priors, and what is said of those that differ by trajectory."""
    if not isinstance(parameters, Mapping):
        return parameters, {}
    differing = {n: v for n, v in parameters.items() if isinstance(v, ByTrajectory)}
    for name, given in differing.items():
        if isinstance(given.prior, (ByTrajectory, int, float)):
            raise ValueError(
                f"parameters: expected a distribution as the prior of {name!r} in "
                f"{type(given).__name__}, got {given.prior!r} (FromCovariates(..., pooled=True) "
                "combines both)"
            )
    plain = {n: v.prior if isinstance(v, ByTrajectory) else v for n, v in parameters.items()}
    return plain, differing


@dataclass(eq=False)
class Context:
    """By what an energy tells trajectories apart: columns behind the states it is asked at.

    These are a number, 0 for a typical trajectory, 1 to N for those of the data, N + 1 for a new
    one and N + 2 to N + 1 + M for those that joined later, and the standardised covariates; a
    typical trajectory's columns are all zero.

    Attributes:
        labels: N names of the trajectories.
        names: of the C covariates that are used.
        mean: (C,) of the covariates.
        stddev: (C,).
        covariates: (N, C) standardised.
        joined: M names of trajectories that a posterior was conditioned on.
        joined_covariates: (M, C) standardised; None where there are none of them.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    mean: Float[Tensor, " covariates"]
    stddev: Float[Tensor, " covariates"]
    covariates: Float[Tensor, "paths covariates"]
    joined: tuple[str, ...] = ()
    joined_covariates: Float[Tensor, "more covariates"] | None = None

    @classmethod
    def of(cls, data: Trajectories, pooled: bool, by_covariates: bool) -> Context:
        """The context of some data.

        Args:
            data: the trajectories.
            pooled: whether trajectories deviate from one another for no known reason.
            by_covariates: whether covariates are used.

        Raises:
            ValueError: a single trajectory, or too many; covariates that are missing or constant.
        """
        count = len(data)
        if pooled and count < 2:
            raise ValueError(
                "data: expected two trajectories or more for a pooled parameter, got one: nothing "
                "tells how much trajectories differ; give the parameter its prior alone"
            )
        if pooled and count > MOST_TRAJECTORIES:
            raise ValueError(
                f"data: expected at most {MOST_TRAJECTORIES} trajectories for a pooled parameter, "
                f"got {count}"
            )
        covariates = data.states[0].new_zeros(count, 0)
        if by_covariates:
            if data.covariates is None:
                raise ValueError(
                    "data: a parameter is predicted from covariates, but the data have none; give "
                    "Trajectories(..., covariates=...) or from_csv(..., covariates=[...])"
                )
            covariates = data.covariates
        mean = covariates.mean(0)
        stddev = (covariates - mean).square().mean(0).sqrt()
        for k, name in enumerate(data.covariate_names if by_covariates else ()):
            if not float(stddev[k]) > LEAST_CHANGE * float(covariates[:, k].abs().max()):
                raise ValueError(
                    f"data: covariate {name} is the same in all trajectories, so that nothing can "
                    "be learned of what it does; leave it out"
                )
        names = data.covariate_names if by_covariates else ()
        return cls(data.labels, names, mean, stddev, (covariates - mean) / stddev)

    @property
    def width(self) -> int:
        """Number of columns, 1 + C."""
        return 1 + len(self.names)

    @property
    def count(self) -> int:
        """Number of trajectories N."""
        return len(self.labels)

    def to(self, like: Tensor) -> Context:
        """The same on another tensor's device and in its type."""
        moved = (self.mean.to(like), self.stddev.to(like), self.covariates.to(like))
        more = None if self.joined_covariates is None else self.joined_covariates.to(like)
        return Context(self.labels, self.names, *moved, self.joined, more)

    def joined_by(self, labels: tuple[str, ...], covariates: Any = None) -> Context:
        """With these trajectories in place of those that joined before.

        Args:
            labels: M names.
            covariates: (M, C) where some are used.

        Raises:
            ValueError: as ``standardised``; too many trajectories.
        """
        if len(labels) > MOST_TRAJECTORIES:
            raise ValueError(
                f"data: expected at most {MOST_TRAJECTORIES} trajectories where a parameter "
                f"differs by trajectory, got {len(labels)}"
            )
        x = self.standardised(covariates).expand(len(labels), -1)
        return replace(self, joined=labels, joined_covariates=x)

    def shown(self) -> tuple[tuple[str, ...], Float[Tensor, "paths width"]]:
        """Names and columns of the trajectories that joined, of the data's own where none did."""
        if self.joined_covariates is None:
            return self.labels, self.known()
        number = torch.arange(len(self.joined)).to(self.mean) + (self.count + 2)
        return self.joined, torch.cat([number.unsqueeze(1), self.joined_covariates], 1)

    def known(self) -> Float[Tensor, "paths width"]:
        """Columns of the data's own trajectories."""
        number = torch.arange(1, self.count + 1).to(self.covariates)
        return torch.cat([number.unsqueeze(1), self.covariates], 1)

    def standardised(self, covariates: Any) -> Float[Tensor, "paths covariates"]:
        """Standardised covariates (N', C) from (N', C), or (C,) for one trajectory.

        Raises:
            ValueError: covariates that are missing, not used, of another width or not finite.
        """
        if not self.names:
            if covariates is not None:
                raise ValueError("covariates: expected None, since no parameter depends on any")
            return self.mean.new_zeros(1, 0)
        listed = ", ".join(self.names)
        if covariates is None:
            raise ValueError(
                f"covariates: a new trajectory needs its {listed}, as a parameter is predicted "
                "from it"
            )
        values = as_tensor(covariates, "covariates").to(self.mean)
        values = values.reshape(1, -1) if values.dim() < 2 else values
        if values.dim() != 2 or values.shape[1] != len(self.names):
            raise ValueError(
                f"covariates: expected {len(self.names)} a trajectory ({listed}), got shape "
                f"{tuple(values.shape)}"
            )
        if not bool(values.isfinite().all()):
            raise ValueError("covariates: expected finite numbers, got NaN or infinity")
        return (values - self.mean) / self.stddev

    def new(self, covariates: Any = None) -> Float[Tensor, "paths width"]:
        """Columns of new trajectories, one for each row of covariates; one where none are used.

        Raises:
            ValueError: as ``standardised``.
        """
        x = self.standardised(covariates)
        return torch.cat([x.new_full((len(x), 1), self.count + 1.0), x], 1)

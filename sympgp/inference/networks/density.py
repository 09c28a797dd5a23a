"""Log densities that network engines raise: of pairs, and of trajectories through shooting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.energies import edge_penalty
from sympgp.fields import HamiltonianField, as_points
from sympgp.inference.pairs import Pairs
from sympgp.inference.rate_noise import log_density_of_rates
from sympgp.noise import ScaledNoise, log_density
from sympgp.shooting.density import JointDensity, Paths
from sympgp.shooting.priors import prior_terms


class Density(ABC):
    """The joint density of data and unknowns, as named terms for S draws at once.

    The terms are those of :class:`~sympgp.shooting.density.JointDensity`: "likelihood" (and
    "continuity") of the data, "weights", "dissipation", "noise" (and "initial_states") of the
    priors, and "sparsity" where edges cost something. With ``chosen`` items (pairs or windows)
    those of the data count for all.

    Attributes:
        field: the field at fixed hyperparameters.
        noise: the law of the noise.
        penalised: whether edges cost what their energy says.
    """

    field: HamiltonianField
    noise: ScaledNoise
    penalised: bool

    @property
    @abstractmethod
    def counts(self) -> Float[Tensor, " dim"]:
        """Observations of each channel."""

    @property
    @abstractmethod
    def num_items(self) -> int:
        """Pairs or windows, of which some may be chosen."""

    @abstractmethod
    def terms(
        self,
        theta: Float[Tensor, "draws params"],
        noise_std: Float[Tensor, "draws dim"],
        start: Float[Tensor, "draws windows dim"] | None,
        chosen: Int[Tensor, " chosen"] | None = None,
    ) -> dict[str, Float[Tensor, " draws"]]:
        """Log densities by name; their sum is the joint one."""


@dataclass(frozen=True)
class PairDensity(Density):
    """``dz/ds ~ N(f(z; theta), sigma^2)`` at states that are taken as exact, with all priors.

    Where states have noise, they are at places and rates have a covariance beside ``sigma^2``, see
    :mod:`sympgp.inference.state_noise`.

    Attributes:
        pairs: scaled states and rates.
        field: the field at fixed hyperparameters.
        noise: law of the rates' noise.
        inputs: (N, m) at the states; None without inputs.
        penalised: whether edges cost what their energy says.
    """

    pairs: Pairs
    field: HamiltonianField
    noise: ScaledNoise
    inputs: Float[Tensor, "points inputs"] | None = None
    penalised: bool = False

    @property
    def counts(self) -> Float[Tensor, " dim"]:
        """Measured rates of each channel."""
        return self.pairs.counts

    @property
    def num_items(self) -> int:
        """Number of pairs."""
        return len(self.pairs.z)

    def terms(
        self,
        theta: Float[Tensor, "draws params"],
        noise_std: Float[Tensor, "draws dim"],
        start: Float[Tensor, "draws windows dim"] | None = None,
        chosen: Int[Tensor, " chosen"] | None = None,
    ) -> dict[str, Float[Tensor, " draws"]]:
        """See :class:`Density`; there are no states to be found."""
        z, rates, observed = self.pairs.z, self.pairs.rates, self.pairs.observed
        z, share = as_points(z, self.inputs), 1.0
        own = self.pairs.covariance
        if chosen is not None:
            z, rates, observed = z[chosen], rates[chosen], observed[chosen]
            share = len(chosen) / self.num_items
            own = None if own is None else own[chosen]
        rest = self.field.bind(theta)(0.0, z.expand(len(theta), *z.shape)) - rates
        if own is None:
            density = log_density(rest, noise_std.unsqueeze(1), self.noise.dof)
        else:
            density = log_density_of_rates(rest, noise_std, own, observed)
        known = {"likelihood": (density * observed).sum((1, 2)) / share}
        known |= prior_terms(self.field, self.noise, theta, noise_std)
        return known | sparsity(self, theta)


@dataclass(frozen=True)
class WindowDensity(Density):
    """A :class:`~sympgp.shooting.density.JointDensity` as network engines see it.

    Attributes:
        joint: the density.
        penalised: whether edges cost what their energy says.
    """

    joint: JointDensity
    penalised: bool = False

    @property
    def field(self) -> HamiltonianField:  # type: ignore[override]
        """The field."""
        return self.joint.field

    @property
    def noise(self) -> ScaledNoise:  # type: ignore[override]
        """The law of the noise."""
        return self.joint.noise

    @property
    def counts(self) -> Float[Tensor, " dim"]:
        """Observations of each channel, so many as are independent."""
        counts, inflation = self.joint.nodes.counts, self.joint.inflation
        return counts if inflation is None else counts / inflation

    @property
    def num_items(self) -> int:
        """Number of windows."""
        return self.joint.windows.num_windows

    def terms(
        self,
        theta: Float[Tensor, "draws params"],
        noise_std: Float[Tensor, "draws dim"],
        start: Float[Tensor, "draws windows dim"] | None,
        chosen: Int[Tensor, " chosen"] | None = None,
        known: Paths | None = None,
    ) -> dict[str, Float[Tensor, " draws"]]:
        """See :class:`Density`; the paths need not be followed again where they are known.

        Raises:
            ValueError: there are no states.
        """
        if start is None:
            raise ValueError("start: expected window states, got None")
        return self.joint.terms(theta, noise_std, start, chosen, known) | sparsity(self, theta)


def sparsity(
    density: Density, theta: Float[Tensor, "draws params"]
) -> dict[str, Float[Tensor, " draws"]]:
    """What edges of a Kolmogorov-Arnold energy cost, by its name, where they cost something."""
    if not density.penalised:
        return {}
    basis = density.field.basis
    found = edge_penalty(basis, theta[:, : basis.num_weights])
    return {} if found is None else {"sparsity": -found}


def spread_states(density: Density, most: int) -> Float[Tensor, "places width"]:
    """At most so many states that are spread over the data, with inputs at rest."""
    if isinstance(density, PairDensity):
        z = density.pairs.z
    elif isinstance(density, WindowDensity):
        nodes = density.joint.nodes
        z = nodes.values[nodes.mask.any(1)]
    else:
        raise TypeError(f"density: expected pairs or windows, got {type(density).__name__}")
    index = torch.linspace(0, len(z) - 1, min(len(z), most)).round().long()
    z = z[index.to(z.device)]
    return torch.cat([z, z.new_zeros(len(z), density.field.num_inputs)], 1)

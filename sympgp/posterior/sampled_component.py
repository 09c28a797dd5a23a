"""A component of a posterior that is a bank of draws, each of them one function."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.fields import HamiltonianField
from sympgp.posterior.component import Component, JointDraws, normal
from sympgp.posterior.states import WindowStates

PAIRS_AT_ONCE = 20_000
"""Draws times states that are evaluated at a time, where every draw is a function of its own."""


@dataclass(frozen=True, eq=False)
class SampledComponent(Component):
    """A bank of draws, as Monte Carlo methods and ensembles give them.

    Where the field is linear in its parameters, ``theta`` is their mean, and moments of the field
    are linear about it. Elsewhere, as of neural networks, the mean of the weights is no typical
    function: moments are those of the draws' functions, and ``theta`` is one of the rows, see
    :func:`typical_row`.

    Attributes:
        draws: theta (B, P + K), noise (B, D) and window states (B, W, D), each row one draw. The
            states are None where ``states`` describes them given theta.
        chain: (B,) number of the Markov chain that each row is of, in the chain's own order; None
            where rows are independent.
        statistics: of the sampler, by name, (B,) each.
    """

    draws: JointDraws
    chain: Int[Tensor, " draws"] | None = None
    statistics: dict[str, Tensor] = field(default_factory=dict)

    def sample(self, num: int, generator: torch.Generator) -> JointDraws:
        """Rows of the bank: each once, in random order, before any comes again."""
        size = len(self.draws.theta)
        rounds = [torch.randperm(size, generator=generator) for _ in range(-(-num // size))]
        return self.rows(torch.cat(rounds)[:num], generator)

    def rows(self, index: Int[Tensor, " chosen"], generator: torch.Generator) -> JointDraws:
        """These rows of the bank; the generator is for states that have to be drawn given them."""
        index = index.to(self.theta.device)
        theta, start = self.draws.theta[index], self.draws.start
        if start is not None:
            start = start[index]
        elif self.states is not None:
            white = normal((len(index), *self.states.mean.shape), theta, generator)
            start = self.states.sample(theta - self.theta, white)
        return JointDraws(theta, self.draws.noise_std[index], start)

    def spread_out(self, num: int) -> Int[Tensor, " chosen"]:
        """At most ``num`` rows, evenly spaced and in order."""
        size = len(self.draws.theta)
        return torch.linspace(0, size - 1, min(num, size)).round().long()

    def with_states(self, states: WindowStates) -> SampledComponent:
        """The same parameters with other states, to be drawn given each theta."""
        return replace(self, states=states, draws=self.draws._replace(start=None))

    def with_drawn_states(
        self, states: WindowStates, start: Float[Tensor, "draws windows dim"]
    ) -> SampledComponent:
        """The same parameters with other states that were drawn given each row."""
        return replace(self, states=states, draws=self.draws._replace(start=start))

    def typical(self) -> Float[Tensor, " params"]:
        """The mean where the field is linear, one of the rows elsewhere."""
        return self.moments()[0] if self.field.linear else self.theta

    def moments(self) -> tuple[Float[Tensor, " params"], Float[Tensor, "params root"]]:
        """Mean of the draws, and their deviations as a root of the covariance."""
        theta = self.draws.theta
        mean = theta.mean(0)
        return mean, ((theta - mean) / max(1, len(theta) - 1) ** 0.5).mT

    def field_and_root(
        self, z: Float[Tensor, "batch width"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim root"]]:
        """Mean and root of the joint covariance, of the draws where the field is not linear."""
        if self.field.linear:
            return super().field_and_root(z)
        rates = torch.cat([self._rates(part) for part in self._parts(z)], 1)
        mean = rates.mean(0)
        return mean, ((rates - mean) / max(1, len(rates) - 1) ** 0.5).movedim(0, -1)

    def field_moments(
        self, z: Float[Tensor, "batch width"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Mean and variance of the scaled field, over the draws where it is not linear."""
        if self.field.linear:
            return super().field_moments(z)
        return _moments([self._rates(part) for part in self._parts(z)])

    def energy_moments(
        self, z: Float[Tensor, "batch dim"], reference: Float[Tensor, " dim"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Mean and variance of ``H(z) - H(reference)``, over the draws where H is not linear."""
        basis = self.field.basis
        if basis.linear:
            return super().energy_moments(z, reference)
        w, _, _ = self.field.parts(self.draws.theta)
        anchor = basis.value(self._copies(reference.unsqueeze(0)), w)
        return _moments([basis.value(self._copies(p), w) - anchor for p in self._parts(z)])

    def noise_moments(self) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """Mean and variance of the noise standard deviations."""
        noise = self.draws.noise_std
        return noise.mean(0), _variance(noise)

    def damping_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the dissipation parameters, (K,) each."""
        rho = self.draws.theta[:, self.field.num_weights :]
        return rho.mean(0), _variance(rho)

    def first_states(self) -> tuple[Float[Tensor, "paths dim"], Float[Tensor, "paths dim"]]:
        """Mean and variance of each training trajectory's first state."""
        first = self.window_states.chain[:, 0]
        start = self.draws.start
        if start is None:
            start = self.sample(len(self.draws.theta), torch.Generator().manual_seed(0)).start
        if start is None:
            raise RuntimeError("the states of the draws are unknown")
        return start[:, first].mean(0), _variance(start[:, first])

    def _copies(self, z: Tensor) -> Tensor:
        return z.expand(len(self.draws.theta), *z.shape)

    def _parts(self, z: Tensor) -> tuple[Tensor, ...]:
        """Points in blocks that all draws can be evaluated at."""
        return z.split(max(1, PAIRS_AT_ONCE // len(self.draws.theta)))

    def _rates(self, z: Tensor) -> Tensor:
        return self.field.bind(self.draws.theta)(0.0, self._copies(z))


def typical_row(
    family: HamiltonianField,
    theta: Float[Tensor, "draws params"],
    z: Float[Tensor, "states width"],
) -> int:
    """The draw whose field over these points is closest to the mean of all draws' fields."""
    size = max(1, PAIRS_AT_ONCE // len(theta))
    bound = family.bind(theta)
    apart = torch.zeros_like(theta[:, 0])
    for part in z.split(size):
        rates = bound(0.0, part.expand(len(theta), *part.shape))
        apart = apart + (rates - rates.mean(0)).square().sum((1, 2))
    return int(apart.argmin())


def _moments(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Means and variances over draws, of blocks of points."""
    means, variances = zip(*((part.mean(0), _variance(part)) for part in parts), strict=True)
    return torch.cat(means), torch.cat(variances)


def _variance(draws: Tensor) -> Tensor:
    """Variance over the first axis; zero of a single draw."""
    if len(draws) < 2 or not draws.numel():
        return torch.zeros_like(draws[0])
    return draws.var(0)

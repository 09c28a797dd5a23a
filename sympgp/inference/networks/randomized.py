"""Randomised maximum a posteriori: optima for perturbed data and priors, as draws of a posterior.

With ``theta_0`` drawn from the prior and ``e`` standard normal for every standardised residual
``r`` (of observations, jumps between windows, and first states), each network raises

    -1/2 |r(theta, s) + e|^2 - 1/2 |(theta - theta_0) / prior deviation|^2

at the noise level that it was found with. Where ``r`` is linear, its optimum is an exact draw of
the posterior; elsewhere it is one about a mode, with what the data do not tell left as the prior
has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.fields import HamiltonianField, as_points
from sympgp.inference.networks.density import Density, PairDensity, WindowDensity, sparsity
from sympgp.inference.networks.linear_gaussian import LinearGaussian
from sympgp.inference.networks.linearisation import Point, linear_about
from sympgp.inference.rate_noise import log_density_of_rates
from sympgp.noise import ScaledNoise, log_density
from sympgp.posterior.component import normal
from sympgp.shooting.density import Paths
from sympgp.shooting.priors import normal_log_density, prior_terms
from sympgp.shooting.sensitivities import INITIAL_VARIANCE


@dataclass(frozen=True)
class RandomizedDensity(Density):
    """The density of perturbed data under shifted priors, of S rows at noise levels of their own.

    Attributes:
        known: of the data as they are.
        noise_std: (S, D) that stay.
        centre: (S, P + K) of the priors.
        data: (S, N, D) standard normal, of the rates or the nodes.
        jumps, first: (S, J, D), (S, T, D) of the jumps and of the trajectories' first states;
            empty for pairs.
    """

    known: Density
    noise_std: Float[Tensor, "rows dim"]
    centre: Float[Tensor, "rows params"]
    data: Float[Tensor, "rows points dim"]
    jumps: Float[Tensor, "rows jumps dim"]
    first: Float[Tensor, "rows trajectories dim"]

    @classmethod
    def of(
        cls, known: Density, noise_std: Float[Tensor, "rows dim"], seed: int
    ) -> RandomizedDensity:
        """The k-th row from the seed k further on, whatever their number."""
        stddev = known.field.prior_precision().double().rsqrt()
        dim, parts = noise_std.shape[1], []
        sizes = [(known.num_items, dim), (0, dim), (0, dim)]
        if isinstance(known, WindowDensity):
            joint = known.joint
            ahead = len(joint.following()[0])
            sizes = [(len(joint.nodes.values), dim), (ahead, dim), (len(joint.windows.chain), dim)]
        for k in range(len(noise_std)):
            generator = torch.Generator().manual_seed(seed + k)
            white = normal((len(stddev),), stddev, generator)
            parts.append([white * stddev, *(normal(size, stddev, generator) for size in sizes)])
        return cls(known, noise_std, *(torch.stack(column) for column in zip(*parts, strict=True)))

    @property
    def field(self) -> HamiltonianField:  # type: ignore[override]
        """The field."""
        return self.known.field

    @property
    def noise(self) -> ScaledNoise:  # type: ignore[override]
        """The law of the noise."""
        return self.known.noise

    @property
    def penalised(self) -> bool:  # type: ignore[override]
        """Whether edges cost what their energy says."""
        return self.known.penalised

    @property
    def counts(self) -> Float[Tensor, " dim"]:
        """Observations of each channel."""
        return self.known.counts

    @property
    def num_items(self) -> int:
        """Number of pairs or windows."""
        return self.known.num_items

    def row(self, k: int) -> RandomizedDensity:
        """One of them."""
        parts = (self.noise_std, self.centre, self.data, self.jumps, self.first)
        return RandomizedDensity(self.known, *(part[k : k + 1] for part in parts))

    def terms(
        self,
        theta: Float[Tensor, "draws params"],
        noise_std: Float[Tensor, "draws dim"],
        start: Float[Tensor, "draws windows dim"] | None = None,
        chosen: Int[Tensor, " chosen"] | None = None,
        known: Paths | None = None,
    ) -> dict[str, Float[Tensor, " draws"]]:
        """See :class:`Density`; the noise is that of the rows, whatever is given.

        Paths of trajectories need not be followed again where they are known.

        Raises:
            ValueError: there are no states; chosen windows.
        """
        if start is None:
            found = self._of_pairs(theta, chosen)
        else:
            found = self._of_windows(theta, start, known)
        if start is not None and chosen is not None:
            raise ValueError("chosen: expected all windows of perturbed data, got some")
        prior = prior_terms(self.field, self.noise, theta - self.centre, self.noise_std)
        _, rho = self.field.split(theta - self.centre)
        prior["dissipation"] = normal_log_density(rho, self.field.dissipation.prior_stddev**2)
        return found | prior | sparsity(self, theta)

    def _of_pairs(self, theta: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        known = self.known
        if not isinstance(known, PairDensity):
            raise ValueError("start: expected window states, got None")
        z, rates, observed = known.pairs.z, known.pairs.rates, known.pairs.observed
        z, data, share = as_points(z, known.inputs), self.data, 1.0
        own = known.pairs.covariance
        if chosen is not None:
            z, rates, observed, data = z[chosen], rates[chosen], observed[chosen], data[:, chosen]
            share = len(chosen) / self.num_items
            own = None if own is None else own[chosen]
        rest = self.field.bind(theta)(0.0, z.expand(len(theta), *z.shape)) - rates
        if own is None:
            std = self.noise_std.unsqueeze(1)
            density = log_density(rest - std * data, std, self.noise.dof)
        else:
            density = log_density_of_rates(rest, self.noise_std, own, observed, data)
        return {"likelihood": (density * observed).sum((1, 2)) / share}

    def _of_windows(self, theta: Tensor, start: Tensor, known: Paths | None) -> dict[str, Tensor]:
        if not isinstance(self.known, WindowDensity):
            raise TypeError(f"known: expected windows, got {type(self.known).__name__}")
        joint = self.known.joint
        path, end, alive = joint.paths(theta, start) if known is None else known
        index, std = joint.windows.nodes, self.noise_std[:, None, None]
        rest = (path - joint.nodes.values[index]) / std - self._scaled()[:, index]
        density = log_density(rest, torch.ones_like(rest), self.noise.dof)
        if joint.inflation is not None:
            density = density / joint.inflation
        value = (density * joint.nodes.mask[index]).sum((1, 2, 3))
        found = {"likelihood": torch.where(alive, value, -torch.inf)}
        first = start[:, self._begins()] * INITIAL_VARIANCE**-0.5 - self.first
        found["initial_states"] = _standard(first)
        if not joint.windows.joined:
            here, ahead = joint.following()
            jump = (end[:, here] - start[:, ahead]) / joint.defect_std - self.jumps
            found["continuity"] = _standard(jump)
        return found

    def _scaled(self) -> Tensor:
        """Perturbations of the observations over their noise: as uncertain as their weights say."""
        joint, noise = self.known.joint, self.noise  # type: ignore[attr-defined]
        scale = self.data / noise.information**0.5
        return scale if joint.inflation is None else scale * joint.inflation.sqrt()

    def _begins(self) -> Tensor:
        """The first windows of the trajectories, in ascending order."""
        return self.known.joint.windows.chain[:, 0].sort().values  # type: ignore[attr-defined]

    def linear(self, at: Point) -> LinearGaussian:
        """The linear model about a point of the only row, with the perturbed data for a target."""
        found = linear_about(self.known, at)
        if isinstance(self.known, PairDensity):
            moved = self.data[0][self.known.pairs.observed]
        else:
            joint = self.known.joint  # type: ignore[attr-defined]
            index = joint.windows.nodes
            moved = self.data[0][index][joint.nodes.mask[index]]
            parts = (moved, self.jumps[0].flatten(), self.first[0].flatten())
            moved = torch.cat(parts)
        target = found.target.clone()
        target[: len(moved)] += moved  # what edges cost is as it was
        return replace(found, target=target)


def _standard(values: Float[Tensor, "rows items dim"]) -> Float[Tensor, " rows"]:
    """Log density of standard normal numbers."""
    flat = values.flatten(1)
    return normal_log_density(flat, torch.ones_like(flat[0]))

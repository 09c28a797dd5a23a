"""Sums of energies: known physics and a learned remainder, and any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Energy, Hyperparameters, LogNormal
from sympgp.energies.contextual import Context
from sympgp.energies.orthogonal import orthogonal, projector
from sympgp.energies.physics import PhysicsEnergy
from sympgp.energies.sum_basis import SumBasis, formula_of
from sympgp.phase_space import CanonicalScaling

MOST_STATES = 300
REMAINDER = 3.0
"""Log standard deviation of the scales of what is learned beside known physics."""
# Seeds of neighbouring parts are this far apart, beyond what redrawing one part runs through.
SEED_STRIDE = 1_000_003


class SumEnergy(Energy):
    """``H = H_1 + H_2 + ...`` with independent priors; also written ``energy_1 + energy_2``.

    Beside known physics with unknown parameters, the features of learned parts are projected off
    what a change of these parameters can do to the field (see :class:`OrthogonalBasis`): the
    physics explains first, and a learned part what no parameters can explain. Without this a
    flexible remainder takes over part of the physics, and the parameters are as uncertain as
    their priors.

    Fields of other kinds are added as fields: ``J grad H + f`` of an energy and a
    :class:`~sympgp.energies.FreeEnergy`, which is then a model without an energy.

    Hyperparameters of the parts are named ``"fourier.lengthscale"``: by the class, numbered where
    several parts are of one (``"fourier2.lengthscale"``).

    Args:
        parts: energies of one number of degrees of freedom; sums among them are flattened.
        orthogonal: project learned parts off the physics. By default wherever there are both
            physics with unknown parameters and learned parts that are linear in their weights.

    Raises:
        ValueError: fewer than two parts; parts of different degrees of freedom; ``orthogonal``
            asked for without physics or without something to project.

    Example:
        >>> from torch.distributions import LogNormal
        >>> from sympgp.energies import FourierEnergy
        >>> physics = PhysicsEnergy("p**2/2 - k*cos(q)", {"k": LogNormal(1.0, 0.5)})
        >>> energy = SumEnergy([physics, FourierEnergy(num_dof=1, num_features=8)])
        >>> sorted(energy.hyperpriors(torch.ones(2, dtype=torch.float64)))[0]
        'fourier.lengthscale'
    """

    def __init__(self, parts: Sequence[Energy], *, orthogonal: bool | None = None) -> None:
        flat: list[Energy] = []
        for part in parts:
            if not isinstance(part, Energy):
                raise ValueError(f"parts: expected energies, got {part!r}")
            flat += part.parts if isinstance(part, SumEnergy) else [part]
        if len(flat) < 2:
            raise ValueError(f"parts: expected two energies or more, got {len(flat)}")
        counts = sorted({part.num_dof for part in flat})
        if len(counts) > 1:
            raise ValueError(f"parts: expected one number of degrees of freedom, got {counts}")
        self.parts: tuple[Energy, ...] = tuple(flat)
        self.num_dof, self.orthogonal = counts[0], orthogonal
        self.names = unique_names([type(part).__name__ for part in flat])
        # Physics whose parameters leave something to find.
        self.physics = [
            i for i, part in enumerate(flat) if isinstance(part, PhysicsEnergy) and part.names
        ]
        if orthogonal and not 0 < len(self.physics) < len(flat):
            raise ValueError(
                "orthogonal: expected physics with unknown parameters and a learned part, got "
                + ", ".join(self.names)
            )
        self.pooled = any(part.pooled for part in flat)
        self.by_covariates = any(part.by_covariates for part in flat)
        self.dissipates = any(part.dissipates for part in flat)
        self.sparse = any(part.sparse for part in flat)
        self._spread: Tensor | None = None
        self._states: Tensor | None = None
        self._nominal: Tensor | None = None

    def in_context(self, context: Context) -> SumEnergy:
        """Every part for these trajectories."""
        return self._with([part.in_context(context) for part in self.parts])

    def in_units(self, scaling: CanonicalScaling) -> SumEnergy:
        """Every part in these units; reference states follow the data's spread."""
        scaled = self._like([part.in_units(scaling) for part in self.parts])
        scaled._spread = scaling.spread
        return scaled

    def prepare(
        self,
        states: Float[Tensor, "states dim"],
        nominal: Float[Tensor, " params"] | None = None,
    ) -> SumEnergy:
        """The same energy with learned parts orthogonal to the physics over the data's states.

        And every part prepared for them.

        Without this, normal states with the data's spread take their place.

        Args:
            states: scaled states; at most 300 of them are used, evenly spaced.
            nominal: weights of the physics' parameters at which the tangents are taken, of all
                physics parts in order; zero, the medians of the priors, where not given.
        """
        states = states[states.isfinite().all(-1)].detach()
        index = torch.linspace(0, len(states) - 1, min(len(states), MOST_STATES)).round().long()
        prepared = self._with([part.prepare(states) for part in self.parts])
        prepared._states = states[index.to(states.device)]
        prepared._nominal = None if nominal is None else nominal.detach()
        return prepared

    def _like(self, parts: Sequence[Energy]) -> SumEnergy:
        return SumEnergy(parts, orthogonal=self.orthogonal)

    def _with(self, parts: Sequence[Energy]) -> SumEnergy:
        """Other parts beside the same reference states."""
        other = self._like(parts)
        other._spread, other._states, other._nominal = self._spread, self._states, self._nominal
        return other

    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Those of all parts, under the part's name.

        Beside a formula, scales of learned parts may be anything from nothing at all on: where
        the formula explains the data, the evidence takes the remainder away.
        """
        beside = any(isinstance(part, PhysicsEnergy) for part in self.parts)
        found = {}
        for name, part in zip(self.names, self.parts, strict=True):
            for key, prior in part.hyperpriors(spread).items():
                if beside and key.endswith("_scale"):
                    prior = replace(prior, log_stddev=max(prior.log_stddev, REMAINDER))
                found[f"{name}.{key}"] = prior
        return found

    def basis(self, hyperparameters: Hyperparameters) -> SumBasis:
        """The parts' bases side by side, learned ones orthogonal to the physics where wanted."""
        bases = []
        for name, part in zip(self.names, self.parts, strict=True):
            start = f"{name}."
            own = {k[len(start) :]: v for k, v in hyperparameters.items() if k.startswith(start)}
            bases.append(part.basis(own))
        if self.physics and self.orthogonal is not False:
            physics, nominal, states, onto = self._tangents
            for i, basis in enumerate(bases):
                if formula_of(basis) is None and (basis.linear or self.orthogonal):
                    bases[i] = orthogonal(basis, physics, nominal, states, onto)
        return SumBasis(tuple(bases), self.names)

    @cached_property
    def _tangents(self) -> tuple[SumBasis, Tensor, Tensor, Tensor]:
        """Physics, its nominal weights, reference states and the projector; none are learned.

        Of parameters that differ by trajectory the formula of a typical one, whose tangents all
        trajectories' are made of.
        """
        own = [self.parts[i] for i in self.physics]
        found = [part.formula_basis() for part in own if isinstance(part, PhysicsEnergy)]
        names = tuple(self.names[i] for i in self.physics)
        physics = SumBasis(tuple(found), names)
        like = physics.prior_variance
        nominal = torch.zeros_like(like) if self._nominal is None else self._nominal.to(like)
        states = self._states
        if states is None:
            spread = torch.ones(2 * self.num_dof).to(like) if self._spread is None else self._spread
            states = normal_states(MOST_STATES, 2 * self.num_dof).to(like) * spread
        return physics, nominal, states, projector(physics, nominal, states)

    def redraw(self, seed: int) -> SumEnergy:
        """Every part with other draws."""
        return self._with([p.redraw(seed + SEED_STRIDE * i) for i, p in enumerate(self.parts)])

    @property
    def angles(self) -> dict[int, float]:
        """Those of any part."""
        return {k: period for part in self.parts for k, period in part.angles.items()}

    @property
    def has_layers(self) -> bool:
        """Whether any part has."""
        return any(part.has_layers for part in self.parts)

    def check(self, x: Float[Tensor, "batch dim"]) -> None:
        """Try the formulas among the parts on states in user units.

        Raises:
            ValueError: as :class:`PhysicsEnergy` says.
        """
        for part in self.parts:
            if isinstance(part, PhysicsEnergy):
                part.check(x)

    def momenta(
        self, q: Float[Tensor, "*batch dof"], velocity: Float[Tensor, "*batch dof"]
    ) -> Float[Tensor, "*batch dof"] | None:
        """Those of the first part that fixes them."""
        for part in self.parts:
            found = part.momenta(q, velocity)
            if found is not None:
                return found
        return None


def unique_names(classes: Sequence[str]) -> tuple[str, ...]:
    """``FourierEnergy`` is "fourier"; numbered where there are several."""
    plain = [name.removesuffix("Energy").lower() or "part" for name in classes]
    counts, seen = Counter(plain), Counter[str]()
    names = []
    for name in plain:
        seen[name] += 1
        names.append(name if counts[name] == 1 else f"{name}{seen[name]}")
    return tuple(names)


def normal_states(num: int, dim: int) -> Float[Tensor, "states dim"]:
    """Quasi-random standard normal states."""
    uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0).draw(num).double()
    return torch.special.ndtri(uniform.clamp(1e-3, 1.0 - 1e-3))

"""Known formulas of the energy with unknown parameters, in scaled units."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Basis, GradientMap, Linearized
from sympgp.energies.calculus import Calculus, calculus, change_name
from sympgp.energies.derivatives import Program
from sympgp.energies.differentiated import first_matrix, given, gradient
from sympgp.energies.nonlinear import NonlinearBasis
from sympgp.energies.priors import Prior
from sympgp.phase_space import split

Formula = Callable[..., Tensor]


@dataclass(eq=False)
class PhysicsBasis(NonlinearBasis):
    """``H~(z; w) = H(center + scale z; theta(w)) / energy_scale`` with a known formula H.

    One weight ``w_k ~ N(0, 1)`` a parameter, ``theta_k = T_k(w_k)`` by its prior.

    Attributes:
        formula: H in user units, a string or a callable.
        names: of the unknown parameters.
        priors: their transforms T_k.
        known_names: of the constants.
        known_values: their values.
        center: (D,) user units.
        scale: (D,) user units per scaled unit.
        energy_scale: user energy per scaled energy.
        periods: coordinates that are angles, with their periods in user units.
    """

    formula: str | Formula
    names: tuple[str, ...]
    priors: tuple[Prior, ...]
    known_names: tuple[str, ...]
    known_values: tuple[float, ...]
    center: Float[Tensor, " dim"]
    scale: Float[Tensor, " dim"]
    energy_scale: Float[Tensor, ""]
    periods: tuple[tuple[int, float], ...] = ()

    reducible = False

    def __post_init__(self) -> None:
        self.num_weights = len(self.names)
        self.prior_variance = self.scale.new_ones(self.num_weights)

    @property
    def angles(self) -> dict[int, float]:
        """Coordinates that H is periodic in, and their periods in user units."""
        return dict(self.periods)

    def values(self, w: Float[Tensor, "*draws weights"]) -> dict[str, Tensor]:
        """The unknown parameters in user units, by name, each of shape (...)."""
        pairs = zip(self.names, self.priors, w.unbind(-1), strict=True)
        return {name: prior.value(weight) for name, prior, weight in pairs}

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H~(z; w)``."""
        return self.bound(w)(z)

    @abstractmethod
    def bound(self, w: Float[Tensor, "*draws weights"]) -> Callable[[Tensor], Tensor]:
        """``z -> H~(z; w)`` with the parameters computed once."""


@dataclass(eq=False)
class CallableBasis(PhysicsBasis):
    """A formula written as a function ``formula(q, p, **parameters)``, q and p (..., n).

    It sees one value of each parameter at a time, whatever the draws.
    """

    formula: Formula

    def bound(self, w: Float[Tensor, "*draws weights"]) -> Callable[[Tensor], Tensor]:
        """The formula, for several draws vectorised over them."""
        known = dict(zip(self.known_names, self.known_values, strict=True))
        single = w.dim() == 1 or len(w) == 1
        values = self.values(w.reshape(-1) if single else w)

        def energy(z: Tensor, *parameters: Tensor) -> Tensor:
            q, p = split(self.center + self.scale * z)
            own = dict(zip(self.names, parameters, strict=True))
            return self.formula(q, p, **own, **known) / self.energy_scale

        if single:
            return lambda z: energy(z, *values.values())
        return lambda z: torch.func.vmap(energy)(z, *values.values())

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``dH/dw``; of several draws (N, K) at one state (N, 1, D) each too."""
        w = given(w)
        if w.dim() == 1:
            return super().features(z, w)
        keep = torch.is_grad_enabled() and (z.requires_grad or w.requires_grad)
        return gradient(lambda leaf: self.value(z, leaf), w, keep).unsqueeze(1)

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d grad H / dw``; of several draws (N, K) at one state (N, 1, D) each too."""
        w = given(w)
        if w.dim() == 1:
            return super().feature_gradient(z, w)
        dim = z.shape[-1]
        seeds = torch.eye(dim, dtype=z.dtype, device=z.device).repeat(len(z), 1).unsqueeze(1)
        copies, rows = z.repeat_interleave(dim, 0), w.repeat_interleave(dim, 0)
        found = self._pull(copies, rows, seeds, by_weights=True)[1]
        return found.reshape(*z.shape, -1)


@dataclass(eq=False)
class ExpressionBasis(PhysicsBasis):
    """A formula written as a string, whose derivatives are formulas too."""

    formula: str

    def __post_init__(self) -> None:
        super().__post_init__()
        known = tuple(zip(self.known_names, self.known_values, strict=True))
        num_dof = len(self.scale) // 2
        self.calculus = calculus(self.formula, num_dof, tuple(self.names), known)
        self.separable = self.calculus.separable
        self.unit = self.scale / self.energy_scale

    def environment(self, w: Tensor) -> dict[str, Tensor]:
        """Values of the parameters, shaped to stand beside states."""
        own = self.values(w)
        return own if w.dim() == 1 else {name: v.unsqueeze(-1) for name, v in own.items()}

    def evaluated(self, program: Program, z: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """The results (..., R) of a program at scaled states."""
        x = torch.addcmul(self.center, self.scale, z)
        coordinates = zip(self.calculus.coordinates, x.unbind(-1), strict=True)
        return stacked(program({**parameters, **dict(coordinates)}), z)

    def slopes(self, w: Tensor) -> Tensor:
        """``d theta / dw``, shaped as the weights."""
        if not self.names:
            return w
        pairs = zip(self.priors, w.unbind(-1), strict=True)
        return torch.stack([prior.slope(weight) for prior, weight in pairs], -1)

    def bound(self, w: Float[Tensor, "*draws weights"]) -> Callable[[Tensor], Tensor]:
        """The formula as a list of operations."""
        parameters = self.environment(w)
        return lambda z: (
            self.evaluated(self.calculus.energy, z, parameters).squeeze(-1) / self.energy_scale
        )

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``dH/dw = dH/dtheta dtheta/dw``."""
        w = given(w)
        found = self.evaluated(self.calculus.by_parameters, z, self.environment(w))
        slopes = self.slopes(w) if w.dim() == 1 else self.slopes(w).unsqueeze(-2)
        return found * slopes / self.energy_scale

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d grad H / dw``."""
        w = given(w)
        found = self.evaluated(self.calculus.mixed, z, self.environment(w))
        slopes = self.slopes(w) if w.dim() == 1 else self.slopes(w)[..., None, None, :]
        return found.reshape(*z.shape, self.num_weights) * self.unit.unsqueeze(-1) * slopes

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d grad H(z_s) / dw``: from all gradients, as parameters are few."""
        return Basis.weighted_gradient(self, z, weights, w)

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> ExpressionGradient:
        """``grad H`` from the differentiated formula."""
        return ExpressionGradient(self, self.calculus, self.environment(w), None)

    def tangent_map(
        self, w: Float[Tensor, " weights"], change: Float[Tensor, "*draws weights"]
    ) -> ExpressionGradient:
        """From the formula ``sum_k c_k dH/dtheta_k``."""
        return ExpressionGradient(self, self.calculus.tangent, self._changes(w, change), None)

    def tangent_hessian(
        self,
        z: Float[Tensor, "*batch dim"],
        w: Float[Tensor, " weights"],
        change: Float[Tensor, "*draws weights"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """Its second derivatives."""
        return self._hessian(z, self.calculus.tangent, self._changes(w, change))

    def _changes(self, w: Tensor, change: Tensor) -> dict[str, Tensor]:
        """Parameters, and how much of each one's derivative is taken."""
        change = (self.slopes(w) * change).movedim(-1, 0)
        parts = change if change.dim() == 1 else change.unsqueeze(-1)
        taken = {change_name(n): c for n, c in zip(self.names, parts, strict=True)}
        return {**self.environment(w), **taken}

    def hessian(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch dim dim"]:
        """Second derivatives; of several draws too."""
        return self._hessian(z, self.calculus, self.environment(w))

    def _hessian(self, z: Tensor, formula: Calculus, parameters: dict[str, Tensor]) -> Tensor:
        found = self.evaluated(formula.hessian, z, parameters)
        return found.reshape(*z.shape, -1) * (self.unit.unsqueeze(-1) * self.scale)

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """Slope and Hessian with the parameters computed once."""
        parameters = self.environment(w)

        def pull_back(pull: Tensor) -> Tensor:
            return torch.einsum("sbd,sbdk->sk", pull, self.feature_gradient(z, w))

        slope = ExpressionGradient(self, self.calculus, parameters, None)(z)
        return Linearized(slope, self._hessian(z, self.calculus, parameters), pull_back)


class ExpressionGradient(GradientMap):
    """``z -> K grad H(z)`` of an :class:`ExpressionBasis`, draws on a leading axis."""

    def __init__(
        self,
        basis: ExpressionBasis,
        formula: Calculus,
        parameters: dict[str, Tensor],
        matrix: Float[Tensor, "*draws dim dim"] | None,
    ) -> None:
        self.basis, self.formula, self.parameters = basis, formula, parameters
        self.matrix = matrix
        # Units are folded into the matrix, where there is one.
        self._right = None if matrix is None else (matrix * basis.unit).mT

    def __call__(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Evaluate at (..., D) states, or (S, B, D) for S draws."""
        slope = self.basis.evaluated(self.formula.slope, z, self.parameters)
        return slope * self.basis.unit if self._right is None else slope @ self._right

    def transformed(self, matrix: Float[Tensor, "*draws dim dim"]) -> ExpressionGradient:
        """Multiply from the left."""
        whole = matrix if self.matrix is None else matrix @ self.matrix
        return ExpressionGradient(self.basis, self.formula, self.parameters, whole)

    def first(self) -> ExpressionGradient:
        """The first of several draws alone, still with a draw axis."""
        own = {name: v[:1] if v.dim() else v for name, v in self.parameters.items()}
        return ExpressionGradient(self.basis, self.formula, own, first_matrix(self.matrix))


def stacked(results: Sequence[Tensor | float], z: Float[Tensor, "*batch dim"]) -> Tensor:
    """Results that may not depend on the states, (..., R) beside the states (..., D)."""
    if not results:
        return z.new_zeros(*z.shape[:-1], 0)
    shape = z.shape[:-1]
    wide = (r if isinstance(r, Tensor) else z.new_tensor(r) for r in results)
    return torch.stack([r if r.shape == shape else r.expand(shape) for r in wide], -1)

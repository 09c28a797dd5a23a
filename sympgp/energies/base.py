"""What an energy offers: a prior over Hamiltonians, and functions of the state given weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sympgp.energies.maps import GradientMap, Linearized, LocalDerivatives
from sympgp.phase_space import CanonicalScaling

if TYPE_CHECKING:
    from sympgp.energies.contextual import Context
else:
    Context = Any

Hyperparameters = dict[str, Tensor]


@dataclass(frozen=True)
class LogNormal:
    """Log-normal hyperprior: ``log v ~ N(log(median), log_stddev^2)``, element by element."""

    median: Float[Tensor, "*shape"]
    log_stddev: float


class Basis(ABC):
    """Hamiltonians ``H(z; w)`` with weights ``w ~ N(0, diag(prior_variance))``, in scaled units.

    Most are linear in their weights, ``H(z) = phi(z) . w``. Of the others the features are the
    derivatives ``phi(z; w) = dH/dw``, and depend on the weights at which they are taken. States
    ``z`` are (..., D), weights ``w`` (P,) or, one row a draw, (S, P) with states (S, B, D).

    Attributes:
        num_weights: P.
        prior_variance: (P,).
        linear: whether H is linear in w; features do then without ``w``.
        separable: whether ``H = T(p) + V(q)`` whatever the weights.
        has_energy: whether there is an H; a field of another kind may have none.
        canonical: whether the slope is ``grad H``, so that the field is ``J grad H``.
        lossless: whether the field loses nothing by itself, so that all that does stands beside it.
        reducible: whether it may be computed in a narrower type. Formulas may not: they see user
            units, whose offsets and sizes need the digits and the range of float64, and cost
            little.
        context: of energies that differ by trajectory, the columns that may stand behind the
            states wherever these are asked for; derivatives are by the states alone. None else.
        shares: whether ``local_derivatives`` cost less than the slope, the Hessian and the
            gradients of the features one by one.
    """

    num_weights: int
    prior_variance: Float[Tensor, " weights"]
    linear: bool = True
    separable: bool = False
    has_energy: bool = True
    canonical: bool = True
    lossless: bool = True
    reducible: bool = True
    context: Context | None = None
    shares: ClassVar[bool] = False

    def about(self, w: Float[Tensor, " weights"]) -> Basis:
        """What a Gaussian over the weights about ``w`` is a posterior of: these functions.

        Or their tangents, where far draws of a Gaussian would be functions of another kind.
        """
        return self

    def joined_by(self, context: Context) -> tuple[Basis, Int[Tensor, " weights"]]:
        """For the trajectories of another context, and where each weight stands there.

        Where energies differ by trajectory, the context has others that joined; new weights are
        those that nothing stands at, and the place of weights that are gone is -1.
        """
        return self, torch.arange(self.num_weights, device=self.prior_variance.device)

    @property
    def num_context(self) -> int:
        """Number of columns behind the states."""
        return 0 if self.context is None else self.context.width

    @property
    def angles(self) -> dict[int, float]:
        """Coordinates that H is exactly periodic in, and their periods in user units."""
        return {}

    @abstractmethod
    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``phi = dH/dw``, up to a constant in the state."""

    @abstractmethod
    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """``d phi / dz``: column m is the gradient of feature m."""

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d phi(z_s) / dz``: what an interval's stages add to its end.

        A basis that can do without the gradients of all stages at once overrides this.
        """
        batch, out = weights.shape[:2]
        gradients = self.feature_gradient(z, w)
        return weights.reshape(batch, out, -1) @ gradients.flatten(1, 2)

    def remainder(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "*batch dim"] | None:
        """``grad H - (d phi / dz) w``: zero, said by None, where H is linear in w."""
        if self.linear:
            return None
        return self.gradient_map(w)(z) - self.feature_gradient(z, w) @ w

    @abstractmethod
    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> GradientMap:
        """The gradient of H for fixed weights, folded for fast repeated evaluation."""

    @abstractmethod
    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """Second derivatives of H for one weight vector."""

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """First and second derivatives of H for a batch of draws, and how they pull back.

        A basis that can share the work between them overrides this.
        """

        def pull_back(pull: Tensor) -> Tensor:
            with torch.enable_grad():
                own = w.detach().requires_grad_(True)
                value = (pull * self.gradient_map(own)(z)).sum()
            return torch.autograd.grad(value, own, materialize_grads=True)[0]

        slope = self.gradient_map(w)(z)
        return Linearized(slope, torch.func.vmap(self.hessian)(z, w), pull_back)

    def local_derivatives(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> LocalDerivatives:
        """First and second derivatives of H for one weight vector.

        A basis that ``shares`` the work between them, and with ``gathered_gradient``, overrides
        both.
        """
        return LocalDerivatives(self.gradient_map(w)(z), self.hessian(z, w), ())

    def gathered_gradient(
        self,
        known: Sequence[LocalDerivatives],
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``weighted_gradient`` where the derivatives of H at each stage are known."""
        return self.weighted_gradient(z, weights, w)

    def compiled(self) -> Basis:
        """The same with what ``shares`` work compiled; itself where nothing can be."""
        return self

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H(z)``, up to a constant; a batch of draws takes states with the same leading size.

        Of a basis that is not linear this has to be written.
        """
        return (self.features(z) @ w.unsqueeze(-1)).squeeze(-1)


class Energy(ABC):
    """A family of Hamiltonians with a prior over weights and hyperparameters.

    All quantities are in scaled units. ``hyperparameters`` are positive tensors by name.

    Attributes:
        pooled: whether trajectories deviate from one another for no known reason.
        by_covariates: whether they differ by their covariates.
        dissipates: whether the field has gains and losses of its own, not ``J grad H`` alone, so
            that no dissipation can stand beside it.
        sparse: whether edges of a network cost something, which few engines know of.
    """

    num_dof: int
    pooled: bool = False
    by_covariates: bool = False
    dissipates: bool = False
    sparse: bool = False

    def in_context(self, context: Context) -> Energy:
        """The same energy for these trajectories, before ``in_units``.

        For energies that differ by trajectory; others are as they were.
        """
        return self

    def in_units(self, scaling: CanonicalScaling) -> Energy:
        """The same energy for states in these scaled units, before anything else is asked of it.

        For energies that know user units, as formulas and periods do; others are as they were.
        """
        return self

    def prepare(
        self, states: Float[Tensor, "states dim"], nominal: Float[Tensor, " weights"] | None = None
    ) -> Energy:
        """The same energy for data near these scaled states, which sums tell parts apart on."""
        return self

    def check(self, x: Float[Tensor, "states dim"]) -> None:  # noqa: B027 - nothing to refuse
        """Refuse a formula that does not work at these states (user units).

        Raises:
            ValueError: its values or derivatives are not what they should be.
        """

    @property
    def angles(self) -> dict[int, float]:
        """Coordinates that are angles, and their periods in user units."""
        return {}

    @property
    def has_layers(self) -> bool:
        """Whether training has to begin at weights that are drawn, as that of networks."""
        return False

    def __add__(self, other: Energy) -> Energy:
        """The sum of two energies, see ``SumEnergy``."""
        from sympgp.energies.sums import SumEnergy  # which is an energy itself

        return SumEnergy((self, other))

    def momenta(
        self, q: Float[Tensor, "*batch dof"], velocity: Float[Tensor, "*batch dof"]
    ) -> Float[Tensor, "*batch dof"] | None:
        """Momenta in user units at which ``dH/dp = velocity``; None where nothing fixes them."""
        return None

    @abstractmethod
    def hyperpriors(self, spread: Float[Tensor, " dim"]) -> dict[str, LogNormal]:
        """Hyperpriors for data whose channels have standard deviations ``spread``."""

    @abstractmethod
    def basis(self, hyperparameters: Hyperparameters) -> Basis:
        """The functions of the state for these hyperparameters (differentiable in them)."""

    @abstractmethod
    def redraw(self, seed: int) -> Energy:
        """The same prior with other fixed random draws, where there are any."""

"""A learned energy kept orthogonal to what known physics can explain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.energies.base import Basis, Linearized
from sympgp.energies.sum_basis import SumBasis, SumGradient

# Combinations of the physics' parameters that move the field less than this, relative to each
# alone, are taken for none: they are not identified, with or without a learned part.
WEAKEST = 1e-8


def projector(
    physics: SumBasis, nominal: Float[Tensor, " params"], z: Float[Tensor, "states dim"]
) -> Float[Tensor, "params entries"]:
    """``A^+`` of the physics' tangents ``A = d grad H_phys / dw`` at states, (K, N D).

    Args:
        physics: K weights.
        nominal: (K,) weights at which the tangents are taken.
        z: (N, D) scaled states that stand for the data's region.
    """
    tangents = physics.feature_gradient(z, nominal).flatten(0, 1)
    numbers = torch.finfo(z.dtype)
    size = tangents.norm(dim=0).clamp(min=numbers.tiny**0.5)
    weakest = max(WEAKEST, 100.0 * numbers.eps)
    return torch.linalg.pinv(tangents / size, rtol=weakest) / size.unsqueeze(-1)


def orthogonal(
    learned: Basis,
    physics: SumBasis,
    nominal: Float[Tensor, " params"],
    z: Float[Tensor, "states dim"],
    onto: Float[Tensor, "params entries"],
) -> OrthogonalBasis:
    """The learned features without what the physics' tangents explain of them at the states.

    Differentiable in the learned features.

    Args:
        learned: linear in its weights.
        physics: what it has to leave to the physics.
        nominal: weights of the physics.
        z: (N, D) scaled states.
        onto: their ``projector``.

    Raises:
        ValueError: the learned part is not linear in its weights.
    """
    if not learned.linear:
        raise ValueError(
            f"orthogonal: expected learned parts that are linear in their weights, "
            f"got {type(learned).__name__}"
        )
    return OrthogonalBasis(
        learned, physics, nominal, onto @ learned.feature_gradient(z).flatten(0, 1)
    )


@dataclass(eq=False)
class OrthogonalBasis(Basis):
    """Features ``phi(z) - phi_phys(z; w0) C`` of a learned energy beside known physics.

    ``C`` minimises ``sum_i |grad phi(z_i) - grad phi_phys(z_i; w0) C|^2`` over reference states,
    so that no function of this prior has, at these states, a gradient that a change of the physics'
    parameters could make: the physics explains first, and its parameters keep their meaning.
    Of a Gaussian process with covariance K it is the process with covariance ``(1-P) K (1-P)'``.

    Parameters found beside such a remainder are those of the formula's best approximation to the
    whole field over these states (see :func:`nearest_weights`): where something unmodelled acts
    partly as a change of a parameter would, they take up that part of it.

    Sources: Plumlee and Joseph, *Orthogonal Gaussian process models*, Statistica Sinica 28 (2018),
    for the projected prior; Yin et al. (2021) for the principle.

    Attributes:
        learned: M features phi, linear.
        physics: known physics with K weights; its features are ``dH_phys/dw``.
        nominal: (K,) weights w0.
        projection: (K, M) C.
    """

    learned: Basis
    physics: SumBasis
    nominal: Float[Tensor, " params"]
    projection: Float[Tensor, "params weights"]

    reducible = False

    def __post_init__(self) -> None:
        self.num_weights = self.learned.num_weights
        self.prior_variance = self.learned.prior_variance
        self.separable = self.learned.separable and self.physics.separable

    @property
    def angles(self) -> dict[int, float]:
        """Those of the learned part."""
        return self.learned.angles

    def taken(self, w: Float[Tensor, "*draws weights"]) -> Float[Tensor, "*draws params"]:
        """Weights ``-C w`` of the physics' tangents."""
        return -(w @ self.projection.mT)

    def features(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"] | None = None
    ) -> Float[Tensor, "*batch weights"]:
        """``phi - phi_phys C``."""
        return self.learned.features(z) - self.physics.features(z, self.nominal) @ self.projection

    def feature_gradient(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"] | None = None
    ) -> Float[Tensor, "*batch dim weights"]:
        """Gradients of the features."""
        tangents = self.physics.feature_gradient(z, self.nominal)
        return self.learned.feature_gradient(z) - tangents @ self.projection

    def weighted_gradient(
        self,
        z: Float[Tensor, "batch stages dim"],
        weights: Float[Tensor, "batch out stages dim"],
        w: Float[Tensor, " weights"] | None = None,
    ) -> Float[Tensor, "batch out weights"]:
        """``sum_s W_s d phi(z_s) / dz``, each part in its own way."""
        tangents = self.physics.weighted_gradient(z, weights, self.nominal)
        return self.learned.weighted_gradient(z, weights) - tangents @ self.projection

    def gradient_map(self, w: Float[Tensor, "*draws weights"]) -> SumGradient:
        """The learned part's own, and the physics' tangents."""
        tangent = self.physics.tangent_map(self.nominal, self.taken(w))
        return SumGradient((self.learned.gradient_map(w), *tangent.parts))

    def hessian(
        self, z: Float[Tensor, "batch dim"], w: Float[Tensor, " weights"]
    ) -> Float[Tensor, "batch dim dim"]:
        """Second derivatives of H for one weight vector."""
        return self.learned.hessian(z, w) + self.physics.tangent_hessian(
            z, self.nominal, self.taken(w)
        )

    def linearized(
        self, z: Float[Tensor, "draws batch dim"], w: Float[Tensor, "draws weights"]
    ) -> Linearized:
        """The learned part's own, and the physics' tangents."""
        known, taken = self.learned.linearized(z, w), self.taken(w)
        slope = known.slope + self.physics.tangent_map(self.nominal, taken)(z)
        hessian = known.hessian + self.physics.tangent_hessian(z, self.nominal, taken)

        def pull_back(pull: Tensor) -> Tensor:
            tangents = self.physics.feature_gradient(z, self.nominal)
            by_tangents = torch.einsum("sbd,sbdk->sk", pull, tangents)
            return known.pull_back(pull) - by_tangents @ self.projection

        return Linearized(slope, hessian, pull_back)

    def value(
        self, z: Float[Tensor, "*batch dim"], w: Float[Tensor, "*draws weights"]
    ) -> Float[Tensor, "*batch"]:
        """``H(z)``."""
        tangents = self.physics.features(z, self.nominal)
        taken = (tangents @ self.taken(w).unsqueeze(-1)).squeeze(-1)
        return self.learned.value(z, w) + taken

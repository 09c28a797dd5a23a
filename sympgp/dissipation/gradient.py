"""The general field ``dx/dt = M(x) grad H`` in which energy never grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sympgp.dissipation.base import Dissipation
from sympgp.dissipation.checks import check_not_negative, check_positive
from sympgp.dissipation.functions import FunctionChoice
from sympgp.dissipation.matrix import MatrixDamping, matrix_damping
from sympgp.dissipation.state_dependent import StateDependentDamping, state_dependent_damping
from sympgp.phase_space import CanonicalScaling


@dataclass(frozen=True)
class GradientField(Dissipation):
    """``dx/dt = M(x) grad H`` with ``M + M' <= 0``: ``M = J - D``, ``D = R - S``.

    R is positive semidefinite over all of phase space and S is skew, so that
    ``grad H . D grad H = grad H . R grad H >= 0``. ``R = A A'`` with A lower triangular. Constant
    matrices have the prior of :class:`MatrixFriction` for A, matrices that depend on the state
    that of :class:`StateDependentFriction`; the scaled entries of S are ``N(0, skew_scale^2)``.
    Coefficients are D in user units at the centre of the data, (2n, 2n).

    Without dissipation R is zero and S stays: it turns the flow and keeps the energy.

    M and a free H are not unique: with one degree of freedom a constant S is the same as another
    unit of H. Known energies, or priors, have to tell them apart.

    Args:
        features: None for matrices that are the same at all states; "fourier" or "network" for
            matrices that vary as those of :class:`StateDependentFriction` do.
        num_features: number of frequencies, or of hidden units.
        lengthscale: of the features, as for :class:`StateDependentFriction`.
        periodic: coordinates that are angles. Fourier features only.
        period: of those coordinates, in user units.
        prior_scale: scale of the scaled entries of R. One scaled unit damps the motion within
            about one radian of its oscillation.
        skew_scale: prior standard deviation of the scaled entries of S; zero leaves S out. Those
            of J are one.
        seed: of the frequencies, or of the network's first weights.

    Raises:
        ValueError: an argument is out of its range, at once or when the data's size is known.
    """

    features: str | None = None
    num_features: int = 10
    lengthscale: float = 1.0
    periodic: Sequence[int] = ()
    period: float = 2.0 * math.pi
    prior_scale: float = 1.0
    skew_scale: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "periodic", tuple(self.periodic))
        check_positive("prior_scale", self.prior_scale)
        check_not_negative("skew_scale", self.skew_scale)
        if self.features is not None:
            self._choice(self.features)
        elif self.periodic:
            raise ValueError("periodic: only features='fourier' have angles, got features=None")

    def scaled(self, scaling: CanonicalScaling) -> MatrixDamping | StateDependentDamping:
        """Entries of A and S, or weights of the functions that these are."""
        size, scales = scaling.scale.shape[0], (self.prior_scale, self.skew_scale)
        if self.features is None:
            return matrix_damping(scaling, size, *scales)
        return state_dependent_damping(scaling, size, size, self._choice(self.features), *scales)

    def _choice(self, features: str) -> FunctionChoice:
        return FunctionChoice(
            features,
            self.num_features,
            self.lengthscale,
            tuple(self.periodic),
            self.period,
            self.seed,
        )

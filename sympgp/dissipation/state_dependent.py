"""Dissipation matrices that vary with the state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.dissipation.base import Dissipation, ScaledDissipation
from sympgp.dissipation.checks import check_integer, check_positive
from sympgp.dissipation.factors import Factors, block_unit
from sympgp.dissipation.functions import FunctionChoice, StateFunctions
from sympgp.dissipation.positive import WEAK
from sympgp.phase_space import CanonicalScaling

# Prior standard deviation of an entry of A at a state, by the root of the prior's scale.
ENTRY = 0.5


@dataclass(frozen=True, eq=False)
class StateDependentDamping(ScaledDissipation):
    """``d = D(z) g`` with ``D = A(z) A(z)' - S(z)``, the entries of A and S functions of z.

    Attributes:
        factors: D of the entries of A and S.
        functions: the entries as functions of the state and the parameters.
        unit: (size, size) user value of the entries of D's last rows and columns, those that
            users are shown, per scaled value.
        prior_stddev: (K,).
    """

    factors: Factors
    functions: StateFunctions
    unit: Float[Tensor, "size size"]
    prior_stddev: Float[Tensor, " params"]

    @property
    def dim(self) -> int:
        """D."""
        return self.factors.dim

    def force(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim"]:
        """``A (A' g) - S g``."""
        return self.factors.apply(self.functions.values(z, rho), slope)

    def matrix(
        self, rho: Float[Tensor, "*draws params"], z: Float[Tensor, "*batch dim"] | None = None
    ) -> Float[Tensor, "*batch dim dim"]:
        """``D(z)``; its symmetric part is ``R~(z)``.

        Raises:
            ValueError: no states are given.
        """
        if z is None:
            raise ValueError("z: expected states, for the matrix depends on them, got None")
        return self.factors.matrix(self.functions.values(z, rho))

    def slope_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """``D(z)``."""
        return self.matrix(rho, z)

    def state_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim dim"]:
        """Response to the entries times their Jacobian."""
        entries = self.functions.values(z, rho)
        return self.factors.response(entries, slope) @ self.functions.state_jacobian(z, rho)

    def parameter_jacobian(
        self,
        z: Float[Tensor, "*batch dim"],
        slope: Float[Tensor, "*batch dim"],
        rho: Float[Tensor, "*draws params"],
    ) -> Float[Tensor, "*batch dim params"]:
        """Response to the entries, pulled back through the functions."""
        response = self.factors.response(self.functions.values(z, rho), slope)
        return self.functions.pull_back(response, z, rho)

    def coefficients(self, rho: Float[Tensor, "*draws params"]) -> Float[Tensor, "*draws m m"]:
        """The block that is not zero, at the centre of the data and in user units."""
        size = self.unit.shape[0]
        rows = rho.reshape(-1, rho.shape[-1])
        block = self.matrix(rows, rho.new_zeros(len(rows), 1, self.dim))[:, 0, -size:, -size:]
        return self.unit * block.reshape(*rho.shape[:-1], size, size)

    def start(self) -> Float[Tensor, " params"]:
        """The prior's mean: a weak diagonal, the same at all states."""
        return torch.zeros_like(self.prior_stddev)


def state_dependent_damping(
    scaling: CanonicalScaling,
    size: int,
    rank: int,
    choice: FunctionChoice,
    prior_scale: float,
    skew_scale: float = 0.0,
) -> StateDependentDamping:
    """A matrix in the last ``size`` rows and columns, with skew entries where they have a scale."""
    factors = Factors.lower(scaling, size, rank, skew=skew_scale > 0)
    stddev = scaling.scale.new_full((factors.num_entries,), ENTRY * math.sqrt(prior_scale))
    stddev[len(factors.factor) :] = skew_scale
    weak = math.sqrt(WEAK * prior_scale)
    offset = torch.where(factors.is_diagonal(), weak, torch.zeros_like(stddev))
    functions, prior = choice.build(scaling, offset, stddev)
    return StateDependentDamping(factors, functions, block_unit(scaling, size), prior)


@dataclass(frozen=True)
class StateDependentFriction(Dissipation):
    """Friction that varies with the state: ``R(x) = diag(0, A(x) A(x)')``.

    A is lower triangular, (n, rank); its entries are random Fourier features of the state with
    normal weights (a normal process with a squared exponential kernel) or a small network with
    normal weights. In the prior's mean A is ``sqrt(prior_scale / 10)`` on its diagonal, in scaled
    units; at each state an entry has standard deviation ``sqrt(prior_scale) / 2``. Coefficients
    are the friction matrix at the centre of the data, in user units, (n, n).

    Data fix ``A A'`` where they are, A itself up to its sign, and R only as far as the slope of
    H is known: an H and an R(x) that are both free can share what they explain.

    Args:
        features: "fourier", or "network" for one hidden layer of tanh units.
        num_features: number M of frequencies (2 M + 1 functions), or of hidden units.
        lengthscale: of the features, by the standard deviation of the data in each channel, times
            the root of the number of degrees of freedom. Too long a one leaves bands too narrow.
        rank: of A; the number of degrees of freedom when None.
        periodic: coordinates that are angles, of which R is then exactly periodic. Fourier
            features only.
        period: of those coordinates, in user units.
        prior_scale: scale of the scaled entries of R. One scaled unit damps the motion within
            about one radian of its oscillation.
        seed: of the frequencies, or of the network's first weights.

    Raises:
        ValueError: an argument is out of its range, at once or when the data's size is known.
    """

    features: str = "fourier"
    num_features: int = 20
    lengthscale: float = 1.0
    rank: int | None = None
    periodic: Sequence[int] = ()
    period: float = 2.0 * math.pi
    prior_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "periodic", tuple(self.periodic))
        check_positive("prior_scale", self.prior_scale)
        if self.rank is not None:
            check_integer("rank", self.rank, 1)
        self._choice()

    def scaled(self, scaling: CanonicalScaling) -> StateDependentDamping:
        """Weights of the functions in A."""
        num_dof = scaling.num_dof
        rank = num_dof if self.rank is None else self.rank
        if rank > num_dof:
            raise ValueError(f"rank: expected at most {num_dof} for this data, got {rank}")
        return state_dependent_damping(scaling, num_dof, rank, self._choice(), self.prior_scale)

    def _choice(self) -> FunctionChoice:
        return FunctionChoice(
            self.features,
            self.num_features,
            self.lengthscale,
            tuple(self.periodic),
            self.period,
            self.seed,
        )

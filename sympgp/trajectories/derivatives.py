"""The container of states with their time derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.trajectories import checks, naming
from sympgp.trajectories.arrays import ArrayLike, as_tensor


class StateDerivatives:
    """Pairs (x, dx/dt): states with noisy measurements of their time derivatives.

    Where both are known, the vector field can be learned without solving any differential
    equation. NaN marks a derivative that was not measured; states must be complete, and count as
    exact where no ``state_noise`` is given. Everything is checked here, once, and copied.

    Args:
        states: (N, 2n), or (2n,) for one, all coordinates first, then all momenta.
        derivatives: the same shape; NaN = missing.
        names: names of the 2n columns; by default q, p or q1, .., qn, p1, .., pn.
        units: units of the columns by name, and of time under ``"time"``.
        state_noise: known standard deviation of the noise of the states, one number or (2n,), in
            the states' units; it is independent of that of the derivatives, whose level is found.
        dtype: floating-point type of everything.

    Attributes:
        states: (N, 2n).
        derivatives: (N, 2n), user units over user time.
        state_noise: (2n,), None where states are exact.
        names: tuple of 2n strings.
        units: dictionary from name to unit.

    Raises:
        ValueError: shapes that do not fit together, states that are not finite, infinite
            derivatives, none observed at all, names that repeat, or a negative noise of the states.

    Example:
        >>> pairs = StateDerivatives([[1.0, 0.0], [0.0, 1.0]], [[0.0, -1.0], [1.0, None]])
        >>> pairs
        StateDerivatives(2 states, 3 observations, names=('q', 'p'))
    """

    states: Tensor
    derivatives: Tensor
    state_noise: Tensor | None
    names: tuple[str, ...]
    units: dict[str, str]

    def __init__(
        self,
        states: ArrayLike,
        derivatives: ArrayLike,
        names: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
        *,
        state_noise: ArrayLike = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        x = _rows(states, "states", dtype)
        rates = _rows(derivatives, "derivatives", dtype)
        if x.shape != rates.shape:
            raise ValueError(
                f"derivatives: expected the shape of states, {tuple(x.shape)}, "
                f"got {tuple(rates.shape)}"
            )
        self.states = x.detach().clone()
        self.derivatives = rates.detach().to(x.device, copy=True)
        self._check_values()
        self.state_noise = None
        if state_noise is not None:
            self.state_noise = _levels(state_noise, x)
        self.names = naming.check_names(names, x.shape[1], "names")
        self.units = naming.check_units(units, self.names)

    def _check_values(self) -> None:
        for name, wrong, expected in (
            ("states", ~self.states.isfinite(), "finite numbers"),
            ("derivatives", self.derivatives.isinf(), "finite numbers, or NaN where missing"),
        ):
            if bool(wrong.any()):
                row, column = wrong.nonzero()[0].tolist()
                value = getattr(self, name)[row, column].item()
                raise ValueError(
                    f"{name}: expected {expected}, got {value} in row {row}, column {column}"
                )
        if bool(self.derivatives.isnan().all()):
            raise ValueError("derivatives: expected at least one observed value, got only NaN")

    @property
    def state_dim(self) -> int:
        """Dimension 2n of a state."""
        return self.states.shape[1]

    @property
    def num_dof(self) -> int:
        """Number of degrees of freedom n."""
        return self.state_dim // 2

    @property
    def observed(self) -> Bool[Tensor, "points dim"]:
        """Which derivatives were measured."""
        return ~self.derivatives.isnan()

    @property
    def num_observations(self) -> int:
        """Number of measured derivatives, over all columns."""
        return int(self.observed.sum())

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of states and derivatives."""
        return self.states.dtype

    @property
    def device(self) -> torch.device:
        """Device of states and derivatives."""
        return self.states.device

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> StateDerivatives:
        """Return a copy on another device or of another floating-point type."""
        place, kind = device or self.device, dtype or self.dtype
        return self._with(self.states.to(place, kind), self.derivatives.to(place, kind))

    def _with(
        self, states: Float[Tensor, "points dim"], derivatives: Float[Tensor, "points dim"]
    ) -> StateDerivatives:
        noise = self.state_noise
        noise = None if noise is None else noise.to(states)
        return StateDerivatives(
            states, derivatives, self.names, self.units, state_noise=noise, dtype=states.dtype
        )

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: int | slice | ArrayLike) -> StateDerivatives:
        """Return the pairs at an index, a slice, or a sequence of indices."""
        chosen = checks.check_index(index, len(self))
        return self._with(self.states[chosen], self.derivatives[chosen])

    def __repr__(self) -> str:
        count = "1 state" if len(self) == 1 else f"{len(self)} states"
        return (
            f"StateDerivatives({count}, {self.num_observations} observations, names={self.names})"
        )


def _rows(values: ArrayLike, name: str, dtype: torch.dtype) -> Tensor:
    rows = as_tensor(values, name, dtype)
    if rows.dim() == 1:
        rows = rows.unsqueeze(0)
    if rows.dim() != 2 or not len(rows) or not rows.shape[1] or rows.shape[1] % 2:
        raise ValueError(
            f"{name}: expected shape (N, 2n), all coordinates first, then all momenta, "
            f"got {tuple(rows.shape)}"
        )
    return rows


def _levels(noise: ArrayLike, states: Float[Tensor, "points dim"]) -> Float[Tensor, " dim"]:
    """Standard deviations of all columns, on the states' device."""
    found = as_tensor(noise, "state_noise", states.dtype).to(states.device)
    dim = states.shape[1]
    fits = found.dim() == 0 or tuple(found.shape) == (dim,)
    if not fits or not bool((found.isfinite() & (found >= 0)).all()):
        raise ValueError(
            f"state_noise: expected a number or {dim} of them, finite and at least 0, got {noise!r}"
        )
    return found.detach().expand(dim).clone()

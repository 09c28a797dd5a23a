"""The container of observed trajectories."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sympgp.trajectories import checks, naming
from sympgp.trajectories.arrays import ArrayLike
from sympgp.trajectories.joining import joined, rows_between
from sympgp.trajectories.readers import Readers
from sympgp.trajectories.tables import Table
from sympgp.trajectories.writers import Writers


class Trajectories(Readers, Writers):
    """Noisy observations of one or several trajectories of a system, in user units.

    Trajectory ``i`` holds ``T_i`` states ``x = (q_1..q_n, p_1..p_n)`` at its own strictly
    increasing times; lengths and times may differ from trajectory to trajectory, and NaN marks an
    entry that was not observed. Everything is checked here, once, and copied; the container is
    not meant to be changed afterwards.

    Args:
        times: (T,) shared by all trajectories, (N, T), or a list of (T_i,).
        states: (N, T, 2n), (T, 2n) for a single trajectory, or a list of (T_i, 2n).
        inputs: External inputs at the same times, finite: (N, T, K), (T, K) for a single
            trajectory, or a list of (T_i, K).
        names: Names of the 2n columns; by default q, p or q1, .., qn, p1, .., pn.
        units: Units of the columns by name, and of time under ``"time"``.
        labels: Names of the trajectories; by default their numbers from 0.
        input_names: Names of the K inputs; by default u or u1, .., uK.
        covariates: What is known of each trajectory as a whole, such as the length of the
            pendulum, finite: (N, C), or (N,) where C = 1.
        covariate_names: Names of the C covariates; by default c or c1, .., cC.
        dtype: Floating-point type of states, inputs and covariates; times are float64.

    Attributes:
        times: Tuple of (T_i,).
        states: Tuple of (T_i, 2n).
        inputs: Tuple of (T_i, K), or None.
        names: Tuple of 2n strings.
        input_names: Tuple of K strings.
        covariates: (N, C), or None.
        covariate_names: Tuple of C strings.
        context: What an energy that differs by trajectory sees of each one, (N, c); None but in
            posteriors of such energies, see :meth:`with_context`.
        units: Dictionary from name to unit.
        labels: Tuple of N strings.

    Raises:
        ValueError: If shapes do not fit together, times do not increase strictly, values are
            infinite or not real numbers, a trajectory has fewer than two points or no observed
            value, or names repeat. The message says which trajectory and where.

    Example:
        >>> data = Trajectories([0.0, 0.5, 1.0], [[1.0, 0.0], [0.9, float("nan")], [0.5, -0.8]])
        >>> data
        Trajectories(1 trajectory, 3 points, 5 observations, names=('q', 'p'))
        >>> data.between(0.5, 2.0).times
        (tensor([0.5000, 1.0000], dtype=torch.float64),)
    """

    times: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...] | None
    names: tuple[str, ...]
    input_names: tuple[str, ...]
    covariates: Tensor | None
    covariate_names: tuple[str, ...]
    context: Tensor | None
    units: dict[str, str]
    labels: tuple[str, ...]

    def __init__(
        self,
        times: ArrayLike,
        states: ArrayLike,
        inputs: ArrayLike | None = None,
        names: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
        labels: Sequence[str] | None = None,
        *,
        input_names: Sequence[str] | None = None,
        covariates: ArrayLike | None = None,
        covariate_names: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        x = checks.split_states(states, dtype)
        # Times keep their digits in any case: clock times differ in their last ones.
        t = checks.split_times(times, len(x), torch.float64)
        u = None if inputs is None else checks.split_states(inputs, dtype, "inputs")
        self.labels = naming.check_labels(labels, len(x))
        checks.check_shapes(t, x, self.labels)
        # One device, that of the first states; copies, so that later changes stay outside.
        device = x[0].device
        self.times = tuple(part.detach().to(device, copy=True) for part in t)
        self.states = tuple(part.detach().to(device, copy=True) for part in x)
        checks.check_values(self.times, self.states, self.labels)
        self.names = naming.check_names(names, self.state_dim, "names")
        self.inputs = None
        if u is not None:
            checks.check_inputs(u, t, self.labels)
            self.inputs = tuple(part.detach().to(device, copy=True) for part in u)
        self.input_names = naming.check_names(
            input_names, 0 if u is None else u[0].shape[1], "input_names"
        )
        self.covariates, self.context = None, None
        if covariates is not None:
            self.covariates = checks.check_covariates(covariates, dtype, self.labels).to(device)
        self.covariate_names = naming.check_names(
            covariate_names,
            0 if self.covariates is None else self.covariates.shape[1],
            "covariate_names",
        )
        every = self.names + self.input_names + self.covariate_names
        naming.check_distinct(every, "covariate_names, names and input_names")
        self.units = naming.check_units(units, every)

    @classmethod
    def _from_table(cls, table: Table, units: Mapping[str, str]) -> "Trajectories":
        units = {**table.units, **units}
        if table.dated and units.setdefault("time", "s") != "s":
            raise ValueError(
                f"units: expected 's' for times that are dates, got {units['time']!r} "
                "(they become seconds after the first)"
            )
        return cls(
            table.times,
            table.states,
            table.inputs,
            names=table.names,
            units=units,
            labels=table.labels,
            input_names=table.input_names,
            covariates=table.covariates,
            covariate_names=table.covariate_names,
            dtype=table.dtype,
        )

    @property
    def state_dim(self) -> int:
        """Dimension 2n of a state."""
        return self.states[0].shape[1]

    @property
    def num_dof(self) -> int:
        """Number of degrees of freedom n."""
        return self.state_dim // 2

    @property
    def num_points(self) -> int:
        """Number of points in time, over all trajectories."""
        return sum(len(t) for t in self.times)

    @property
    def num_observations(self) -> int:
        """Number of observed entries, over all trajectories and columns."""
        return sum(int(x.isfinite().sum()) for x in self.states)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of states and inputs; times are float64."""
        return self.states[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of times, states and inputs."""
        return self.states[0].device

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Trajectories":
        """Return a copy on another device or of another floating-point type; times stay float64."""

        def move(parts: Sequence[Tensor]) -> list[Tensor]:
            return [part.to(device or self.device, dtype or self.dtype) for part in parts]

        times = [t.to(device or self.device) for t in self.times]
        inputs = None if self.inputs is None else move(self.inputs)
        return self._replace(times, move(self.states), inputs, range(len(self)))

    def with_states(self, states: Sequence[Tensor]) -> "Trajectories":
        """Return the same trajectories with other states, one (T_i, 2n) for each.

        Raises:
            ValueError: As the constructor does.
        """
        return self._replace(self.times, states, self.inputs, range(len(self)))

    def with_context(self, context: Tensor | None) -> "Trajectories":
        """Return the same trajectories with the rows by which an energy tells them apart.

        Args:
            context: (N, c), or None.
        """
        found = self._replace(self.times, self.states, self.inputs, range(len(self)))
        found.context = None if context is None else context.to(self.states[0])
        return found

    def _replace(
        self,
        times: Sequence[Tensor],
        states: Sequence[Tensor],
        inputs: Sequence[Tensor] | None,
        chosen: Sequence[int],
    ) -> "Trajectories":
        """Return other times, states and inputs of some trajectories, by their numbers."""

        def rows(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[list(chosen)].to(states[0])

        found = Trajectories(
            list(times),
            list(states),
            None if inputs is None else list(inputs),
            names=self.names,
            units=self.units,
            labels=naming.make_distinct([self.labels[i] for i in chosen]),
            input_names=self.input_names,
            covariates=rows(self.covariates),
            covariate_names=self.covariate_names,
            dtype=states[0].dtype,
        )
        found.context = rows(self.context)
        return found

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator["Trajectories"]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int | slice | ArrayLike) -> "Trajectories":
        """Return the trajectories at an index, a slice, or a sequence of indices."""
        chosen = checks.check_index(index, len(self))
        return self._select(chosen, [slice(None)] * len(chosen))

    def between(
        self,
        start: float | int = -math.inf,
        stop: float | int = math.inf,
        *,
        drop_single: bool = False,
    ) -> "Trajectories":
        """Return what lies in ``start <= t < stop``; trajectories with nothing left are dropped.

        Args:
            start: The first time that is kept.
            stop: The first time after ``start`` that is not kept any more.
            drop_single: Also drop trajectories of which a single point is left.

        Raises:
            ValueError: If nothing at all is left, or a single point of some trajectory and
                ``drop_single`` is not set.
        """
        return self._select(*rows_between(self, start, stop, drop_single))

    def _select(self, chosen: Sequence[int], rows: Sequence[slice | Tensor]) -> "Trajectories":
        """Return some rows of some trajectories."""

        def pick(parts: Sequence[Tensor]) -> list[Tensor]:
            return [parts[i][keep] for i, keep in zip(chosen, rows, strict=True)]

        inputs = None if self.inputs is None else pick(self.inputs)
        return self._replace(pick(self.times), pick(self.states), inputs, chosen)

    @classmethod
    def concatenate(cls, parts: Sequence["Trajectories"]) -> "Trajectories":
        """Join several containers of the same columns, in order.

        A label that occurs again gets a number: two trajectories ``a`` become ``a`` and ``a-2``.
        The result is on the first one's device and of the widest type among them.

        Raises:
            ValueError: If there is nothing to join, or columns or units differ.
        """
        return cls(**joined(parts))

    def __add__(self, other: "Trajectories") -> "Trajectories":
        return self.concatenate([self, other])

    def __repr__(self) -> str:
        count = "1 trajectory" if len(self) == 1 else f"{len(self)} trajectories"
        return (
            f"Trajectories({count}, {self.num_points} points, "
            f"{self.num_observations} observations, names={self.names})"
        )

"""The interface of a system whose Hamiltonian is known, and the simulator they share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.phase_space import join, split
from sympgp.systems.forcing import Forcing, Push
from sympgp.systems.reference import advance
from sympgp.trajectories import ArrayLike, Trajectories, as_tensor
from sympgp.trajectories.naming import numbered
from sympgp.trajectories.signals import Interpolation


class System(ABC):
    """A system with a known Hamiltonian and a known friction.

    The equations of motion are

        dq/dt = dH/dp,    dp/dt = -dH/dq - friction * dH/dp,

    and ``G u(t)`` where a simulation has external inputs u. A subclass gives H, its gradient and a
    distribution of initial states; solving and simulating are done here. The attributes below
    belong to a class, or to each of its instances where they depend on what it is built with.

    Args:
        friction: Friction coefficient, at least 0; energy is lost at the rate
            ``friction * |dH/dp|^2``.

    Attributes:
        num_dof: Number of degrees of freedom n.
        names: Names of the 2n columns of a state.
        units: Units of the columns and of ``"time"``, where the system has any.
    """

    num_dof: int = 1
    names: tuple[str, ...] = ("q", "p")
    units: Mapping[str, str] = {}

    # Relative tolerance of the reference solver, per step; the absolute one is a tenth of it.
    _tolerance: float = 1e-11

    def __init__(self, friction: float | int = 0.0) -> None:
        self.friction = non_negative(friction, "friction")

    @abstractmethod
    def _energy(self, q: Tensor, p: Tensor) -> Tensor:
        """H at coordinates and momenta (..., n), of shape (...,)."""

    @abstractmethod
    def _gradient(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """dH/dq and dH/dp at coordinates and momenta (..., n), each (..., n)."""

    @abstractmethod
    def _draw_initial(self, count: int, generator: torch.Generator) -> Float[Tensor, "count dim"]:
        """Draw initial states."""

    def hamiltonian(self, x: ArrayLike) -> Float[Tensor, "*batch"]:
        """Return H(x) at states (..., 2n).

        Raises:
            ValueError: If ``x`` is not of width 2n.
        """
        return self._energy(*split(self._states(x, "x")))

    def vector_field(self, x: ArrayLike) -> Float[Tensor, "*batch dim"]:
        """Return dx/dt at states (..., 2n).

        Raises:
            ValueError: If ``x`` is not of width 2n.
        """
        dh_dq, dh_dp = self._gradient(*split(self._states(x, "x")))
        return join(dh_dp, -dh_dq - self.friction * dh_dp)

    def sample_initial(self, num_trajectories: int, seed: int = 0) -> Float[Tensor, "count dim"]:
        """Draw initial states from the distribution that the class describes."""
        count = _count(num_trajectories)
        return self._draw_initial(count, torch.Generator().manual_seed(seed))

    def exact(
        self,
        x0: ArrayLike,
        times: ArrayLike,
        inputs: Any = None,
        input_matrix: ArrayLike | None = None,
        interpolation: Interpolation = "linear",
    ) -> Float[Tensor, "count time dim"]:
        """Solve the equations of motion with a tight tolerance.

        An explicit Runge-Kutta method of order 8 with local error about 1e-11 of the state, less
        where a system needs it; what accumulates over ten periods stays below 1e-8. Beyond that,
        errors in chaotic motion grow exponentially. Trajectories are solved together, with steps
        that control the root mean square of all their errors: of hundreds, the hardest one is
        solved less closely than it would be alone.

        Args:
            x0: (N, 2n), or (2n,) for one trajectory: the states at ``times[0]``.
            times: (T,), strictly increasing.
            inputs: External inputs u(t), which add ``G u(t)`` to dx/dt: a function ``t -> (m,)``;
                samples (T, m) at the times, (T,) where m = 1, or a tuple (times, values) of
                others; or a ``Signal``. The same for all trajectories, unless there is a sequence
                of N functions, or samples (N, T, m).
            input_matrix: G, of shape (2n, m), or (n, m) for inputs that act on momenta alone; by
                default one input acts on each momentum as a force.
            interpolation: Of samples: on straight lines, ``"linear"``, or ``"held"`` until the
                next one.

        Raises:
            ValueError: If shapes do not fit, values are not finite, times do not increase or
                inputs are not known at all of them.
            RuntimeError: If the solution runs into a singularity of the field.

        Example:
            >>> from sympgp.systems import Pendulum
            >>> x = Pendulum().exact([0.0, 0.0], [0.0, 0.1], inputs=lambda t: 2.0)
            >>> x[0, 1].round(decimals=3)
            tensor([0.0200, 0.1980], dtype=torch.float64)
        """
        x0 = self._states(x0, "x0").reshape(-1, 2 * self.num_dof)
        t = as_tensor(times, "times", torch.float64)
        if t.ndim != 1 or not len(t) or not t.isfinite().all() or (t.diff() <= 0).any():
            raise ValueError(
                "times: expected a vector of strictly increasing finite numbers, "
                f"got shape {tuple(t.shape)}: {t.tolist()}"
            )
        if not x0.isfinite().all():
            raise ValueError(f"x0: expected finite states, got {x0.tolist()}")
        grid = t.cpu().expand(len(x0), -1)
        forcing = Forcing.build(inputs, input_matrix, interpolation, grid, self.num_dof)
        return self._solve(x0, float(t[0]), grid, forcing)

    def simulate(
        self,
        num_trajectories: int = 5,
        rate: float | int = 5.0,
        duration: float | int = 10.0,
        noise_std: ArrayLike = 0.1,
        missing: float | int = 0.0,
        irregular: bool = False,
        seed: int = 0,
        inputs: Any = None,
        input_matrix: ArrayLike | None = None,
        interpolation: Interpolation = "linear",
    ) -> Trajectories:
        """Simulate noisy observations of trajectories that start at time 0.

        The same seed gives the same initial states and times whatever the noise and the share of
        missing entries, so that ``noise_std=0.0`` returns the truth behind noisy data. The
        defaults are the protocol of Tanaka, Iwata and Ueda (NeurIPS 2022).

        Args:
            num_trajectories: How many.
            rate: Observations per unit of time.
            duration: Observation times are 0, 1/rate, .. up to and including ``duration``.
            noise_std: Standard deviation of the Gaussian noise on every observation, the first
                included: one number or (2n,).
            missing: Probability with which each single entry is missing (NaN).
            irregular: Draw as many times uniformly from [0, duration], for each trajectory anew,
                in place of equal steps. The initial state at time 0 is then not observed itself.
            seed: Seed of everything that is drawn.
            inputs: External inputs, as for :meth:`exact`; the data hold their values at the
                observation times, without noise. Samples must begin at time 0, so irregular times
                need a function or samples of their own.
            input_matrix: As for :meth:`exact`.
            interpolation: As for :meth:`exact`.

        Raises:
            ValueError: If an argument is out of range, inputs do not fit, or chance leaves a
                trajectory without any observed entry.

        Example:
            >>> from sympgp.systems import Pendulum
            >>> Pendulum(friction=0.05).simulate(num_trajectories=5)
            Trajectories(5 trajectories, 255 points, 510 observations, names=('q', 'p'))
        """
        count = _count(num_trajectories)
        std = as_tensor(noise_std, "noise_std", torch.float64)
        if std.shape not in ((), (2 * self.num_dof,)) or not (std >= 0).all():
            raise ValueError(
                f"noise_std: expected a number or {2 * self.num_dof} numbers, at least 0, "
                f"got {noise_std!r}"
            )
        if not 0 <= missing < 1:
            raise ValueError(f"missing: expected a probability below 1, got {missing!r}")
        generator = torch.Generator().manual_seed(seed)
        x0 = self._draw_initial(count, generator)
        times = _times(count, rate, duration, generator if irregular else None)
        forcing = Forcing.build(inputs, input_matrix, interpolation, times, self.num_dof)
        states = self._solve(x0, 0.0, times, forcing)
        noise = torch.randn(states.shape, generator=generator, dtype=states.dtype)
        gaps = torch.rand(states.shape, generator=generator, dtype=states.dtype) < missing
        states = (states + std.cpu() * noise).masked_fill(gaps, torch.nan)
        driven = None if forcing is None else forcing.observed(times)
        return Trajectories(times, states, driven, names=self.names, units=self.units)

    def _states(self, x: ArrayLike, name: str) -> Tensor:
        states = as_tensor(x, name)
        if states.ndim < 1 or states.shape[-1] != 2 * self.num_dof:
            raise ValueError(
                f"{name}: expected states of width {2 * self.num_dof}, "
                f"got shape {tuple(states.shape)}"
            )
        return states

    def _solve(
        self, x0: Tensor, start: float, times: Tensor, forcing: Forcing | None = None
    ) -> Tensor:
        """Return the states (N, T, 2n) at each trajectory's own times (N, T), all >= start."""
        t = times.detach().cpu().numpy()
        states = np.empty((*t.shape, x0.shape[-1]))
        y = x0.detach().to("cpu", torch.float64).numpy()
        states[t == start] = np.broadcast_to(y[:, None], states.shape)[t == start]
        stop = float(t.max())
        pieces: Iterable[tuple[float, float, Push | None]] = [(start, stop, None)]
        if forcing is not None:
            pieces = forcing.pieces(start, stop)
        for begin, end, push in pieces if stop > start else []:
            rate = partial(self._rate, y.shape, push)
            y = advance(rate, y, begin, end, (t, states), self._tolerance)
        return torch.from_numpy(states).to(x0.device)

    def _rate(
        self, shape: tuple[int, ...], push: Push | None, time: float, y: np.ndarray
    ) -> np.ndarray:
        """The rates of all trajectories as one vector."""
        rate = self.vector_field(torch.from_numpy(y).reshape(shape))
        return (rate if push is None else rate + push(time)).numpy().reshape(-1)


def _times(
    count: int, rate: float | int, duration: float | int, generator: torch.Generator | None
) -> Float[Tensor, "count time"]:
    """Equal steps, or sorted uniform draws where there is a generator."""
    rate, duration = non_negative(rate, "rate"), non_negative(duration, "duration")
    # A duration of 10 at 5 Hz ends with the observation at 10, whatever rounding does to it.
    steps = math.floor(duration * rate * (1 + 1e-12))
    if steps < 1:
        raise ValueError(
            "rate and duration: expected at least two observations, "
            f"got rate {rate} over a duration of {duration}"
        )
    if generator is None:
        return (torch.arange(steps + 1, dtype=torch.float64) / rate).expand(count, -1)
    draws = torch.rand(count, steps + 1, generator=generator, dtype=torch.float64)
    return duration * draws.sort(dim=1).values


def non_negative(value: float | int, name: str) -> float:
    """Return a setting as a float, refusing what is negative, infinite or NaN."""
    if isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a finite number, at least 0, got {value!r}")
    return float(value)


def state_names(num_dof: int) -> tuple[str, ...]:
    """Return q and p, or q1 to qn and p1 to pn where there are several."""
    return numbered("q", num_dof) + numbered("p", num_dof)


def positive(value: float | int, name: str) -> float:
    """Return a setting as a float, refusing what is not positive and finite."""
    if value == 0:
        raise ValueError(f"{name}: expected a positive number, got {value!r}")
    return non_negative(value, name)


def _count(value: int) -> int:
    if isinstance(value, bool) or value < 1:
        raise ValueError(f"num_trajectories: expected at least 1, got {value!r}")
    return value

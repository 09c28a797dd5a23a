"""The posterior over a Hamiltonian vector field and everything predicted from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sympgp.distributed import ALONE, Ranks
from sympgp.integrators import Integrator
from sympgp.posterior import prediction, residuals
from sympgp.posterior.course import Course, as_times
from sympgp.posterior.diagnostics import Diagnostics
from sympgp.posterior.draws import Marginal, new_context
from sympgp.posterior.field import FieldPosterior
from sympgp.posterior.residuals import FitCheck, Residuals
from sympgp.posterior.summary import summarize
from sympgp.rollouts import Rollouts
from sympgp.trajectories import Trajectories

if TYPE_CHECKING:
    from gpytorch.distributions import MultitaskMultivariateNormal
else:
    MultitaskMultivariateNormal = Any


@dataclass(frozen=True, eq=False)
class Posterior(FieldPosterior):
    """Posterior over ``dx/dt = (J - R) grad H(x)``: a mixture of Gaussians in its parameters.

    Each component has its own spectral points and hyperparameters, so that their uncertainty is
    in every prediction; components weigh the same. Everything a user sees is in user units.

    Attributes:
        components: the Gaussians, in scaled units.
        scaling: between scaled and user units.
        dissipation_family: the prior family of R.
        data: the training data.
        diagnostics: what the engine noticed.
        conditioned: whether ``data`` are others than those the field was learned from.
        counterfactual: whether R was set to zero after the fit; the training trajectories then
            are not solutions of this field, so only new ones can be started.
    """

    data: Trajectories
    diagnostics: Diagnostics
    counterfactual: bool = False
    conditioned: bool = False

    @property
    def unobserved(self) -> Bool[Tensor, " dim"]:
        """Channels of the training data without any observation, (2n,)."""
        gone = [name in self.diagnostics.unobserved for name in self.names]
        return torch.tensor(gone, device=self.scaling.scale.device)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates, q first."""
        return self.data.names

    @property
    def units(self) -> dict[str, str]:
        """Units by name, "time" among them where known."""
        return self.data.units

    def summary(self) -> str:
        """What was found and what to worry about, as text."""
        return summarize(self)

    @property
    def initial_states(self) -> Marginal:
        """Posterior of each training trajectory's state at its first observation, (N, 2n)."""
        return prediction.initial_states(self)

    def rollout(
        self,
        x0: Any,
        times: Any,
        num_samples: int = 100,
        integrator: Integrator | None = None,
        inputs: Any = None,
        seed: int = 0,
        discrepancy: bool = False,
        covariates: Any = None,
        ranks: Ranks = ALONE,
    ) -> Rollouts:
        """Start new trajectories: every draw of the field from every initial state.

        Args:
            x0: (N, 2n) or (2n,) states at ``times[0]``, exact.
            times: (T,) increasing.
            num_samples: draws S.
            integrator: ``RK4`` at half the fit's step when None (at less where its error would
                matter), or ``GaussLegendre4`` over horizons beyond 10,000 characteristic times;
                its step is in user time.
            inputs: of fields that have some: (T, m) at the times, (T,) where m = 1; a tuple
                (times, values) of other samples; or a function of time.
            seed: of the draws.
            discrepancy: also let the states jump as much as the training data asked for (see
                ``summary()``); draws are then no longer solutions of one ODE.
            covariates: (N, C), or (C,) for all, where a parameter depends on them. Parameters that
                differ by trajectory are those of a new one in each draw.
            ranks: processes that share the draws (without discrepancy); each calls this alike.

        Returns:
            Samples of shape (S, N, T, 2n); draws that diverged are marked and warned about.

        Raises:
            ValueError: states of another width, not finite, or times that do not increase; inputs
                that are missing, of another width, or do not cover the times; covariates that
                are missing or wrong.
        """
        z0 = self._scaled_states(x0, "x0")
        if not bool(z0.isfinite().all()):
            raise ValueError("x0: expected finite states, got NaN or infinity")
        grid = as_times(times)
        signal = self._signal(inputs, grid)
        course = None if signal is None else Course(signal, self.scaling)
        context = new_context(self.components[0].field, covariates)
        if context is not None and len(context) not in (1, len(z0)):
            raise ValueError(
                f"covariates: expected those of one trajectory or of {len(z0)}, got {len(context)}"
            )
        return prediction.rollout(
            self, z0, grid, num_samples, integrator, seed, discrepancy, course, context, ranks
        )

    def forecast(
        self,
        times: Any,
        trajectory: int = 0,
        num_samples: int = 100,
        inputs: Any = None,
        seed: int = 0,
        integrator: Integrator | None = None,
    ) -> Rollouts:
        """Continue a training trajectory, with its state and the field drawn jointly.

        Model discrepancy found in the training data goes on as random jumps.

        Args:
            times: (T,) increasing, none before the trajectory's last observation.
            trajectory: which one.
            num_samples: draws S.
            inputs: of fields that have some, as for :meth:`rollout`, from the trajectory's last
                observation on; the trajectory's own when None, as far as they go.
            seed: of the draws.
            integrator: as for :meth:`rollout`.

        Raises:
            ValueError: no such trajectory; times before its last observation; inputs that are
                missing, of another width, or do not cover the times.
        """
        self._refuse_counterfactual("forecast")
        grid, index = as_times(times), self._trajectory(trajectory)
        own = prediction.own_signal(self, index)
        signal = self._signal(own if inputs is None else inputs, grid)
        return prediction.forecast(self, grid, index, num_samples, integrator, seed, signal)

    def fitted(
        self, times: Sequence[Any] | None = None, num_samples: int = 100, seed: int = 0
    ) -> list[Rollouts]:
        """The training trajectories themselves, one ``Rollouts`` (N = 1) each.

        Args:
            times: one array of times a trajectory, between its first and last observation; the
                observation times when None.
            num_samples: draws S.
            seed: of the draws.

        Raises:
            ValueError: a wrong number of time arrays; times outside a trajectory.
        """
        self._refuse_counterfactual("fitted")
        chosen = [as_times(t) for t in (self.data.times if times is None else times)]
        if len(chosen) != len(self.data):
            raise ValueError(
                f"times: expected one array for each of {len(self.data)} trajectories, "
                f"got {len(chosen)}"
            )
        return [prediction.fitted(self, t, i, num_samples, seed) for i, t in enumerate(chosen)]

    def condition(self, data: Trajectories) -> Posterior:
        """The same field with the states of new noisy trajectories.

        The posterior over the field, the friction and the noise stays what it was; the states of
        ``data`` are inferred under it, jointly with it, so that ``forecast``, ``fitted``,
        ``initial_states`` and ``residuals`` of the result are about the new trajectories. A few
        observations are enough, and some coordinates may be missing throughout. Of parameters that
        differ by trajectory each new one has its own, which is inferred with its states from the
        population's and its data; ``parameters()`` names them in place of the former ones.
        Covariates are the data's own.

        Warns:
            MisfitWarning: the new data do not follow the field.

        Raises:
            ValueError: another number of coordinates or inputs, or other units.

        Example:
            >>> from sympgp.systems import Pendulum
            >>> from sympgp import SSGP, fit
            >>> data = Pendulum().simulate(4, rate=5, duration=5, noise_std=0.05)
            >>> posterior = fit(SSGP(num_features=20), data[:3], progress=False)
            >>> new = posterior.condition(data[3].between(0.0, 2.0))
            >>> new.forecast([2.0, 3.0]).mean.shape
            torch.Size([1, 2, 2])
        """
        from sympgp.posterior.conditioning import condition

        return condition(self, data)

    def log_likelihood(
        self, data: Trajectories | None = None, num_samples: int = 100, seed: int = 0
    ) -> Float[Tensor, "draws observations"]:
        """Log density of every observation under every draw, (S, n_obs), user units.

        Observations are in the order trajectory, time, coordinate, missing ones left out. Of the
        posterior's own data (the default) they are conditional on each draw's states. New data's
        states are integrated out draw by draw: each entry is given those before it, so that a
        row's sum is the log marginal likelihood of the data under that draw, with a broad prior on
        the first states.

        Args:
            data: the observations; the posterior's own when None.
            num_samples: draws S.
            seed: of the draws.

        Raises:
            ValueError: another number of coordinates or inputs.
        """
        from sympgp.posterior.likelihood import log_likelihood

        self._refuse_counterfactual("log_likelihood", data)
        return log_likelihood(self, data, num_samples, seed).to(self.dtype)

    def residuals(self, num_samples: int = 100, seed: int = 0) -> Residuals:
        """Observations less the posterior mean of the fitted paths, see :class:`Residuals`."""
        self._refuse_counterfactual("residuals")
        wide = self.in_dtype(torch.float64)
        return residuals.residuals(self, wide.fitted(num_samples=num_samples, seed=seed))

    def check(self, num_samples: int = 100, seed: int = 0) -> FitCheck:
        """Whether the residuals are what the model says they are, see :class:`FitCheck`.

        Whiteness in time, posterior predictive checks, and a verdict in plain words.
        """
        self._refuse_counterfactual("check")
        return residuals.check(self, num_samples, seed)

    def to_arviz(self, num_samples: int = 1000, seed: int = 0, weights: bool = False) -> Any:
        """ArviZ's InferenceData, or a DataTree from ArviZ 1 on; user units.

        The chains are those of ``NUTS``; independent draws make one.

        Groups: posterior (friction, noise_std, initial_state, component), posterior_predictive,
        observed_data, log_likelihood, constant_data (where each observation is from) and
        sample_stats (lp, diverging; of Gaussians log_importance_ratio and _weight, to make
        draws of the posterior of them; of ``NUTS`` its n_steps and step_size).

        Args:
            num_samples: draws, with the states drawn given each draw of the field.
            seed: of the draws.
            weights: also the weights of the energy's features, scaled units.
        """
        from sympgp.posterior.inference_data import to_arviz

        self._refuse_counterfactual("to_arviz")
        return to_arviz(self, num_samples, seed, weights)

    def without_dissipation(self) -> Posterior:
        """The counterfactual: the same posterior over H with R = 0 in every draw.

        ``rollout`` shows it; ``forecast`` and ``fitted`` are refused, since the training
        trajectories were damped.
        """
        components = tuple(replace(c, field=c.field.undamped()) for c in self.components)
        return replace(self, components=components, counterfactual=True, conditioned=False)

    def save(self, path: str | PathLike[str]) -> None:
        """Write one file that ``torch.load(weights_only=True)`` and ``sympgp.load`` read."""
        from sympgp.posterior.storage import save  # storage rebuilds posteriors, so it imports this

        save(self, path)

    def _refuse_counterfactual(self, name: str, data: Trajectories | None = None) -> None:
        if self.counterfactual and not self.conditioned and data is None:
            raise ValueError(
                f"{name}: the training trajectories were damped, so a posterior without "
                "dissipation cannot follow them; start new ones with rollout()"
            )

    def _trajectory(self, index: int) -> int:
        if not isinstance(index, int) or not 0 <= index < len(self.data):
            raise ValueError(
                f"trajectory: expected a number from 0 to {len(self.data) - 1}, got {index!r}"
            )
        return index

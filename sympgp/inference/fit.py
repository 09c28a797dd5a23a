"""``fit``: one call from a model and data to a posterior."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar, overload

import torch
from tqdm import tqdm

from sympgp.distributed import Ranks
from sympgp.inference.base import InferenceEngine, Report
from sympgp.inference.checkpoint import check_arguments, fingerprint
from sympgp.inference.derivative_fit import DerivativeEngine, derivative_engine
from sympgp.inference.gauss_newton import GaussNewton
from sympgp.inference.networks import DeepEnsemble, NetworkEngine
from sympgp.inference.nuts import NUTS
from sympgp.inference.stochastic_vi import StochasticVI
from sympgp.integrators import RK4, Integrator
from sympgp.models import HamiltonianModel
from sympgp.posterior import DerivativePosterior, Posterior
from sympgp.trajectories import StateDerivatives, Trajectories, TrajectoryFile, unwrapped

Data = TypeVar("Data", Trajectories, StateDerivatives)


@overload
def fit(
    model: HamiltonianModel,
    data: Trajectories | TrajectoryFile,
    *,
    inference: InferenceEngine | None = ...,
    integrator: Integrator | None = ...,
    seed: int = ...,
    device: torch.device | str | None = ...,
    dtype: torch.dtype | None = ...,
    progress: bool = ...,
    ranks: Ranks | None = ...,
) -> Posterior: ...


@overload
def fit(
    model: HamiltonianModel,
    data: StateDerivatives,
    *,
    inference: DerivativeEngine | NetworkEngine | None = ...,
    seed: int = ...,
    device: torch.device | str | None = ...,
    dtype: torch.dtype | None = ...,
    progress: bool = ...,
    ranks: Ranks | None = ...,
) -> DerivativePosterior: ...


def fit(
    model: HamiltonianModel,
    data: Trajectories | TrajectoryFile | StateDerivatives,
    *,
    inference: InferenceEngine | DerivativeEngine | None = None,
    integrator: Integrator | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
    ranks: Ranks | None = None,
) -> Posterior | DerivativePosterior:
    """Fit a model to noisy trajectories, or to pairs of states and derivatives.

    Where ``torch.distributed`` is initialised, as by :func:`sympgp.distributed.initialize` under
    ``torchrun``, every process calls this with the same arguments and does its share of the work,
    by trajectories: ``GaussNewton`` sums its normal equations and ``StochasticVI`` its gradients
    over them. Other engines do all of it in every process. All of them return the same posterior,
    that of one process to rounding.

    Args:
        model: what is assumed of the field, from ``SSGP`` or ``HamiltonianModel``.
        data: the trajectories; rows and entries may be missing. Or a ``TrajectoryFile``, of
            which every process reads its own share, or ``StateDerivatives``.
        inference: the engine; ``GaussNewton()`` when None. For pairs ``ExactGP()``, or
            ``DerivativeRegression()`` when None. Energies with layers, such as networks, take
            ``MAP()``, ``DeepEnsemble()`` and their like for both, ``DeepEnsemble()`` when None.
        integrator: ``RK4(step=...)``, step in user time, to fix the solver step of the fit; chosen
            from the data, and refined until its error does not matter, when None. ``StochasticVI``
            takes any method of fixed steps.
        seed: of every random choice; the same seed gives the same posterior.
        device: where to compute, such as "cuda"; where the data are when None.
        dtype: ``torch.float32``: features, their sensitivities and predictions are computed with
            half the digits, and results come back in it. Scaling, sums of squares and systems of
            equations are float64 all the same, and so are times and known formulas, which see user
            units. ``torch.float64`` when None, except for data in float32.
        progress: show what is being done on standard error; of several processes the first does.
        ranks: the processes that share the work; all of ``torch.distributed`` when None, and
            ``Ranks()`` for this one alone.

    Returns:
        The posterior over the field, the friction, the noise and the states.

    Raises:
        ValueError: model and data that do not fit together, before any computing; on all processes
            as a ``RankError`` that names the one at fault, or says what differs between them.
        FloatingPointError: the numbers broke down, with what may help.

    Example:
        >>> from sympgp.systems import Pendulum
        >>> from sympgp import SSGP, Friction, fit
        >>> data = Pendulum(friction=0.1).simulate(3, rate=5, duration=5, noise_std=0.05)
        >>> posterior = fit(SSGP(num_features=20, dissipation=Friction()), data, progress=False)
        >>> posterior.vector_field([[0.5, 0.0]]).mean.shape
        torch.Size([1, 2])
    """
    ranks = Ranks.current() if ranks is None else ranks
    if device is None:
        device = ranks.device
    given = {"model": model, "data": type(data), "inference": inference, "integrator": integrator}
    check_arguments(ranks, {**given, "seed": seed, "dtype": dtype})
    if isinstance(data, TrajectoryFile):
        data = data.gathered(ranks)
    elif isinstance(data, Trajectories) and ranks.several:
        mark = fingerprint(data)[:12]
        ranks.check_same("data: expected the same trajectories on every rank", f"those of {mark}")
    dtype = _checked(dtype, data)
    work = ranks.agree(lambda: _work(model, data, inference, integrator, device, dtype, ranks))
    progress = progress and ranks.first
    with tqdm(disable=not progress, bar_format="{desc} [{elapsed}]{postfix}", leave=False) as bar:

        def report(stage: str, objective: float | None) -> None:
            bar.set_description_str(stage, refresh=False)
            if objective is not None:
                bar.set_postfix_str(f"objective {objective:.2f}", refresh=False)
            bar.update()
            bar.refresh()

        try:
            return work(seed, report).in_dtype(dtype)
        except torch.linalg.LinAlgError as error:
            raise FloatingPointError(
                f"the fit broke down numerically ({error}): the model may lack what moves the "
                "system (inputs, dissipation, the turns of an angle), the data may have gross "
                "outliers, for which see StudentTNoise(), or values in other units; a known noise "
                "may be far too small"
            ) from error


def _checked(dtype: torch.dtype | None, data: object) -> torch.dtype:
    """What to compute in.

    Raises:
        ValueError: another type than float32 and float64.
    """
    if dtype is None:
        single = isinstance(data, Trajectories | StateDerivatives) and data.dtype == torch.float32
        return torch.float32 if single else torch.float64
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype: expected torch.float32, torch.float64 or None, got {dtype!r}")
    return dtype


Work = Callable[[int, Report], Posterior | DerivativePosterior]


def _work(
    model: HamiltonianModel,
    data: Trajectories | StateDerivatives,
    inference: InferenceEngine | DerivativeEngine | None,
    integrator: Integrator | None,
    device: torch.device | str | None,
    dtype: torch.dtype,
    ranks: Ranks,
) -> Work:
    """What is to be done with a seed, once all is known to fit together.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(model, HamiltonianModel):
        raise ValueError(
            f"model: expected an instance of HamiltonianModel, got {type(model).__name__}"
        )
    model = replace(model, dtype=dtype)
    if inference is None and model.energy.has_layers:
        inference = DeepEnsemble()
    _check_sparsity(model, inference)
    if isinstance(data, StateDerivatives):
        own = _on_device(data, device)
        if isinstance(inference, NetworkEngine) and integrator is None:
            _warn_of_copies(inference, ranks)
            return partial(inference.run_pairs, model, own)
        pairs = derivative_engine(inference, integrator)
        _warn_of_copies(pairs, ranks)
        return partial(pairs.run, model, own)
    if not isinstance(data, Trajectories):
        raise ValueError(f"data: expected an instance of Trajectories, got {type(data).__name__}")
    engine = _engine(inference, integrator)
    check_data(model, data)
    if engine.shares:
        ranks.share([len(t) for t in data.times])  # refuses more processes than trajectories
    else:
        _warn_of_copies(engine, ranks)
    if model.energy.angles:
        data = data.to(dtype=torch.float64)
        data = unwrapped(data, list(model.energy.angles), list(model.energy.angles.values()))
    model, data = model.in_context(data)
    return partial(engine.run_shared, model, _on_device(data, device), ranks=ranks)


def _check_sparsity(model: HamiltonianModel, inference: object) -> None:
    """Refuse edges that cost something where the engine knows nothing of it.

    Raises:
        ValueError: it does not.
    """
    takes = isinstance(inference, NetworkEngine) and inference.takes_sparsity
    if model.energy.sparse and not takes:
        raise ValueError(
            "sparsity: expected 0, or an engine that trains networks, other than Laplace, such as "
            f"MAP() or DeepEnsemble(); got {type(inference).__name__}"
        )


def _warn_of_copies(engine: object, ranks: Ranks) -> None:
    """Say once that several processes gain nothing."""
    if ranks.several and ranks.first:
        warnings.warn(
            f"{type(engine).__name__} does not share its work: each of {ranks.count} processes "
            "does all of it",
            UserWarning,
            stacklevel=6,
        )


def _on_device(data: Data, device: torch.device | str | None) -> Data:
    """The data where they are to be computed with, all their digits kept."""
    try:
        return data.to(device=device, dtype=torch.float64)
    except (AssertionError, RuntimeError) as error:  # what PyTorch raises, by kind of build
        raise ValueError(f"device: {device!r} cannot be used here: {error}") from error


def _engine(inference: object, integrator: Integrator | None) -> InferenceEngine:
    engine = GaussNewton() if inference is None else inference
    if not isinstance(engine, InferenceEngine):
        raise ValueError(f"inference: expected an engine such as GaussNewton(), got {engine!r}")
    if integrator is None:
        return engine
    if isinstance(engine, StochasticVI | NetworkEngine):
        return engine.with_integrator(integrator)
    if not isinstance(integrator, RK4) or not isinstance(engine, GaussNewton | NUTS):
        raise ValueError(
            "integrator: GaussNewton differentiates RK4 steps, and so does NUTS: RK4(step=...) or "
            f"None is expected; got {integrator!r}"
        )
    if integrator.step is None:
        raise ValueError("integrator: expected RK4 with a step, got RK4(step=None)")
    return engine.with_step(integrator.step)


def _check_inputs(model: HamiltonianModel, data: Trajectories) -> None:
    """Refuse inputs that one of both does not know.

    Raises:
        ValueError: inputs of the data without a model for them, the other way round, or of
            another number.
    """
    width = 0 if data.inputs is None else data.inputs[0].shape[1]
    if model.inputs is None:
        if width:
            raise ValueError(
                "data: the model has no inputs, but the data have; give the model "
                "inputs=LearnedInputs(...) or KnownInputs(matrix)"
            )
        return
    if not width:
        raise ValueError("data: the model has inputs, but the data have none; see inputs= or u=")
    if width != model.inputs.num_inputs:
        raise ValueError(
            f"data: the model has {model.inputs.num_inputs} input(s), but the data have {width}"
        )


def check_data(model: HamiltonianModel, data: Trajectories) -> None:
    """Refuse data that this model cannot be fitted to.

    Raises:
        ValueError: another number of degrees of freedom; a channel that is never observed or
            never changes; no trajectory observed at two times; inputs.
    """
    if data.num_dof != model.num_dof:
        raise ValueError(
            f"data: the model has {model.num_dof} degree(s) of freedom, so states of width "
            f"{2 * model.num_dof} are expected; got {data.state_dim}"
        )
    _check_inputs(model, data)
    if all(int((~x.isnan()).any(1).sum()) < 2 for x in data.states):
        raise ValueError("data: expected a trajectory observed at two times or more, got none")
    states = torch.cat(list(data.states))
    model.energy.check(states)
    rest = states.new_zeros(1, data.num_dof)
    fixed = model.energy.momenta(rest, rest) is not None
    for channel, name in enumerate(data.names):
        seen = states[:, channel][~states[:, channel].isnan()].double()
        if not len(seen) and channel >= data.num_dof and fixed:
            continue  # a momentum that follows from the velocities
        if len(seen) < 4:
            reason = "a coordinate that is never observed cannot be inferred by this model"
            if channel >= data.num_dof:
                reason = (
                    "nothing fixes the scale of momenta that are never observed: H and all momenta "
                    "could be multiplied alike; give the model a known mass, SSGP(mass=...), or a "
                    "formula of the kinetic energy, or measure momenta"
                )
            raise ValueError(
                f"data: expected at least 4 observations of {name}, got {len(seen)}; {reason}"
            )
        if not float(seen.std()) > 1e-12 * float(seen.abs().max()):
            raise ValueError(f"data: {name} never changes, so there is nothing to learn from it")

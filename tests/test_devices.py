"""Everything on one device: a run with tensors that only claim to be on an accelerator.

``FakeTensorMode`` follows shapes and devices without computing, and refuses operations between
devices. What depends on values (numbers of steps, masks) is taken from a real run on the CPU
before: both runs ask for them in the same places.
"""

import copy
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import pytest
import torch
from problems import hyperparameters, randn, shooting, tensor, unchecked
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from sympgp import (
    HNN,
    MAP,
    SGHMC,
    SSGP,
    DeepEnsemble,
    DerivativeRegression,
    ExactGP,
    Friction,
    GaussNewton,
    Laplace,
    MCDropout,
    MeanFieldVI,
    NeuralODE,
    StateDerivatives,
    StochasticVI,
    Trajectories,
    fit,
)
from sympgp.energies import FourierEnergy
from sympgp.energies.base import Basis, GradientMap
from sympgp.inference.discrepancy import autocorrelation_time, log_evidence
from sympgp.inference.evidence import FrozenModel, linear_rate
from sympgp.inference.smoothing import _cut, _Pieces
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.levenberg_marquardt import levenberg_marquardt
from sympgp.shooting.linearization import linearize
from sympgp.shooting.sensitivities import freeze
from sympgp.systems import Pendulum

# Builds for the CPU alone cannot index tensors that claim to be on "cuda"; there the device
# without memory stands in, which is as different from the CPU.
DEVICE = "cuda" if torch.backends.cuda.is_built() else "meta"

aten = torch.ops.aten
READ = (aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default)
"""Operations that read a number."""
SIZED = (
    aten.nonzero.default,
    aten._unique2.default,
    aten.linalg_lstsq.default,
    aten.repeat_interleave.Tensor,
    aten.repeat_interleave.self_Tensor,
)
"""Operations whose result has a size that depends on values."""


def by_mask(function, arguments) -> bool:
    """Whether an indexing has a mask in it, so that its size depends on values."""
    if function is not aten.index.Tensor:
        return False
    return any(i is not None and i.dtype == torch.bool for i in arguments[1])


def line_of_code() -> tuple[str, int]:
    """The innermost line of the package that is running, of the tests where there is none."""
    frame, own = sys._getframe(2), (__file__, 0)
    while frame is not None:
        if f"{os.sep}sympgp{os.sep}" in frame.f_code.co_filename:
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return own


class Recorder(TorchDispatchMode):
    """Keep what depends on values, by the line that asks: what is asked may hang on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.results: dict[Any, list[Any]] = defaultdict(list)
        self.arrays: list[Any] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if function in READ or function in SIZED or by_mask(function, arguments):
            self.results[function, line_of_code()].append(result)
        return result


class Replayer(TorchDispatchMode):
    """Give back what was kept, as tensors on the device of the arguments."""

    def __init__(self, results: dict[Any, list[Any]]) -> None:
        super().__init__()
        self.results = {key: iter(kept) for key, kept in results.items()}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function in READ:
            return next(self.results[function, line_of_code()])
        if function in SIZED or by_mask(function, arguments):
            device = arguments[0].device
            kept = next(self.results[function, line_of_code()])
            if isinstance(kept, Tensor):
                return torch.empty(kept.shape, dtype=kept.dtype, device=device)
            return tuple(torch.empty(k.shape, dtype=k.dtype, device=device) for k in kept)
        return function(*arguments, **(options or {}))


DATA = ("Trajectories", "StateDerivatives")
NUMPY = Tensor.numpy
READS: list[Any] = []
"""What is recorded or replayed at present, as NumPy reads it."""


def as_array(tensor: Tensor, force: bool = False) -> Any:
    """``numpy``, which fake tensors do not have, and tensors elsewhere than on the CPU neither."""
    if isinstance(tensor, FakeTensor):
        assert tensor.device.type == "cpu", f"numpy() of a tensor on {tensor.device}"
        array = next(READS[-1]).copy()
        assert array.shape == tensor.shape
        return array
    array = NUMPY(tensor, force=force)
    if READS:
        READS[-1].append(array.copy())
    return array


def numbers(tensor: Tensor) -> Any:
    """``tolist`` one number at a time, as fake tensors do it."""
    return tensor.item() if tensor.dim() == 0 else [numbers(part) for part in tensor]


def moved(value: Any, move: Callable[[Tensor], Tensor]) -> Any:
    """A copy of nested objects with every tensor moved."""
    if isinstance(value, Tensor):
        return move(value)
    if isinstance(value, (list, tuple)):
        parts = [moved(item, move) for item in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: moved(item, move) for key, item in value.items()}
    if isinstance(value, (Basis, GradientMap)) or type(value).__name__ in DATA:
        result = copy.copy(value)
        for name, item in vars(value).items():
            object.__setattr__(result, name, moved(item, move))
        return result
    if is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: moved(getattr(value, f.name), move) for f in fields(value)}
        result = copy.copy(value)
        for name in list(vars(result)):  # what is kept of a property is found anew there
            if isinstance(getattr(type(value), name, None), cached_property):
                del vars(result)[name]
        for name, item in changes.items():
            object.__setattr__(result, name, item)
        return result
    return value


def tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    moved(value, lambda t: found.append(t) or t)
    return found


SOBOL = torch.quasirandom.SobolEngine


class RealSobol:
    """The engine of Sobol points, which fills tensors by address: on the CPU and for real."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        with unset_fake_temporarily():
            self.engine = SOBOL(*arguments, **options)

    def draw(self, *arguments: Any, **options: Any) -> Tensor:
        with unset_fake_temporarily():
            return self.engine.draw(*arguments, **options)


@pytest.fixture(autouse=True)
def as_fake_tensors_read(monkeypatch):
    monkeypatch.setattr(Tensor, "tolist", numbers)
    monkeypatch.setattr(Tensor, "numpy", as_array)
    monkeypatch.setattr(torch.quasirandom, "SobolEngine", RealSobol)
    # the kernel of fused rollouts takes addresses, which fake tensors have none of
    monkeypatch.setenv("SYMPGP_FUSED", "0")


@contextmanager
def read_into(arrays: Any) -> Iterator[None]:
    READS.append(arrays)
    try:
        yield
    finally:
        READS.pop()


def on_accelerator(function: Callable[..., Any], *arguments: Any, device: str = DEVICE) -> None:
    """Run for real on the CPU, then with fake tensors elsewhere, and compare the results."""
    recorder = Recorder()
    with recorder, read_into(recorder.arrays):
        expected = function(*arguments)
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(value: Tensor) -> Tensor:
        with mode:
            return torch.empty(value.shape, dtype=value.dtype, device=device)

    there = moved(arguments, fake)
    with mode, Replayer(recorder.results), read_into(iter(recorder.arrays)):
        result = function(*there)
    own, found = tensors(expected), tensors(result)
    assert len(found) == len(own) > 0
    for one, other in zip(own, found, strict=True):
        assert other.device.type == device
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


def test_tensors_left_on_the_cpu_are_caught():
    def forgetful(x: Tensor) -> Tensor:
        return x @ torch.eye(2, dtype=x.dtype)

    with pytest.raises(Exception, match="cpu"):
        on_accelerator(forgetful, randn(3, 2))


def test_values_decide_as_they_did():
    def deciding(x: Tensor) -> Tensor:
        rows = x[x[:, 0] > 0]
        return rows * float(x.sum()) if bool((x > -9).all()) else x[:1]

    on_accelerator(deciding, randn(5, 2))


# the parts


def test_energies_and_fields():
    problem, estimate = shooting(num_dof=2)
    field, theta, z = problem.field, estimate.theta, randn(5, 4)
    draws = theta + 0.1 * randn(3, len(theta))

    def evaluate(field, theta, draws, z):
        bound = field.bind(draws)
        w, rho = field.split(theta)
        return [
            bound(0.0, z.expand(3, *z.shape)),
            bound.first()(0.0, z[None]),
            field.bind(theta)(0.0, z),
            field.features(z, rho),
            field.jacobian(z, theta),
            field.parameter_jacobian(z, theta),
            field.prior_precision(),
            field.basis.value(z, w),
        ]

    on_accelerator(evaluate, field, theta, draws, z)


def test_bases_of_hyperparameters():
    energy = FourierEnergy(1, 4)

    def evaluate(hyper, spread):
        priors = energy.hyperpriors(spread)
        return [energy.basis(hyper).features(spread), *(p.median for p in priors.values())]

    on_accelerator(evaluate, hyperparameters(energy), tensor([1.0, 2.0]))


@pytest.mark.parametrize("duration", [1.1, float("inf")])
def test_the_search_through_the_ode(duration):
    """Paths, objective, sensitivities, elimination, noise, and steps of the search."""
    problem, estimate = shooting(duration=duration)

    def search(problem, estimate):
        return levenberg_marquardt(problem, estimate, max_iterations=1, tolerance=0.1)

    on_accelerator(search, problem, estimate)


def test_layout_of_nodes_and_windows():
    problem, _ = shooting()

    def lay_out(nodes):
        windows = Windows.of_duration(nodes, 0.7)
        return [windows, windows.thinned(12)]

    on_accelerator(lay_out, problem.nodes)


def test_nodes_of_data(posterior):
    on_accelerator(Nodes.from_data, posterior.data, posterior.scaling)


def test_the_frozen_evidence_and_its_gradient():
    problem, estimate = shooting()
    energy = FourierEnergy(1, 3)
    path, _, _ = problem.evaluate(estimate)

    def evidence(problem, estimate, path, hyper):
        hyper = {name: value.requires_grad_() for name, value in hyper.items()}
        field, theta = problem.field, estimate.theta
        index = problem.windows.nodes.reshape(-1)
        dt = problem.nodes.dt[index]
        frozen = freeze(field, theta, path.reshape(-1, 2), dt, problem.step)
        slope = linear_rate(field, frozen.stages, theta)
        model = FrozenModel.about(frozen, slope, path, problem.nodes, problem.windows)
        value, mean = model.solve(energy.basis(hyper), field, theta, estimate.precision)
        return [value.detach(), mean.detach(), *torch.autograd.grad(value, list(hyper.values()))]

    on_accelerator(evidence, problem, estimate, path, hyperparameters(energy))


def test_the_evidence_of_jumps():
    problem, estimate = shooting()
    path, end, _ = problem.evaluate(estimate)

    def evidence(problem, estimate, path, end):
        field, step = problem.field, problem.step
        linear = linearize(field, estimate.theta, path, problem.nodes, problem.windows, step)
        return log_evidence(problem, linear, estimate, path, end)

    on_accelerator(evidence, problem, estimate, path, end)
    on_accelerator(
        autocorrelation_time,
        problem.nodes.values + randn(*problem.nodes.values.shape),
        problem.nodes,
    )


def test_smoothing():
    problem, _ = shooting()

    def smooth(nodes, log):
        member, core = _cut(nodes)
        parts = (nodes.values, nodes.mask, nodes.weights)
        pieces = _Pieces(nodes.times[member], *(part[member, 0] for part in parts))
        queries = nodes.times[core]
        thin = pieces.thinned(2)
        return [pieces.predict(log, queries)[0], thin.negative_log_likelihood(log)]

    on_accelerator(smooth, problem.nodes, tensor([0.1, 0.2, -1.0]))


# a posterior


def small_fit():
    data = Pendulum(friction=0.1).simulate(2, rate=5, duration=4, noise_std=0.05, missing=0.1)
    model = SSGP(num_features=8, dissipation=Friction())
    return fit(model, data, inference=GaussNewton(num_components=2), progress=False)


@pytest.fixture(scope="module")
def posterior():
    found = small_fit()
    # Jumps, so that the branch with them runs too.
    components = tuple(
        replace(c, states=replace(c.states, jump_std=0.05)) for c in found.components
    )
    return replace(found, components=components)


TIMES = [0.0, 0.4, 1.0]
X = tensor([[0.5, 0.2], [-1.0, 1.0]])


@pytest.mark.parametrize(
    "predict",
    [
        lambda p, x: p.vector_field(x),
        lambda p, x: p.vector_field(x, joint=True).mean,
        lambda p, x: [p.hamiltonian(x), p.hamiltonian(x, x[0])],
        lambda p, x: [p.dissipation(), p.dissipation_matrix(x), p.noise(), p.initial_states],
        lambda p, x: [p.sample(3)(x), p.sample(3).energy(x), p.sample(3).noise_std],
        lambda p, x: p.without_dissipation().sample(3)(x),
        lambda p, x: shown(p.rollout(x, TIMES, num_samples=3)),
        lambda p, x: shown(p.rollout(x, TIMES, num_samples=3, discrepancy=True)),
        lambda p, x: shown(p.forecast([4.0, 4.5], trajectory=1, num_samples=3)),
        lambda p, x: [part for f in p.fitted(num_samples=3) for part in shown(f)],
        lambda p, x: shown(p.without_dissipation().rollout(x, TIMES, num_samples=3)),
        pytest.param(lambda p, x: p.condition(p.data[:1]).vector_field(x), marks=pytest.mark.slow),
        pytest.param(lambda p, x: p.log_likelihood(p.data[:1]), marks=pytest.mark.slow),
    ],
    ids=[
        "field",
        "joint",
        "energy",
        "parameters",
        "functions",
        "conservative",
        "rollout",
        "jumps",
        "forecast",
        "fitted",
        "undamped rollout",
        "conditioned",
        "likelihood",
    ],
)
def test_predictions(posterior, predict):
    on_accelerator(predict, posterior, X)


def shown(rollouts) -> list[Tensor]:
    """What a user reads off rollouts."""
    bands = [*rollouts.band(), *rollouts.band(kind="predictive")]
    return [
        rollouts.samples,
        rollouts.times,
        rollouts.mean,
        rollouts.std,
        rollouts.energy(),
        *bands,
    ]


# whole fits


def pairs() -> StateDerivatives:
    x = randn(30, 2)
    q, p = x.unbind(-1)
    return StateDerivatives(x, torch.stack([p, -q - 0.1 * q**3], -1) + 0.02 * randn(30, 2, seed=1))


def paths() -> Trajectories:
    return Pendulum(friction=0.1).simulate(2, rate=4, duration=2, noise_std=0.03)


def few_points() -> Trajectories:
    return Pendulum(friction=0.1).simulate(2, rate=3, duration=1, noise_std=0.03)


SPECTRUM = SSGP(num_features=4, dissipation=Friction())
NETWORK, TINY = HNN(1, (3, 3)), HNN(1, (2, 2))
FEW_CHAINS = SGHMC(num_chains=2, num_samples=2, num_warmup=2, thinning=1, num_steps=2)
SHORT = GaussNewton(num_components=1, hyperparameter_rounds=1, max_iterations=2)


@pytest.mark.parametrize(
    "model, data, engine",
    [
        (NETWORK, pairs, MAP(num_steps=2)),
        (SPECTRUM, pairs, ExactGP()),
        (SPECTRUM, pairs, DerivativeRegression()),
        (SPECTRUM, paths, SHORT),
        (SPECTRUM, few_points, StochasticVI(num_steps=2, warm_start=SHORT)),
        (TINY, few_points, MAP(num_steps=3)),
        (TINY, few_points, DeepEnsemble(num_members=2, num_steps=3)),
        (TINY, few_points, MeanFieldVI(num_steps=2, num_vi_steps=2, num_draws=3)),
        (TINY, few_points, MCDropout(num_steps=2, num_draws=3)),
        (TINY, few_points, FEW_CHAINS),
        (TINY, few_points, Laplace(num_steps=3, num_draws=3)),
        (NeuralODE(1, (2, 2)), few_points, MAP(num_steps=3)),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.slow
def test_whole_fits(model, data, engine):
    def fitted(known):
        states = known.states if isinstance(known.states, Tensor) else known.states[0]
        with unchecked():
            found = fit(model, known, inference=engine, progress=False)
            rates = found.vector_field(states[:2])
        return [rates.mean, rates.stddev]

    on_accelerator(fitted, data())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fit_on_cuda_is_the_one_on_the_cpu(posterior):
    data = posterior.data
    model = SSGP(num_features=8, dissipation=Friction())
    there = fit(model, data, inference=GaussNewton(num_components=2), device="cuda", progress=False)
    assert there.scaling.center.is_cuda
    own, other = small_fit().rollout(X, TIMES), there.rollout(X, TIMES)
    torch.testing.assert_close(other.samples.cpu(), own.samples, atol=1e-6, rtol=1e-6)

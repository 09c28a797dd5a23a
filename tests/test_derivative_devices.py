"""Posteriors from derivatives on one device, as ``test_devices.py`` checks the others."""

import pytest
import torch
from problems import canonical, hyperparameters, randn, tensor
from test_devices import as_fake_tensors_read, on_accelerator  # noqa: F401
from test_exact_gp import NOISE, energy_of, friction, pendulum

from sympgp import (
    SSGP,
    DerivativeRegression,
    ExactGP,
    Friction,
    GaussianNoise,
    StateDerivatives,
    fit,
)
from sympgp.inference.exact_gp import EnergyFamily, KernelRegression
from sympgp.inference.feature_regression import FeatureRegression
from sympgp.inference.pairs import NoiseParameters, rate_noise
from sympgp.systems import Pendulum

ENGINES = [DerivativeRegression(num_components=2), ExactGP(num_components=2)]
MODEL = SSGP(num_features=8, dissipation=Friction())
X = tensor([[0.5, 0.2], [-1.0, 1.0]])


def small_pairs() -> StateDerivatives:
    x = randn(12, 2)
    return StateDerivatives(x, Pendulum(friction=0.1).vector_field(x) + 0.1 * randn(12, 2, seed=1))


@pytest.fixture(scope="module", params=ENGINES, ids=["features", "kernel"])
def posterior(request):
    return fit(MODEL, small_pairs(), inference=request.param, progress=False)


@pytest.mark.parametrize("kind", ["features", "kernel"])
def test_evidence_solution_and_component(kind):
    energy = energy_of(6)

    def regress(pairs, hyper, rho, std, dissipation):
        regression = FeatureRegression(energy, dissipation)
        if kind == "kernel":
            regression = KernelRegression(EnergyFamily(energy), dissipation)
        leaves = [value.detach().requires_grad_() for value in hyper.values()]
        own = dict(zip(hyper, leaves, strict=True))
        value = regression.evidence(pairs, own, rho, std)
        slopes = torch.autograd.grad(value, leaves)
        solution = regression.solve(pairs, hyper, rho, std).refined(std)
        parts = [solution.rho, solution.squares, solution.degrees]
        return [value.detach(), *slopes, *parts, pairs.thinned(20)]

    arguments = (pendulum(), hyperparameters(energy), tensor([0.1]), NOISE, friction())
    on_accelerator(regress, *arguments)


def test_noise_parameters():
    def pack(noise, std):
        law = NoiseParameters(noise)
        log = law.pack(std)
        return [log, law.unpack(log), law.log_prior(std)]

    tied = GaussianNoise(tied=[(0, 1)])
    noise = rate_noise(tied, canonical())
    on_accelerator(pack, noise, NOISE)


@pytest.mark.parametrize(
    "predict",
    [
        lambda p, x: p.vector_field(x),
        lambda p, x: p.vector_field(x, joint=True).mean,
        lambda p, x: [p.hamiltonian(x), p.hamiltonian(x, x[0])],
        lambda p, x: [p.dissipation(), p.dissipation_matrix(x), p.noise()],
        lambda p, x: [p.sample(3)(x), p.sample(3).energy(x), p.sample(3).noise_std],
        lambda p, x: p.without_dissipation().sample(3)(x),
        lambda p, x: p.rollout(x, [0.0, 0.05], num_samples=3).samples,
        lambda p, x: [c.moments() for c in p.components],
    ],
    ids=["field", "joint", "energy", "parameters", "functions", "still", "rollout", "moments"],
)
def test_predictions(posterior, predict):
    on_accelerator(predict, posterior, X)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("engine", ENGINES, ids=["features", "kernel"])
def test_a_fit_on_cuda_is_the_one_on_the_cpu(engine):
    own, other = (
        fit(MODEL, small_pairs(), inference=engine, device=device, progress=False)
        for device in ("cpu", "cuda")
    )
    assert other.scaling.center.is_cuda
    found, expected = other.vector_field(X), own.vector_field(X)
    torch.testing.assert_close(found.mean.cpu(), expected.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.stddev.cpu(), expected.stddev, atol=1e-4, rtol=1e-3)

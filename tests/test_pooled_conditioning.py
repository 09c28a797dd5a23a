"""New trajectories of a posterior whose parameters differ by trajectory: each learns its own."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from problems import randn, tensor, unchecked
from torch import Tensor
from torch.distributions import LogNormal

import sympgp as sg
from sympgp.energies import PhysicsEnergy
from sympgp.posterior import GaussianComponent, SampledComponent
from sympgp.posterior.joining import informed, join
from sympgp.systems import Pendulum

PENDULUM = "p**2/2 + k*(1-cos(q))"
PRIOR = LogNormal(math.log(2.0), 1.0)
QUICK = sg.GaussNewton(num_components=1)
NOISE = 0.1


def pendulums(k: Tensor, seed: int, duration: float = 3.0) -> sg.Trajectories:
    """One trajectory for each k."""
    systems = [Pendulum(mass=1.0, gravity=float(own)) for own in k]
    how = {"rate": 3.0, "duration": duration, "noise_std": NOISE}
    runs = [s.simulate(1, seed=1000 * seed + i, **how) for i, s in enumerate(systems)]
    return sg.Trajectories.concatenate(runs)


def trained(data: sg.Trajectories, **settings) -> sg.Posterior:
    energy = PhysicsEnergy(PENDULUM, {"k": sg.Pooled(PRIOR)})
    model = sg.HamiltonianModel(energy, noise=sg.GaussianNoise(std=NOISE), **settings)
    return sg.fit(model, data, inference=QUICK, progress=False)


@pytest.fixture(scope="module")
def old() -> sg.Trajectories:
    return pendulums(2.0 * (0.2 * randn(6, seed=1)).exp(), 1)


@pytest.fixture(scope="module")
def whole(old) -> sg.Posterior:
    with unchecked():
        return trained(old)


@pytest.fixture
def fitted(whole) -> Iterator[sg.Posterior]:
    with unchecked():
        yield whole


def renamed(data: sg.Trajectories, *labels: str) -> sg.Trajectories:
    return sg.Trajectories(list(data.times), list(data.states), labels=labels)


def test_each_new_trajectory_learns_its_own_parameter(fitted):
    truth = tensor([1.5, 2.8])
    found = fitted.condition(renamed(pendulums(truth, 7, 8.0), "slow", "fast"))
    k, before = found.parameters(), fitted.parameters()
    assert set(k) == {"k", "k[slow]", "k[fast]", "k[new]", "k spread"}
    for name, own in zip(("slow", "fast"), truth, strict=True):
        low, high = k[f"k[{name}]"].interval(0.99)
        assert float(low) < float(own) < float(high)
        assert float(high - low) < 0.2
    for name in ("k", "k[new]", "k spread"):  # the population is what it was
        torch.testing.assert_close(k[name].mean, before[name].mean, rtol=0.02, atol=0.0)
        torch.testing.assert_close(k[name].stddev, before[name].stddev, rtol=0.06, atol=0.0)
    assert "slow: 1.5" in found.summary() or "slow: 1.4" in found.summary()


def test_predictions_of_a_new_trajectory_are_those_of_its_parameter(fitted):
    data = pendulums(tensor([1.5, 2.8]), 7, 8.0)
    found = fitted.condition(data)
    assert found.data.context[:, 0].tolist() == [8.0, 9.0]  # behind six and one not seen
    for i, label in enumerate(data.labels):
        rate = found.sample(200).within(found.data.context[i : i + 1])([[1.0, 0.0]])[:, 0, 1]
        k = found.parameters()[f"k[{label}]"]
        assert abs(float(-rate.mean() / math.sin(1.0) - k.mean)) < 0.5 * float(k.stddev)
        path = found.forecast([float(data.times[i][-1]), 9.0], trajectory=i, num_samples=20)
        energy = path.energy()
        assert float((energy - energy[:, :, :1]).abs().max()) < 1e-3
    # Of others nothing was learned: they are like any of the population.
    new = found.sample(400)([[1.0, 0.0]])[:, 0, 1].std() / math.sin(1.0)
    width = float(fitted.parameters()["k[new]"].stddev)
    assert 0.8 * width < float(new) < 1.2 * width


def test_without_data_the_parameter_is_as_the_population_has_it(fitted):
    states = tensor([[1.0, 0.0], [math.nan, math.nan]])
    found = fitted.condition(sg.Trajectories([0.0, 3.0], states)).parameters()
    torch.testing.assert_close(found["k[0]"].mean, found["k[new]"].mean, rtol=0.02, atol=0.0)
    torch.testing.assert_close(found["k[0]"].stddev, found["k[new]"].stddev, rtol=0.06, atol=0.0)


def test_few_data_say_less_than_many(fitted):
    data = pendulums(tensor([2.8]), 7, 8.0)
    widths = [
        float(fitted.condition(data.between(0.0, end)).parameters()["k[0]"].stddev)
        for end in (0.7, 1.5, 8.0)
    ]
    assert widths[0] > 1.2 * widths[1] > 1.2 * widths[2]


def test_it_is_close_to_the_joint_fit_of_all_trajectories(fitted, old):
    """The population is known from six others; a seventh moves it by little."""
    new = renamed(pendulums(tensor([2.4]), 3), "another")
    joint = trained(old + new).parameters()["k[another]"]
    found = fitted.condition(new).parameters()["k[another]"]
    assert abs(float(found.mean - joint.mean)) < 0.25 * float(joint.stddev)
    assert 0.85 < float(found.stddev / joint.stddev) < 1.15


@pytest.mark.parametrize("dissipation", [sg.Conservative(), sg.Friction()])
def test_given_the_rest_it_is_as_in_the_joint_precision(fitted, old, dissipation):
    """The Gaussian's marginal is what it was, its conditional that of the joint precision."""
    if not isinstance(dissipation, sg.Conservative):
        fitted = trained(old, dissipation=dissipation)
    component = fitted.components[0]
    wide, free = join(component, pendulums(tensor([1.5, 2.8]), 7))
    assert free.tolist() == [8, 9]
    root = randn(len(wide.theta), len(wide.theta), seed=3)
    precision = root @ root.mT + torch.eye(len(root)).double()
    theta = wide.theta.clone()
    theta[free] = tensor([0.3, -0.2])
    found = informed(wide, free, theta, precision)
    covariance = torch.cholesky_inverse(found.factor)
    kept = [i for i in range(len(theta)) if i not in free.tolist()]
    before = torch.cholesky_inverse(component.factor)
    torch.testing.assert_close(covariance[kept][:, kept], before)
    own = precision[free][:, free]
    slope = torch.linalg.solve(before, covariance[kept][:, free]).mT
    torch.testing.assert_close(slope, -torch.linalg.solve(own, precision[free][:, kept]))
    rest = covariance[free][:, free] - slope @ before @ slope.mT
    torch.testing.assert_close(rest, torch.linalg.inv(own))


def test_of_a_bank_of_draws_it_is_the_same(fitted):
    gaussian = fitted.components[0]
    assert isinstance(gaussian, GaussianComponent)
    draws = gaussian.sample(3000, torch.Generator().manual_seed(0))
    plain = {
        name: getattr(gaussian, name)
        for name in ("field", "noise_std", "noise_group", "noise_dof", "hyperparameters", "states")
    }
    bank = SampledComponent(theta=draws.theta.mean(0), draws=draws, **plain)
    data = pendulums(tensor([1.5, 2.8]), 7)
    found = replace(fitted, components=(bank,)).condition(data)
    expected = fitted.condition(data).parameters()
    for name, own in found.parameters().items():
        wanted = expected[name]
        assert abs(float(own.mean - wanted.mean)) < 0.1 * float(wanted.stddev), name
        if "spread" not in name:
            assert 0.92 < float(own.stddev / wanted.stddev) < 1.08, name
    assert found.forecast([3.0, 4.0], trajectory=1).mean.isfinite().all()


def test_those_that_joined_before_leave_without_a_trace(fitted):
    first, second = pendulums(tensor([1.5, 2.8]), 7), pendulums(tensor([2.1]), 8)
    found = fitted.condition(first).condition(second).components[0]
    direct = fitted.condition(second).components[0]
    torch.testing.assert_close(found.theta, direct.theta)
    torch.testing.assert_close(found.factor, direct.factor)


def test_saved_and_loaded_it_predicts_the_same(fitted, tmp_path):
    found = fitted.condition(pendulums(tensor([1.5, 2.8]), 7))
    found.save(tmp_path / "new.pt")
    loaded = sg.load(tmp_path / "new.pt")
    paths = [p.forecast([3.0, 4.0], trajectory=1).samples for p in (found, loaded)]
    assert torch.equal(*paths)
    names = [p.parameters()["k[0-2]"].draws for p in (found, loaded)]
    assert torch.equal(*names)


def test_new_data_are_likelier_once_learned(fitted):
    data = pendulums(tensor([2.8]), 7)
    before, after = (p.log_likelihood(data, 8).sum(1) for p in (fitted, fitted.condition(data)))
    assert bool(before.isfinite().all())
    # Draws of other data have their own parameters again.
    torch.testing.assert_close(before, after)
    known = fitted.condition(data).log_likelihood(num_samples=8).sum(1)
    assert float(known.median()) > float(before.median()) + 3.0


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say(fitted):
    truth = 2.0 * (0.2 * randn(40, seed=11)).exp()
    found = fitted.condition(pendulums(truth, 11, 2.0))
    every, inside = found.parameters(), []
    for label, own in zip(found.data.labels, truth, strict=True):
        low, high = every[f"k[{label}]"].interval(0.9)
        inside.append(float(low) <= float(own) <= float(high))
    assert 30 <= sum(inside)

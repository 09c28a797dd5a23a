"""The joint log density: every term normalised, the sum that of the shooting objective."""

import math
from dataclasses import replace

import pytest
import torch
from problems import NAN, gaussian, identity_scaling, observed, randn, shooting, tensor

from sympgp.noise import GaussianNoise, ScaledNoise, StudentTNoise
from sympgp.shooting.density import JointDensity
from sympgp.shooting.layout import Nodes, Windows
from sympgp.shooting.priors import noise_log_prior
from sympgp.shooting.sensitivities import INITIAL_VARIANCE
from sympgp.trajectories import Trajectories


def drawn(duration=1.1, num_dof=1, noise=None, friction=True, num=3):
    """A density and draws of all its unknowns."""
    problem, estimate = shooting(num_dof, duration, friction=friction)
    density = JointDensity(
        problem.nodes,
        problem.windows,
        problem.field,
        problem.noise if noise is None else noise,
        0.0 if problem.windows.joined else estimate.defect_std,
        problem.step,
    )
    theta = estimate.theta + 0.05 * randn(num, len(estimate.theta), seed=11)
    start = estimate.start + 0.3 * randn(num, *estimate.start.shape, seed=12)
    noise_std = estimate.noise_std * (0.2 * randn(num, 2 * num_dof, seed=13)).exp()
    return problem, estimate, density, (theta, noise_std, start)


def normal(values, stddev):
    return torch.distributions.Normal(0.0, stddev).log_prob(values)


@pytest.mark.parametrize("dof", [None, 4.0])
@pytest.mark.parametrize("duration", [0.6, math.inf])
def test_the_likelihood_is_that_of_every_observation(duration, dof):
    noise = replace(gaussian(2), dof=dof)
    problem, _, density, (theta, noise_std, start) = drawn(duration, noise=noise, num=1)
    terms = density.terms(theta, noise_std, start)
    for s in range(len(theta)):
        vector = torch.cat([theta[s], start[s].flatten()])
        predicted, values, channels = observed(problem, vector)
        scale = noise_std[s][channels]
        if dof is None:
            law = torch.distributions.Normal(predicted, scale)
        else:
            law = torch.distributions.StudentT(dof, predicted, scale)
        torch.testing.assert_close(terms["likelihood"][s], law.log_prob(values).sum())


def test_priors_of_weights_friction_states_and_jumps():
    problem, _, density, (theta, noise_std, start) = drawn()
    terms = density.terms(theta, noise_std, start)
    weights = normal(theta[:, :-1], density.field.basis.prior_variance.sqrt())
    torch.testing.assert_close(terms["weights"], weights.sum(1))
    half = torch.distributions.HalfNormal(density.field.dissipation.prior_stddev)
    torch.testing.assert_close(terms["dissipation"], half.log_prob(theta[:, -1:]).sum(1))
    first = normal(start[:, problem.windows.chain[:, 0]], INITIAL_VARIANCE**0.5)
    torch.testing.assert_close(terms["initial_states"], first.sum((1, 2)))
    _, end, _ = density.paths(theta, start)
    here, ahead = problem.following()
    jumps = normal(end[:, here] - start[:, ahead], density.defect_std)
    torch.testing.assert_close(terms["continuity"], jumps.sum((1, 2)))
    torch.testing.assert_close(density.log_prob(theta, noise_std, start), sum(terms.values()))


def test_without_friction_and_jumps_there_are_no_such_terms():
    _, _, density, draws = drawn(math.inf, friction=False)
    terms = density.terms(*draws)
    assert "continuity" not in terms
    assert not terms["dissipation"].any()


def test_negative_friction_is_impossible():
    _, _, density, (theta, noise_std, start) = drawn()
    theta[1, -1] = -1e-3
    terms = density.terms(theta, noise_std, start)
    assert terms["dissipation"].isfinite().tolist() == [True, False, True]
    assert float(density.log_prob(theta, noise_std, start)[1]) == -math.inf


def test_the_noise_prior_is_a_density_of_the_logarithm():
    """It integrates to one over ``log sigma`` and is that of an inverse-gamma ``sigma^2``."""
    log = torch.linspace(-12.0, 12.0, 4001, dtype=torch.float64)
    noise_std = torch.stack([torch.full_like(log, 0.5), log.exp()], 1)
    value = noise_log_prior(gaussian(2, tensor([0.5, NAN])), noise_std)
    assert float(torch.trapezoid(value.exp(), log)) == pytest.approx(1.0, abs=1e-6)


def test_the_noise_prior_does_not_know_units():
    """Tied levels count once, and in any units of the data alike."""
    unit, level = tensor([2.0, 0.5]), tensor([[0.3], [0.4]])
    tied = ScaledNoise(tensor([NAN, NAN]), torch.zeros(2).long(), unit)
    value = noise_log_prior(tied, level / unit)
    scaled = ScaledNoise(tensor([NAN, NAN]), torch.zeros(2).long(), 10.0 * unit)
    other = noise_log_prior(scaled, level / unit)
    torch.testing.assert_close(other, value)
    alone = replace(tied, group=torch.arange(2))
    assert (noise_log_prior(alone, level / unit) < value - 5.0).all()
    none = replace(tied, known=tensor([0.1, 0.2]), group=torch.arange(2))
    assert not noise_log_prior(none, level / unit).any()


@pytest.mark.parametrize("duration", [1.1, math.inf])
def test_differences_are_those_of_the_shooting_objective(duration):
    """At fixed noise the log density is minus the objective, up to a constant."""
    problem, estimate, density, (theta, _, start) = drawn(duration)
    estimate = replace(estimate, inflation=torch.ones(2).double())
    noise_std = estimate.noise_std.expand(len(theta), -1)
    found = density.log_prob(theta, noise_std, start)
    expected = torch.stack(
        [
            problem.evaluate(replace(estimate, theta=t, start=z))[2]
            for t, z in zip(theta, start, strict=True)
        ]
    )
    torch.testing.assert_close(found - found[0], expected[0] - expected)


@pytest.mark.parametrize("dof", [None, 3.0])
@pytest.mark.parametrize("num_dof", [1, 2])
def test_gradients_of_all_unknowns_against_finite_differences(num_dof, dof):
    noise = replace(gaussian(2 * num_dof), dof=dof)
    _, _, density, draws = drawn(1.6, num_dof, noise=noise, num=2)
    draws = tuple(part.requires_grad_(True) for part in draws)
    assert torch.autograd.gradcheck(
        density.log_prob, draws, eps=1e-6, atol=1e-5, rtol=1e-6, fast_mode=True
    )


def test_draws_do_not_see_each_other():
    _, _, density, draws = drawn()
    together = density.log_prob(*draws)
    alone = [density.log_prob(*(part[s : s + 1] for part in draws)) for s in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("noise", [GaussianNoise(), StudentTNoise(dof=5)])
@pytest.mark.parametrize("duration", [0.6, math.inf])
def test_observations_come_in_the_order_of_the_data(duration, noise):
    scaling = identity_scaling()
    _, _, density, draws = drawn(duration, noise=noise.scaled(scaling))
    data = _data_of(density.nodes)
    table = density.pointwise(*draws)
    assert table.shape == (3, data.num_observations)
    torch.testing.assert_close(table.sum(1), density.terms(*draws)["likelihood"])
    # Another value of one observation changes its own column and no other.
    values = density.nodes.values.clone()
    row = 3
    assert bool(density.nodes.mask[row, 1])
    values[row, 1] += 1.0
    moved = replace(density, nodes=replace(density.nodes, values=values)).pointwise(*draws)
    column = int(density.nodes.mask.flatten()[: 2 * row + 1].sum())
    changed = (moved != table).any(0).nonzero().flatten().tolist()
    assert changed == [column]


def _data_of(nodes: Nodes) -> Trajectories:
    states = nodes.values.masked_fill(~nodes.mask, NAN)
    parts = list(zip(nodes.first[:-1], nodes.first[1:], strict=True))
    return Trajectories([nodes.times[a:b] for a, b in parts], [states[a:b] for a, b in parts])


def test_a_draw_that_diverges_is_impossible_and_has_no_gradient():
    _, _, density, (theta, noise_std, start) = drawn()
    theta[1] *= 1e9
    theta[1, -1] = 0.1
    draws = tuple(part.requires_grad_(True) for part in (theta, noise_std, start))
    terms = density.terms(*draws)
    assert terms["likelihood"].isfinite().tolist() == [True, False, True]
    for gradient in torch.autograd.grad(terms["likelihood"].sum(), draws):
        assert bool(gradient.isfinite().all())
        assert not gradient[1].any() and bool(gradient[0].any())


def test_windows_without_jumps_are_refused():
    problem, _, _, _ = drawn()
    assert isinstance(problem.windows, Windows)
    with pytest.raises(ValueError, match="defect_std: expected a positive number"):
        JointDensity(problem.nodes, problem.windows, problem.field, problem.noise, 0.0, 0.1)

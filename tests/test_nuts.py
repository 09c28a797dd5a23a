"""No-U-Turn sampling: the whitened density, chains side by side, known posteriors, resuming."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import (
    dense_gauss_newton,
    gaussian,
    hyperparameters,
    randn,
    shooting,
    tensor,
    unknowns,
)
from torch import Tensor

import sympgp as sg
from sympgp.energies import FourierEnergy
from sympgp.energies.base import Basis, Energy, GradientMap, LogNormal
from sympgp.inference.chains import Chain, Tuning, run_chains
from sympgp.inference.convergence import Convergence, notes_on_transitions
from sympgp.inference.evidence import HyperPosterior, pack
from sympgp.inference.linear_model import LinearModel
from sympgp.inference.lockstep import Sampler, run_together
from sympgp.inference.nuts import NUTS
from sympgp.inference.target import Target
from sympgp.inference.whitening import Whitening
from sympgp.models import HamiltonianModel
from sympgp.shooting.density import JointDensity
from sympgp.shooting.layout import Windows
from sympgp.shooting.levenberg_marquardt import Solution, levenberg_marquardt
from sympgp.shooting.problem import Estimate, Problem
from sympgp.shooting.sensitivities import INITIAL_VARIANCE

# Problems


def solved(duration=1.1, friction=True, known=True, dof=None) -> tuple[Problem, Solution]:
    """A shooting problem at its optimum: data of the field itself, with noise."""
    problem, truth = shooting(duration=math.inf, friction=friction)
    path, _, _ = problem.evaluate(truth)
    values = torch.zeros_like(problem.nodes.values)
    values[problem.windows.nodes.reshape(-1)] = path.flatten(0, 1)
    windows = Windows.of_duration(problem.nodes, duration)
    start = values[windows.start]
    values = (values + 0.1 * randn(*values.shape, seed=8)) * problem.nodes.mask
    std = tensor([0.1, 0.12])
    noise = replace(gaussian(2, std if known else None), dof=dof)
    problem = replace(
        problem, nodes=replace(problem.nodes, values=values), windows=windows, noise=noise
    )
    estimate = Estimate(truth.theta, start, std, 0.05, torch.ones(2).double() / noise.information)
    return problem, levenberg_marquardt(problem, estimate, max_iterations=30, tolerance=1e-9)


def whitened(problem: Problem, solution: Solution, hyper: HyperPosterior | None = None) -> Target:
    energy = FourierEnergy(1, 5, seed=0)
    linear = LinearModel.about(problem, problem.field, solution)
    estimate = solution.estimate
    whitening = Whitening.about(
        linear,
        estimate.start,
        problem.noise,
        estimate.noise_std,
        torch.where(problem.noise.known.isnan(), 10.0, torch.inf),
        hyper,
        None if hyper is None else energy,
    )
    defect = 0.0 if problem.windows.joined else estimate.defect_std
    density = JointDensity(
        problem.nodes, problem.windows, problem.field, problem.noise, defect, problem.step
    )
    return Target.of(density, whitening)


def around(seed=0) -> HyperPosterior:
    """A normal law of the hyperparameters of the field that ``problems`` makes."""
    energy = FourierEnergy(1, 5, seed=0)
    priors = energy.hyperpriors(torch.ones(2, dtype=torch.float64))
    mean = pack(priors, hyperparameters(energy))
    root = 0.1 * randn(len(mean), len(mean), seed=seed) + 0.2 * torch.eye(len(mean)).double()
    return HyperPosterior(priors, mean, root @ root.mT)


class LinearGradient(GradientMap):
    def __init__(self, rate: Tensor) -> None:
        self.rate = rate

    def __call__(self, z: Tensor) -> Tensor:
        return self.rate.unsqueeze(-2).expand(z.shape)

    def transformed(self, matrix: Tensor) -> "LinearGradient":
        return LinearGradient((matrix @ self.rate.unsqueeze(-1)).squeeze(-1))

    def first(self) -> "LinearGradient":
        return LinearGradient(self.rate[:1])


class LinearBasis(Basis):
    """``H = w . z``: the state moves at constant rates, and everything is linear and Gaussian."""

    def __init__(self, variance: Tensor) -> None:
        self.prior_variance, self.num_weights = variance, len(variance)

    def features(self, z: Tensor, w: Tensor | None = None) -> Tensor:
        return z

    def feature_gradient(self, z: Tensor, w: Tensor | None = None) -> Tensor:
        eye = torch.eye(self.num_weights, dtype=z.dtype)
        return eye.expand(*z.shape[:-1], -1, -1)

    def gradient_map(self, w: Tensor) -> LinearGradient:
        return LinearGradient(w)

    def hessian(self, z: Tensor, w: Tensor) -> Tensor:
        return z.new_zeros(*z.shape, z.shape[-1])


class LinearEnergy(Energy):
    num_dof = 1

    def hyperpriors(self, spread: Tensor) -> dict[str, LogNormal]:
        return {"scale": LogNormal(torch.ones((), dtype=spread.dtype), 0.5)}

    def basis(self, hyperparameters: dict[str, Tensor]) -> LinearBasis:
        return LinearBasis(hyperparameters["scale"].square().expand(2))

    def redraw(self, seed: int) -> "LinearEnergy":
        return self


def dense_law(
    variance: Tensor, posterior: sg.Posterior, std: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and covariance of rates and first states of :class:`LinearBasis`, scaled units.

    Also the log evidence of the rates' prior ``variance``, up to a constant.
    """
    scaling = posterior.scaling
    J = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    count = len(posterior.data)
    rows, targets, weights = [], [], []
    for k, (times, states) in enumerate(
        zip(posterior.data.times, posterior.data.states, strict=True)
    ):
        s, z = scaling.to_scaled_time(times), scaling.to_scaled(states)
        for elapsed, state in zip(s - s[0], z, strict=True):
            first = torch.zeros(2, count, 2).double()
            first[:, k] = torch.eye(2).double()
            rows.append(torch.cat([elapsed * J, first.flatten(1)], 1))
            targets.append(state)
            weights.append((scaling.scale / std) ** 2)
    lever, weight = torch.cat(rows), torch.cat(weights)
    prior = torch.cat([1.0 / variance, torch.full((2 * count,), 1.0 / INITIAL_VARIANCE).double()])
    precision = lever.mT @ (weight[:, None] * lever) + torch.diag(prior)
    pull = lever.mT @ (weight * torch.cat(targets))
    covariance = torch.linalg.inv(precision)
    evidence = pull @ covariance @ pull + prior.log().sum() - torch.linalg.slogdet(precision)[1]
    return covariance @ pull, covariance, 0.5 * evidence


def drifting(num=3, seed=0) -> sg.Trajectories:
    """States that move at one constant rate, observed with noise."""
    times = torch.linspace(0.0, 3.0, 7, dtype=torch.float64)
    first = 2.0 * randn(num, 1, 2, seed=seed)
    path = first + times[:, None] * tensor([0.8, -0.5])
    return sg.Trajectories(times, path + 0.2 * randn(*path.shape, seed=seed + 1))


def swinging() -> tuple[sg.Trajectories, HamiltonianModel]:
    """Few and long solver steps: with every call checked, they take the time."""
    data = sg.systems.Pendulum(friction=0.1).simulate(
        2, rate=2.5, duration=2, noise_std=0.1, seed=4
    )
    return data, sg.SSGP(num_features=3, dissipation=sg.Friction())


QUICK = sg.GaussNewton(num_components=1, step=0.4)
BRIEF = NUTS(num_samples=6, num_warmup=3, num_chains=2, max_tree_depth=2, warm_start=QUICK)


@pytest.fixture(scope="module")
def started() -> sg.Posterior:
    """What several samplers start from."""
    data, model = swinging()
    return sg.fit(model, data, inference=QUICK, progress=False)


def sampled(started: sg.Posterior, **settings) -> sg.Posterior:
    data, model = swinging()
    engine = replace(BRIEF, warm_start=started, **settings)
    return sg.fit(model, data, inference=engine, progress=False)


# The change of variables


@pytest.mark.parametrize("duration", [1.1, math.inf])
def test_the_whitening_is_the_gauss_newton_posterior(duration):
    """Its Jacobian is a root of the inverse of the dense Gauss-Newton matrix of all unknowns."""
    problem, solution = solved(duration, friction=False)
    target = whitened(problem, solution)

    def vector(white: Tensor) -> Tensor:
        found = target.unknowns(white[None])
        return torch.cat([found.theta[0], found.start[0].flatten()])

    zero = torch.zeros(target.whitening.size).double()
    root = torch.func.jacrev(vector)(zero)
    precision, _ = dense_gauss_newton(problem, solution.estimate)
    white = root.mT @ precision @ root
    torch.testing.assert_close(white, torch.eye(len(white)).double(), atol=1e-6, rtol=0)
    off = torch.linalg.solve(root, vector(zero) - unknowns(solution.estimate))
    assert float(off.abs().max()) < 0.01


@pytest.mark.parametrize("mean", [-0.3, 0.02, 5.0])
def test_friction_is_never_negative_and_of_unit_scale(mean):
    """Whatever the Gaussian says: far below zero, at it, or far above."""
    problem, solution = solved()
    whitening = whitened(problem, solution).whitening
    linear = whitening.linear
    theta = torch.cat([linear.theta[:-1], tensor([mean])])
    linear = replace(linear, theta=theta)
    again = Whitening.about(
        linear, whitening.start, problem.noise, whitening.noise_std, torch.full((2,), 9.0).double()
    )
    white = 1.5 * randn(4000, again.size, seed=5)
    rho = again(white).theta[:, -1]
    assert bool((rho > 0).all())
    assert 0.5 < float(rho.std() / (1.5 * again.damping_unit)) < 1.2


@pytest.mark.parametrize("moving", [False, True])
def test_volumes_are_determinants(moving):
    """``log |d unknowns / d xi|`` up to one constant, by dense Jacobians."""
    problem, solution = solved(known=False)
    target = whitened(problem, solution, around() if moving else None)

    def vector(white: Tensor) -> Tensor:
        found = target.unknowns(white[None])
        parts = (found.theta, found.noise_std.log(), found.start, found.log_hyper)
        return torch.cat([part.flatten() for part in parts])

    points = 0.7 * randn(4, target.whitening.size, seed=2)
    dense = torch.stack(
        [torch.linalg.slogdet(torch.func.jacrev(vector)(point)).logabsdet for point in points]
    )
    volume = target.unknowns(points).log_volume
    assert float(volume.std()) > 0.02
    torch.testing.assert_close(volume - volume[0], dense - dense[0], atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("duration", [1.1, math.inf])
def test_gradients_against_finite_differences(duration, moving):
    problem, solution = solved(duration, known=False)
    target = whitened(problem, solution, around() if moving else None)
    white = 0.3 * randn(1 if moving else 2, target.whitening.size, seed=3)
    assert torch.autograd.gradcheck(
        target, white.requires_grad_(True), eps=1e-5, atol=1e-4, rtol=1e-5, fast_mode=True
    )


@pytest.mark.parametrize("moving", [False, True])
def test_the_density_is_that_of_the_model(moving):
    """Likelihood and priors of the unknowns, with the volume; hyperparameters with theirs."""
    problem, solution = solved(known=False)
    target = whitened(problem, solution, around() if moving else None)
    white = 0.5 * randn(3, target.whitening.size, seed=6)
    found = target.unknowns(white)
    expected = []
    for k in range(3):
        field, hyperprior = problem.field, tensor(0.0)
        if moving:
            posterior, energy = target.whitening.hyper, target.whitening.energy
            log = found.log_hyper[k]
            field = replace(field, basis=energy.basis(posterior.hyperparameters(log)))
            stddev = [p.log_stddev for p in posterior.priors.values() for _ in p.median.flatten()]
            centre = pack(posterior.priors, {n: p.median for n, p in posterior.priors.items()})
            hyperprior = -0.5 * ((log - centre) / tensor(stddev)).square().sum()
        density = replace(target.density, field=field)
        draw = (found.theta[k : k + 1], found.noise_std[k : k + 1], found.start[k : k + 1])
        expected.append(density.log_prob(*draw)[0] + hyperprior + found.log_volume[k])
    torch.testing.assert_close(target(white), torch.stack(expected))


def test_without_data_everything_has_its_prior():
    """Weights are standard normal whatever the hyperparameters, and these have their priors."""
    problem, solution = solved(math.inf, friction=False)
    nodes = replace(
        problem.nodes,
        mask=torch.zeros_like(problem.nodes.mask),
        weights=torch.zeros_like(problem.nodes.weights),
        dt=0.05 * problem.nodes.dt,
    )
    problem, solution = replace(problem, nodes=nodes), replace(solution, nodes=nodes)
    target = whitened(problem, solution, around())
    white = 0.5 * randn(6, target.whitening.size, seed=7)
    hyper = target.whitening.hyper
    log = target.unknowns(white).log_hyper
    stddev = [p.log_stddev for p in hyper.priors.values() for _ in p.median.flatten()]
    centre = pack(hyper.priors, {name: p.median for name, p in hyper.priors.items()})
    rest = white[:, len(centre) :].square().sum(1)
    expected = -0.5 * (((log - centre) / tensor(stddev)).square().sum(1) + rest)
    value = target(white)
    torch.testing.assert_close(value - value[0], expected - expected[0], atol=1e-8, rtol=1e-8)


def test_the_evidence_of_features_is_that_of_a_gaussian():
    problem, solution = solved(friction=True)
    linear = LinearModel.about(problem, problem.field, solution)
    energy, values = FourierEnergy(1, 5, seed=0), []
    for seed in (0, 3):
        basis = energy.basis(hyperparameters(energy, seed))
        rows = linear.rows(basis)
        precision = linear.prior_lever.mT @ linear.prior_lever
        # States between trajectories' first ones are known from the jumps alone: a broad prior.
        precision = precision + 1e-9 * torch.eye(len(precision)).double()
        mean = torch.linalg.solve(precision, linear.prior_lever.mT @ linear.prior_target)
        covariance = rows * basis.prior_variance @ rows.mT + torch.eye(len(rows)).double()
        covariance = covariance + linear.lever @ torch.linalg.solve(precision, linear.lever.mT)
        rest = linear.target - linear.lever @ mean
        dense = -0.5 * rest @ torch.linalg.solve(covariance, rest)
        dense = dense - 0.5 * torch.linalg.slogdet(covariance).logabsdet
        values.append((linear.log_evidence(basis), dense))
    (one, first), (other, second) = values
    assert abs(float(one - other)) > 0.1
    assert float(one - other) == pytest.approx(float(first - second), rel=1e-3)


# Samplers side by side


def quadratic(position: Tensor) -> Tensor:
    return -0.5 * (position**2 * torch.arange(1.0, 4.0)).sum(1)


def test_answers_reach_the_sampler_that_asked():
    seen: dict[int, list[tuple[float, Tensor]]] = {0: [], 1: [], 2: []}

    def work(number: int):
        def asking(density):
            for k in range(number + 1):
                position = torch.full((3,), 1.0 + number + 10.0 * k, dtype=torch.float64)
                position.requires_grad_(True)
                value = density(position)
                (gradient,) = torch.autograd.grad(3.0 * value, position)
                seen[number].append((float(value.detach()), gradient))

        return asking

    state = torch.get_rng_state()
    run_together([Sampler(work(k), state) for k in range(3)], quadratic)
    for number, answers in seen.items():
        assert len(answers) == number + 1
        for k, (value, gradient) in enumerate(answers):
            x = 1.0 + number + 10.0 * k
            assert value == pytest.approx(-3.0 * x**2)
            torch.testing.assert_close(gradient, -3.0 * x * torch.arange(1.0, 4.0).double())


def test_every_sampler_has_random_numbers_of_its_own():
    def work(out):
        def asking(density):
            for _ in range(3):
                out.append(torch.rand(2))
                density(torch.zeros(3, dtype=torch.float64))

        return asking

    states = [torch.Generator().manual_seed(k).get_state() for k in (1, 2)]
    before = torch.get_rng_state()
    together: list[list[Tensor]] = [[], []]
    samplers = [Sampler(work(out), s) for out, s in zip(together, states, strict=True)]
    run_together(samplers, quadratic)
    assert torch.equal(torch.get_rng_state(), before)
    alone: list[Tensor] = []
    single = Sampler(work(alone), states[1])
    run_together([single], quadratic)
    assert torch.equal(torch.stack(alone), torch.stack(together[1]))
    assert torch.equal(single.randomness, samplers[1].randomness)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("inside", [True, False])
def test_an_error_ends_all_samplers(error, inside):
    ended = []

    def work(number: int):
        def asking(density):
            try:
                for k in range(5):
                    if inside and number == 1 and k == 2:
                        raise error
                    density(torch.zeros(3, dtype=torch.float64))
            finally:
                ended.append(number)

        return asking

    calls = [0]

    def density(position: Tensor) -> Tensor:
        calls[0] += 1
        if not inside and calls[0] == 3:
            raise error
        return quadratic(position)

    samplers = [Sampler(work(k), torch.get_rng_state()) for k in range(3)]
    with pytest.raises(error):
        run_together(samplers, density)
    assert sorted(ended) == [0, 1, 2]
    assert not any(sampler.is_alive() for sampler in samplers)


def test_chains_draw_from_a_normal_law():
    root = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.5, 0.0], [0.0, 0.4, 1.5]], dtype=torch.float64)
    precision = torch.linalg.inv(root @ root.mT)

    def density(position: Tensor) -> Tensor:
        return -0.5 * ((position @ precision) * position).sum(1)

    tuning = Tuning(20, 0.8, 6, adapt_metric=False)
    chains = [Chain.start(density, 3, seed) for seed in range(4)]
    run_chains(chains, density, tuning, 40, lambda stage: None, lambda now: None)
    draws = torch.stack([torch.stack(chain.draws) for chain in chains])
    found = Convergence.of({str(k): draws[..., k] for k in range(3)})
    assert found.ess > 50 and found.rhat < 1.1
    draws = draws.flatten(0, 1)
    error = (root @ root.mT).diagonal().sqrt() / found.ess**0.5
    assert bool((draws.mean(0).abs() < 4.0 * error).all())
    scale = torch.linalg.solve(root, draws.mT).cov()
    torch.testing.assert_close(scale, torch.eye(3).double(), atol=4.0 / found.ess**0.5, rtol=0)


def test_steps_are_counted_and_trees_cut():
    def density(position: Tensor) -> Tensor:
        return -0.5 * (position**2 / tensor([1.0, 400.0])).sum(1)

    tuning = Tuning(20, 0.9, 2, adapt_metric=False)
    chains = [Chain.start(density, 2, seed) for seed in range(2)]
    run_chains(chains, density, tuning, 20, lambda stage: None, lambda now: None)
    assert all(steps <= 3 for chain in chains for steps in chain.num_steps)
    assert "ended at max_tree_depth=2" in " ".join(notes_on_transitions(chains, tuning))


def test_divergences_are_counted():
    """A wall on one side of the density."""

    def density(position: Tensor) -> Tensor:
        inside = position[:, 0] > -0.2
        return torch.where(inside, -0.5 * position.square().sum(1), -math.inf)

    tuning = Tuning(20, 0.5, 5, adapt_metric=False)
    chains = [Chain.start(density, 2, seed) for seed in range(2)]
    run_chains(chains, density, tuning, 30, lambda stage: None, lambda now: None)
    lost = sum(sum(chain.diverging) for chain in chains)
    assert lost > 0
    assert all(bool((torch.stack(chain.draws)[:, 0] > -0.2).all()) for chain in chains)
    note = notes_on_transitions(chains, tuning)[0]
    assert note.startswith(f"{lost} of 60 transitions diverged") and "target_accept" in note


def test_starting_points_that_are_impossible_are_drawn_in():
    def density(position: Tensor) -> Tensor:
        near = position.norm(dim=1) < 0.1
        return torch.where(near, -position.square().sum(1), -math.inf)

    assert float(Chain.start(density, 4, 0).position.norm()) < 0.1
    with pytest.raises(FloatingPointError, match="zero at its Gauss-Newton optimum"):
        Chain.start(lambda x: torch.full((len(x),), -math.inf), 4, 0)


# Convergence


def test_chains_that_have_converged_need_no_words():
    assert Convergence.of({"a": randn(4, 300), "b": randn(4, 300, seed=1)}).notes() == ()


def test_chains_that_disagree_are_told_of():
    apart = randn(4, 300) + tensor([0.0, 0.0, 0.0, 1.0])[:, None]
    found = Convergence.of({"fine": randn(4, 300, seed=1), "friction": apart})
    assert found.rhat > 1.05 and found.rhat_of == "friction"
    assert "R-hat of friction" in found.notes()[0]


def test_draws_that_are_alike_are_told_of():
    values = [randn(4, seed=0)]
    for k in range(399):
        values.append(0.95 * values[-1] + (1 - 0.95**2) ** 0.5 * randn(4, seed=k + 1))
    found = Convergence.of({"fine": randn(4, 400, seed=1), "noise": torch.stack(values, 1)})
    # The effective size of an autoregression: n (1 - 0.95) / (1 + 0.95).
    assert found.ess_of == "noise" and 15 < found.ess < 120
    assert any("effective sample size of noise" in note for note in found.notes())


def test_constants_and_single_chains():
    fixed = {"known": torch.full((4, 50), 0.1).double()}
    assert math.isnan(Convergence.of(fixed).rhat)
    single = Convergence.of({"a": randn(1, 500)})
    assert math.isnan(single.rhat) and single.ess > 300
    assert "one chain" in single.notes()[-1]


# The engine


def test_a_linear_gaussian_posterior_is_drawn_exactly():
    data, energy = drifting(), LinearEnergy()
    std = tensor([0.2, 0.2])
    model = HamiltonianModel(energy, noise=sg.GaussianNoise(std=0.2))
    start = sg.GaussNewton(num_components=1, step=0.5)
    engine = NUTS(num_samples=20, num_warmup=15, num_chains=20, max_tree_depth=4, warm_start=start)
    posterior = sg.fit(model, data, inference=engine, progress=False)
    component = posterior.components[0]
    variance = energy.basis(component.hyperparameters).prior_variance
    mean, covariance, _ = dense_law(variance, posterior, std)
    draws = component.draws
    vector = torch.cat([draws.theta, draws.start.flatten(1)], 1)
    assert len(vector) == 400
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, (vector - mean).mT, upper=False).mT
    # Draws of an exactly whitened normal law are as good as independent, or better.
    assert float(white.mean(0).abs().max()) < 4.0 / 200**0.5
    eye = torch.eye(len(mean)).double()
    torch.testing.assert_close(white.mT.cov(), eye, atol=4.0 * (2 / 200) ** 0.5, rtol=0)


def test_the_same_seed_gives_the_same_draws_and_nothing_else_changes(started):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    one, other = sampled(started), sampled(started)
    assert torch.equal(one.components[0].draws.theta, other.components[0].draws.theta)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    data, model = swinging()
    engine = replace(BRIEF, warm_start=started)
    third = sg.fit(model, data, inference=engine, seed=1, progress=False)
    assert not torch.equal(one.components[0].draws.theta, third.components[0].draws.theta)


class Interrupting:
    """Ctrl-C at the n-th report of drawing."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, stage: str, objective: float | None) -> None:
        if "draws," in stage:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt


def test_an_interrupted_run_is_resumed_where_it_was(started, tmp_path, monkeypatch):
    monkeypatch.setattr("sympgp.inference.nuts.TOLD_EVERY", 0.0)
    monkeypatch.setattr("sympgp.inference.chains.ROUND", 3)
    data, model = swinging()
    path = tmp_path / "chains.pt"
    engine = replace(BRIEF, warm_start=started, checkpoint=path)
    part = engine.run(model, data, 0, Interrupting(1))
    assert len(part.components[0].draws.theta) == 6
    assert "interrupted after 3 of 6 draws" in part.summary()
    whole = engine.run(model, data, 0, Interrupting(100))
    expected = sampled(started)
    assert torch.equal(whole.components[0].draws.theta, expected.components[0].draws.theta)
    assert torch.equal(whole.components[0].draws.start, expected.components[0].draws.start)
    longer = replace(engine, num_samples=8).run(model, data, 0, Interrupting(100))
    grown = longer.components[0].draws.theta.reshape(2, 8, -1)[:, :6].flatten(0, 1)
    torch.testing.assert_close(grown, whole.components[0].draws.theta)
    with pytest.raises(ValueError, match="checkpoint: .* of other data or with other"):
        replace(engine, target_accept=0.8).run(model, data, 0, Interrupting(100))


def test_an_interruption_before_the_first_draw_is_passed_on(started, monkeypatch):
    monkeypatch.setattr("sympgp.inference.nuts.TOLD_EVERY", 0.0)
    data, model = swinging()
    engine = replace(BRIEF, warm_start=started)
    with pytest.raises(KeyboardInterrupt):
        engine.run(model, data, 0, Interrupting(0))


def test_chains_of_another_start_are_refused(started, tmp_path):
    path = tmp_path / "chains.pt"
    sampled(started, checkpoint=path)
    component = started.components[0]
    states = replace(component.states, mean=component.states.mean + 1.0)
    other = replace(
        started, components=(replace(component, states=states, theta=1.5 * component.theta),)
    )
    with pytest.raises(ValueError, match="began at another posterior"):
        sampled(other, checkpoint=path)


def test_the_posterior_is_like_any_other(started, tmp_path):
    posterior = sampled(started)
    assert posterior.diagnostics.engine == "NUTS"
    assert "cannot be told from" in posterior.summary()
    x = torch.tensor([[0.3, -0.2], [0.0, 0.5]], dtype=torch.float64)
    posterior.save(tmp_path / "fit.pt")
    again = sg.load(tmp_path / "fit.pt")
    assert torch.equal(again.vector_field(x).stddev, posterior.vector_field(x).stddev)
    assert again.forecast([2.5, 3.0], num_samples=10).samples.shape == (10, 1, 2, 2)
    assert again.condition(posterior.data).initial_states.mean.shape == (2, 2)
    states = posterior.components[0].window_states
    path = posterior.fitted(num_samples=12)[0].samples[:, 0, 0]
    draws = posterior.components[0].draws.start[:, states.chain[0, 0]]
    torch.testing.assert_close(
        path.mean(0), posterior.scaling.to_user(draws).mean(0), atol=1e-6, rtol=0
    )


def test_chains_stay_distinguishable(started, tmp_path):
    posterior = sampled(started)
    posterior.save(tmp_path / "fit.pt")
    for one in (posterior, sg.load(tmp_path / "fit.pt")):
        component = one.components[0]
        assert component.chain.tolist() == [0] * 6 + [1] * 6
        assert component.statistics["n_steps"].shape == (12,)
        assert bool((component.statistics["n_steps"] <= 3).all())
        data = one.to_arviz()
        assert dict(data["posterior"].sizes)["chain"] == 2
        noise = component.draws.noise_std * one.scaling.scale
        chains = data["posterior"]["noise_std"].values
        torch.testing.assert_close(torch.as_tensor(chains).flatten(0, 1), noise)
        assert data["sample_stats"]["n_steps"].shape == (2, 6)
    singles = sampled(started, num_warmup=10, hyperparameters=True).components
    assert [int(part.chain) for part in singles] == [0] * 6 + [1] * 6


def test_states_given_parameters_are_about_the_draws_mean(started):
    """Of a Gaussian the states' mean given the mean of theta is the mean of the states."""
    posterior = sampled(started, num_samples=20)
    component = posterior.components[0]
    centre = component.states.sample(
        torch.zeros(1, len(component.theta)).double(),
        torch.zeros(1, *component.states.mean.shape).double(),
    )[0]
    deviation = component.draws.start.std(0)
    assert bool(((component.draws.start.mean(0) - centre).abs() < 0.8 * deviation).all())


def test_draws_of_hyperparameters_have_features_of_their_own(started):
    posterior = sampled(started, num_warmup=10, hyperparameters=True)
    assert len(posterior.components) == 12
    logs = torch.stack([c.hyperparameters["lengthscale"].log() for c in posterior.components])
    assert 0.05 < float(logs.std(0).mean()) < 1.0
    lengths = {float(c.field.basis.frequencies[0, 0]) for c in posterior.components}
    assert len(lengths) > 6
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    assert bool((posterior.vector_field(x).stddev > 0).all())
    assert float(posterior.dissipation().stddev) > 0


def test_whole_trajectories_on_request():
    data = sg.systems.Pendulum(friction=0.1).simulate(
        1, rate=2.5, duration=6, noise_std=0.1, seed=4
    )
    model = sg.SSGP(num_features=3, dissipation=sg.Friction())
    first = sg.fit(model, data, inference=QUICK, progress=False)
    known = first.components[0]
    assert known.states.chain.shape[1] > 1
    known = replace(known, states=replace(known.states, jump_std=0.02))
    first = replace(
        first, components=(known,), diagnostics=replace(first.diagnostics, jump_gain=4.0)
    )
    short = {"num_samples": 2, "num_warmup": 2, "num_chains": 1, "max_tree_depth": 2}
    short["warm_start"] = first
    windows = sg.fit(model, data, inference=NUTS(**short), progress=False)
    assert windows.components[0].draws.start.shape[1:] == known.states.mean.shape
    assert windows.components[0].states.jump_std == 0.02
    whole = sg.fit(model, data, inference=NUTS(jumps=False, **short), progress=False)
    assert whole.components[0].draws.start.shape[1:] == (1, 2)
    assert whole.components[0].states.jump_std == 0.0
    assert "favour jumps between windows by 4.0 nats" in whole.summary()
    tiny = replace(known, states=replace(known.states, jump_std=1e-5))
    short["warm_start"] = replace(first, components=(tiny,))
    joined = sg.fit(model, data, inference=NUTS(**short), progress=False)
    assert joined.components[0].draws.start.shape[1:] == (1, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_samples", 0),
        ("num_warmup", True),
        ("num_chains", -1),
        ("max_tree_depth", 0),
        ("target_accept", 1.0),
    ],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        NUTS(**{name: value})


def test_a_start_from_other_data_is_refused(started):
    data, model = swinging()
    other = sg.Trajectories(data.times, [x + 0.1 for x in data.states])
    with pytest.raises(ValueError, match="warm_start: expected a posterior of the same data"):
        sg.fit(model, other, inference=NUTS(warm_start=started), progress=False)
    other = sg.SSGP(num_features=3, seed=1, dissipation=sg.Friction())
    engine = NUTS(warm_start=started, hyperparameters=True)
    with pytest.raises(ValueError, match="warm_start: expected a posterior of the same model"):
        sg.fit(other, data, inference=engine, progress=False)


# Against the other engines


def agree(one: sg.Posterior, gold: sg.Posterior) -> None:
    """Means within 0.25 deviations and deviations within 25%, of field (medians) and friction."""
    x = torch.cat(list(gold.data.states))
    field, exact = one.vector_field(x), gold.vector_field(x)
    off = ((field.mean - exact.mean).abs() / exact.stddev).median(0).values
    assert bool((off < 0.25).all()), off
    ratio = (field.stddev / exact.stddev).median(0).values
    assert bool(((ratio > 0.75) & (ratio < 1.25)).all()), ratio
    friction, known = one.dissipation(), gold.dissipation()
    assert float((friction.mean - known.mean).abs() / known.stddev) < 0.25
    assert 0.75 < float(friction.stddev / known.stddev) < 1.25


@pytest.mark.slow
def test_engines_agree_on_a_small_pendulum():
    """20 features, 60 observations, the same hyperparameters; 400 effective draws."""
    data = sg.systems.Pendulum(friction=0.05).simulate(
        3, rate=2, duration=4.5, noise_std=0.1, seed=0
    )
    assert data.num_observations == 60
    model = sg.SSGP(num_features=20, dissipation=sg.Friction())
    gauss = sg.fit(model, data, inference=QUICK, progress=False)
    engine = NUTS(num_samples=200, num_chains=6, warm_start=gauss)
    gold = sg.fit(model, data, inference=engine, progress=False)
    notes = " ".join(gold.diagnostics.notes)
    assert "effective sample size" not in notes and "diverged" not in notes
    agree(gauss, gold)
    agree(sg.fit(model, data, inference=sg.StochasticVI(QUICK), progress=False), gold)


@pytest.mark.slow
def test_hyperparameters_have_their_marginal_posterior(monkeypatch):
    """Of a linear Gaussian model it is known up to one integral."""
    monkeypatch.setattr("sympgp.inference.sampled.MOST_FIELDS", 10_000)
    data, std = drifting(), tensor([0.2, 0.2])
    model = HamiltonianModel(LinearEnergy(), noise=sg.GaussianNoise(std=0.2))
    start = sg.GaussNewton(num_components=1, step=0.5)
    engine = NUTS(num_samples=60, num_warmup=30, hyperparameters=True, warm_start=start)
    posterior = sg.fit(model, data, inference=engine, progress=False)
    logs = torch.stack([c.hyperparameters["scale"].log() for c in posterior.components])
    assert len(logs) == 240
    grid = torch.linspace(-2.5, 2.5, 201, dtype=torch.float64)
    evidence = [dense_law((2 * value).exp().expand(2), posterior, std)[2] for value in grid]
    log = torch.stack(evidence) - 0.5 * (grid / 0.5) ** 2
    weight = torch.softmax(log, 0)
    mean = float(weight @ grid)
    deviation = float(weight @ (grid - mean) ** 2) ** 0.5
    assert deviation < 0.45
    assert float(logs.mean()) == pytest.approx(mean, abs=4 * deviation / 80**0.5)
    assert float(logs.std()) == pytest.approx(deviation, rel=4 * (0.5 / 80) ** 0.5)

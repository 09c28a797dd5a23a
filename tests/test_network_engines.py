"""Training of networks: members of ensembles, optima, interruptions, files."""

import math
from functools import partial

import pytest
import torch
from problems import randn, tensor

import sympgp as sg
from sympgp import fit as public_fit
from sympgp.compiled import Compiled, CompileWarning
from sympgp.energies import FourierEnergy
from sympgp.inference.checkpoint import Checkpoint
from sympgp.inference.networks import ensemble, trajectories
from sympgp.inference.networks.density import PairDensity
from sympgp.inference.networks.descent import Descent, Schedule, Unknowns
from sympgp.inference.networks.digest import digest
from sympgp.inference.networks.linearisation import Point, improved
from sympgp.inference.networks.polish import polished_rows
from sympgp.inference.pairs import prepare_pairs
from sympgp.systems import HarmonicOscillator

QUICK = {"num_steps": 40}
fit = partial(public_fit, progress=False)


def pairs(num: int = 60, noise: float = 0.02, friction: float = 0.0) -> sg.StateDerivatives:
    """Of an oscillator with a cubic force."""
    x = randn(num, 2)
    q, p = x.unbind(-1)
    rates = torch.stack([p, -q - 0.5 * q**3 - friction * p], -1)
    return sg.StateDerivatives(x, rates + noise * randn(num, 2, seed=1))


def oscillator(friction: float = 0.0, **settings) -> sg.Trajectories:
    known = {"rate": 4, "duration": 2, "noise_std": 0.03, "seed": 0} | settings
    return HarmonicOscillator(friction=friction).simulate(2, **known)


def rows(posterior) -> torch.Tensor:
    """The different networks of a posterior, in their order."""
    theta = posterior.components[0].draws.theta
    distinct = [theta[0]]
    for row in theta[1:]:
        if not torch.equal(row, distinct[-1]):
            distinct.append(row)
    return torch.stack(distinct)


@pytest.mark.parametrize("data", [pairs(), oscillator()], ids=["pairs", "trajectories"])
def test_members_of_an_ensemble_are_networks_trained_one_by_one(data):
    model = sg.HNN(1, (3, 3))
    whole = fit(
        model, data, inference=sg.DeepEnsemble(num_members=2, randomize=False, **QUICK), seed=5
    )
    every = rows(whole)
    assert len(every) == 2
    for k in range(2):
        single = fit(model, data, inference=sg.MAP(**QUICK), seed=5 + k)
        torch.testing.assert_close(rows(single)[0], every[k], rtol=1e-6, atol=1e-8)


def linear_posterior(posterior, data, std: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Precision and mean of weights in which the field is linear, at known noise."""
    field, scaling = posterior.components[0].field, posterior.scaling
    features = field.basis.feature_gradient(scaling.to_scaled(data.states))
    features = field.symplectic(features) @ features
    sigma = std / scaling.velocity_scale
    white = (features / sigma.unsqueeze(-1)).flatten(0, 1)
    target = (data.derivatives / scaling.velocity_scale / sigma).flatten()
    precision = white.mT @ white + torch.diag(field.prior_precision())
    return precision, torch.linalg.solve(precision, white.mT @ target)


def test_members_of_a_linear_field_are_draws_of_the_known_posterior():
    data, std, num = pairs(8), 1.0, 200
    model = sg.HamiltonianModel(FourierEnergy(1, 2), noise=sg.GaussianNoise(std=std))
    engine = sg.DeepEnsemble(num_members=num, **QUICK)
    posterior = fit(model, data, inference=engine)
    precision, mean = linear_posterior(posterior, data, std)
    draws = rows(posterior)
    assert len(draws) == num
    # Whitened by the posterior, they are standard normal.
    white = (draws - mean) @ torch.linalg.cholesky(precision)
    assert float(white.mean(0).abs().max()) < 4.0 / num**0.5
    eye = torch.eye(len(mean), dtype=torch.float64)
    assert float((white.mT @ white / num - eye).abs().max()) < 4.0 * (2.0 / num) ** 0.5


@pytest.mark.parametrize("data", [pairs(20), oscillator()], ids=["pairs", "trajectories"])
def test_members_are_the_same_whatever_the_number_of_the_others(data):
    model = sg.HNN(1, (4,))
    few, many = (
        rows(fit(model, data, inference=sg.DeepEnsemble(num_members=n, **QUICK))) for n in (1, 2)
    )
    torch.testing.assert_close(few[0], many[0], rtol=1e-6, atol=1e-8)
    assert len(many) == 2


def test_members_disagree_where_there_are_no_data():
    model = sg.HNN(1, (8,), noise=sg.GaussianNoise(std=0.1))
    posterior = fit(model, pairs(noise=0.1), inference=sg.DeepEnsemble(num_members=8, **QUICK))
    near, far = tensor([[0.2, 0.1]]), tensor([[6.0, 6.0]])
    near_std, far_std = (posterior.vector_field(x).stddev for x in (near, far))
    assert bool((far_std > 5.0 * near_std).all())


@pytest.mark.parametrize("data", [pairs(20), oscillator()], ids=["pairs", "trajectories"])
def test_members_are_moved_by_descent_where_gauss_newton_is_too_large(data, monkeypatch):
    for module in ("base", "bank", "ensemble", "trajectories"):
        name = f"sympgp.inference.networks.{module}.affordable"
        monkeypatch.setattr(name, lambda density: False)
    engine = sg.DeepEnsemble(num_members=3, num_steps=20, batch_size=10)
    found = rows(fit(sg.HNN(1, (4,)), data, inference=engine))
    assert len(found) == 3
    assert float(torch.pdist(found).min()) > 0.0


def test_linear_weights_end_at_the_known_posterior_mean(monkeypatch):
    monkeypatch.setattr("sympgp.inference.networks.polish.CLOSE", 1e-9)
    data, std = pairs(), 0.05
    model = sg.HamiltonianModel(FourierEnergy(1, 5), noise=sg.GaussianNoise(std=std))
    posterior = fit(model, data, inference=sg.MAP(**QUICK))
    _, wanted = linear_posterior(posterior, data, std)
    torch.testing.assert_close(rows(posterior)[0], wanted, rtol=1e-6, atol=1e-8)


def test_the_gradient_is_zero_at_the_optimum_of_a_network(monkeypatch):
    monkeypatch.setattr("sympgp.inference.networks.polish.CLOSE", 1e-9)
    data = pairs(noise=0.1)
    model = sg.HNN(1, (4,), noise=sg.GaussianNoise(std=0.1))
    posterior = fit(model, data, inference=sg.MAP(num_steps=300))
    prepared = prepare_pairs(model, data)
    component = posterior.components[0]
    density = PairDensity(prepared.pairs, component.field, prepared.noise)
    theta = component.draws.theta[:1].clone().requires_grad_(True)
    terms = density.terms(theta, component.draws.noise_std[:1])
    (slope,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), theta)
    scale = component.field.prior_precision().rsqrt()
    assert float((slope * scale).abs().max()) < 0.05


def two_rows() -> tuple[PairDensity, torch.Tensor, torch.Tensor]:
    """A density, weights, and the same with the first row broken."""
    prepared = prepare_pairs(sg.HNN(1, (3,)), pairs())
    energy = sg.HNN(1, (3,)).energy
    hyper = {k: v.median for k, v in energy.hyperpriors(prepared.scaling.spread).items()}
    field = sg.HNN(1, (3,)).field(energy.basis(hyper), prepared.scaling, oscillator())
    theta = 0.3 * randn(2, field.num_parameters)
    broken = theta.clone()
    broken[0] = math.nan
    return PairDensity(prepared.pairs, field, prepared.noise), theta, broken


def test_rows_that_break_down_leave_the_others_alone():
    density, theta, broken = two_rows()
    found = []
    for start in (theta, broken):
        begin = Unknowns.at(start, density.noise, torch.ones_like(theta[0, :2]), None)
        descent = Descent(density, begin, Schedule(20, 0.01), seed=0)
        descent.block()
        found.append(descent)
    assert torch.equal(found[0].unknowns().theta[1], found[1].unknowns().theta[1])
    assert found[1].skipped.tolist() == [20, 0]


def test_rows_without_a_linear_model_are_left_where_they_are():
    density, theta, broken = two_rows()
    ends = []
    for start in (theta, broken):
        begin = Unknowns.at(start, density.noise, torch.ones_like(theta[0, :2]), None)
        args = ("last steps", 40, Checkpoint(None, ""), lambda *told: None)
        ends.append(polished_rows(density, begin, *args))
    (whole, _), (found, counted) = ends
    assert torch.equal(found.theta[1], whole.theta[1])
    assert bool(found.theta[0].isnan().all())
    assert counted.converged == 1
    assert bool(counted.used.isfinite().all())
    at = Point(broken[0], torch.ones_like(theta[0, :2]), None)
    assert improved(density, at) is at


@pytest.mark.parametrize("data", [pairs(), oscillator()], ids=["pairs", "trajectories"])
@pytest.mark.parametrize("lost", [1, 2])
def test_fits_go_on_without_members_that_diverge(data, lost, monkeypatch):
    before = Descent.unknowns

    def broken(self, values=None):
        found = before(self, values)
        if values is None:
            found.theta[:lost] = math.nan
        return found

    monkeypatch.setattr(Descent, "unknowns", broken)
    engine = sg.DeepEnsemble(num_members=2, randomize=False, **QUICK)
    if lost == 2:
        with pytest.raises(FloatingPointError, match="diverged"):
            fit(sg.HNN(1, (3,)), data, inference=engine)
        return
    posterior = fit(sg.HNN(1, (3,)), data, inference=engine)
    assert len(rows(posterior)) == 1
    assert "1 of 2 networks diverged" in posterior.summary()


@pytest.mark.parametrize("data", [pairs(), oscillator()], ids=["pairs", "trajectories"])
def test_members_that_still_move_are_reported(data, monkeypatch):
    engine = sg.DeepEnsemble(num_members=3, **QUICK)
    found = fit(sg.HNN(1, (3,)), data, inference=engine)
    assert "still moving" not in found.summary()
    monkeypatch.setattr(ensemble, "TRIES", 1)
    early = fit(sg.HNN(1, (3,)), data, inference=engine)
    assert "3 of 3 members were still moving" in early.summary()
    assert not early.diagnostics.converged


@pytest.mark.parametrize("data", [pairs(), oscillator()], ids=["pairs", "trajectories"])
def test_steps_are_counted_as_they_are_taken(data, monkeypatch):
    steps = fit(sg.HNN(1, (3,)), data, inference=sg.MAP(num_steps=50)).diagnostics.iterations
    assert 10 < steps < 10 + 100
    for module in ("base", "bank", "trajectories"):
        name = f"sympgp.inference.networks.{module}.affordable"
        monkeypatch.setattr(name, lambda density: False)
    steps = fit(sg.HNN(1, (3,)), data, inference=sg.MAP(num_steps=50)).diagnostics.iterations
    windows = round(trajectories.SHARE * 50)
    assert steps in ([50] if isinstance(data, sg.StateDerivatives) else [50 + windows])


@pytest.mark.parametrize("value", [0.0, math.nan], ids=["zero", "missing"])
def test_a_channel_without_rates_of_change_is_no_obstacle(value):
    data = pairs()
    derivatives = data.derivatives.clone()
    derivatives[:, 1] = value
    data = sg.StateDerivatives(data.states, derivatives)
    posterior = fit(sg.HNN(1, (3,)), data, inference=sg.DeepEnsemble(num_members=2, **QUICK))
    assert bool(posterior.vector_field(data.states).mean.isfinite().all())


def test_shared_noise_is_equal_in_user_units():
    model = sg.HNN(1, (3,), noise=sg.GaussianNoise(tied=[(0, 1)]))
    prepared = prepare_pairs(model, pairs())
    std = prepared.noise.levels(tensor([[0.3], [-1.0]]))
    user = std * prepared.noise.unit
    torch.testing.assert_close(user[:, 0], user[:, 1])


@pytest.mark.parametrize("data", [pairs(), oscillator()], ids=["pairs", "trajectories"])
@pytest.mark.parametrize(("after", "randomize"), [(2, False), (5, False), (12, True)])
def test_an_interrupted_fit_ends_where_it_would_have(data, after, randomize, tmp_path):
    engine = sg.DeepEnsemble(num_members=2, num_steps=300, batch_size=20, randomize=randomize)
    model = sg.HNN(1, (3,))
    whole = fit(model, data, inference=engine)
    resumed = sg.DeepEnsemble(
        num_members=2,
        num_steps=300,
        batch_size=20,
        randomize=randomize,
        checkpoint=tmp_path / "fit.pt",
    )
    calls = 0

    def interrupting(stage: str, objective: float | None) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise KeyboardInterrupt

    run = resumed.run if isinstance(data, sg.Trajectories) else resumed.run_pairs
    with pytest.raises(KeyboardInterrupt):
        run(model, data, 0, interrupting)
    again = fit(model, data, inference=resumed)
    torch.testing.assert_close(rows(again), rows(whole), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(again.noise_std, whole.noise_std, rtol=1e-8, atol=0.0)


def test_checkpoints_of_other_data_are_refused(tmp_path):
    engine = sg.MAP(num_steps=1, checkpoint=tmp_path / "fit.pt")
    fit(sg.HNN(1, (3,)), pairs(), inference=engine)
    with pytest.raises(ValueError, match="checkpoint"):
        fit(sg.HNN(1, (3,)), pairs(noise=0.5), inference=engine)


def test_covariates_are_part_of_what_a_checkpoint_belongs_to():
    data, basis = oscillator(), two_rows()[0].field.basis
    marks = {
        digest(sg.Trajectories(data.times, data.states, covariates=known), (), basis)
        for known in (None, [[1.0], [2.0]], [[1.0], [3.0]])
    }
    assert len(marks) == 3


@pytest.mark.parametrize("data", [pairs(friction=0.2), oscillator(friction=0.2)])
def test_posteriors_survive_a_file(data, tmp_path):
    model = sg.HNN(1, (5, 5), dissipation=sg.Friction())
    posterior = fit(model, data, inference=sg.DeepEnsemble(num_members=2, **QUICK))
    posterior.save(tmp_path / "fit.pt")
    again = sg.load(tmp_path / "fit.pt")
    x, times = randn(3, 2), torch.linspace(0.0, 2.0, 5, dtype=torch.float64)
    assert torch.equal(again.vector_field(x).mean, posterior.vector_field(x).mean)
    one, other = (p.rollout(x, times, num_samples=4).samples for p in (posterior, again))
    assert torch.equal(one, other)


@pytest.mark.slow
def test_networks_learn_a_damped_oscillator_from_trajectories():
    data = oscillator(friction=0.3, duration=8)
    model = sg.HNN(1, (8, 8), dissipation=sg.Friction())
    posterior = fit(model, data, inference=sg.DeepEnsemble(num_members=3, num_steps=500))
    x = data.states[0][:10]
    wanted = torch.stack([x[:, 1], -x[:, 0] - 0.3 * x[:, 1]], -1)
    assert float((posterior.vector_field(x).mean - wanted).square().mean().sqrt()) < 0.1
    assert float(posterior.dissipation().mean) == pytest.approx(0.3, abs=0.06)
    assert posterior.noise_std.tolist() == pytest.approx([0.03, 0.03], rel=0.4)
    assert posterior.diagnostics.windows_joined
    assert "DeepEnsemble" in posterior.summary()


@pytest.mark.slow
def test_networks_learn_from_pairs_with_minibatches():
    model = sg.HNN(1, (16, 16), activation="silu", dissipation=sg.Friction())
    data = pairs(num=400, friction=0.2)
    posterior = fit(model, data, inference=sg.MAP(num_steps=800, batch_size=50))
    x = 0.8 * randn(20, 2, seed=9)
    wanted = torch.stack([x[:, 1], -x[:, 0] - 0.5 * x[:, 0] ** 3 - 0.2 * x[:, 1]], -1)
    assert float((posterior.vector_field(x).mean - wanted).square().mean().sqrt()) < 0.1
    assert float(posterior.dissipation().mean) == pytest.approx(0.2, abs=0.02)


@pytest.mark.slow
def test_a_network_learns_what_a_formula_leaves_out():
    formula = sg.PhysicsEnergy("p**2/2 + k*q**2/2", {"k": torch.distributions.LogNormal(0.0, 0.5)})
    model = sg.HamiltonianModel(formula + sg.NetworkEnergy(1, (8,)))
    posterior = fit(model, pairs(num=200), inference=sg.MAP(num_steps=500))
    x = 0.8 * randn(20, 2, seed=9)
    wanted = torch.stack([x[:, 1], -x[:, 0] - 0.5 * x[:, 0] ** 3], -1)
    assert float((posterior.vector_field(x).mean - wanted).square().mean().sqrt()) < 0.1


@pytest.mark.parametrize("data", [pairs(), oscillator()], ids=["pairs", "trajectories"])
def test_networks_are_fitted_by_an_ensemble_unless_told_otherwise(data, monkeypatch):
    seen = []

    def run(self, *rest):
        seen.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(sg.DeepEnsemble, "run", run)
    monkeypatch.setattr(sg.DeepEnsemble, "run_pairs", run)
    with pytest.raises(KeyboardInterrupt):
        fit(sg.HNN(1, (4,)), data)
    assert seen == [sg.DeepEnsemble()]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"window": 0.0}, "window"),
        ({"step": math.inf}, "step"),
        ({"num_members": 0}, "num_members"),
    ],
)
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        sg.DeepEnsemble(**settings)


def test_integrators_with_errors_of_their_own_are_refused():
    with pytest.raises(ValueError, match="integrator"):
        fit(sg.HNN(1, (4,)), oscillator(), inference=sg.MAP(), integrator=sg.Leapfrog(0.1))
    with pytest.raises(ValueError, match="integrator"):
        fit(sg.HNN(1, (4,)), pairs(), inference=sg.MAP(), integrator=sg.RK4(0.1))


@pytest.mark.parametrize(("num_steps", "converged"), [(15, False), (1500, True)])
def test_adam_says_whether_the_density_still_rises(monkeypatch, num_steps, converged):
    """Where Gauss-Newton steps would be too large."""
    monkeypatch.setattr("sympgp.inference.networks.base.affordable", lambda density: False)
    engine = sg.MAP(num_steps=num_steps)
    posterior = sg.fit(sg.HNN(1, (6,)), pairs(40, 0.1), inference=engine, progress=False)
    assert posterior.diagnostics.converged is converged
    assert ("more steps of training would raise" in posterior.summary()) is not converged


def descent(rows: int, batch_size: int | None = 20, steps: int = 30) -> Descent:
    """On pairs, some of them in each step."""
    prepared = prepare_pairs(sg.HNN(1, (6, 5)), pairs())
    energy = sg.HNN(1, (6, 5)).energy
    hyper = {k: v.median for k, v in energy.hyperpriors(prepared.scaling.spread).items()}
    field = sg.HNN(1, (6, 5)).field(energy.basis(hyper), prepared.scaling, oscillator())
    density = PairDensity(prepared.pairs, field, prepared.noise)
    theta = 0.3 * randn(rows, field.num_parameters)
    begin = Unknowns.at(theta, density.noise, torch.ones_like(theta[0, :2]), None)
    return Descent(density, begin, Schedule(steps, 0.01, batch_size), seed=0)


def allow(patch: pytest.MonkeyPatch) -> None:
    """The way of accelerators on this device."""
    patch.setattr("sympgp.compiled.at_hand", lambda kind: True)
    patch.setattr("sympgp.compiled.SAVED_A_STEP", {"cpu": 1e-3})


def ends(rows: int) -> list[torch.Tensor]:
    """Where as many steps lead with and without a compiler, one after the other."""
    found = []
    for wish in ("0", "1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SYMPGP_COMPILE", wish)
            allow(patch)
            search = descent(rows)
        search.block()
        assert isinstance(search._slopes, Compiled) == (wish == "1")
        assert not getattr(search._slopes, "failed", None)
        found.append(torch.cat([part.flatten() for part in search.values]))
    return found


@pytest.mark.parametrize("rows", [1, 3])
def test_traced_steps_are_the_steps_themselves(rows, monkeypatch):
    """What a compiler is given; rows come to noise levels of their own."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    eager, traced = ends(rows)
    torch.testing.assert_close(traced, eager, rtol=1e-10, atol=1e-10)


def test_steps_go_on_where_compiling_fails(monkeypatch):
    def broken(function, **options):
        raise RuntimeError("no luck")

    monkeypatch.setattr(torch, "compile", broken)
    allow(monkeypatch)
    monkeypatch.setenv("SYMPGP_COMPILE", "1")
    search, other = descent(2, steps=5), descent(2, steps=5)
    with pytest.warns(CompileWarning, match="no luck") as caught:
        search.block()
    assert len(caught) == 1
    other._slopes = other._slope
    other.block()
    assert torch.equal(search.values[0], other.values[0])


def test_steps_on_windows_and_with_masks_are_never_compiled(monkeypatch):
    allow(monkeypatch)
    monkeypatch.setenv("SYMPGP_COMPILE", "1")
    known = descent(1)
    masked = Descent(known.density, known.begin, known.schedule, 0, lambda theta, _: theta)
    assert masked._slopes == masked._slope
    begin = known.begin._replace(start=torch.zeros(1, 2, 2).double())
    assert not Descent(known.density, begin, known.schedule, 0)._repays()

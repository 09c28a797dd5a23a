"""Simulation-based calibration: its ranks, its prior in fixed units, and the default engine."""

import math

import jaxtyping
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from problems import canonical, randn

from sympgp.benchmarks import Ranks, Record, calibration_runs, collect_ranks, do_runs, plot_ranks
from sympgp.benchmarks import simulation as simulated
from sympgp.benchmarks.calibration import RANKED, log_ratio
from sympgp.benchmarks.ranks import rank_cells
from sympgp.benchmarks.simulation import Design, hyperpriors, identity, simulate
from sympgp.benchmarks.user_units import FixedBasis, FixedEnergy, FixedFriction
from sympgp.benchmarks.well import WellEnergy
from sympgp.cli.program import cli
from sympgp.energies import FourierEnergy
from sympgp.fields import HamiltonianField
from sympgp.noise import RATE, SHAPE
from sympgp.shooting.sensitivities import INITIAL_VARIANCE

DESIGN = Design(
    num_dof=1,
    features=12,
    friction=True,
    num_trajectories=3,
    rate=4.0,
    duration=5.0,
    hyper_spread=0.0,
)


# --- ranks


def conjugate(stretch: float = 1.0, shift: float = 0.0, simulations: int = 400) -> Ranks:
    """A normal mean with a normal prior: ranks among draws of its posterior, or of a wrong one."""
    generator = np.random.default_rng(0)
    truth = generator.normal(size=simulations)
    mean = 0.5 * (truth + generator.normal(size=simulations))  # posterior N(mean, 1/2)
    noise = generator.normal(size=(simulations, RANKED)) * math.sqrt(0.5)
    draws = (mean + shift)[:, None] + stretch * noise
    return Ranks("mean", tuple((draws < truth[:, None]).sum(1).tolist()), RANKED)


def test_an_exact_posterior_passes():
    ranks = conjugate()
    assert ranks.p_value() > 0.01 and ranks.verdict() == "uniform"
    for level in (0.5, 0.9):
        share, error = ranks.coverage(level)
        assert abs(share - level) < 3 * error


@pytest.mark.parametrize(
    ("stretch", "shift", "verdict"),
    [
        (0.7, 0.0, "draws too narrow"),
        (1.5, 0.0, "draws too wide"),
        (1.0, 0.3, "draws too high"),
        (1.0, -0.3, "draws too low"),
    ],
)
def test_a_wrong_posterior_is_flagged(stretch, shift, verdict):
    ranks = conjugate(stretch, shift)
    assert ranks.p_value() < 1e-4 and ranks.verdict() == verdict
    assert rank_cells([ranks])[1][-1] == verdict


def test_p_values_of_uniform_ranks_are_uniform():
    generator = np.random.default_rng(1)
    values = [
        Ranks("x", tuple(generator.integers(0, 100, size=200).tolist()), 99).p_value()
        for _ in range(400)
    ]
    assert np.mean(np.array(values) < 0.1) == pytest.approx(0.1, abs=0.05)
    assert np.mean(values) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("simulations", "bins"), [(3, 2), (30, 5), (60, 10), (100, 20), (9999, 20)]
)
def test_bins_hold_equally_many_ranks_and_enough_simulations(simulations, bins):
    ranks = Ranks("x", (0,) * simulations, num_draws=99)
    assert ranks.bins() == bins and ranks.histogram().tolist() == [simulations] + [0] * (bins - 1)
    everyone = Ranks("x", tuple(range(100)), num_draws=99)
    assert everyone.histogram(bins).tolist() == [100 // bins] * bins


def test_ranks_that_cannot_be_are_refused():
    for values in ((), (100,), (-1,)):
        with pytest.raises(ValueError, match="values: expected ranks from 0 to 99"):
            Ranks("x", values, 99)
    with pytest.raises(ValueError, match="bins: expected a divisor of 100, got 3"):
        Ranks("x", (1,), 99).histogram(3)


def test_histograms_are_drawn_in_the_band_of_uniform_ranks():
    axes = plot_ranks([conjugate(), conjugate(0.7), conjugate(1.5)])
    assert axes.shape == (1, 3)
    heights = [bar.get_height() for bar in axes[0, 1].patches if bar.get_width() == 5.0]
    assert heights == conjugate(0.7).histogram().tolist()
    assert axes[0, 1].get_title(loc="left") == "mean"
    plt.close("all")


# --- the prior in fixed units


@pytest.mark.parametrize("num_dof", [1, 2])
def test_a_fixed_energy_is_the_same_field_in_other_units(num_dof):
    """dx/dt from the scaled field is that of user units, with the same weights and friction."""
    energy = WellEnergy(FourierEnergy(num_dof, 8))
    priors, scaling = hyperpriors(num_dof, 0.0), canonical(num_dof)
    hyper = {name: prior.median for name, prior in priors.items()}
    fixed = FixedEnergy(energy, priors, scaling).basis(hyper)
    friction = FixedFriction(0.3)
    own = HamiltonianField(energy.basis(hyper), friction.scaled(identity(num_dof)))
    seen = HamiltonianField(fixed, friction.scaled(scaling))
    weights, eta = randn(own.num_weights), 0.2
    theta = torch.cat([weights, torch.tensor([eta]).double()])
    scaled = torch.cat([weights, eta / seen.dissipation.unit])
    x = randn(6, 2 * num_dof, seed=1)
    rates = seen.bind(scaled)(0.0, scaling.to_scaled(x)) * scaling.velocity_scale
    torch.testing.assert_close(rates, own.bind(theta)(0.0, x))
    conservative = torch.cat([weights, torch.zeros(1).double()])
    rates = seen.bind(conservative)(0.0, scaling.to_scaled(x)) * scaling.velocity_scale
    torch.testing.assert_close(rates, own.bind(conservative)(0.0, x))
    torch.testing.assert_close(seen.prior_precision()[:-1], own.prior_precision()[:-1])
    in_user_units = seen.dissipation.prior_stddev * seen.dissipation.unit
    torch.testing.assert_close(in_user_units, torch.tensor([0.3]).double())
    energies = fixed.value(scaling.to_scaled(x), weights) * scaling.energy_scale
    torch.testing.assert_close(energies, energy.basis(hyper).value(x, weights))


@pytest.mark.parametrize("num_dof", [1, 2])
@pytest.mark.parametrize("kind", ["well", "fixed"])
def test_derivatives_are_those_of_the_value(num_dof, kind):
    energy = WellEnergy(FourierEnergy(num_dof, 6, seed=2))
    priors = hyperpriors(num_dof, 0.0)
    basis = energy.basis({name: prior.median for name, prior in priors.items()})
    if kind == "fixed":
        basis = FixedBasis(basis, canonical(num_dof))
    z, w = randn(3, 5, 2 * num_dof), randn(3, basis.num_weights, seed=1)
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(basis.value(leaf, w).sum(), leaf)
    torch.testing.assert_close(basis.gradient_map(w)(z), slope)
    gradients = basis.feature_gradient(z)
    torch.testing.assert_close((gradients @ w[:, None, :, None]).squeeze(-1), slope)
    hessian = torch.stack([basis.hessian(z[s], w[s]) for s in range(3)])
    expected = torch.func.hessian(lambda x: basis.value(x, w[0]))(z[0, 0])
    torch.testing.assert_close(hessian[0, 0], expected)
    found, pull = basis.linearized(z, w), randn(3, 5, 2 * num_dof, seed=2)
    torch.testing.assert_close(found.slope, slope)
    torch.testing.assert_close(found.hessian, hessian)
    torch.testing.assert_close(found.pull_back(pull), torch.einsum("sbd,sbdp->sp", pull, gradients))
    weights = randn(3, 4, 5, 2 * num_dof, seed=3)
    torch.testing.assert_close(
        basis.weighted_gradient(z, weights), torch.einsum("bosd,bsdp->bop", weights, gradients)
    )


def test_the_well_is_the_same_in_all_directions():
    energy = WellEnergy(FourierEnergy(2, 4))
    hyper = {name: prior.median for name, prior in hyperpriors(2, 0.0).items()}
    basis = energy.basis(hyper | {"quadratic_scale": torch.tensor(3.0).double()})
    w = torch.zeros(basis.num_weights).double()
    w[-1] = 2.0
    z = randn(5, 4)
    torch.testing.assert_close(basis.value(z, w), z.square().sum(1))
    assert float(basis.prior_variance[-1]) == 9.0


# --- simulations


@pytest.mark.parametrize("num_dof", [1, 2])
@pytest.mark.parametrize("friction", [True, False])
def test_simulations_are_in_the_box_and_say_the_truth(num_dof, friction):
    design = Design(num_dof, 8, friction, 2, 4.0, 3.0, 0.3)
    truth = simulate(design, seed=1)
    assert len(truth.data) == 2 and truth.data.state_dim == 2 * num_dof
    assert truth.data.times[0].tolist() == [k / 4 for k in range(13)]
    assert all(float(x.abs().max()) < 1.2 * simulated.BOX for x in truth.data.states)
    assert ("friction" in truth.quantities) == friction
    again = simulate(design, seed=1)
    assert again.quantities == truth.quantities
    assert simulate(design, seed=2).quantities != truth.quantities


def test_draws_that_leave_the_box_are_counted(monkeypatch):
    monkeypatch.setattr(simulated, "TRUE_STEPS", 1)
    monkeypatch.setattr(simulated, "BOX", 2.5)
    assert sum(simulate(DESIGN, seed).redrawn for seed in range(4)) > 0
    monkeypatch.setattr(simulated, "BOX", 1e-3)
    monkeypatch.setattr(simulated, "MOST_REDRAWN", 2)
    with pytest.raises(RuntimeError, match="none of 2 draws from the prior stays in the box"):
        simulate(DESIGN, 0)


def test_weights_are_ratios_of_densities():
    """Of what is simulated from over the engine's prior, up to one constant for all draws."""
    units = canonical(1)
    start, noise_std = randn(5, 3, 2), (0.3 * randn(5, 2, seed=1)).exp() * 0.05
    engine = torch.distributions.Normal(0.0, math.sqrt(INITIAL_VARIANCE)).log_prob(start)
    variance = torch.distributions.InverseGamma(torch.tensor(SHAPE), torch.tensor(RATE))
    # of the logarithm of the deviation: d variance / d log(deviation) = 2 variance
    level = variance.log_prob(noise_std**2) + (2 * noise_std**2).log()
    ours = torch.distributions.Normal(0.0, simulated.START).log_prob(units.to_user(start))
    known = torch.distributions.Normal(math.log(simulated.NOISE), simulated.NOISE_SPREAD)
    expected = ours.sum((1, 2)) + known.log_prob((noise_std * units.scale).log()).sum(1)
    expected = expected - engine.sum((1, 2)) - level.sum(1)
    found = log_ratio(start, noise_std, units)
    torch.testing.assert_close(found - found[0], (expected - expected[0]).double())


def test_designs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="at least four intervals"):
        calibration_runs(rate=1.0, duration=3.0)
    with pytest.raises(ValueError, match="draws: expected more than the 99"):
        calibration_runs(draws=99)


def test_ranks_are_collected_by_quantity():
    records = [
        Record({"seed": 0}, {"rank of friction": 3, "fit_seconds": 1.0}),
        Record({"seed": 1}, failure="no"),
        Record({"seed": 2}, {"rank of friction": 99, "fit_seconds": 1.0}),
    ]
    assert collect_ranks(records) == [Ranks("friction", (3, 99), RANKED)]


def test_the_command_prints_a_table_and_draws_the_ranks(tmp_path, monkeypatch):
    small = ("--simulations", "2", "--features", "6", "--num-trajectories", "2", "--draws", "150")
    engine = ("--engine", "gauss-newton:num_components=1,hyperparameter_rounds=1")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it: quicker
    files = ("--out", str(tmp_path / "out"), "--plot", str(tmp_path / "ranks.png"))
    printed = CliRunner().invoke(cli, ["bench", "calibration", *small, *engine, *files])
    assert printed.exit_code == 0, printed.output
    assert "num_components=1,hyperparameter_rounds=1: 2 simulations, 0 failed" in printed.stdout
    for name in ("friction", "noise of p", "dq/dt at A", "H(A) - H(B)", "p at time 7.5"):
        assert f"\n{name}  " in printed.stdout
    assert "draws from the prior left the box" in printed.stdout
    assert plt.imread(tmp_path / "ranks.png").shape[0] > 200


@pytest.mark.slow
def test_the_default_engine_is_calibrated_on_small_problems(monkeypatch):
    """72 draws from the prior; all 13 quantities together at a significance of 1%."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    runs = calibration_runs(
        simulations=72, engines=("gauss-newton:num_components=1",), features=12, draws=500
    )
    records = [record for _, record in do_runs(runs)]
    assert not [record.failure for record in records if record.failure]
    ranks = collect_ranks(records)
    print(*("  ".join(line) for line in rank_cells(ranks)), sep="\n")
    assert len(ranks) == 13
    assert min(own.p_value() for own in ranks) > 0.01 / len(ranks)
    for level, slack in ((0.5, 0.1), (0.9, 0.06)):
        shares = [own.coverage(level)[0] for own in ranks]
        assert np.mean(shares) == pytest.approx(level, abs=slack)

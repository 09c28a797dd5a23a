"""Covariates of trajectories, and parameters that a network predicts from them."""

import math
from collections.abc import Iterator

import pytest
import torch
from problems import randn, tensor, unchecked
from torch.distributions import LogNormal

import sympgp as sg
from sympgp.energies import Context, CovariateNetwork, PhysicsEnergy
from sympgp.systems import Pendulum

TABLE = """trajectory,time,q,p,length [m]
a,0,1.0,0.0,0.5
b,0,0.3,0.1,0.8
a,1,0.9,-0.2,0.5
b,1,0.2,0.0,0.8
"""


def two(**arguments) -> sg.Trajectories:
    return sg.Trajectories([0.0, 1.0], randn(2, 2, 2), **arguments)


def test_covariates_go_with_their_trajectories():
    data = two(covariates=[[1.0, 2.0], [3.0, 4.0]], covariate_names=["l", "m"], units={"l": "m"})
    assert data.covariates is not None and data.covariates.dtype == torch.float64
    assert data[1].covariates.tolist() == [[3.0, 4.0]]
    assert data[[1, 0, 1]].covariates.tolist() == [[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]
    assert (data + data[1]).covariates.shape == (3, 2)
    assert data.to(dtype=torch.float32).covariates.dtype == torch.float32
    assert data.with_states(data.states).covariate_names == ("l", "m")
    assert data.between(-1.0, 2.0).covariates.tolist() == data.covariates.tolist()
    assert two(covariates=[1.0, 2.0]).covariate_names == ("c",)
    assert two().covariates is None and two().covariate_names == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"covariates": [[1.0]]}, r"covariates: expected shape \(2, C\)"),
        ({"covariates": [1.0, math.nan]}, "covariates of trajectory 1: expected a finite number"),
        ({"covariates": [1.0, 2.0], "covariate_names": ["q"]}, "covariate_names.* 'q' twice"),
        ({"covariates": [1.0, 2.0], "covariate_names": ["a", "b"]}, "covariate_names: expected 1"),
        ({"covariate_names": ["a"]}, "covariate_names: expected 0"),
    ],
)
def test_bad_covariates_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        two(**arguments)


def test_other_covariates_cannot_be_joined():
    with pytest.raises(ValueError, match="covariate_names"):
        sg.Trajectories.concatenate([two(), two(covariates=[1.0, 2.0])])


def test_a_table_has_them_in_columns(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(TABLE)
    data = sg.Trajectories.from_csv(path, covariates=["length"])
    assert data.covariates.tolist() == [[0.5], [0.8]]
    assert data.covariate_names == ("length",) and data.units == {"length": "m"}
    data.to_csv(tmp_path / "again.csv")
    again = sg.Trajectories.from_csv(tmp_path / "again.csv", covariates="length")
    assert torch.equal(again.covariates, data.covariates) and again.units == data.units
    frame = sg.Trajectories.from_pandas(data.to_pandas(), covariates=["length"])
    assert torch.equal(frame.covariates, data.covariates) and frame.units == data.units
    path.write_text(TABLE.replace("-0.2,0.5", "-0.2,0.6"))
    with pytest.raises(ValueError, match="line 4, column 'length': expected one value .*'a'"):
        sg.Trajectories.from_csv(path, covariates=["length"])
    path.write_text(TABLE.replace("-0.2,0.5", "-0.2,"))
    with pytest.raises(ValueError, match="line 4, column 'length'.*: expected a finite number"):
        sg.Trajectories.from_csv(path, covariates=["length"])


def test_a_dataset_has_them_by_trajectory():
    data = two(covariates=[[1.0, 2.0], [3.0, 4.0]], covariate_names=["l", "m"], units={"m": "kg"})
    dataset = data.to_xarray()
    assert dataset["covariates"].dims == ("trajectory", "covariate")
    again = sg.Trajectories.from_xarray(dataset)
    assert torch.equal(again.covariates, data.covariates)
    assert again.covariate_names == ("l", "m") and again.units == {"m": "kg"}
    one = sg.Trajectories.from_xarray(dataset.isel(trajectory=1))
    assert one.covariates.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("hidden", [(), (4,), (3, 2)])
def test_the_slope_of_a_network_is_its_derivative(hidden):
    network = CovariateNetwork.of(hidden, 2, tensor(0.7), seed=1)
    x, w = randn(5, 2, seed=1), randn(network.num_weights, seed=2)
    assert network.prior_variance.shape == w.shape
    wanted = torch.autograd.functional.jacobian(lambda v: network.value(v, x), w)
    torch.testing.assert_close(network.slope(w, x), wanted)
    several = randn(3, network.num_weights, seed=3)
    found = network.value(several, x.expand(3, 5, 2))
    for s in range(3):
        torch.testing.assert_close(found[s], network.value(several[s], x))
    # At zero there is a way out.
    zero = torch.zeros_like(w)
    assert float(network.slope(zero, x).abs().max()) > 1e-3


def test_fixed_draws_leave_the_prior_of_the_inner_weights():
    inner = []
    for seed in range(300):
        network = CovariateNetwork.of((5,), 2, tensor(1.0), seed)
        w = network.prior_variance.sqrt() * randn(network.num_weights, seed=seed + 1000)
        _, matrices, _ = network._run(w, tensor([[0.0, 0.0]]))
        inner.append(matrices[0])
    found = torch.stack(inner)
    assert abs(float(found.var()) - 0.5) < 0.05 and abs(float(found.mean())) < 0.05


def test_a_tangent_is_the_network_to_first_order():
    network = CovariateNetwork.of((4,), 1, tensor(1.0), seed=0)
    x, w = randn(6, 1), randn(network.num_weights, seed=1)
    context = Context(("a", "b"), ("c",), tensor([0.0]), tensor([1.0]), tensor([[-1.0], [1.0]]))
    k = sg.FromCovariates(LogNormal(0.0, 1.0), hidden=(4,))
    energy = PhysicsEnergy("p**2/2 + k*q**2", {"k": k}).in_context(context)
    basis = energy.basis({"k_effect": tensor(1.0)})
    theta = torch.cat([tensor([0.2]), w])
    tangent = basis.about(theta)
    z = torch.cat([randn(6, 2), torch.zeros(6, 1).double(), x], 1)
    torch.testing.assert_close(tangent.value(z, theta), basis.value(z, theta))
    torch.testing.assert_close(tangent.features(z, theta), basis.features(z, theta))
    step = randn(len(w), seed=4)
    line = tangent.effects[0].network.value(w + step, x)
    wanted = network.value(w, x) + network.slope(w, x) @ step
    torch.testing.assert_close(line, wanted)


def lengths(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + 1.5 * torch.rand(count, generator=generator, dtype=torch.float64)


def pendulums(length: torch.Tensor, seed: int, noise: float = 0.1) -> sg.Trajectories:
    """One trajectory for each length, k = 3 / length."""
    runs = [
        Pendulum(mass=1.0, gravity=3.0 / float(own)).simulate(
            1, rate=2.5, duration=4.0, noise_std=noise, seed=1000 * seed + i
        )
        for i, own in enumerate(length)
    ]
    data = sg.Trajectories.concatenate(runs)
    times, states = list(data.times), list(data.states)
    return sg.Trajectories(times, states, covariates=length, covariate_names=["length"])


def model(**arguments) -> sg.HamiltonianModel:
    k = sg.FromCovariates(LogNormal(0.7, 1.0), **arguments)
    return sg.HamiltonianModel(PhysicsEnergy("p**2/2 + k*(1-cos(q))", {"k": k}))


QUICK = sg.GaussNewton(num_components=1)
X0 = [[0.7, 0.0], [1.0, 0.3]]


@pytest.fixture(scope="module")
def whole() -> sg.Posterior:
    data = pendulums(tensor([0.6, 0.9, 1.3, 1.8]), 2)
    with unchecked():
        return sg.fit(model(hidden=(2,)), data, inference=QUICK, progress=False)


@pytest.fixture
def fitted(whole) -> Iterator[sg.Posterior]:
    with unchecked():
        yield whole


def test_predictions_of_new_trajectories_take_their_covariates(fitted):
    both = fitted.rollout(X0, [0.0, 1.0], num_samples=8, covariates=[[0.6], [1.5]])
    for i, length in enumerate((0.6, 1.5)):
        one = fitted.rollout(X0[i], [0.0, 1.0], num_samples=8, covariates=[length])
        torch.testing.assert_close(one.samples[:, 0], both.samples[:, i])
        torch.testing.assert_close(one.energy()[:, 0], both.energy()[:, i])
        k = fitted.parameters(covariates=[length])["k"]
        force = -fitted.sample(400)(X0, covariates=[length])[:, 0, 1] / math.sin(0.7)
        assert abs(float(force.mean() - k.mean)) < 0.3 * float(k.stddev)
        found = fitted.vector_field(X0, covariates=[length])
        assert abs(float(-found.mean[0, 1] / math.sin(0.7) - k.mean)) < 0.5 * float(k.stddev)
    energy = fitted.hamiltonian(X0, covariates=[1.0]).mean
    drawn = fitted.sample(400).energy(X0, covariates=[1.0])
    torch.testing.assert_close(drawn.mean(0), energy, rtol=0.03, atol=0.0)
    new = fitted.condition(pendulums(tensor([0.9, 1.2]), 5))
    assert torch.equal(new.data.covariates, tensor([[0.9], [1.2]]))
    assert new.forecast([4.0, 5.0], trajectory=1).mean.isfinite().all()
    own, k = new.parameters()[f"k[{new.data.labels[1]}]"], fitted.parameters(covariates=[1.2])["k"]
    torch.testing.assert_close(own.mean, k.mean)
    torch.testing.assert_close(own.stddev, k.stddev)


def test_pictures_are_of_the_covariates_that_are_given(fitted):
    import matplotlib.pyplot as plt

    for draw in (sg.plots.phase_portrait, sg.plots.vector_field, sg.plots.hamiltonian):
        axes = draw(fitted, size=5, covariates=[0.8])
        figure = axes.flat[0].figure if hasattr(axes, "flat") else axes.figure
        shown = [text.get_text() for text in figure.findobj(plt.Text)]
        assert any("at length = 0.8" in text for text in shown)
        plt.close("all")
    with pytest.raises(ValueError, match="covariates: a new trajectory needs its length"):
        sg.plots.hamiltonian(fitted, size=5)


def test_saved_and_loaded_it_predicts_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "fit.pt")
    loaded = sg.load(tmp_path / "fit.pt")
    paths = [p.rollout(X0, [0.0, 1.0], covariates=[1.0]).samples for p in (fitted, loaded)]
    assert torch.equal(*paths)
    assert torch.equal(loaded.data.covariates, fitted.data.covariates)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p.rollout(X0, [0.0, 1.0]), "covariates: a new trajectory needs its length"),
        (lambda p: p.vector_field(X0), "covariates: a new trajectory needs"),
        (lambda p: p.sample(2).energy(X0), "covariates: a new trajectory needs"),
        (lambda p: p.hamiltonian(X0, covariates=[[1.0], [2.0]]), "expected one trajectory's"),
        (lambda p: p.parameters(covariates=[1.0, 2.0]), "covariates: expected 1 a trajectory"),
        (lambda p: p.vector_field(X0, covariates=[math.nan]), "covariates: expected finite"),
        (
            lambda p: p.rollout(X0, [0.0, 1.0], covariates=[[1.0]] * 3),
            "covariates: expected those of one trajectory or of 2, got 3",
        ),
        (lambda p: p.condition(two()), "covariates: a new trajectory needs"),
    ],
)
def test_missing_or_wrong_covariates_are_refused(fitted, call, words):
    with pytest.raises(ValueError, match=words):
        call(fitted)


@pytest.mark.parametrize(
    ("covariates", "words"),
    [(None, "the data have none"), ([2.0, 2.0], "covariate c is the same in all trajectories")],
)
def test_data_that_cannot_tell_are_refused_before_the_fit(covariates, words):
    with pytest.raises(ValueError, match=words):
        sg.fit(model(), two(covariates=covariates), progress=False)


def test_bad_descriptions_are_refused():
    with pytest.raises(ValueError, match="hidden: expected whole numbers"):
        sg.FromCovariates(LogNormal(0.0, 1.0), hidden=(0,))
    with pytest.raises(ValueError, match="effect: expected a positive"):
        sg.FromCovariates(LogNormal(0.0, 1.0), effect=-1.0)


def test_covariates_that_no_parameter_depends_on_are_left_alone():
    data = pendulums(lengths(3, 1), 1)
    plain = sg.HamiltonianModel(PhysicsEnergy("p**2/2 + k*(1-cos(q))", {"k": LogNormal(0.7, 1.0)}))
    with unchecked():
        posterior = sg.fit(plain, data, inference=QUICK, progress=False)
    assert torch.equal(posterior.data.covariates, data.covariates)
    with pytest.raises(ValueError, match="covariates: expected None"):
        posterior.rollout(X0, [0.0, 1.0], covariates=[1.0])


@pytest.mark.slow
def test_a_network_interpolates_to_unseen_covariates():
    data = pendulums(lengths(8, 0), 0)
    with unchecked():
        posterior = sg.fit(model(hidden=(4,)), data, inference=QUICK, progress=False)
    low, high = float(data.covariates.min()), float(data.covariates.max())
    inside, errors = [], []
    for length in torch.linspace(low, high, 7)[1:-1].tolist():
        k, truth = posterior.parameters(covariates=[length])["k"], 3.0 / length
        below, above = k.interval(0.95)
        inside.append(float(below) <= truth <= float(above))
        errors.append(abs(float(k.mean) / truth - 1.0))
    assert sum(inside) >= 4
    assert max(errors) < 0.15

"""Formulas that know their angles: wrapped data, forecasts across the seam, what is refused."""

import math
from collections.abc import Iterator

import pytest
import torch
from problems import canonical, randn, tensor, unchecked
from torch.distributions import LogNormal, Normal

import sympgp as sg
from sympgp.energies import PhysicsEnergy
from sympgp.systems import Pendulum
from sympgp.trajectories import wrapped

TURN = 2.0 * math.pi
PENDULUM = "p**2/2 + k*(1-cos(q))"
K = {"k": LogNormal(0.0, 1.0)}
QUICK = sg.GaussNewton(num_components=1)


def whirl(count: int = 1) -> sg.Trajectories:
    """Pendulums that go over the top, unwrapped."""
    times = torch.linspace(0.0, 5.0, 26, dtype=torch.float64)
    truth = Pendulum(mass=1.0, gravity=1.0).exact([[1.0, 2.6]] * count, times)
    return sg.Trajectories(times, truth + 0.05 * randn(*truth.shape))


def model(formula: str = PENDULUM, period: float = TURN) -> sg.HamiltonianModel:
    return sg.HamiltonianModel(PhysicsEnergy(formula, K, periodic=(0,), period=period))


def rolled(data: sg.Trajectories, period: float = TURN) -> sg.Trajectories:
    states = [torch.stack([wrapped(x[:, 0], period), x[:, 1]], 1) for x in data.states]
    return data.with_states(states)


@pytest.fixture(scope="module")
def whole() -> sg.Posterior:
    with unchecked():
        return sg.fit(model(), rolled(whirl()), inference=QUICK, progress=False)


@pytest.fixture
def fitted(whole) -> Iterator[sg.Posterior]:
    with unchecked():
        yield whole


@pytest.mark.parametrize("kind", ["string", "function"])
@pytest.mark.parametrize("differing", [False, True])
def test_the_energy_repeats_after_whole_periods_in_user_units(kind, differing):
    def function(q, p, k):
        return (p**2).sum(-1) / 2 + k * (1 - (2 * math.pi * q / 3.0).cos()).sum(-1)

    formula = "p**2/2 + k*(1-cos(2*pi*q/3))" if kind == "string" else function
    prior = sg.Pooled(K["k"]) if differing else K["k"]
    energy = PhysicsEnergy(formula, {"k": prior}, periodic=(0,), period=3.0)
    assert energy.angles == {0: 3.0}
    if differing:
        energy = energy.in_context(sg.energies.Context.of(whirl(2), True, False))
    scaling = canonical()
    energy = energy.in_units(scaling)
    basis = energy.basis({"k_spread": tensor(0.3)})
    assert basis.angles == {0: 3.0}
    z, w = randn(6, 2), randn(basis.num_weights, seed=1)
    ahead = z + tensor([3.0, 0.0]) / scaling.scale
    torch.testing.assert_close(basis.value(ahead, w), basis.value(z, w))


def test_sums_and_separable_energies_have_the_angles_of_their_formula():
    physics = PhysicsEnergy(PENDULUM, K, periodic=(0,))
    learned = sg.FourierEnergy(1, 8, on="q", periodic=(0,))
    assert (physics + learned).angles == {0: TURN}
    potential = PhysicsEnergy("k*(1-cos(q))", K, periodic=(0,))
    assert sg.SeparableEnergy(sg.KnownKinetic(1.0), potential, 1).angles == {0: TURN}


def test_forecasts_go_on_across_the_seam(fitted):
    assert fitted.angles == {"q": TURN}
    k = fitted.parameters()["k"]
    assert abs(float(k.mean) - 1.0) < 4.0 * float(k.stddev)
    path = fitted.forecast([5.0, 5.5, 6.0], num_samples=30)
    truth = whirl().states[0][-1, 0]
    turns = (path.mean[0, 0, 0] - truth) / TURN
    assert abs(float(turns - turns.round())) < 0.05
    assert float(path.mean[0, -1, 0] - path.mean[0, 0, 0]) > 1.0  # on and on
    new = fitted.condition(rolled(whirl()).between(0.0, 3.0))
    states = new.data.states[0][:, 0]
    assert float(states.diff().abs().max()) < 0.5 * TURN and float(states.max()) > 0.5 * TURN


@pytest.mark.parametrize("form", ["unwrapped", "degrees"])
def test_wrapped_and_unwrapped_data_and_degrees_give_one_posterior(fitted, form):
    data, own = whirl(), model()
    if form == "degrees":  # momenta are smaller as angles are larger
        unit = 360.0 / TURN
        data = rolled(data.with_states([x * tensor([unit, 1.0 / unit]) for x in data.states]), 360)
        own = model(f"({unit!r}*p)**2/2 + k*(1-cos(pi*q/180))", 360.0)
    found = sg.fit(own, data, inference=QUICK, progress=False)
    k, same = found.parameters()["k"], fitted.parameters()["k"]
    assert abs(float(k.mean - same.mean)) < 0.05 * float(same.stddev)
    torch.testing.assert_close(k.stddev, same.stddev, rtol=0.05, atol=0.0)


def test_pictures_show_one_turn_and_files_know_the_angle(fitted, tmp_path):
    import matplotlib.pyplot as plt

    axes = sg.plots.phase_portrait(fitted, size=5)
    assert axes.get_xlim() == pytest.approx((-math.pi, math.pi))
    plt.close("all")
    fitted.save(tmp_path / "fit.pt")
    assert sg.load(tmp_path / "fit.pt").angles == {"q": TURN}


@pytest.mark.parametrize(
    ("formula", "settings", "words"),
    [
        ("p**2/2 + k*q**2", {}, "periodic in the angle q, of period 6.28319; it is not"),
        (PENDULUM, {"period": 3.0}, "of period 3; it is not"),
        ("p**2/2 - k*cos(q) + 0.1*q", {}, "periodic in the angle q"),
        ("p**2/2 - cos(k*q)", {}, "for all values of the parameters"),
        (PENDULUM, {"periodic": (1,)}, "the momentum of coordinate 0"),
        (PENDULUM, {"periodic": (0, 0)}, "every index once"),
        (PENDULUM, {"period": -1.0}, "period: expected positive"),
    ],
)
def test_what_is_not_periodic_is_refused(formula, settings, words):
    # The last but one has the median 1, at which cos(k q) is periodic.
    parameters = {"k": Normal(1.0, 0.3)}
    with pytest.raises(ValueError, match=words):
        PhysicsEnergy(formula, parameters, **{"periodic": (0,)} | settings)


def test_other_coordinates_may_be_anything():
    cart = "p1**2/2 + p2**2/2 - p1*p2*cos(q2) + k*cos(q2) + 3*log(q1)"
    assert PhysicsEnergy(cart, K, 2, periodic=(1,)).angles == {1: TURN}
    with pytest.raises(ValueError, match="periodic in the angle q1"):
        PhysicsEnergy(cart, K, 2, periodic=(0, 1))

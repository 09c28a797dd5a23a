"""Rollouts of a fitted field by every method: energies for long times, refusals, units of time."""

import pytest
import torch
from problems import tensor

from sympgp import SSGP, Friction, KnownInputs, Trajectories, fit
from sympgp.integrators import (
    RK4,
    DiscreteGradient,
    Dopri5,
    GaussLegendre4,
    ImplicitMidpoint,
    Leapfrog,
    Tao,
    Tao4,
    Yoshida4,
)
from sympgp.systems import Pendulum

SEPARABLE = (Leapfrog, Yoshida4)
STEP, SHOWN = 0.1, 10


@pytest.fixture(scope="module")
def data() -> Trajectories:
    return Pendulum().simulate(3, rate=5, duration=6, noise_std=0.05)


@pytest.fixture(scope="module")
def general(data):
    return fit(SSGP(num_features=20), data, progress=False)


@pytest.fixture(scope="module")
def separable(data):
    return fit(SSGP(num_features=20, mass=0.5, periodic=(0,)), data, progress=False)


def energies(posterior, method, steps: int):
    """Times, and the energy of one draw from two states."""
    times = torch.linspace(0, steps * STEP, steps // SHOWN + 1, dtype=torch.float64)
    x0 = tensor([[1.5, 0.0], [0.3, 0.4]])
    rollouts = posterior.rollout(x0, times, 1, integrator=method(step=STEP), seed=1)
    return times, rollouts.energy()[0]


def check_energy(posterior, data, method, steps: int) -> None:
    """Kept where that is promised, elsewhere without a trend that can be told."""
    times, energy = energies(posterior, method, steps)
    if method is DiscreteGradient:
        levels = posterior.hamiltonian(torch.cat(list(data.states))).mean
        allowed = 1e-9 * float(levels.max() - levels.min())
        assert float((energy - energy[:, :1]).abs().max()) < allowed
        return
    centred = (times - times.mean()) / (times[-1] - times[0])
    trend = (energy @ centred).abs() / centred.square().sum()
    amplitude = 0.5 * (energy.amax(1) - energy.amin(1))
    assert bool((trend < amplitude).all())
    assert float(amplitude.max()) < 0.1


@pytest.mark.parametrize("method", [Leapfrog, Tao, ImplicitMidpoint, DiscreteGradient])
def test_energy_of_a_rollout(general, separable, data, method):
    posterior = separable if method in SEPARABLE else general
    check_energy(posterior, data, method, 300)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "steps"),
    [
        (Leapfrog, 10_000),
        (Yoshida4, 4_000),
        (Tao, 10_000),
        (ImplicitMidpoint, 2_000),
        (GaussLegendre4, 1_000),
        (DiscreteGradient, 1_000),
    ],
)
def test_energy_of_a_long_rollout(general, separable, data, method, steps):
    """Explicit methods are cheap enough for a thousand oscillations, implicit ones for fewer."""
    posterior = separable if method in SEPARABLE else general
    check_energy(posterior, data, method, steps)


def test_methods_that_a_field_is_not_made_for_are_refused(general, separable, data):
    damped = fit(SSGP(num_features=5, dissipation=Friction()), data, progress=False)
    pushed = Trajectories(data.times, data.states, [torch.zeros(len(t), 1) for t in data.times])
    driven = fit(
        SSGP(num_features=5, mass=0.5, inputs=KnownInputs([[1.0]])), pushed, progress=False
    )
    x0, times = [1.0, 0.0], [6.0, 7.0]
    for method in SEPARABLE:
        message = f"integrator: {method.__name__} is made for H = T.p. .*no sum T.p."
        for predict in (
            lambda one: general.rollout(x0, times, 2, integrator=one),
            lambda one: general.forecast(times, 0, 2, integrator=one),
        ):
            with pytest.raises(ValueError, match=message):
                predict(method(step=0.1))
        with pytest.raises(ValueError, match="without friction or inputs, .*friction or inputs"):
            driven.rollout(x0, times, 2, inputs=[0.0, 0.0], integrator=method(step=0.1))
        separable.rollout(x0, times, 2, integrator=method(step=0.01))
        damped_message = "integrator: .*use ImplicitMidpoint"
        with pytest.raises(ValueError, match=damped_message):
            damped.rollout(x0, times, 2, integrator=method(step=0.1))
    with pytest.raises(ValueError, match="integrator: Tao is made for any energy without friction"):
        damped.rollout(x0, times, 2, integrator=Tao(step=0.01))
    damped.without_dissipation().rollout(x0, times, 2, integrator=Tao(step=0.01))


METHODS = [
    RK4(0.1),
    ImplicitMidpoint(0.1),
    GaussLegendre4(0.1),
    Leapfrog(0.1),
    Yoshida4(0.1),
    Tao(0.1, omega=3.0),
    Tao4(0.1, omega=3.0),
    Dopri5(1e-9, 1e-9),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_the_unit_of_time_changes_nothing(method):
    """``dx/ds = u f`` with ``t = u s`` has the same path, step by step."""
    unit, times = 0.4, tensor([0.0, 0.5, 1.3])

    def field(t, x):
        q, p = x.chunk(2, -1)
        return torch.cat([p, -q.sin()], -1)

    x0 = tensor([1.0, 0.5])
    expected = method.solve(field, x0, times)
    scaled = method.in_time_units(unit)
    found = scaled.solve(lambda s, x: unit * field(unit * s, x), x0, times / unit)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_settings_that_were_left_open_stay_open():
    assert RK4().in_time_units(0.3) == RK4()
    assert Tao(omega=None).in_time_units(0.3) == Tao()
    assert Tao(0.3, omega=2.0).in_time_units(0.5) == Tao(0.6, omega=1.0)

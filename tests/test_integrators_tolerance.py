"""Steps from a tolerance: the estimate against the true error, and what happens at its limits."""

import math

import pytest
import torch
from mechanics import Known, chain, oscillator, pendulum, randn

from sympgp.integrators import (
    RK4,
    DiscreteGradient,
    Dopri5,
    GaussLegendre4,
    ImplicitMidpoint,
    Leapfrog,
    Tao,
    ToleranceWarning,
    Yoshida4,
    step_for,
)

METHODS = [RK4, ImplicitMidpoint, GaussLegendre4, Leapfrog, Yoshida4, Tao, DiscreteGradient]


@pytest.mark.parametrize("method", METHODS)
def test_the_error_reported_is_the_error(method):
    """Irregular times: some intervals are split before others."""
    x0, times = 0.5 * randn(4, 4), [0.0, 0.3, 0.35, 1.0]
    tolerance = {2: 5e-3, 4: 2e-5}[method.order]
    step, error, reached = step_for(method(), chain(), x0, times, tolerance, scale=1.0)
    assert reached and error <= tolerance
    exact = RK4(5e-3).solve(chain(), x0, times)
    truth = (method(step).solve(chain(), x0, times) - exact).abs().max()
    assert 0.6 * truth < error < 1.6 * truth
    assert math.log2(0.65 / step) == pytest.approx(round(math.log2(0.65 / step)))


def test_the_step_is_the_longest_of_its_row():
    x0, times = randn(3, 2), [0.0, 1.0]
    found = step_for(RK4(step=0.5), pendulum(), x0, times, 1e-5, scale=1.0)
    longer = step_for(
        RK4(step=2 * found.step), pendulum(), x0, times, 1.0, scale=1.0, max_halvings=0
    )
    assert longer.step == 2 * found.step
    assert found.error <= 1e-5 < longer.error
    at_once = step_for(RK4(step=1e-2), pendulum(), x0, times, 1.0)
    assert at_once.step == 1e-2 and at_once.reached


def test_paths_are_used_again():
    field = oscillator()
    step, _, _ = step_for(RK4(), field, randn(2, 2), [0.0, 1.0, 2.0], 1e-6)
    steps = round(2.0 / step)
    assert field.count == 4 * sum(2 * steps // 2**k for k in range(round(math.log2(steps)) + 1))


def test_the_scale_is_the_unit_of_the_error():
    x0, times = randn(3, 2), torch.linspace(0, 2, 3, dtype=torch.float64)
    settings = {"max_halvings": 0}
    method = RK4(step=0.1)
    plain = step_for(method, pendulum(), x0, times, 1.0, scale=1.0, **settings).error
    halved = step_for(method, pendulum(), x0, times, 1.0, scale=2.0, **settings).error
    assert halved == pytest.approx(0.5 * plain)
    sizes = torch.tensor([1e9, 1.0], dtype=torch.float64)
    only_p = step_for(method, pendulum(), x0, times, 1.0, scale=sizes, **settings).error
    path, fine = (RK4(h).solve(pendulum(), x0, times) for h in (0.1, 0.05))
    assert only_p == pytest.approx(((path - fine)[..., 1].abs().max() * 16 / 15).item())
    spread = fine.reshape(-1, 2).std(0)
    own = step_for(method, pendulum(), x0, times, 1.0, **settings).error
    assert own == pytest.approx((((path - fine).abs() / spread).max() * 16 / 15).item())


def test_units_of_the_state_do_not_matter():
    units = torch.tensor([1e6, 1e-3], dtype=torch.float64)
    x0, times = randn(3, 2), [0.0, 1.0]
    plain = step_for(RK4(), lambda t, x: pendulum()(t, x), x0, times, 1e-6)
    other = step_for(RK4(), lambda t, x: units * pendulum()(t, x / units), units * x0, times, 1e-6)
    assert other.step == plain.step
    assert other.error == pytest.approx(plain.error, rel=1e-6)


def test_a_coordinate_at_rest_has_no_scale_of_zero():
    found = step_for(RK4(), oscillator(), torch.zeros(2, dtype=torch.float64), [0.0, 1.0], 1e-6)
    assert found.reached and found.error == 0.0


def test_a_tolerance_out_of_reach_is_reported():
    with pytest.warns(ToleranceWarning, match=r"ImplicitMidpoint: .* after 2 halvings; raise"):
        found = step_for(ImplicitMidpoint(), pendulum(), randn(2), [0, 1], 1e-12, max_halvings=2)
    assert not found.reached and found.step == 0.25 and found.error > 1e-12


def test_a_path_that_is_not_finite_is_not_accurate():
    field = Known(lambda q, p: p**2 / 2 - q**4, lambda q, p: (-4 * q**3, p))
    x0 = torch.tensor([[0.1, 0.0], [3.0, 3.0]], dtype=torch.float64)
    with pytest.warns(ToleranceWarning, match="the error is still inf of the scale"):
        found = step_for(RK4(), field, x0, [0.0, 2.0], 1e-3, max_halvings=3)
    assert not found.reached and found.error == math.inf
    assert step_for(RK4(), field, x0[0], [0.0, 2.0], 1e-3).reached


def test_steps_at_which_an_iteration_fails_are_halved():
    found = step_for(ImplicitMidpoint(), pendulum(), randn(3, 2), [0.0, 4.0], 0.2, scale=1.0)
    assert found.reached and found.step < 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"integrator": Dopri5()}, "integrator: expected a fixed-step method"),
        ({"integrator": Leapfrog(), "field": lambda t, x: x[..., :1]}, "field: expected rates"),
        ({"tolerance": 0.0}, "tolerance: expected a positive finite number"),
        ({"tolerance": math.nan}, "tolerance: expected a positive finite number"),
        ({"scale": 0.0}, "scale: expected positive sizes"),
        ({"scale": torch.tensor([1.0, math.nan])}, "scale: expected positive sizes"),
        ({"max_halvings": -1}, "max_halvings: expected at least 0"),
        ({"times": [1.0]}, "times: expected at least two times"),
        ({"times": [1.0, 1.0]}, "times: expected strictly increasing"),
    ],
)
def test_arguments_are_checked(arguments, message):
    settings = {
        "integrator": RK4(),
        "field": oscillator(),
        "x0": randn(2),
        "times": [0.0, 1.0],
        "tolerance": 1e-3,
    }
    with pytest.raises(ValueError, match=message):
        step_for(**{**settings, **arguments})

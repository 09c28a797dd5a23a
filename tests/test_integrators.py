"""Integrators: order, symplecticity, reversibility, energy, landing on times, reported failures."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sympgp.integrators import (
    CLASSICAL_RK4,
    RK4,
    DivergenceWarning,
    Dopri5,
    FixedStepIntegrator,
    ImplicitMidpoint,
    Integrator,
    explicit_step,
)
from sympgp.phase_space import symplectic_matrix

FIXED = [RK4, ImplicitMidpoint]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pendulum(t, x: Tensor) -> Tensor:
    q, p = x.unbind(-1)
    return torch.stack([2 * p, -3 * torch.sin(q)], -1)


def pendulum_energy(x: Tensor) -> Tensor:
    return x[..., 1] ** 2 + 3 * (1 - torch.cos(x[..., 0]))


def coupled(t, x: Tensor) -> Tensor:
    """Two degrees of freedom with H = (p1^2 + p2^2)/2 + q1^2/2 + q1 q2 p1 + q2^4/4."""
    q1, q2, p1, p2 = x.unbind(-1)
    return torch.stack([p1 + q1 * q2, p2, -q1 - q2 * p1, -q1 * p1 - q2**3], -1)


def oscillator(t, x: Tensor) -> Tensor:
    return torch.stack([x[..., 1], -x[..., 0]], -1)


def rotation(times: Tensor, x0: Tensor) -> Tensor:
    """The exact solution of the oscillator, (..., T, 2)."""
    q, p = x0[..., None, 0], x0[..., None, 1]
    return torch.stack([q * times.cos() + p * times.sin(), p * times.cos() - q * times.sin()], -1)


def driven(t, x: Tensor) -> Tensor:
    """dx/dt = x cos t, solved by x0 exp(sin t): wrong stage times show as a lower order."""
    return x * math.cos(t)


class Counted:
    """A field that counts its evaluations."""

    def __init__(self, field):
        self.field, self.count = field, 0

    def __call__(self, t, x: Tensor) -> Tensor:
        self.count += 1
        return self.field(t, x)


@pytest.mark.parametrize("method", FIXED)
def test_global_error_falls_with_the_order(method):
    steps = [0.1, 0.05, 0.025]
    x0 = torch.tensor([1.5, 0.4], dtype=torch.float64)
    exact = RK4(step=1e-3).solve(pendulum, x0, [0.0, 2.0])[-1]
    driven_x0 = torch.ones(1, dtype=torch.float64)
    for field, start, truth in [
        (pendulum, x0, exact),
        (driven, driven_x0, driven_x0 * math.exp(math.sin(2.0))),
    ]:
        errors = torch.stack(
            [(method(h).solve(field, start, [0.0, 2.0])[-1] - truth).norm() for h in steps]
        )
        slopes = (errors[:-1] / errors[1:]).log2()
        assert (slopes - method.order).abs().max() < 0.2


def test_dopri5_error_follows_its_tolerance():
    times = torch.linspace(0, 10, 11, dtype=torch.float64)
    x0 = torch.tensor([[1.0, 0.0], [-0.3, 2.0]], dtype=torch.float64)
    errors = [
        (Dopri5(rtol=rtol, atol=rtol).solve(oscillator, x0, times) - rotation(times, x0))
        .abs()
        .max()
        for rtol in (1e-4, 1e-7, 1e-10)
    ]
    for rtol, error in zip((1e-4, 1e-7, 1e-10), errors, strict=True):
        assert error < 100 * rtol
    assert errors[0] > 100 * errors[1] > 10_000 * errors[2]


def test_dopri5_serves_the_worst_member_of_a_large_batch():
    """An error norm averaged over the batch would let one fast member among many slow ones go."""
    x0 = torch.zeros(2000, 2, dtype=torch.float64)
    x0[0, 0] = 1.0
    rate = torch.ones(2000, 1, dtype=torch.float64)
    rate[0] = 20.0
    times = torch.tensor([0.0, 5.0], dtype=torch.float64)
    end = Dopri5(rtol=1e-6).solve(lambda t, x: rate * oscillator(t, x), x0, times)[0, -1]
    alone = Dopri5(rtol=1e-6).solve(lambda t, x: 20 * oscillator(t, x), x0[0], times)[-1]
    exact = rotation(20 * times, x0[0])[-1]
    assert (end - exact).norm() < 2 * (alone - exact).norm() + 1e-9


def test_rk4_is_the_method_written_out():
    x, h = randn(5, 2), 0.3

    def field(t, x):
        return pendulum(t, x) + math.sin(t)

    k1 = field(0.7, x)
    k2 = field(0.7 + h / 2, x + h / 2 * k1)
    k3 = field(0.7 + h / 2, x + h / 2 * k2)
    k4 = field(0.7 + h, x + h * k3)
    expected = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    torch.testing.assert_close(RK4().advance(field, 0.7, x, h), expected, rtol=1e-14, atol=1e-14)


def test_the_classical_table_satisfies_the_order_conditions():
    c, b = CLASSICAL_RK4.nodes, CLASSICAL_RK4.weights
    a = [(0.0,) * 4, *((*row, *(0.0,) * (4 - len(row))) for row in CLASSICAL_RK4.stages)]
    assert all(math.isclose(sum(row), node) for row, node in zip(a, c, strict=True))
    for power in range(4):
        moment = sum(w * node**power for w, node in zip(b, c, strict=True))
        assert math.isclose(moment, 1 / (power + 1))
    ac = [sum(a[i][j] * c[j] for j in range(4)) for i in range(4)]
    assert math.isclose(sum(w * n * s for w, n, s in zip(b, c, ac, strict=True)), 1 / 8)
    assert math.isclose(sum(w * s for w, s in zip(b, ac, strict=True)), 1 / 6)


def step_jacobian(integrator: Integrator, field, x: Tensor, h: float) -> Tensor:
    return torch.autograd.functional.jacobian(lambda y: integrator.advance(field, 0.0, y, h), x)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("field", "num_dof"), [(pendulum, 1), (coupled, 2)])
def test_the_implicit_midpoint_step_is_symplectic(field, num_dof, seed):
    jacobian = step_jacobian(ImplicitMidpoint(), field, randn(2 * num_dof, seed=seed), 0.2)
    J = symplectic_matrix(num_dof)
    assert (jacobian.T @ J @ jacobian - J).abs().max() < 1e-10


def test_rk4_is_not_symplectic():
    jacobian = step_jacobian(RK4(), pendulum, randn(2), 0.2)
    J = symplectic_matrix(1)
    assert (jacobian.T @ J @ jacobian - J).abs().max() > 1e-7


@pytest.mark.parametrize(("field", "num_dof"), [(pendulum, 1), (coupled, 2)])
def test_implicit_midpoint_undoes_itself(field, num_dof):
    x0 = 0.3 * randn(6, 2 * num_dof)
    times = [0.0, 0.3, 1.1, 4.0]
    forth = ImplicitMidpoint(step=0.1).solve(field, x0, times)
    back = ImplicitMidpoint(step=0.1).solve(field, forth[..., -1, :], times[::-1])
    torch.testing.assert_close(back.flip(-2), forth, rtol=0, atol=1e-10)
    explicit = RK4(step=0.1).solve(field, x0, times)[..., -1, :]
    explicit_back = RK4(step=0.1).solve(field, explicit, times[::-1])[..., -1, :]
    assert (explicit_back - x0).abs().max() > 1e-8


def drift_and_oscillation(energy: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Slope times duration of a straight line through each energy, and its half range."""
    centred = times - times.mean()
    slope = (energy * centred).sum(-1) / centred.square().sum()
    oscillation = (energy.amax(-1) - energy.amin(-1)) / 2
    return (slope * (times[-1] - times[0])).abs(), oscillation


def pendulum_energies(integrator: FixedStepIntegrator, num_steps: int) -> tuple[Tensor, Tensor]:
    times = integrator.step * torch.arange(0, num_steps + 1, 7, dtype=torch.float64)
    x0 = torch.tensor([[1.5, 0.3], [3.0, 0.2], [0.2, 0.0]], dtype=torch.float64)
    return pendulum_energy(integrator.solve(pendulum, x0, times)), times


@pytest.mark.slow
def test_energy_of_the_implicit_midpoint_does_not_drift():
    drift, oscillation = drift_and_oscillation(*pendulum_energies(ImplicitMidpoint(0.1), 3_000))
    assert (drift < 0.3 * oscillation).all()


def test_energy_of_rk4_drifts():
    """The contrast that gives the test above its meaning."""
    drift, oscillation = drift_and_oscillation(*pendulum_energies(RK4(0.1), 3_000))
    assert (drift > 0.5 * oscillation).all()


@pytest.mark.slow
def test_energy_over_a_hundred_thousand_steps():
    drift, oscillation = drift_and_oscillation(*pendulum_energies(ImplicitMidpoint(0.05), 100_000))
    assert (drift < 0.1 * oscillation).all()


def test_implicit_midpoint_keeps_quadratic_invariants():
    x0 = randn(4, 2)
    path = ImplicitMidpoint(step=0.3).solve(oscillator, x0, [0.3 * i for i in range(301)])
    radius = path.square().sum(-1)
    torch.testing.assert_close(radius, radius[:, :1].expand_as(radius), rtol=1e-11, atol=0)


increasing = st.lists(st.floats(0.003, 0.8), min_size=1, max_size=6)


@given(gaps=increasing, start=st.floats(-5, 5), step=st.floats(0.02, 0.5), forward=st.booleans())
def test_steps_are_equal_bounded_and_land_on_the_times(gaps, start, step, forward):
    times = [start]
    for gap in gaps:
        times.append(times[-1] + (gap if forward else -gap))
    seen: list[float] = []

    def clock(t, x):
        seen.append(t)
        return torch.ones_like(x)

    x0 = torch.full((1,), start, dtype=torch.float64)
    path = RK4(step=step).solve(clock, x0, times)
    # dx/dt = 1: the state is the time reached
    torch.testing.assert_close(path[:, 0], torch.tensor(times, dtype=torch.float64))
    starts = seen[::4] + [times[-1]]
    taken = [abs(b - a) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    assert max(taken) <= step * (1 + 1e-9) + 1e-12
    assert all(min(abs(t - s) for s in starts) < 1e-12 for t in times)
    assert len(taken) == sum(max(1, math.ceil(round(g / step, 9))) for g in gaps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_of_the_times_costs_no_extra_step(dtype):
    field = Counted(lambda t, x: -x)
    times = torch.arange(0, 101, dtype=dtype) * 0.1 + 50
    RK4(step=0.1).solve(field, torch.ones(1, dtype=torch.float64), times)
    assert field.count == 4 * 100


@pytest.mark.parametrize("integrator", [RK4(0.05), ImplicitMidpoint(0.05), Dopri5(1e-9, 1e-9)])
def test_irregular_times_give_the_states_of_a_regular_path(integrator):
    x0 = randn(3, 2)
    times = [0.0, 0.01, 0.5, 0.55, 2.0]
    path = integrator.solve(pendulum, x0, times)
    assert path.shape == (3, 5, 2)
    assert torch.equal(path[:, 0], x0)
    fine = RK4(1e-3).solve(pendulum, x0, times)
    tolerance = {RK4: 1e-4, ImplicitMidpoint: 2e-2, Dopri5: 1e-7}[type(integrator)]
    assert (path - fine).abs().max() < tolerance


@pytest.mark.parametrize("integrator", [RK4(0.1), ImplicitMidpoint(0.1), Dopri5(1e-9, 1e-11)])
def test_draws_times_initial_states_equal_separate_solves(integrator):
    stiffness = 1 + randn(4, 1).abs()

    def draws(t, x):
        return torch.stack([x[..., 1], -stiffness * torch.sin(x[..., 0])], -1)

    x0 = randn(3, 2).expand(4, 3, 2)
    times = [0.0, 0.4, 1.0]
    batch = integrator.solve(draws, x0, times)
    assert batch.shape == (4, 3, 3, 2)
    for s in range(4):
        for n in range(3):

            def one(t, x, k=stiffness[s, 0]):
                return torch.stack([x[..., 1], -k * torch.sin(x[..., 0])], -1)

            alone = integrator.solve(one, x0[s, n], times)
            torch.testing.assert_close(batch[s, n], alone, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("integrator", [RK4(), ImplicitMidpoint(), Dopri5(1e-10, 1e-12)])
def test_steps_and_times_may_differ_within_the_batch(integrator):
    def field(t, x):
        return pendulum(t, x) + t

    x, t = randn(3, 2), torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64)
    h = torch.tensor([[0.1], [0.2], [-0.1]], dtype=torch.float64)
    together = integrator.advance(field, t, x, h)
    for i in range(3):
        alone = integrator.advance(field, t[i].item(), x[i], h[i].item())
        torch.testing.assert_close(together[i], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("integrator", [RK4(0.1), ImplicitMidpoint(0.1)])
def test_paths_can_be_differentiated(integrator):
    x0 = randn(2, 2).requires_grad_()
    stiffness = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def end(x0, stiffness):
        def field(t, x):
            return torch.stack([x[..., 1], -stiffness * torch.sin(x[..., 0])], -1)

        return integrator.solve(field, x0, [0.0, 0.25, 0.4])

    assert torch.autograd.gradcheck(end, (x0, stiffness))


def test_recorded_and_unrecorded_midpoints_agree():
    x = randn(20, 4)
    plain = ImplicitMidpoint().advance(coupled, 0.0, x.requires_grad_(), 0.1)
    mixed = ImplicitMidpoint().advance(coupled, 0.0, x.detach(), 0.1)
    torch.testing.assert_close(plain.detach(), mixed, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("units", [1e-8, 1.0, 1e6])
def test_the_midpoint_equation_is_solved_in_any_units(units):
    scale = torch.tensor([1.0, units], dtype=torch.float64)

    def field(t, x):
        return scale * pendulum(t, x / scale)

    x, h = scale * randn(50, 2), 0.2
    new = ImplicitMidpoint().advance(field, 0.0, x, h)
    residual = new - x - h * field(0.0, (x + new) / 2)
    assert ((residual.abs() / scale) < 1e-11).all()


def test_mixing_converges_where_the_plain_iteration_does_not():
    """At h L / 2 = 1.2 the plain fixed-point iteration moves away from the midpoint."""
    x = 0.3 * randn(20, 2)
    h = 2.4 / math.sqrt(6.0)
    new = ImplicitMidpoint().advance(pendulum, 0.0, x, h)
    assert new.isfinite().all()
    torch.testing.assert_close(new, x + h * pendulum(0.0, (x + new) / 2), rtol=0, atol=1e-10)
    assert ImplicitMidpoint().advance(pendulum, 0.0, x.requires_grad_(), h).isnan().any()


@pytest.mark.parametrize("rest", [[0.0, 0.0], [math.pi, 0.0], [1e-12, 0.0]])
def test_states_of_rest_settle_at_once(rest):
    field = Counted(pendulum)
    new = ImplicitMidpoint().advance(field, 0.0, torch.tensor(rest, dtype=torch.float64), 0.1)
    assert new.isfinite().all()
    assert field.count < 8


def test_a_small_motion_far_from_zero_settles_at_its_round_off():
    """q = 1000 + 1e-8: the restoring force has five digits, and asking for more is in vain."""
    field = Counted(lambda t, x: torch.stack([x[..., 1], -3 * (x[..., 0] - 1e3)], -1))
    x0 = torch.tensor([1e3, 0.0], dtype=torch.float64) + 1e-8 * randn(500, 2)
    path = ImplicitMidpoint(0.1).solve(field, x0, [0.0, 1.0])
    assert path.isfinite().all()
    assert field.count < 12 * 10


def test_a_coordinate_at_rest_in_round_off_neither_fails_nor_lingers():
    """At an equilibrium the momentum is nothing but the round-off of the force."""

    def field(t, x):
        q, p = x.unbind(-1)
        return torch.stack([p, 1e-13 * torch.sin(1e18 * q) - 3 * (q - 1)], -1)

    counted = Counted(field)
    path = ImplicitMidpoint(0.1).solve(counted, torch.tensor([1.0, 0.0]).double(), [0.0, 1.0])
    assert path.isfinite().all()
    assert counted.count < 15 * 10


def test_a_field_with_round_off_of_its_own_settles():
    """Sums that cancel leave noise in a field: the residual stops falling above the tolerance."""

    def noisy(t, x):
        return pendulum(t, x) + 3e-11 * torch.sin(1e14 * x)

    field = Counted(noisy)
    path = ImplicitMidpoint(0.1).solve(field, randn(200, 2), [0.0, 1.0])
    assert path.isfinite().all()
    assert field.count < 15 * 10


@pytest.mark.parametrize("integrator", [RK4(0.1), ImplicitMidpoint(0.1), Dopri5(1e-4, 1e-5)])
def test_single_precision_stays_single(integrator):
    x0 = randn(5, 2)
    times = torch.linspace(0, 1, 5, dtype=torch.float32)
    path = integrator.solve(pendulum, x0.float(), times)
    assert path.dtype == torch.float32
    reference = integrator.solve(pendulum, x0, times.double())
    torch.testing.assert_close(path.double(), reference, rtol=0, atol=1e-3)


def test_a_midpoint_that_does_not_exist_is_nan_for_that_member_alone():
    """m = x + h/2 r (1 + m^2) has no real solution when h r (2 x + h r) > 1."""
    rate = torch.tensor([[0.5], [20.0], [1.0]], dtype=torch.float64)

    def field(t, x):
        return rate * (1 + x**2)

    x0 = torch.zeros(3, 1, dtype=torch.float64)
    path = ImplicitMidpoint(step=0.1).solve(field, x0, [0.0, 0.1, 0.2])
    assert path[1, 0].isfinite().all()
    assert path[1, 1:].isnan().all()
    for i in (0, 2):
        hr = 0.1 * rate[i]
        exact = (1 - (1 - hr**2).sqrt()) / hr  # the midpoint of the first step, from x = 0
        torch.testing.assert_close(path[i, 1], 2 * exact, rtol=1e-11, atol=0)
        assert path[i].isfinite().all()


def test_a_lost_member_costs_the_others_no_iterations():
    field = Counted(pendulum)
    x0 = torch.tensor([[1.0, 0.2], [math.nan, 0.0]], dtype=torch.float64)
    ImplicitMidpoint(step=0.05).solve(field, x0, [0.0, 1.0])
    assert field.count < 20 * 10


def explosive(t, x: Tensor) -> Tensor:
    """dx/dt = x^2 reaches infinity at t = 1 / x0."""
    return x**2


def test_dopri5_reports_who_broke_down_and_goes_on():
    x0 = torch.tensor([[0.1], [2.0], [-1.0], [1.25]], dtype=torch.float64)
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    with pytest.warns(DivergenceWarning) as record:
        path = Dopri5(1e-6, 1e-8).solve(explosive, x0, times)
    message = str(record[0].message)
    assert "2 batch member(s)" in message
    assert "member (1,) between t = 0.4 and t = 0.5" in message
    assert "member (3,) between t = 0.7 and t = 0.8" in message
    assert "max_steps" in message
    exact = x0 / (1 - x0 * times)
    for i, last in [(0, 11), (1, 5), (2, 11), (3, 8)]:
        torch.testing.assert_close(path[i, :last, 0], exact[i, :last], rtol=1e-4, atol=1e-6)
        assert path[i, last:].isnan().all()


def test_dopri5_sets_aside_a_start_that_is_not_finite():
    x0 = torch.tensor([[[1.0, 0.0]], [[math.nan, 0.0]]], dtype=torch.float64)
    with pytest.warns(DivergenceWarning, match=r"member \(1, 0\) between t = 0 and t = 0"):
        path = Dopri5().solve(oscillator, x0, [0.0, 1.0])
    assert path[0].isfinite().all() and path[1].isnan().any()


def test_dopri5_counts_its_steps():
    with pytest.warns(DivergenceWarning, match="max_steps"):
        path = Dopri5(max_steps=5).solve(
            oscillator, torch.ones(1, 2, dtype=torch.float64), [0, 100]
        )
    assert path[0, 1].isnan().all()


def test_a_failed_check_in_the_field_is_not_swallowed():
    def field(t, x):
        raise AssertionError("the field's own")

    with pytest.raises(AssertionError, match="the field's own"):
        Dopri5().solve(field, torch.ones(1, 2, dtype=torch.float64), [0.0, 1.0])


@pytest.mark.parametrize("integrator", [RK4(0.1), ImplicitMidpoint(0.1), Dopri5()])
@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([], "at least one time"),
        ([0.0, 1.0, 1.0], "got 1.0 followed by 1.0 at positions 1, 2"),
        ([0.0, 1.0, 0.5], "strictly increasing"),
        ([0.0, math.nan], "finite"),
    ],
)
def test_bad_times_are_refused(integrator, times, message):
    with pytest.raises(ValueError, match=message):
        integrator.solve(oscillator, torch.ones(2, dtype=torch.float64), times)


@pytest.mark.parametrize("integrator", [RK4(0.1), ImplicitMidpoint(0.1), Dopri5()])
def test_one_time_returns_the_start(integrator):
    x0 = randn(3, 2)
    assert torch.equal(integrator.solve(oscillator, x0, [2.0])[:, 0], x0)


@pytest.mark.parametrize("method", FIXED)
def test_settings_are_checked(method):
    with pytest.raises(ValueError, match=f"step: {method.__name__} needs a step length"):
        method().solve(oscillator, torch.ones(2, dtype=torch.float64), [0.0, 1.0])
    for step in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="step: expected a positive finite number"):
            method(step=step)
    assert method().with_step(0.5) == method(step=0.5)


def test_other_settings_are_checked():
    with pytest.raises(ValueError, match="tolerance"):
        ImplicitMidpoint(tolerance=0.0)
    with pytest.raises(ValueError, match="max_iterations"):
        ImplicitMidpoint(max_iterations=0)
    with pytest.raises(ValueError, match="rtol"):
        Dopri5(rtol=-1.0)
    assert ImplicitMidpoint(tolerance=1e-9).with_step(0.1) == ImplicitMidpoint(0.1, 1e-9)
    assert Dopri5().with_step(0.1) == Dopri5()


@pytest.mark.parametrize("integrator", [RK4(0.5), ImplicitMidpoint(0.5), Dopri5()])
def test_a_field_of_another_shape_is_refused(integrator):
    weights = torch.ones(4, 1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"expected rates of the states' shape \(3, 2\)"):
        integrator.solve(lambda t, x: weights * x, randn(3, 2), [0.0, 1.0])


@pytest.mark.parametrize("integrator", [RK4(0.5), ImplicitMidpoint(0.5, max_iterations=3)])
def test_nothing_is_left_on_the_cpu(integrator):
    with FakeTensorMode():
        x0 = torch.empty(4, 3, 2, dtype=torch.float64, device="cuda")
        path = integrator.solve(pendulum, x0, [0.0, 0.5, 2.0])
        h = torch.empty(4, 3, 1, dtype=torch.float64, device="cuda")
        stepped = integrator.advance(pendulum, 0.0, x0, h)
    assert path.device.type == "cuda" and path.shape == (4, 3, 3, 2)
    assert stepped.device.type == "cuda" and stepped.shape == (4, 3, 2)


def test_facts_about_the_methods():
    facts = {
        m: (m.order, m.symplectic, m.needs_separable, m.adaptive)
        for m in (RK4, ImplicitMidpoint, Dopri5)
    }
    assert facts == {
        RK4: (4, False, False, False),
        ImplicitMidpoint: (2, True, False, False),
        Dopri5: (5, False, False, True),
    }


def test_a_quiet_solve_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Dopri5().solve(oscillator, torch.ones(2, 2, dtype=torch.float64), [0.0, 3.0])


def test_the_stepper_runs_any_table():
    """Heun's method from its table: order conditions 1 and 2, on dx/dt = x."""
    from sympgp.integrators import RungeKuttaTable

    heun = RungeKuttaTable(nodes=(0.0, 1.0), stages=((1.0,),), weights=(0.5, 0.5))
    x = torch.ones(1, dtype=torch.float64)
    new = explicit_step(heun, lambda t, x: x, 0.0, x, 0.1)
    torch.testing.assert_close(new, torch.tensor([1 + 0.1 + 0.005], dtype=torch.float64))

"""What every integrator has to show: its order, its structure, and what it does with batches."""

import functools
import math

import pytest
import torch
from mechanics import Known, chain, damped, driven, mixed, oscillator, pendulum, randn
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sympgp.integrators import (
    GAUSS_4,
    RK4,
    DiscreteGradient,
    Dopri5,
    FixedStepIntegrator,
    GaussLegendre4,
    ImplicitMidpoint,
    Leapfrog,
    Tao,
    Tao4,
    Yoshida4,
)
from sympgp.phase_space import split, symplectic_matrix

METHODS = [
    RK4,
    ImplicitMidpoint,
    GaussLegendre4,
    Leapfrog,
    Yoshida4,
    Tao,
    Tao4,
    DiscreteGradient,
]
FIELDS = [chain, mixed, damped, driven]


def takes(method: type[FixedStepIntegrator], field: Known) -> bool:
    return (field.separable or not method.needs_separable) and (
        field.conservative or not method.conservative_only
    )


PAIRS = [(m, f) for m in METHODS for f in FIELDS if takes(m, f())]
every_method = pytest.mark.parametrize("method", METHODS)
every_pair = pytest.mark.parametrize(("method", "make"), PAIRS)


def start() -> Tensor:
    return 0.8 * randn(5, 4)


@functools.cache
def reference(make) -> Tensor:
    return RK4(step=5e-3).solve(make(), start(), [0.0, 1.0])[..., -1, :]


def global_errors(method, field, x0: Tensor, exact: Tensor, steps) -> Tensor:
    ends = [method(step=h).solve(field, x0, [0.0, 1.0])[..., -1, :] for h in steps]
    return torch.stack([(end - exact).norm() for end in ends])


STEPS = {2: (1 / 14, 1 / 28), 4: (1 / 12, 1 / 24)}


@every_pair
def test_global_error_falls_with_the_order(method, make):
    # The triple jump of Tao4 binds over longer steps than the others take.
    steps = (1 / 40, 1 / 80) if method is Tao4 else STEPS[method.order]
    errors = global_errors(method, make(), start(), reference(make), steps)
    slopes = (errors[:-1] / errors[1:]).log2()
    assert (slopes - method.order).abs().max() < 0.25


@pytest.mark.parametrize("method", [m for m in METHODS if not m.needs_energy])
def test_stages_are_at_their_times(method):
    """H = (1 + sin(3 t) / 2) (p^2 + q^2) / 2 turns states by the integral of its factor."""

    def field(t, x):
        q, p = split(x)
        return (1 + math.sin(3 * t) / 2) * torch.cat([p, -q], -1)

    angle = torch.tensor(1 + (1 - math.cos(3.0)) / 6, dtype=torch.float64)
    x0 = randn(4, 2)
    q, p = split(x0)
    exact = torch.cat([q * angle.cos() + p * angle.sin(), p * angle.cos() - q * angle.sin()], -1)
    errors = global_errors(method, field, x0, exact, (1 / 20, 1 / 40))
    slopes = (errors[:-1] / errors[1:]).log2()
    assert (slopes - method.order).abs().max() < 0.25


@every_method
def test_agreement_with_an_exact_solution(method):
    x0, times = randn(6, 2), torch.linspace(0, 1.5, 6, dtype=torch.float64)
    q, p = x0[..., None, 0], x0[..., None, 1]
    exact = torch.stack([q * times.cos() + p * times.sin(), p * times.cos() - q * times.sin()], -1)
    path = method(step=0.02).solve(oscillator(), x0, times)
    assert (path - exact).abs().max() < {2: 1e-3, 4: 1e-5}[method.order]


def jacobian_defect(step, x: Tensor, J: Tensor) -> Tensor:
    jacobian = torch.autograd.functional.jacobian(step, x)
    return (jacobian.mT @ J @ jacobian - J).abs().max()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("method", "make"), [(m, f) for m, f in PAIRS if f in (chain, mixed)])
def test_the_step_is_symplectic_where_this_is_claimed(method, make, seed):
    field, x = make(), randn(4, seed=seed)
    defect = jacobian_defect(
        lambda y: method().advance(field, 0.0, y, 0.2), x, symplectic_matrix(2)
    )
    assert defect < 1e-11 if method.symplectic else defect > 1e-8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", [m for m in METHODS if m.doubled])
def test_the_step_of_both_copies_is_symplectic_in_the_doubled_space(method, seed):
    """In the order (q, x, p, y): the pairs that move together are a = (q, y), b = (x, p)."""
    field = mixed()

    def step(state: Tensor) -> Tensor:
        q, x, p, y = state.split(2)
        a, b = method(omega=3.0).advance_copies(
            field, 0.0, torch.cat([q, y]), torch.cat([x, p]), 0.1
        )
        return torch.cat([a[:2], b[:2], b[2:], a[2:]])

    assert jacobian_defect(step, randn(8, seed=seed), symplectic_matrix(4)) < 1e-12


@pytest.mark.parametrize(("method", "make"), [(m, f) for m, f in PAIRS if f in (chain, mixed)])
def test_a_step_back_undoes_a_step_where_this_is_claimed(method, make):
    field, x = make(), start()
    there = method().advance(field, 0.0, x, 0.2)
    error = (method().advance(field, 0.2, there, -0.2) - x).abs().max()
    assert error < 1e-11 if method.reversible else error > 1e-8


@pytest.mark.parametrize("method", [m for m in METHODS if m.doubled])
def test_a_step_back_undoes_a_step_of_both_copies(method):
    field, a, b = mixed(), start(), start() + 0.1 * randn(5, 4, seed=1)
    there = method().advance_copies(field, 0.0, a, b, 0.1)
    back = method().advance_copies(field, 0.1, *there, -0.1)
    torch.testing.assert_close(back, (a, b), rtol=0, atol=1e-12)


def drift_and_oscillation(energy: Tensor) -> tuple[Tensor, Tensor]:
    """Slope times duration of a straight line through each energy, and its half range."""
    times = torch.linspace(-0.5, 0.5, energy.shape[-1], dtype=energy.dtype)
    slope = (energy * times).sum(-1) / times.square().sum()
    return slope.abs(), (energy.amax(-1) - energy.amin(-1)) / 2


def pendulum_energies(integrator: FixedStepIntegrator, num_steps: int) -> Tensor:
    times = [integrator.step * i for i in range(0, num_steps + 1, 3)]
    x0 = torch.tensor([[1.5, 0.3], [2.5, 0.2], [0.2, 0.0]], dtype=torch.float64)
    return pendulum().energy(integrator.solve(pendulum(), x0, times))


@pytest.mark.parametrize(
    ("method", "num_steps"), [(Leapfrog, 500), (Yoshida4, 300), (Tao, 500), (GaussLegendre4, 200)]
)
def test_energy_has_no_trend(method, num_steps):
    drift, oscillation = drift_and_oscillation(pendulum_energies(method(0.1), num_steps))
    assert (drift < oscillation).all()
    assert (oscillation < 0.1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "num_steps"),
    [
        (Leapfrog, 4_000),
        (Yoshida4, 2_000),
        (Tao, 8_000),
        (Tao4, 2_000),
        (GaussLegendre4, 1_500),
    ],
)
def test_energy_has_no_trend_in_the_long_run(method, num_steps):
    drift, oscillation = drift_and_oscillation(pendulum_energies(method(0.08), num_steps))
    assert (drift < 0.3 * oscillation).all()


@pytest.mark.parametrize("method", [ImplicitMidpoint, GaussLegendre4])
def test_gauss_methods_keep_quadratic_invariants(method):
    radius = oscillator().energy(method(step=0.3).solve(oscillator(), randn(4, 2), range(20)))
    torch.testing.assert_close(radius, radius[:, :1].expand_as(radius), rtol=1e-11, atol=0)


def test_the_gauss_table_satisfies_the_order_conditions():
    c, a, b = GAUSS_4.nodes, GAUSS_4.stages, GAUSS_4.weights
    for power in range(4):
        moment = sum(w * node**power for w, node in zip(b, c, strict=True))
        assert math.isclose(moment, 1 / (power + 1))
    for power in range(2):
        for row, node in zip(a, c, strict=True):
            moment = sum(w * other**power for w, other in zip(row, c, strict=True))
            assert math.isclose(moment, node ** (power + 1) / (power + 1))
    for i in range(2):
        for j in range(2):  # symplectic
            assert math.isclose(b[i] * a[i][j] + b[j] * a[j][i], b[i] * b[j])


@every_method
def test_no_step_is_no_change(method):
    x = start()
    zero = torch.zeros(5, 1, dtype=torch.float64)
    assert torch.equal(method().advance(chain(), 0.0, x, zero), x)
    assert torch.equal(method().advance(chain(), 0.0, x, 0.0), x)
    h = torch.tensor([0.1, 0.0, 0.2, 0.0, -0.1], dtype=torch.float64).unsqueeze(-1)
    assert torch.equal(method().advance(chain(), 0.0, x, h)[[1, 3]], x[[1, 3]])
    at_rest = torch.zeros(2, 4, dtype=torch.float64)
    assert torch.equal(method().advance(chain(), 0.0, at_rest, 0.1), at_rest)


@every_pair
def test_batches_equal_their_members_one_by_one(method, make):
    field, x = make(), start().unsqueeze(0).expand(2, 5, 4)
    t = torch.linspace(0, 2, 10, dtype=torch.float64).reshape(2, 5, 1)
    h = torch.tensor([0.1, 0.2, -0.1, 0.05, 0.15], dtype=torch.float64).unsqueeze(-1)
    together = method().advance(field, t, x, h)
    assert together.shape == (2, 5, 4)
    for s in range(2):
        for n in range(5):
            alone = method().advance(field, t[s, n].item(), x[s, n], h[n].item())
            torch.testing.assert_close(together[s, n], alone, rtol=1e-11, atol=1e-11)


@every_method
def test_members_that_are_lost_leave_the_others_alone(method):
    field = chain()
    x0 = start()
    x0[1] = math.nan
    x0[3] = 1e80
    path = method(0.1).solve(field, x0, [0.0, 0.3, 0.6])
    assert path[1].isnan().all() and not path[3, -1].isfinite().all()
    alone = method(0.1).solve(field, x0[[0, 2, 4]], [0.0, 0.3, 0.6])
    torch.testing.assert_close(path[[0, 2, 4]], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", [GaussLegendre4, DiscreteGradient])
def test_steps_that_are_too_long_are_nan(method):
    field = pendulum()
    path = method(5.0).solve(field, torch.tensor([1.0, 0.2]).double(), [0.0, 5.0])
    residual = path[1] - path[0] - 5.0 * field(0.0, path.mean(0))
    assert path[1].isnan().all() or residual.isfinite().all()
    with pytest.raises(ValueError, match="tolerance"):
        method(tolerance=2.0)
    with pytest.raises(ValueError, match="max_iterations"):
        method(max_iterations=0)
    few = method(max_iterations=2).advance(field, 0.0, torch.ones(2, dtype=torch.float64), 0.5)
    assert few.isnan().all()


@every_method
def test_single_precision_stays_single(method):
    times = torch.linspace(0, 1, 5, dtype=torch.float32)
    path = method(0.1).solve(chain(), start().float(), times)
    assert path.dtype == torch.float32
    exact = method(0.1).solve(chain(), start(), times.double())
    torch.testing.assert_close(path.double(), exact, rtol=0, atol=1e-4)


@every_method
def test_paths_can_be_differentiated(method):
    x0 = start()[0].requires_grad_()
    stiffness = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def end(x0, k):
        field = Known(
            lambda q1, q2, p1, p2: (p1**2 + p2**2 + k * q1**2) / 2 + q2**4 / 4,
            lambda q1, q2, p1, p2: (k * q1, q2**3, p1, p2),
        )
        return method(0.1).solve(field, x0, [0.0, 0.25])

    assert torch.autograd.gradcheck(end, (x0, stiffness))


@every_method
def test_nothing_is_left_on_the_cpu(method):
    settings = {"max_iterations": 3} if hasattr(method, "max_iterations") else {}
    with FakeTensorMode():
        x0 = torch.empty(4, 3, 2, dtype=torch.float64, device="cuda")
        path = method(0.5, **settings).solve(pendulum(), x0, [0.0, 0.5, 2.0])
        h = torch.empty(4, 3, 1, dtype=torch.float64, device="cuda")
        stepped = method(**settings).advance(pendulum(), 0.0, x0, h)
    assert path.device.type == "cuda" and path.shape == (4, 3, 3, 2)
    assert stepped.device.type == "cuda" and stepped.shape == (4, 3, 2)


@pytest.mark.parametrize(("method", "solved"), [(Leapfrog, 2), (Yoshida4, 6), (Tao, 3), (Tao4, 9)])
def test_evaluations_are_used_again_from_step_to_step(method, solved):
    field = pendulum()
    x0 = randn(3, 2)
    path = method(0.1).solve(field, x0, [0.0, 1.0, 1.5])
    assert field.count == 15 * solved + 1
    if not method.doubled:
        x = x0
        for i in range(15):
            x = method().advance(field, 0.1 * i, x, 0.1)
        torch.testing.assert_close(path[:, -1], x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", [Tao, Tao4])
def test_the_copies_are_bound(method):
    """Without binding they part; with it they stay together."""
    field = Known(
        lambda q, p: (q**2 + 1) * (p**2 + 1) / 2,
        lambda q, p: (q * (p**2 + 1), (q**2 + 1) * p),
        separable=False,
    )
    apart = []
    for omega in (0.0, 5.0):
        a = b = torch.tensor([1.0, 0.5], dtype=torch.float64)
        for _ in range(300):
            a, b = method(omega=omega).advance_copies(field, 0.0, a, b, 0.05)
        apart.append((a - b).norm())
    assert apart[1] < 0.03 < 0.3 < apart[0]
    for omega in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="omega: expected a finite number >= 0"):
            method(omega=omega)


@pytest.mark.parametrize("act", ["solve", "advance"])
@pytest.mark.parametrize(
    ("method", "make", "message"),
    [
        (Leapfrog, mixed, r"Leapfrog is made for H = T\(p\) \+ V\(q\) .* no sum"),
        (Leapfrog, damped, "no sum .* and friction or inputs; use ImplicitMidpoint"),
        (Yoshida4, lambda: chain(friction=0.1 * torch.eye(4)), "Yoshida4 .* with friction or in"),
        (Tao, driven, "Tao is made for any energy without friction or inputs"),
        (DiscreteGradient, lambda: torch.neg, "DiscreteGradient needs a field with energy"),
    ],
)
def test_fields_that_a_method_is_not_made_for_are_refused(method, make, message, act):
    with pytest.raises(ValueError, match=f"integrator: .*{message}"):
        if act == "solve":
            method(0.1).solve(make(), start(), [0.0, 1.0])
        else:
            method().advance(make(), 0.0, start(), 0.1)


@pytest.mark.parametrize("method", [Leapfrog, Yoshida4, Tao, Tao4])
def test_plain_callables_are_trusted_but_states_need_pairs(method):
    path = method(0.1).solve(
        lambda t, x: torch.cat([x[..., 1:], -x[..., :1]], -1), randn(3, 2), [0, 1]
    )
    assert path.isfinite().all()
    with pytest.raises(ValueError, match="x: expected all coordinates, then all momenta"):
        method(0.1).solve(lambda t, x: x, randn(3, 3), [0.0, 1.0])
    with pytest.raises(ValueError, match="x: expected all coordinates, then all momenta"):
        method().advance(lambda t, x: x, 0.0, randn(3, 3), 0.1)
    with pytest.raises(ValueError, match="expected rates of the states' shape"):
        method(0.1).solve(lambda t, x: torch.ones(2, 1, 1) * x, randn(3, 2), [0.0, 1.0])


def test_facts_about_the_methods():
    names = ("order", "symplectic", "reversible", "doubled", "needs_separable")
    names += ("conservative_only", "needs_energy", "adaptive")
    facts = {m: tuple(int(getattr(m, name)) for name in names) for m in [*METHODS, Dopri5]}
    assert facts == {
        RK4: (4, 0, 0, 0, 0, 0, 0, 0),
        Dopri5: (5, 0, 0, 0, 0, 0, 0, 1),
        ImplicitMidpoint: (2, 1, 1, 0, 0, 0, 0, 0),
        GaussLegendre4: (4, 1, 1, 0, 0, 0, 0, 0),
        Leapfrog: (2, 1, 1, 0, 1, 1, 0, 0),
        Yoshida4: (4, 1, 1, 0, 1, 1, 0, 0),
        Tao: (2, 0, 0, 1, 0, 1, 0, 0),
        Tao4: (4, 0, 0, 1, 0, 1, 0, 0),
        DiscreteGradient: (2, 0, 1, 0, 0, 0, 1, 0),
    }

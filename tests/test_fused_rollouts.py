"""The fused kernel against the integrator that it stands in for, in Triton's interpreter."""

import math
from dataclasses import fields

import pytest
import torch
from problems import hyperparameters, identity_scaling, randn, tensor, unchecked

from sympgp import SSGP, GaussNewton, fit
from sympgp.benchmarks.fused import fused_speed
from sympgp.compiled import CompileWarning
from sympgp.dissipation import Conservative, Friction, StateDependentFriction
from sympgp.energies import FourierEnergy
from sympgp.fields import BoundField, DrivenField, HamiltonianField, TrajectoryField
from sympgp.inputs import LearnedInputs
from sympgp.integrators import RK4, ImplicitMidpoint
from sympgp.rollouts import fused, solve_rollouts
from sympgp.systems import Pendulum

triton = pytest.importorskip("triton", reason="the kernel is written in triton")
tl = pytest.importorskip("triton.language")
kernel = pytest.importorskip("sympgp.rollouts.kernel")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="not interpreted with a GPU")

TIMES = [0.0, 0.1, 0.35, 0.4]
METHOD = RK4(step=0.1)


@pytest.fixture(autouse=True)
def forced(monkeypatch):
    monkeypatch.setenv("SYMPGP_FUSED", "1")
    # several states a program even in small problems
    monkeypatch.setattr(fused, "ENOUGH_PROGRAMS", 1)


def bound(
    num_dof=1, features=8, draws=2, dissipation=None, inputs=None, dtype=torch.float64
) -> BoundField:
    energy, scaling = FourierEnergy(num_dof, features), identity_scaling(num_dof)
    scaling = type(scaling)(*(getattr(scaling, f.name).to(dtype) for f in fields(scaling)))
    hyper = {name: value.to(dtype) for name, value in hyperparameters(energy).items()}
    size = torch.ones(0 if inputs is None else inputs.num_inputs, dtype=dtype)
    field = HamiltonianField(
        energy.basis(hyper),
        (dissipation or Friction()).scaled(scaling),
        None if inputs is None else inputs.scaled(scaling, size),
    )
    return field.bind(0.5 * randn(draws, field.num_parameters, seed=1).to(dtype))


def agree(field, x0, times, atol=1e-12) -> torch.Tensor:
    """The kernel's states, which are those of the integrator."""
    found, expected = fused.solve(field, x0, times, METHOD), METHOD.solve(field, x0, times)
    assert found.dtype == x0.dtype
    torch.testing.assert_close(found, expected, atol=atol, rtol=atol)
    return found


@pytest.mark.parametrize(
    "num_dof, kind, times",
    [(1, Conservative(), TIMES[:2]), (1, Friction(), TIMES), (2, Friction(), TIMES[:2])],
)
def test_the_kernel_is_rk4(num_dof, kind, times):
    """Uneven times, steps that differ between them, and a number of states that fills no block."""
    field = bound(num_dof, dissipation=kind)
    agree(field, randn(2, 3, 2 * num_dof), times)


def test_features_that_do_not_fit_in_registers_are_streamed(monkeypatch):
    monkeypatch.setattr(fused, "KEPT_WORDS", 1)
    plan = fused.layout(2, 1, 2, 70, 8)
    assert not plan.resident and plan.features == 2 * plan.tile == 128
    agree(bound(features=70), randn(2, 1, 2), TIMES[:2])


def test_backwards_in_time():
    agree(bound(), randn(2, 1, 2), tensor([0.3, 0.1]))


def test_one_draw_from_the_same_state_again():
    agree(bound(draws=1), randn(1, 1, 2).expand(1, 2, 2), TIMES[:2])


def test_inputs_at_the_stages():
    """A signal that differs at the beginning, middle and end of every step."""
    field = bound(inputs=LearnedInputs(count=2, positions=True))
    agree(DrivenField(field, lambda t: tensor([math.sin(t), t * t])), randn(2, 2, 2), [0.5, 0.7])


def test_legs_and_the_box_between_them():
    """No step crosses a break, and a state outside the box at one stays lost."""
    field = bound(inputs=LearnedInputs(count=1, positions=True))
    push = {0.0: 0.0, 0.1: 0.1, 0.25: 1e4, 0.3: -1e4}

    def leg(begin, end):
        return begin, end, lambda t: push[begin] + torch.zeros(t.numel(), 1).double()

    legs = [[leg(0.0, 0.1), leg(0.1, 0.25)], [leg(0.25, 0.3), leg(0.3, 0.35)]]
    x0, limit = 0.1 * randn(2, 1, 2), tensor([50.0, 50.0])
    found = fused.solve_legs(field, x0, legs, METHOD, limit)
    z, states = x0, [x0]
    for part in legs:
        for begin, end, _ in part:
            driven = DrivenField(field, lambda t, u=push[begin]: tensor([u]))
            path, _ = solve_eagerly(driven, z, [begin, end], limit)
            z = path[:, :, -1]
        states.append(z)
    assert states[1].isfinite().all() and states[2].isnan().any()
    torch.testing.assert_close(found, torch.stack(states, 2), atol=1e-9, rtol=1e-9, equal_nan=True)


def solve_eagerly(field, x0, times, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMPGP_FUSED", "0")
        return solve_rollouts(field, x0, times, METHOD, limit=limit)


def test_draws_that_diverge_are_lost_and_the_others_are_not():
    field = bound()
    field.flow_map.matrix[1] += 80.0 * torch.eye(2, dtype=torch.float64)
    x0, times = randn(2, 2, 2), [0.0, 0.4, 0.8]
    samples, diverged = solve_rollouts(field, x0, times, METHOD, limit=100.0)
    assert diverged.tolist() == [[False, False], [True, True]]
    expected, lost = solve_eagerly(field, x0, times, 100.0)
    assert torch.equal(diverged, lost)
    torch.testing.assert_close(samples, expected, equal_nan=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of NumPy, the interpreter
def test_states_that_are_not_finite_stay_so(bad):
    field, x0 = bound(), randn(2, 2, 2)
    x0[0, 0, 0] = bad
    found = fused.solve(field, x0, TIMES[:2], METHOD)[:, :, -1]
    assert not found[0, 0].isfinite().any()
    assert found[0, 1].isfinite().all() and found[1].isfinite().all()


def test_float32():
    """No further from float64 than the integrator is in float32, but for the order of sums."""
    x0, times = randn(2, 4, 2).float(), TIMES[:3]
    exact = METHOD.solve(bound(features=20), x0.double(), times)
    single = bound(features=20, dtype=torch.float32)
    usual = (METHOD.solve(single, x0, times) - exact).abs().max()
    found = fused.solve(single, x0, times, METHOD)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() <= 2 * usual + 1e-6


@triton.jit
def library_sine(x):
    return tl.sin(x)


@triton.jit
def sines(x, y, TWOS: tl.constexpr, SINE: tl.constexpr, FAST: tl.constexpr, PI: tl.constexpr):
    place = tl.arange(0, 4096)
    tl.store(y + place, kernel.sine_of(tl.load(x + place), TWOS, SINE, FAST, PI))


@pytest.mark.parametrize("dtype, error", [(torch.float64, 2e-15), (torch.float32, 5e-7)])
def test_the_error_of_sines_does_not_grow_with_the_phase(dtype, error):
    """Up to fifty turns."""
    x = torch.linspace(-100.0, 100.0, 4096, dtype=torch.float64).to(dtype)
    y = torch.empty_like(x)
    sines[(1,)](x, y, **fused.arithmetic(dtype, fast=False))
    turned = x.double() - 2.0 * (x.double() / 2.0).round()
    assert (y - (torch.pi * turned).sin()).abs().max() <= error


def test_reduction_for_the_sine_of_the_hardware(monkeypatch):
    """By the float32 next to pi.

    In float64, where the product in it is exact as in a fused operation, and with the library's
    sine, to which the hardware's adds 2^-20.5 at most.
    """
    monkeypatch.setattr(kernel, "hardware_sine", library_sine)
    x = torch.linspace(-100.0, 100.0, 4096, dtype=torch.float64)
    y = torch.empty_like(x)
    sines[(1,)](kernel.PI_32 * x, y, **fused.arithmetic(torch.float64, fast=True))
    assert (y - (torch.pi * x).sin()).abs().max() <= abs(kernel.PI_32 - math.pi) + 1e-12


# whole posteriors


@pytest.fixture(scope="module")
def posterior():
    """A mixture of two components, each with its own frequencies, learned from a driven system."""
    push = {"inputs": [lambda t: 0.3 * math.sin(t)] * 2, "input_matrix": [[1.0]]}
    data = Pendulum(friction=0.1).simulate(2, rate=2, duration=4, noise_std=0.05, **push)
    model = SSGP(num_features=8, dissipation=Friction(), inputs=LearnedInputs(1))
    with unchecked():
        return fit(model, data, inference=GaussNewton(num_components=2), progress=False)


@pytest.mark.parametrize("push", [([0.0, 0.3, 0.6], [0.0, 1.0, -1.0]), math.cos])
def test_rollouts_of_a_mixture_with_inputs(posterior, monkeypatch, push):
    """Inputs with breaks between the requested times, and without any."""

    def rollout():
        return posterior.rollout(
            [[0.5, 0.2]],
            [0.0, 0.25, 0.55],
            inputs=push,
            num_samples=2,
            integrator=METHOD,
        )

    launches = []
    launch = fused._launch
    monkeypatch.setattr(fused, "_launch", lambda *a: launches.append(a[0]) or launch(*a))
    found = rollout()
    assert len({id(bound.family) for bound in launches}) == 2
    monkeypatch.setenv("SYMPGP_FUSED", "0")
    torch.testing.assert_close(found.samples, rollout().samples, atol=1e-12, rtol=1e-12)


# when


def test_fields_that_the_kernel_does_not_have():
    x0, field = randn(2, 3, 2), bound()
    assert fused.applies(field, x0, METHOD)
    assert not fused.applies(field, x0, RK4())
    assert not fused.applies(field, x0, ImplicitMidpoint(step=0.1))
    assert not fused.applies(lambda t, z: -z, x0, METHOD)
    assert not fused.applies(field, x0[0], METHOD)
    assert not fused.applies(field, x0.requires_grad_(), METHOD)
    with torch.no_grad():
        assert fused.applies(field, x0, METHOD)
    x0 = x0.detach()
    assert not fused.applies(bound(dissipation=StateDependentFriction()), x0, METHOD)
    assert not fused.applies(bound(inputs=LearnedInputs(num_features=3)), x0, METHOD)
    assert not fused.applies(bound(5), randn(2, 3, 10), METHOD)
    assert not fused.applies(TrajectoryField(field, x0[0, 0]), x0, METHOD)
    assert fused.solve(lambda t, z: -z, x0, TIMES, METHOD) is None


def test_who_decides(monkeypatch):
    x0, field = randn(2, 3, 2), bound()
    monkeypatch.setenv("SYMPGP_FUSED", "0")
    assert not fused.applies(field, x0, METHOD)
    monkeypatch.delenv("SYMPGP_FUSED")
    assert not fused.applies(field, x0, METHOD)
    monkeypatch.setenv("SYMPGP_FUSED", "yes")
    with pytest.raises(ValueError, match="SYMPGP_FUSED: expected 0, 1 or nothing, got 'yes'"):
        fused.available("cpu")
    monkeypatch.setenv("SYMPGP_FUSED", "1")
    monkeypatch.setattr(fused, "_has_triton", lambda: False)
    with pytest.raises(RuntimeError, match="triton"):
        fused.available("cpu")


def test_states_outside_the_box_at_the_start_are_lost():
    """As step by step, beside others that are not."""
    field, times = bound(inputs=LearnedInputs(count=1, positions=True)), (0.0, 0.1)
    x0, limit = 0.1 * randn(2, 2, 2), tensor([5.0, 5.0])
    x0[0, 1, 0] = 6.0
    legs = [[(*times, lambda t: torch.zeros(t.numel(), 1).double())]]
    found = fused.solve_legs(field, x0, legs, METHOD, limit)
    expected, _ = solve_eagerly(DrivenField(field, lambda t: tensor([0.0])), x0, times, limit)
    assert torch.equal(found[:, :, 0], x0)
    assert found[0, 1, 1].isnan().all() and int(found.isnan().sum()) == 2
    torch.testing.assert_close(found[:, :, 1], expected[:, :, 1], equal_nan=True)


def test_a_launch_that_fails_is_survived_with_one_warning(monkeypatch):
    """Not so where the kernel is insisted on, and not so out of memory."""
    reasons = [RuntimeError("no compiler\nat all")]

    def broken(*arguments):
        raise reasons[-1]

    monkeypatch.setattr(fused, "_launch", broken)
    monkeypatch.setattr(fused, "BROKEN", set())
    x0, field = randn(2, 3, 2), bound()
    with pytest.raises(RuntimeError, match="no compiler"):
        fused.solve(field, x0, TIMES, METHOD)
    monkeypatch.delenv("SYMPGP_FUSED")
    monkeypatch.setattr(fused, "available", lambda device: device not in fused.BROKEN)
    with pytest.warns(CompileWarning, match=r"RuntimeError: no compiler\); rollouts") as caught:
        samples = [solve_rollouts(field, x0, TIMES, METHOD)[0] for _ in range(2)]
    assert len(caught) == 1 and fused.BROKEN == {x0.device}
    for found in samples:
        assert torch.equal(found, METHOD.solve(field, x0, TIMES))
    fused.BROKEN.clear()
    reasons.append(torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        fused.solve(field, x0, TIMES, METHOD)
    assert not fused.BROKEN


@pytest.mark.parametrize(
    ("number", "hip", "enough"),
    [("3.8rc1", None, True), ("3.6.0+git1", None, True), ("3.5", None, False), ("4.0", "6", False)],
)
def test_versions_of_triton(monkeypatch, number, hip, enough):
    monkeypatch.setattr(fused, "version", lambda name: number)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert fused._has_triton.__wrapped__() is enough


def test_layouts():
    """Few states a program where there are few; no more features in registers than fit."""
    assert fused.layout(1000, 100, 2, 256, 4) == fused.Layout(4, 32, 256, True)
    assert fused.layout(1000, 25, 2, 250, 4) == fused.Layout(2, 32, 256, True)
    assert fused.layout(1000, 1, 2, 100, 4) == fused.Layout(1, 32, 128, True)
    assert fused.layout(1000, 100, 8, 256, 4) == fused.Layout(1, 128, 256, False)
    assert fused.layout(1000, 100, 4, 256, 8) == fused.Layout(1, 64, 256, False)


def test_the_benchmark_without_a_pair_to_compare(monkeypatch):
    monkeypatch.setattr(fused, "solve", lambda field, x0, *rest: torch.full((1, 2, 2, 2), math.inf))
    monkeypatch.setattr(RK4, "solve", lambda self, *rest: torch.full((1, 2, 2, 2), math.inf))
    found = fused_speed(
        num_draws=1, num_states=2, num_steps=1, num_features=8, device="cpu", repeats=1
    )
    assert math.isnan(found.error)


def test_the_benchmark_measures_the_same_rollouts():
    found = fused_speed(
        num_draws=1, num_states=2, num_steps=1, num_features=8, device="cpu", repeats=1
    )
    assert found.sines == 4 * 1 * 2 * 1 * 8
    assert found.limit == pytest.approx(found.sines / found.sine_rate)
    assert found.over_limit == pytest.approx(found.fused / found.limit)
    assert found.speedup == pytest.approx(found.eager / found.fused)
    assert found.error < 1e-4

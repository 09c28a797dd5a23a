"""Derivatives that are written for a compiler equal the others, compiled or not."""

import inspect
from dataclasses import fields, replace

import pytest
import torch
from problems import randn, random_field, shooting

from sympgp import compiled
from sympgp.energies import fourier_pass
from sympgp.shooting import problem as shooting_problem

COMPILED = {"local_pass": "_local", "response_pass": "_response"}


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = expected.abs().amax() + 1e-300
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-13)


@pytest.fixture
def uncompiled(monkeypatch):
    """The functions themselves where compiled ones are called."""
    for function, name in COMPILED.items():
        own = inspect.unwrap(getattr(fourier_pass, function))
        monkeypatch.setattr(fourier_pass, name, own)


@pytest.mark.parametrize("num_dof", [1, 2])
@pytest.mark.parametrize("stages", [1, 4, 10])
def test_one_pass_has_the_derivatives_of_the_basis(uncompiled, num_dof, stages):
    """Slope, Hessian and the response to the weights, in passes of four stages or fewer."""
    field, theta = random_field(num_dof, num_features=7)
    basis, w = field.basis, field.parts(theta)[0]
    one = basis.compiled()
    assert one.one_pass and not basis.one_pass
    z = randn(9, stages, 2 * num_dof, seed=1)
    weights = randn(9, 3, stages, 2 * num_dof, seed=2)
    known = [one.local_derivatives(z[:, s], w) for s in range(stages)]
    for s, found in enumerate(known):
        expected = basis.local_derivatives(z[:, s], w)
        assert_near(found.slope, expected.slope)
        assert_near(found.hessian, expected.hessian)
    expected = basis.weighted_gradient(z, weights, w)
    assert_near(one.gathered_gradient(known, z, weights, w), expected)
    assert_near(one.weighted_gradient(z, weights, w), expected)


def test_compiling_is_not_a_property_of_what_is_saved():
    """The basis that is compiled has the fields of the other, and no more."""
    field, _ = random_field(1)
    names = [{one.name for one in fields(basis)} for basis in (field.basis, field.compiled().basis)]
    assert names[0] == names[1] and "one_pass" not in names[0]
    assert field.compiles and not field.basis.one_pass


def test_many_coordinates_are_left_as_they_are():
    """Passes are written out coordinate by coordinate."""
    field, _ = random_field(fourier_pass.MOST // 2 + 1)
    assert not field.compiled().basis.one_pass and not field.compiles


@pytest.mark.parametrize("hold", [False, True])
def test_linearisations_are_equal_in_one_pass(uncompiled, hold):
    problem, estimate = shooting(1)
    path, _, _ = problem.evaluate(estimate)
    theta, field = estimate.theta, problem.field
    if hold:  # all but three parameters are known
        free = torch.tensor([0, 4, 6])
        field, theta = field.fixed(theta, free), theta[free]
    expected = replace(problem, field=field).linearize(theta, path)
    found = replace(problem, field=field.compiled()).linearize(theta, path)
    for name in ("shared", "local", "end"):
        assert_near(getattr(found, name), getattr(expected, name))


def test_sizes_of_a_search_decide(monkeypatch):
    """Stages, features and what is compiled count; the environment has the last word."""
    monkeypatch.setattr(compiled, "at_hand", lambda kind: True)
    monkeypatch.delenv("SYMPGP_COMPILE", raising=False)
    problem, estimate = shooting(1)
    assert not problem.repays_compiling
    counted = []
    monkeypatch.setattr(
        shooting_problem, "repays", lambda calls, sines, device: counted.append(sines) or False
    )
    held = problem.field.fixed(estimate.theta)
    more, _ = random_field(1, num_features=10)
    for changes in ({}, {"step": problem.step / 2}, {"field": more}, {"field": held}):
        assert not replace(problem, **changes).repays_compiling
    assert counted[1] >= 1.5 * counted[0] > 0 and counted[2] == 2 * counted[0]
    # Of a field that is held, nothing but the path is compiled.
    assert counted[3] * shooting_problem.SINES_SAVED == counted[0]
    monkeypatch.undo()
    monkeypatch.setattr(compiled, "at_hand", lambda kind: True)
    monkeypatch.setenv("SYMPGP_COMPILE", "1")
    assert replace(problem).repays_compiling


needs_compiler = pytest.mark.skipif(not compiled.at_hand("cpu"), reason="no compiler here")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_searches_see_the_same(monkeypatch, dtype):
    """Paths, objective and linearisation of ragged data, two steps in an interval and one."""
    problem, estimate = shooting(1)
    problem = replace(problem, field=problem.field.to(dtype))
    found = []
    for wish in ("0", "1"):
        monkeypatch.setenv("SYMPGP_COMPILE", wish)
        own = replace(problem)
        assert own.repays_compiling is (wish == "1")
        path, end, value = own.evaluate(estimate)
        linear = own.linearize(estimate.theta, found[0][0] if found else path)
        found.append((path, end, value, linear.shared, linear.local, linear.end))
    for one, other in zip(*found, strict=True):
        scale = other.abs().amax()
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=tolerance)
    assert not any(getattr(fourier_pass, name).failed for name in COMPILED.values())

"""Compiled fields and steps equal the eager ones; sizes decide; failures are survived."""

import subprocess
import sys

import pytest
import torch
from problems import random_field, shooting

from sympgp import compiled
from sympgp.compiled import Compiled, CompileWarning, repays, repays_steps
from sympgp.energies.fourier_basis import FourierBasis
from sympgp.energies.fourier_gradient import block_size, compiled_pass, in_blocks, one_pass
from sympgp.integrators import RK4
from sympgp.integrators.explicit import _step_by_stages, _step_in_one, compiled_step
from sympgp.shooting.adjoint import solve_paths

CPU = torch.device("cpu")


def basis_of(num_features: int, dim: int) -> FourierBasis:
    generator = torch.Generator().manual_seed(3)
    frequencies = torch.randn(num_features, dim, dtype=torch.float64, generator=generator)
    num_weights = 2 * num_features + dim + dim * (dim + 1) // 2
    return FourierBasis(frequencies, torch.ones(num_weights, dtype=torch.float64))


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("draws", "states"), [(None, 3000), (3, 2000), (700, 4), (1, 1)])
def test_blocks_change_nothing(draws, states):
    """Each state is asked for with its own draw, however the batch is cut."""
    basis = basis_of(100, 4)
    lead = () if draws is None else (draws,)
    w, z = normals(*lead, basis.num_weights, seed=1), normals(*lead, states, 4, seed=2)
    expected = (basis.feature_gradient(z) @ w.reshape(*lead, *[1] * (1), -1, 1)).squeeze(-1)
    found = basis.gradient_map(w)(z)
    scale = expected.abs().amax()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-14)


def test_blocks_are_bounded(monkeypatch):
    """No wave is larger than the block that was chosen, whatever the batch."""
    basis = basis_of(50, 2)
    slope = basis.gradient_map(normals(40, basis.num_weights))
    sizes = []
    whole = type(slope)._whole

    def watched(self, z):
        sizes.append(z.shape[:-1].numel() * self.sines)
        return whole(self, z)

    monkeypatch.setattr(type(slope), "_whole", watched)
    for states in (1, 400, 5000):
        slope(normals(40, states, 2))
    assert len(sizes) > 40 and max(sizes) <= block_size(CPU)


@pytest.mark.parametrize("dim", [2, 4])
def test_the_form_for_a_compiler_is_the_same_map(dim):
    basis = basis_of(30, dim)
    w, z = normals(5, basis.num_weights), normals(5, 7, dim, seed=4)
    eager = basis.gradient_map(w)
    rate = eager.compiled().compiled_rate()
    for form in (one_pass, in_blocks):
        torch.testing.assert_close(form(z, *rate.parts), eager(z), rtol=1e-12, atol=1e-12)


def test_a_step_in_one_is_a_step_by_stages():
    basis = basis_of(30, 2)
    rate = basis.gradient_map(normals(5, basis.num_weights)).compiled().compiled_rate()
    z, h = normals(5, 7, 2, seed=4), torch.tensor(0.05, dtype=torch.float64)
    one = _step_in_one(z, h, rate.function, rate.eager, *rate.parts)
    other = _step_by_stages(z, h, rate.function, rate.eager, *rate.parts)
    torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


def test_sizes_decide_unless_the_user_does(monkeypatch):
    monkeypatch.setattr(compiled, "at_hand", lambda kind: True)
    monkeypatch.delenv("SYMPGP_COMPILE", raising=False)
    assert not repays(1200, 10**8, CPU)
    assert repays(1200, 10**13, CPU)
    monkeypatch.setenv("SYMPGP_COMPILE", "1")
    assert repays(1, 1, CPU)
    monkeypatch.setenv("SYMPGP_COMPILE", "0")
    assert not repays(1200, 10**13, CPU)
    monkeypatch.setenv("SYMPGP_COMPILE", "yes")
    with pytest.raises(ValueError, match="SYMPGP_COMPILE: expected 0, 1 or nothing, got 'yes'"):
        repays(1, 1, CPU)


def test_steps_of_training_are_compiled_on_accelerators_where_they_are_many(monkeypatch):
    monkeypatch.setattr(compiled, "at_hand", lambda kind: True)
    monkeypatch.delenv("SYMPGP_COMPILE", raising=False)
    cuda = torch.device("cuda")
    assert not repays_steps(3000, cuda) and repays_steps(30_000, cuda)
    monkeypatch.setenv("SYMPGP_COMPILE", "1")
    assert repays_steps(1, cuda) and not repays_steps(30_000, CPU)
    monkeypatch.setenv("SYMPGP_COMPILE", "0")
    assert not repays_steps(30_000, cuda)


def test_what_is_traced_may_take_gradients_and_look_at_objects(monkeypatch):
    """Operations are written down at the first call; a compiler sees nothing else."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    weights = {"w": normals(4)}

    def slope(x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            value = sum(w * leaf[k].sin() for k, w in enumerate(weights["w"].unbind()))
            return torch.autograd.grad(value.square(), leaf)[0]

    traced = Compiled(slope, traced=True)
    for seed in range(3):
        x = normals(4, seed=seed)
        torch.testing.assert_close(traced(x), slope(x), rtol=1e-14, atol=1e-14)
    assert not traced.failed


def test_nothing_is_compiled_without_a_compiler(monkeypatch):
    monkeypatch.setattr(compiled, "at_hand", lambda kind: False)
    monkeypatch.setenv("SYMPGP_COMPILE", "1")
    assert not repays(1200, 10**13, CPU)
    assert not repays(1200, 10**13, torch.device("meta"))


def test_a_failing_compiler_is_survived_with_one_warning(monkeypatch):
    def broken(function, **options):
        raise RuntimeError("no such\nluck")

    monkeypatch.setattr(torch, "compile", broken)
    double = Compiled(lambda x: 2.0 * x)
    x = torch.ones(2)
    with pytest.warns(CompileWarning, match="RuntimeError: no such luck") as caught:
        values = [double(x) for _ in range(3)]
    assert len(caught) == 1
    assert all(torch.equal(value, 2.0 * x) for value in values)


def test_looking_for_a_compiler_imports_none():
    """Nobody pays for a compiler that is not used."""
    code = """
import sys, torch
from sympgp.compiled import repays
repays(10, 10**6, torch.device("cpu"))
print("torch._inductor.compile_fx" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip() == "False"
    assert result.stderr == ""


needs_compiler = pytest.mark.skipif(not compiled.at_hand("cpu"), reason="no compiler here")


@pytest.mark.slow
@needs_compiler
def test_compiled_fields_and_rollouts_equal_eager_ones():
    """Each draw with its friction, at more states than one; a flow for gradients stays eager."""
    field, theta = random_field(2, num_features=30, friction=True)
    draws = theta * torch.linspace(0.8, 1.2, 6, dtype=torch.float64).unsqueeze(1)
    eager = field.bind(draws)
    quick = eager.compiled()
    z = normals(6, 9, 4, seed=5)
    torch.testing.assert_close(quick(0.0, z), eager(0.0, z), rtol=1e-12, atol=1e-12)
    z = z.requires_grad_()
    assert torch.equal(quick(0.0, z), eager(0.0, z))
    z = z.detach()
    one, other = (RK4(step=0.1).solve(f, z, [0.0, 0.5, 1.2]) for f in (quick, eager))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert not compiled_pass.failed and not compiled_step.failed


@pytest.mark.slow
@needs_compiler
def test_compiled_training_paths_have_the_same_values_and_gradients():
    problem, estimate = shooting(1, 2.7)
    nodes, windows, step = problem.nodes, problem.windows, problem.step
    found = []
    for quick in (False, True):
        theta = estimate.theta.expand(2, -1).clone().requires_grad_()
        start = estimate.start.expand(2, *estimate.start.shape)
        path, end, _ = solve_paths(problem.field, theta, start, nodes, windows, step, quick)
        (path.sin().sum() + end.square().sum()).backward()
        found.append((path.detach(), theta.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert not compiled_pass.failed


@needs_compiler
def test_fields_of_gradients_are_never_compiled():
    field, theta = random_field(1, friction=True)
    eager = field.bind(theta.expand(2, -1))
    quick = eager.compiled()
    z = normals(2, 3, 2).requires_grad_()
    assert torch.equal(quick(0.0, z), eager(0.0, z))
    step = RK4(step=0.1)
    assert torch.equal(step.advance(quick, 0.0, z, 0.1), step.advance(eager, 0.0, z, 0.1))


def test_only_compiled_fields_offer_the_form_for_whole_steps():
    field, theta = random_field(1)
    assert field.bind(theta).compiled_rate() is None
    assert field.bind(theta).compiled().compiled_rate() is not None


def test_each_kind_of_device_fails_on_its_own_and_memory_is_no_failure(monkeypatch):
    reasons = {"cpu": torch.OutOfMemoryError("full"), "meta": RuntimeError("no luck")}

    def broken(function, **options):
        def call(x):
            raise reasons[x.device.type]

        return call

    monkeypatch.setattr(torch, "compile", broken)
    double = Compiled(lambda x: 2.0 * x)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        double(torch.ones(2))
    with pytest.warns(CompileWarning, match="no luck"):
        double(torch.ones(2, device="meta"))
    assert double.failed == {"meta"}


def test_calls_record_nothing_and_may_have_many_versions(monkeypatch):
    from torch._dynamo import config

    seen = []

    def compiler(function, **options):
        def call(x):
            seen.append((torch.is_grad_enabled(), config.recompile_limit))
            return function(x)

        return call

    monkeypatch.setattr(torch, "compile", compiler)
    before = config.recompile_limit
    double = Compiled(lambda x: 2.0 * x)
    for _ in range(2):
        double(torch.ones(2))
    assert seen == [(False, compiled.VERSIONS)] * 2
    assert torch.is_grad_enabled() and config.recompile_limit == before


@pytest.mark.slow
@needs_compiler
def test_more_versions_than_the_compiler_usually_makes():
    """Numbers of coordinates alone are more than its eight; nobody is warned."""
    double = Compiled(lambda x: sum(x[..., i] for i in range(x.shape[-1])))
    for dim in range(1, 12):
        x = normals(3, dim)
        torch.testing.assert_close(double(x), x.sum(-1))
    assert not double.failed

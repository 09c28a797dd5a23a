"""The discrete gradient: its energy balance is exact, near equilibria too."""

import math

import pytest
import torch
from mechanics import Known, chain, damped, driven, mixed, pendulum, randn
from torch import Tensor

from sympgp.integrators import DiscreteGradient, ImplicitMidpoint


def gonzalez(field: Known, z: Tensor, new: Tensor) -> Tensor:
    slope, change = field.gradient((z + new) / 2), new - z
    excess = field.energy(new) - field.energy(z) - (slope * change).sum(-1)
    return slope + (excess / change.square().sum(-1)).unsqueeze(-1) * change


@pytest.mark.parametrize("make", [pendulum, chain, mixed])
@pytest.mark.parametrize("step", [0.05, 0.5])
def test_the_discrete_gradient_keeps_the_energy(make, step):
    x0 = randn(6, 2 if make is pendulum else 4)
    path = DiscreteGradient(step).solve(make(), x0, [step * i for i in range(30)])
    energy = make().energy(path)
    assert (energy - energy[:, :1]).abs().max() < 2e-12 * energy.max()


def test_the_midpoint_rule_does_not():
    """The contrast that gives the test above its meaning."""
    energy = mixed().energy(ImplicitMidpoint(0.2).solve(mixed(), randn(6, 4), range(20)))
    assert (energy - energy[:, :1]).abs().max() > 1e-4


@pytest.mark.parametrize("make", [damped, driven])
@pytest.mark.parametrize("h", [0.05, 0.4])
def test_the_energy_balance_is_exact_in_discrete_time(make, h):
    field, z, t = make(), 0.8 * randn(5, 4), 0.7
    new = DiscreteGradient().advance(field, t, z, h)
    slope = gonzalez(field, z, new)
    power = -torch.einsum("ni,ij,nj->n", slope, field.friction, slope)
    if field.push is not None:
        power = power + (slope * field.push(t + h / 2)).sum(-1)
    change = field.energy(new) - field.energy(z)
    torch.testing.assert_close(change, h * power, rtol=0, atol=1e-13)
    rate = field.flow(t + h / 2, (z + new) / 2, slope)
    torch.testing.assert_close(new, z + h * rate, rtol=0, atol=1e-12)
    if field.push is None:
        assert (change < 0).all()


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_motions_do_not_drown_in_the_round_off_of_the_energy(offset, dtype):
    """1 - cos(q) is nothing but round-off below q = 1e-8, yet the motion is that of a pendulum."""
    amplitude = 10.0 ** -torch.arange(0, 13, 1, dtype=dtype).unsqueeze(-1)
    x0 = torch.cat([amplitude, 0.1 * amplitude], -1)
    path = DiscreteGradient(0.1).solve(pendulum(offset=offset), x0, [0.1 * i for i in range(25)])
    assert path.isfinite().all()
    small = path[2:] / amplitude[2:, None]
    linear = ImplicitMidpoint(0.1).solve(
        Known(lambda q, p: p**2 + 1.5 * q**2, lambda q, p: (3 * q, 2 * p)),
        torch.tensor([1.0, 0.1], dtype=dtype),
        [0.1 * i for i in range(25)],
    )
    assert (small - linear).abs().max() < 1e-3


def test_a_damped_motion_comes_to_rest():
    friction = torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64))
    field = pendulum(friction=friction, offset=5.0)
    path = DiscreteGradient(0.4).solve(field, 2 * randn(20, 2), [0.4 * i for i in range(80)])
    turns = (path[:, -1, 0] / (2 * math.pi)).round()
    rest = path[:, -1] - torch.stack([2 * math.pi * turns, 0 * turns], -1)
    assert rest.abs().max() < 1e-9
    assert (field.energy(path).diff() <= 1e-14).all()

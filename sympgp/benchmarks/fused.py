"""Fused rollouts on a GPU against what its sines allow, and against rollouts step by step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from sympgp.dissipation import Friction
from sympgp.energies import FourierEnergy
from sympgp.fields import BoundField, HamiltonianField
from sympgp.integrators import RK4
from sympgp.phase_space import CanonicalScaling
from sympgp.rollouts import fused

SINES_EACH = 4096
"""Sines one after another in the measurement of their rate."""
PER_PROGRAM = 1024
"""Chains of them that a warp has at a time, 32 a thread: their latency is hidden."""


@dataclass(frozen=True)
class FusedSpeed:
    """One measurement.

    Attributes:
        sines: that the rollouts take.
        sine_rate: sines a second of a kernel that does nothing else.
        fused: seconds of the rollouts by the fused kernel, its tables included; the median.
        eager: seconds of the same step by step.
        error: largest difference of the two at the end, in units of the states' spread, among
            pairs whose states stay within 100 of it; NaN where none do.
    """

    sines: float
    sine_rate: float
    fused: float
    eager: float
    error: float

    @property
    def limit(self) -> float:
        """Seconds that the sines alone would take."""
        return self.sines / self.sine_rate

    @property
    def over_limit(self) -> float:
        """Fused rollouts over that limit."""
        return self.fused / self.limit

    @property
    def speedup(self) -> float:
        """Rollouts step by step over fused ones."""
        return self.eager / self.fused


def seconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of a call after one that warms up, work on the device finished."""
    found = []
    for _ in range(1 + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - begin)
    return median(found[1:])


def sine_rate(dtype: torch.dtype, device: torch.device | str, repeats: int = 5) -> float:
    """Sines a second, computed as in the fused kernel, with nothing to do beside them.

    Raises:
        RuntimeError: the kernel is not to be had on the device.
    """
    device = torch.device(device)
    if not fused.available(device):
        raise RuntimeError(f"device: expected one with the fused kernel, got {device}")
    from sympgp.rollouts import kernel

    on_gpu = device.type == "cuda"
    programs = 32 * torch.cuda.get_device_properties(device).multi_processor_count if on_gpu else 1
    count = SINES_EACH if on_gpu else 4
    x = torch.linspace(-1.0, 1.0, programs * PER_PROGRAM, dtype=dtype, device=device)
    settings = fused.arithmetic(dtype, fused.hardware_sines(x))

    def call() -> None:
        kernel.sines_alone[(programs,)](x, count, WIDTH=PER_PROGRAM, num_warps=1, **settings)

    return len(x) * count / seconds(call, device, repeats)


def random_field(
    draws: int, num_features: int, num_dof: int, dtype: torch.dtype, device: torch.device, seed: int
) -> BoundField:
    """Draws from the prior of a field with friction, about a harmonic oscillator."""
    generator = torch.Generator().manual_seed(seed)
    ones = torch.ones(2 * num_dof, dtype=dtype, device=device)
    scaling = CanonicalScaling(0.0 * ones, ones, ones[0], 0.0 * ones[0], ones)
    energy = FourierEnergy(num_dof, num_features)
    hyper = {name: prior.median for name, prior in energy.hyperpriors(ones).items()}
    family = HamiltonianField(energy.basis(hyper), Friction().scaled(scaling))
    white = torch.randn(draws, family.num_parameters, generator=generator, dtype=torch.float64)
    theta = 0.1 * white.to(ones)
    features = 2 * num_features
    theta[:, :features] *= family.basis.prior_variance[:features].sqrt()
    theta[:, family.num_weights :].abs_()
    return family.bind(theta)


def fused_speed(
    num_draws: int = 1000,
    num_states: int = 100,
    num_steps: int = 1000,
    num_features: int = 256,
    num_dof: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cuda",
    repeats: int = 5,
    seed: int = 0,
) -> FusedSpeed:
    """Measure rollouts of S draws from N states each, over ten units of time in K steps of RK4.

    Raises:
        RuntimeError: the kernel is not to be had on the device.
    """
    device = torch.device(device)
    rate = sine_rate(dtype, device, repeats)
    field = random_field(num_draws, num_features, num_dof, dtype, device, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    x0 = torch.randn(num_draws, num_states, 2 * num_dof, generator=generator).to(device, dtype)
    times, method = [0.0, 10.0], RK4(step=10.0 / num_steps)
    found: dict[str, Tensor] = {}

    def by_kernel() -> None:
        states = fused.solve(field, x0, times, method)
        if states is None:
            raise RuntimeError("the fused kernel does not take the benchmark's field")
        found["fused"] = states[:, :, -1]

    def by_steps() -> None:
        found["eager"] = method.solve(field, x0, times)[:, :, -1]

    with torch.no_grad():
        own, eager = seconds(by_kernel, device, repeats), seconds(by_steps, device, 1)
    kept = found["eager"].abs().amax(-1) < 100.0
    off = (found["fused"] - found["eager"])[kept].abs()
    error = off.max() if off.numel() else torch.nan
    sines = 4.0 * num_draws * num_states * num_steps * num_features
    return FusedSpeed(sines, rate, own, eager, float(error))

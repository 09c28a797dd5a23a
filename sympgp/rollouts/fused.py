"""Whole rollouts of random-feature fields in one launch on a GPU: when, and with what arguments.

The kernel itself is in ``sympgp.rollouts.kernel``; it needs Triton, which CUDA builds of PyTorch
bring along. It takes the steps of :class:`RK4` for fields whose energy is a :class:`FourierEnergy`,
of up to four degrees of freedom, with any dissipation that is the same at all states, and inputs
whose matrix is; in float64 or float32; where no gradient is recorded. Everything else is solved
step by step.

The environment variable ``SYMPGP_FUSED`` decides: 0, never; 1, on any device, so also on a CPU in
Triton's interpreter (``TRITON_INTERPRET=1``); unset, on CUDA devices where Triton is installed.
There a launch that fails, for want of a C compiler perhaps, is said once and not tried again.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.compiled import CompileWarning
from sympgp.energies.fourier_gradient import FourierGradient
from sympgp.fields import BoundField, DrivenField
from sympgp.integrators import RK4, Integrator, Times
from sympgp.rollouts import horizon
from sympgp.rollouts.horizon import Horizon, Leg

OLDEST_TRITON = (3, 6)
"""The first version that the kernel is tested with; PyTorch brings it from 2.11 on."""
LARGEST_DIM = 8
"""Coordinates and momenta up to which states and the linear part of the field fit in registers."""
THREADS = 32
"""Of one warp, over which the features of a draw are spread."""
KEPT_WORDS = 80
"""Registers of a thread for features that stay there; more of them are streamed."""
STATE_WORDS = 8
"""Registers of a thread for the states of a program, and for each of a handful of copies."""
STREAMED_BYTES = 16
"""Of one load by a thread."""
ENOUGH_PROGRAMS = 4096
"""Warps that keep the largest accelerators busy: a few for each of hundreds of schedulers."""
STAGE_COST = 0.25
"""What a stage costs beside its states (loop, step, inputs), in states."""
BROKEN: set[torch.device] = set()
"""Devices on which a launch failed in this process: they are left to the integrator."""


@cache
def _has_triton() -> bool:
    """Whether Triton is there, and new enough, in a build of PyTorch for CUDA or none."""
    try:
        found = re.match(r"(\d+)\.(\d+)", version("triton"))
    except PackageNotFoundError:
        return False
    if found is None or torch.version.hip is not None:
        return False
    return tuple(map(int, found.groups())) >= OLDEST_TRITON


def available(device: torch.device | str) -> bool:
    """Whether the kernel may be used on a device.

    Raises:
        ValueError: ``SYMPGP_FUSED`` is neither 0 nor 1.
        RuntimeError: it is 1 and Triton is missing.
    """
    wish = os.environ.get("SYMPGP_FUSED", "")
    if wish not in ("", "0", "1"):
        raise ValueError(f"SYMPGP_FUSED: expected 0, 1 or nothing, got {wish!r}")
    if wish == "1" and not _has_triton():
        raise RuntimeError("SYMPGP_FUSED: fused rollouts need triton 3.6 or newer")
    if wish:
        return wish == "1"
    device = torch.device(device)
    if device.type != "cuda" or not torch.cuda.is_available() or not _has_triton():
        return False
    if device in BROKEN:
        return False
    return torch.cuda.get_device_capability(device) >= (7, 0)


def applies(field: object, x0: Tensor, integrator: Integrator) -> bool:
    """Whether rollouts of this field from states (S, N, D) are left to the kernel."""
    bound = field.field if isinstance(field, DrivenField) else field
    if type(integrator) is not RK4 or integrator.step is None or type(bound) is not BoundField:
        return False
    return available(x0.device) and _has_form(bound) and _fits(bound, x0)


def _has_form(bound: BoundField) -> bool:
    """Sines, a linear part, and inputs with a constant matrix."""
    alike = bound.drag is None and bound.family.context is None
    return alike and _features(bound) is not None and not len(bound.family.inputs.phases)


def _fits(bound: BoundField, x0: Tensor) -> bool:
    """One draw a row of states, of a size and type that the kernel has; no gradient wanted."""
    theta = bound.theta
    if x0.dim() != 3 or theta.dim() != 2 or len(theta) != len(x0) or not x0.numel():
        return False
    if x0.shape[-1] > LARGEST_DIM or x0.dtype not in (torch.float32, torch.float64):
        return False
    if theta.dtype != x0.dtype or theta.device != x0.device:
        return False
    return not (torch.is_grad_enabled() and (x0.requires_grad or theta.requires_grad))


def _features(bound: BoundField) -> FourierGradient | None:
    """What the field's map is made of; a compiled one keeps it as ``eager``."""
    found = getattr(bound.flow_map, "eager", bound.flow_map)
    return found if type(found) is FourierGradient else None


def solve(
    field: object, x0: Tensor, times: Times, integrator: Integrator
) -> Float[Tensor, "draws trajectories time dim"] | None:
    """What ``integrator.solve`` returns, by one launch; None where there is none or it failed.

    Args:
        field: of all draws.
        x0: (S, N, D).
        times: (T,).
        integrator: RK4 with a step.

    Raises:
        ValueError: times that are not finite or not strictly monotone.
    """
    if not isinstance(integrator, RK4) or integrator.step is None or len(times) < 2:
        return None
    if not applies(field, x0, integrator):
        return None
    if isinstance(field, DrivenField) and isinstance(field.field, BoundField):
        begin, signal = float(times[0]), field.signal
        if signal(begin).shape != (field.field.family.num_inputs,):
            return None
        return _tried(field.field, x0, horizon.driven(times, signal, integrator.step))
    if not isinstance(field, BoundField) or field.family.num_inputs:
        return None
    return _tried(field, x0, horizon.undriven(times, integrator.step))


def solve_legs(
    field: object,
    x0: Tensor,
    legs: Sequence[Sequence[Leg]],
    integrator: Integrator,
    limit: Float[Tensor, " dim"],
) -> Float[Tensor, "draws trajectories time dim"] | None:
    """States at the ends of intervals, each of which is made of legs without breaks of the inputs.

    States beyond ``limit`` at the beginning or at the end of a leg are NaN from there on, but for
    ``x0`` itself. None where the kernel does not apply or its launch failed.
    """
    if not isinstance(integrator, RK4) or integrator.step is None:
        return None
    if not isinstance(field, BoundField) or not applies(field, x0, integrator):
        return None
    lost = ~(x0.abs() <= limit.to(x0)).all(-1, keepdim=True)
    steps = horizon.in_legs(legs, integrator.step, x0.device)
    paths = _tried(field, x0.masked_fill(lost, torch.nan), steps, limit)
    if paths is not None:
        paths[:, :, 0] = x0
    return paths


@dataclass(frozen=True)
class Layout:
    """How a launch is cut up.

    Attributes:
        states: of one draw that a program carries.
        tile: features that are handled at a time.
        features: M with those of weight zero that fill the last tile.
        resident: whether features stay in registers.
    """

    states: int
    tile: int
    features: int
    resident: bool


def layout(draws: int, states: int, dim: int, features: int, itemsize: int) -> Layout:
    """The layout for S draws, N states, D, M and the bytes of a number.

    A thread has every 32nd feature: 2 D + 1 numbers each, kept in registers while they take no
    more than ``KEPT_WORDS`` (D = 2 and 512 features, or D = 4 and 256, in float32): the compiler
    then needs 80 to 160 registers, for 12 to 24 warps of a multiprocessor. Few states a program
    make more programs, many share what a stage costs beside them; odd ones are waste.
    """
    words = itemsize // 4
    resident = -(-features // THREADS) * (2 * dim + 1) * words <= KEPT_WORDS
    tile = THREADS if resident else THREADS * (STREAMED_BYTES // itemsize)
    most = max(1, STATE_WORDS // (dim * words))
    sizes = [size for size in (4, 2, 1) if size <= most]
    full = [size for size in sizes if draws * -(-states // size) >= ENOUGH_PROGRAMS]
    best = min(full or sizes[-1:], key=lambda size: -(-states // size) * (size + STAGE_COST))
    return Layout(best, tile, -(-features // tile) * tile, resident)


def _tried(
    bound: BoundField, x0: Tensor, steps: Horizon, limit: Tensor | None = None
) -> Float[Tensor, "draws trajectories time dim"] | None:
    """Run the kernel; None, and its device is broken, where that fails and nobody insists on it."""
    try:
        return _launch(bound, x0, steps, limit)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if os.environ.get("SYMPGP_FUSED") == "1":
            raise
        BROKEN.add(x0.device)
        reason = str(error).strip().split("\n")[0]
        warnings.warn(
            f"the fused kernel failed ({type(error).__name__}: {reason}); rollouts go step by step",
            CompileWarning,
            stacklevel=3,
        )
        return None


def _launch(
    bound: BoundField, x0: Tensor, steps: Horizon, limit: Tensor | None = None
) -> Float[Tensor, "draws trajectories time dim"]:
    """Run the kernel on the device of the states."""
    from sympgp.rollouts import kernel

    gradient = _features(bound)
    if gradient is None:
        raise TypeError(f"field: expected random features, got {type(bound.flow_map).__name__}")
    draws, states, dim = x0.shape
    plan = layout(draws, states, dim, gradient.columns.shape[-1], x0.element_size())
    fast = hardware_sines(x0)
    tables = _tables(gradient, plan.features, kernel.PI_32 if fast else 1.0)
    inputs, gains = x0.new_zeros(1), x0.new_zeros(1)
    if steps.inputs is not None:
        inputs = steps.inputs.to(x0).contiguous()
        gains = bound.family.inputs.matrix(x0[:, :1], bound.gamma).squeeze(1).contiguous()
    paths = x0.new_empty(draws, states, steps.size, dim)
    paths[:, :, 0] = x0
    with torch.cuda.device(x0.device) if x0.is_cuda else nullcontext():
        kernel.fused_rk4[(draws * -(-states // plan.states),)](
            x0.contiguous(),
            *tables,
            steps.lengths.to(x0),
            steps.slots.to(x0.device),
            inputs,
            gains,
            x0.new_zeros(dim) if limit is None else limit.to(x0).contiguous(),
            paths,
            states,
            len(steps.lengths),
            steps.size,
            M=plan.features,
            TILE=plan.tile,
            RESIDENT=plan.resident,
            B=plan.states,
            D=dim,
            U=0 if steps.inputs is None else inputs.shape[-1],
            CHECK=limit is not None,
            **arithmetic(x0.dtype, fast),
            num_warps=1,
            num_stages=1,
            enable_fp_fusion=True,
        )
    return paths


def hardware_sines(like: Tensor) -> bool:
    """Whether sines are the hardware's; a polynomial otherwise."""
    return like.is_cuda and like.dtype == torch.float32


def arithmetic(dtype: torch.dtype, fast: bool) -> dict[str, Any]:
    """How the kernels compute a sine: the hardware's where ``fast``."""
    from sympgp.rollouts import kernel

    if dtype == torch.float64:
        constants = {"TWOS": kernel.TWOS_64, "SINE": kernel.SINE_64}
    else:
        constants = {"TWOS": kernel.TWOS_32, "SINE": kernel.SINE_32}
    return {**constants, "FAST": fast, "PI": kernel.PI_32}


def _tables(
    gradient: FourierGradient, width: int, half_turn: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frequencies, shifts, outputs (features last, filled up with zeros) and the affine part.

    Angles are counted so that half a turn is ``half_turn``; they are divided before rounding.
    """
    dtype = gradient.output.dtype
    unit = half_turn / torch.pi

    def filled(part: Tensor) -> Tensor:
        return torch.nn.functional.pad(part, (0, width - part.shape[-1])).contiguous()

    def angles(part: Tensor) -> Tensor:
        return (part.double() * unit).to(dtype)

    affine = torch.cat([gradient.matrix.mT, gradient.offset.mT], -1)
    return (
        filled(angles(gradient.columns)),
        filled(angles(gradient.phase.squeeze(-2))),
        filled(gradient.output.mT),
        affine.contiguous(),
    )

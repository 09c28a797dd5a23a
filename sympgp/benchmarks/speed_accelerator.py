"""The same work on the CPU and on an accelerator, where there is one."""

from __future__ import annotations

import statistics

import torch

from sympgp.benchmarks.fused import fused_speed
from sympgp.benchmarks.speed_problems import fourier_field, random_weights
from sympgp.benchmarks.speed_record import Measurement
from sympgp.benchmarks.speed_scaling import ITERATION, iteration_seconds
from sympgp.benchmarks.speed_session import Session, describe
from sympgp.rollouts import fused

NONE = "accelerator: left out, since there is none here that PyTorch can use"
NO_KERNEL = "fused rollouts: left out, since the kernel cannot be used here"
TIMES_FASTER = 20.0
"""Aims of fused rollouts over those step by step, and of an iteration over the CPU's."""


def measure_accelerator(session: Session) -> None:
    """Field evaluations, fused rollouts and Gauss-Newton iterations."""
    if session.accelerator is None:
        session.note(NONE)
        return
    device = session.accelerator
    session.say(f"accelerator: {name_of(device)}")
    _measure_field(session, device)
    if fused.available(device):
        _measure_fused(session, device)
    else:
        session.note(NO_KERNEL)
    _measure_iteration(session, device)


def name_of(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _measure_field(session: Session, device: torch.device) -> None:
    """The field at many points in double precision, on both."""
    points, features, num_dof = session.sizes.evaluation
    found: dict[str, float] = {}
    repeats = 0
    for place in (torch.device("cpu"), device):
        field = fourier_field(num_dof, features, place)
        bound = field.bind(random_weights(field))
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(points, 2 * num_dof, generator=generator, dtype=torch.float64).to(place)
        timed = session.time({"field": lambda bound=bound, z=z: bound(0.0, z)}, place)  # type: ignore[misc]
        found["accelerator" if "cpu" in found else "cpu"] = timed.seconds["field"]
        repeats = timed.repeats
    session.add(
        Measurement(
            "accelerator",
            "field",
            f"{points:,} points x {features} features, D = {2 * num_dof}",
            found["accelerator"],
            found["cpu"],
            "the same on the CPU",
            amount=points,
            unit="points",
            repeats=repeats,
            device=name_of(device),
        )
    )


def _measure_fused(session: Session, device: torch.device) -> None:
    """Rollouts in one launch beside what their sines take alone, and beside steps one by one."""
    draws, states, steps, features = session.sizes.pairs
    session.say(f"fused rollouts: {draws * states:,} pairs x {steps:,} steps")
    found = fused_speed(draws, states, steps, features, device=device, repeats=session.repeats)
    size = f"{draws * states:,} (draw, state) pairs x {steps:,} RK4 steps, {features} features"
    for what, floor, floor_of, most in (
        ("fused rollouts, float32", found.limit, "their sines alone", 3.0),
        ("fused rollouts, float32", found.eager, "step by step", 1.0 / TIMES_FASTER),
    ):
        session.add(
            Measurement(
                "accelerator",
                what,
                size,
                found.fused,
                floor,
                floor_of,
                session.aim("ratio", most),
                draws * states,
                "rollouts",
                repeats=session.repeats,
                device=name_of(device),
            )
        )


def _measure_iteration(session: Session, device: torch.device) -> None:
    """A Gauss-Newton iteration on both."""
    case, budget = session.sizes.work, session.sizes.budget
    session.say(f"{ITERATION}: {describe(case)}")
    times = [
        iteration_seconds(case, session.repeats, budget, place) for place in ("cpu", str(device))
    ]
    there, here = statistics.median(times[1]), statistics.median(times[0])
    session.add(
        Measurement(
            "accelerator",
            ITERATION,
            describe(case),
            there,
            here,
            "the same on the CPU",
            session.aim("ratio", 1.0 / TIMES_FASTER),
            case[0] * case[1],
            "observed states",
            repeats=len(times[1]),
            device=name_of(device),
        )
    )

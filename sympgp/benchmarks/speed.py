"""Speed, measured in one run: everything beside its floor, and how it grows.

No time is asserted: the figures are those of the machine and of the moment. Floors are measured in
the same run, in turns with what they are floors of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

import torch

from sympgp.benchmarks.results import machine
from sympgp.benchmarks.speed_accelerator import measure_accelerator
from sympgp.benchmarks.speed_field import measure_field, measure_rollouts
from sympgp.benchmarks.speed_fits import measure_fits, measure_import, measure_many
from sympgp.benchmarks.speed_record import Measurement
from sympgp.benchmarks.speed_scaling import measure_scaling
from sympgp.benchmarks.speed_session import Session

PARTS: Mapping[str, Callable[[Session], None]] = {
    "field": measure_field,
    "rollouts": measure_rollouts,
    "import": measure_import,
    "fits": measure_fits,
    "scaling": measure_scaling,
    "many": measure_many,
    "accelerator": measure_accelerator,
}
"""What can be measured, in the order in which it is."""


def measure_speed(session: Session, parts: Sequence[str] = tuple(PARTS)) -> list[Measurement]:
    """Measure parts one after another.

    Args:
        session: how; it keeps what was measured, also where the run is stopped.
        parts: names in ``PARTS``.

    Raises:
        ValueError: another name.
    """
    for name in parts:
        if name not in PARTS:
            raise ValueError(f"parts: expected some of {', '.join(PARTS)}, got {name!r}")
    for name in PARTS:
        if name in parts:
            PARTS[name](session)
    return session.measurements


def this_machine() -> dict[str, str | int]:
    """What the figures are of: processor, threads and versions."""
    return {
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "torch": torch.__version__,
        "sympgp": version("sympgp"),
    }


def machine_line(session: Session) -> str:
    """The same as one line, with the accelerator where there is one."""
    known = this_machine()
    threads = f"{known['threads']} thread{'s' if known['threads'] != 1 else ''}"
    words = [str(known["machine"]), threads, f"torch {known['torch']}"]
    if session.accelerator is not None and session.accelerator.type == "cuda":
        words.append(torch.cuda.get_device_name(session.accelerator))
    return ", ".join(words)

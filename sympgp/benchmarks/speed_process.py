"""A function in a process of its own, whose peak memory is nobody else's."""

from __future__ import annotations

import math
import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
STATUS = Path("/proc/self/status")
GIB = 2.0**30


def peak_memory() -> float:
    """Most memory that this process has had in use, GiB.

    ``getrusage`` counts what the parent had when the process was started, Linux's own record of the
    process does not: it is read where there is one. NaN where there is neither, as on Windows.
    """
    try:
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / GIB
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def in_own_process(
    function: Callable[..., Result], *arguments: object, threads: int
) -> tuple[Result, float | None]:
    """What a function of a module returns in a fresh process, and the peak memory there in GiB.

    The memory is None where it is not known.

    Args:
        function: found by its name, so no lambda.
        arguments: plain values.
        threads: CPU threads of the process.

    Raises:
        RuntimeError: the function failed there, with what it said, or the process was ended.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, function, arguments, threads))
    process.start()
    theirs.close()  # so that the end of the process closes the pipe
    try:
        found, memory = ours.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(
            f"{function.__name__}: its process ended with exit code {process.exitcode}, out of "
            "memory perhaps"
        ) from error
    finally:
        ours.close()
        if process.is_alive():
            process.join(5.0)
            process.kill()
    if memory is None:
        raise RuntimeError(f"{function.__name__}: {found}")
    return found, None if math.isnan(memory) else memory


def _serve(
    connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], threads: int
) -> None:
    torch.set_num_threads(threads)
    try:
        connection.send((function(*arguments), peak_memory()))
    except Exception as error:  # the other side says it
        connection.send((f"{type(error).__name__}: {error}", None))
    finally:
        connection.close()

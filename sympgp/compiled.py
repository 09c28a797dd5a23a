"""Compiling the inner loops of long jobs with ``torch.compile``; everything runs without it too."""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

VARIABLE = "SYMPGP_COMPILE"
"""Environment variable: 0 never compiles, 1 compiles whatever can be; unset, sizes decide."""
COST = 15.0
"""Seconds that the first compilation of a process takes, about."""
SAVED = {"cpu": (-4e-5, 2.5e-9), "cuda": (4e-5, 1e-12)}
"""Seconds saved by each evaluation of a field, and by each sine in it (of one thread).

Calling what was compiled costs more than calling an operation, a graph of kernels costs less.
"""
SAVED_A_STEP = {"cuda": 1e-3}
"""Seconds saved by each step of a network's training, a density with its gradient: what 150 of its
operations take to launch. Not on the CPU, where steps took half the time, but what PyTorch 2's
compiler made of small layers read beyond its tensors.
"""
VERSIONS = 256
"""Most compiled versions of one function: numbers of coordinates, types, one draw or several, ...
"""


class CompileWarning(UserWarning):
    """Compiling failed; the computation went on without it."""


def asked() -> bool | None:
    """What the environment variable says: always, never, or (None) by sizes.

    Raises:
        ValueError: it says something else.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{VARIABLE}: expected 0, 1 or nothing, got {value!r}")
    return None if value == "" else value == "1"


@functools.cache
def at_hand(kind: str) -> bool:
    """Whether code for this kind of device can be compiled here; looks for files, runs nothing."""
    if kind == "cuda":
        return find_spec("triton") is not None
    if kind != "cpu":
        return False
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return shutil.which(os.environ.get("CXX", usual)) is not None and header.exists()


def repays(evaluations: int, sines: int, device: torch.device) -> bool:
    """Whether to compile for so many evaluations of a field with so many sines in all of them.

    True where the seconds saved, estimated from the sizes alone, are more than compiling takes.

    Raises:
        ValueError: the environment variable ``SYMPGP_COMPILE`` is neither 0 nor 1.
    """
    each, sine = SAVED.get(device.type, (0.0, 0.0))
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return _worth(evaluations * each + sines * sine / threads, device.type in SAVED, device)


def repays_steps(steps: int, device: torch.device) -> bool:
    """Whether to compile for so many steps of training: for more than 15,000, on CUDA.

    Raises:
        ValueError: the environment variable ``SYMPGP_COMPILE`` is neither 0 nor 1.
    """
    saved = SAVED_A_STEP.get(device.type)
    return _worth(steps * (saved or 0.0), saved is not None, device)


def _worth(seconds: float, possible: bool, device: torch.device) -> bool:
    """Whether so many seconds saved are worth it, where it is possible and nobody forbids it."""
    wish = asked()
    if wish is False or not possible or not at_hand(device.type):
        return False
    return bool(wish) or seconds > COST


class Rate(NamedTuple):
    """An autonomous field as a function of tensors alone, so that whole steps can be compiled.

    Attributes:
        function: ``(x, *parts) -> dx/dt``, written for a compiler.
        eager: the same, written for running without one.
        parts: the tensors that it is made of.
    """

    function: Callable[..., Tensor]
    eager: Callable[..., Tensor]
    parts: tuple[Tensor, ...]

    def recorded(self, x: Tensor) -> bool:
        """Whether gradients are being recorded, which is left to the eager way."""
        return torch.is_grad_enabled() and any(p.requires_grad for p in (x, *self.parts))


def _many_versions() -> AbstractContextManager[Any]:
    """A context in which the compiler does not stop after its usual eight versions."""
    from torch._dynamo import config

    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    return config.patch({name: VERSIONS})


class Compiled:
    """A function of tensors, compiled when it is first called.

    Sizes may differ from call to call. On CUDA the kernels are replayed as one graph. Where
    compiling fails, one :class:`CompileWarning` says so and ``function`` itself is called. No
    gradients are recorded.

    What a compiler cannot read (objects, and gradients that a function takes by itself) can be
    ``traced``: the operations of the first call are written down and these compiled, so that
    sizes, other tensors and branches have to stay as they were then.

    Attributes:
        function: without side effects, returning a tensor or a tuple of them.
        otherwise: what to call where compiling failed; the function itself when None.
        traced: see above.
        failed: kinds of devices for which it did.

    Example:
        >>> double = Compiled(lambda x: 2.0 * x)
        >>> double.function(torch.ones(2))
        tensor([2., 2.])
    """

    def __init__(
        self,
        function: Callable[..., Any],
        otherwise: Callable[..., Any] | None = None,
        *,
        traced: bool = False,
    ) -> None:
        # Run-time checks of shapes around a function are Python that cannot be compiled.
        self.function = inspect.unwrap(function)
        self.traced = traced
        self.otherwise = self.function if otherwise is None else otherwise
        self.failed: set[str] = set()
        self._ready: dict[str, Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        """The function's value."""
        kind = arguments[0].device.type
        if kind in self.failed:
            return self.otherwise(*arguments)
        try:
            value = self._called(kind, arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self.failed.add(kind)
            reason = " ".join(str(error).split("\n")[:2])
            warnings.warn(
                f"torch.compile failed ({type(error).__name__}: {reason}); going on without it",
                CompileWarning,
                stacklevel=2,
            )
            return self.otherwise(*arguments)
        # The next replay of a graph writes over what this one returned.
        return tree_map(torch.clone, value) if kind == "cuda" else value

    def _called(self, kind: str, arguments: tuple[Any, ...]) -> Any:
        """The value by compiled code; any call may be the first of another version."""
        # The compiler's own modules deprecate each other while they are imported.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if kind not in self._ready:
                mode = "reduce-overhead" if kind == "cuda" else None
                function = self.function
                if self.traced:
                    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import

                    function = make_fx(function)(*arguments)
                self._ready[kind] = torch.compile(
                    function, dynamic=not self.traced, fullgraph=True, mode=mode
                )
            with _many_versions():
                return self._ready[kind](*arguments)

"""Parts of a field as plain content of files, and back: energies, dissipation, inputs, priors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sympgp.energies import CallableBasis
from sympgp.energies.physics_basis import Formula

MODULES = ("energies", "energies.priors", "dissipation", "inputs", "phase_space")
"""Where the kinds of parts are found, by their names."""

FORMULA, FUNCTION = "formula", "function"
"""A formula's field, and what a file has in its place where it was a Python function."""


def plain(part: Any, name: str) -> Any:
    """Tensors, numbers, strings, None, lists and dictionaries that say what a part is.

    Args:
        part: a dataclass of such things, or a tuple of parts.
        name: what the part belongs to, for errors.

    Raises:
        ValueError: something that cannot be written.
    """
    if part is None or isinstance(part, (bool, int, float, str, Tensor)):
        return part
    if isinstance(part, (tuple, list)):
        return [plain(item, name) for item in part]
    if isinstance(part, CallableBasis):
        return _without_function(part, name)
    kind = type(part).__name__
    if not is_dataclass(part) or _kind(kind) is not type(part):
        raise ValueError(f"{name}: a {kind} cannot be saved")
    return {"kind": kind} | {f.name: plain(getattr(part, f.name), name) for f in fields(part)}


def rebuilt(content: Any) -> Any:
    """The part that ``plain`` described.

    Raises:
        LookupError, TypeError, ValueError: it describes none.
    """
    if isinstance(content, list):
        return tuple(rebuilt(item) for item in content)
    if not isinstance(content, dict):
        return content
    own = dict(content)
    kind = _kind(own.pop("kind"))
    if kind is None:
        raise LookupError(f"no part of the name {content['kind']!r}")
    return kind(**{name: rebuilt(value) for name, value in own.items()})


def _without_function(part: CallableBasis, name: str) -> dict[str, Any]:
    """A formula that is a Python function leaves its name, and energies to know it by."""
    known = {f.name: plain(getattr(part, f.name), name) for f in fields(part) if f.name != FORMULA}
    label = getattr(part.formula, "__name__", type(part.formula).__name__)
    return {"kind": "CallableBasis", FUNCTION: label, "energies": _energies(part)} | known


def _energies(part: CallableBasis) -> Tensor:
    dim = len(part.scale)
    z = torch.linspace(-1.0, 1.0, 3 * dim).to(part.scale).reshape(3, dim)
    return part.value(z, part.scale.new_zeros(part.num_weights)).detach()


def with_functions(content: Any, formula: Formula | Mapping[str, Formula] | None) -> Any:
    """The content of a file with functions where formulas were functions.

    Args:
        content: what was read.
        formula: the function, or functions by their names.

    Raises:
        ValueError: a function is missing, is another one, or none is needed.
    """
    used: set[str] = set()
    found = _filled(content, formula, used)
    if formula is not None and not used:
        raise ValueError("formula: expected None, since this posterior needs no function")
    return found


def _filled(content: Any, formula: Any, used: set[str]) -> Any:
    if isinstance(content, (list, tuple)):
        return [_filled(item, formula, used) for item in content]
    if not isinstance(content, dict):
        return content
    own = {key: _filled(value, formula, used) for key, value in content.items()}
    if own.get("kind") != "CallableBasis":
        return own
    name, energies = own.pop(FUNCTION), own.pop("energies")
    used.add(name)
    function = formula.get(name) if isinstance(formula, Mapping) else formula
    if not callable(function):
        raise ValueError(
            f"formula: the energy of this posterior is the Python function {name!r}, which files "
            f"do not hold; expected it as load(path, formula={name}), got {function!r}"
        )
    own[FORMULA] = function
    try:
        now = _energies(rebuilt(own))
    except Exception as error:
        raise ValueError(f"formula: the function cannot stand for {name!r}: {error}") from error
    if now.shape != energies.shape or not torch.allclose(now, energies, equal_nan=True):
        raise ValueError(f"formula: the function gives other energies than {name!r} did when saved")
    return own


def _kind(name: str) -> type | None:
    for module in MODULES:
        found = getattr(import_module(f"sympgp.{module}"), name, None)
        if isinstance(found, type):
            return found
    return None

"""Refusing formulas and parameters that cannot be an energy, each with its reason."""

from __future__ import annotations

import inspect
import keyword
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sympgp.energies.expressions import (
    CONSTANTS,
    FUNCTIONS,
    check_names,
    coordinate_names,
    is_coordinate,
    names_in,
    parse,
)
from sympgp.energies.physics_basis import Formula, PhysicsBasis
from sympgp.energies.priors import Prior, prior_of
from sympgp.phase_space import split

AROUND = 25
"""States at which an energy is compared with that of one turn on."""
SAME = 1e-9
"""Share of an energy that rounding may change."""


def check_callable(formula: Formula, basis: PhysicsBasis, x: Tensor) -> None:
    """Shape and derivatives of a function's result, state by state and for several draws."""
    q, p = (part.clone().requires_grad_() for part in split(x))
    weights = x.new_zeros(len(basis.names))
    own = {k: v.detach().requires_grad_() for k, v in basis.values(weights).items()}
    known = dict(zip(basis.known_names, basis.known_values, strict=True))
    with torch.enable_grad():
        try:
            found = formula(q, p, **own, **known)
            ahead = formula(q.unsqueeze(0), p.unsqueeze(0), **own, **known)
            alone = formula(q[:1], p[:1], **own, **known)
        except Exception as error:
            raise ValueError(
                f"formula: cannot be evaluated at q and p of shape {tuple(q.shape)}: {error}"
            ) from error
        _check_result(found, x.shape[:1])
        _check_result(ahead, (1, *x.shape[:1]))
        slopes = torch.autograd.grad(
            found.sum(), [q, p, *own.values()], allow_unused=True, retain_graph=True
        )
    if slopes[0] is None and slopes[1] is None:
        raise ValueError("formula: expected a result that depends on q or p differentiably")
    for name, slope in zip(own, slopes[2:], strict=True):
        if slope is None:
            raise ValueError(f"parameters: the formula does not depend on {name!r} differentiably")
    if not torch.allclose(alone, found[:1], equal_nan=True):
        raise ValueError("formula: expected every state to be treated by itself")
    several = x.new_zeros(2, len(basis.names))
    try:
        basis.value(x.expand(2, *x.shape), several)
    except Exception as error:
        raise ValueError(
            f"formula: cannot be evaluated for several draws at once with torch.func.vmap: {error}"
        ) from error


def _check_result(found: object, shape: tuple[int, ...]) -> None:
    if not isinstance(found, Tensor):
        raise ValueError(f"formula: expected a tensor of energies, got {type(found).__name__}")
    if tuple(found.shape) != tuple(shape):
        raise ValueError(
            f"formula: expected energies of shape {tuple(shape)} for q and p of shape "
            f"{(*shape, '...')}, got {tuple(found.shape)}"
        )
    if not found.is_floating_point():
        raise ValueError(f"formula: expected real numbers, got {found.dtype}")
    if not found.requires_grad:
        raise ValueError("formula: expected a differentiable result, got one without a gradient")


def check_periodic(basis: PhysicsBasis, angles: Mapping[int, float]) -> None:
    """Whether H is the same one turn on, at states all around and whatever the parameters.

    Raises:
        ValueError: an angle in which it is not.
    """
    dim = len(basis.scale)
    x = torch.linspace(0.2, 0.9, AROUND * dim).to(basis.scale).reshape(AROUND, dim)
    for k, period in angles.items():
        x[:, k] = period * torch.linspace(-0.47, 0.51, AROUND).to(x)
    generic = torch.linspace(-0.7, 0.9, basis.num_weights).to(x)
    for k, period in angles.items():
        ahead = x.clone()
        ahead[:, k] += period
        for w in (torch.zeros_like(generic), generic, -generic.flip(0)):
            here, there = basis.value(x, w), basis.value(ahead, w)
            known = here.isfinite() & there.isfinite()
            size = torch.cat([here[known], there[known]]).abs().max() if bool(known.any()) else 0.0
            if bool(((there - here)[known].abs() > SAME * size).any()):
                name = coordinate_names(dim // 2)[k]
                raise ValueError(
                    f"formula: expected an energy that is periodic in the angle {name}, of period "
                    f"{period:.6g}; it is not (it has to be so for all values of the parameters)"
                )


def sorted_parameters(parameters: Mapping[str, Any]) -> tuple[dict[str, Prior], dict[str, float]]:
    """Priors of the unknown parameters, and the values of the known ones."""
    priors: dict[str, Prior] = {}
    known: dict[str, float] = {}
    if not isinstance(parameters, Mapping):
        raise ValueError(f"parameters: expected a dictionary of priors, got {parameters!r}")
    for name, given in parameters.items():
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"parameters: expected names, got {name!r}")
        if is_coordinate(name) or name in FUNCTIONS or name in CONSTANTS:
            raise ValueError(f"parameters: {name!r} is kept for something else; use another name")
        number = isinstance(given, (int, float)) and not isinstance(given, bool)
        if number or (isinstance(given, Tensor) and given.dim() == 0):
            known[name] = float(given)
            if not math.isfinite(known[name]):
                raise ValueError(f"parameters: expected a finite {name!r}, got {known[name]}")
        else:
            priors[name] = prior_of(name, given)
    return priors, known


def check_string(formula: str, num_dof: int, given: set[str]) -> None:
    """Read a string and match its names with the coordinates and the parameters."""
    tree = parse(formula)
    check_names(tree, num_dof)
    used = set(names_in(tree))
    if not used & set(coordinate_names(num_dof)):
        raise ValueError(f"formula: {formula!r} depends on neither q nor p")
    _check_given(used - set(coordinate_names(num_dof)), given)


def check_signature(formula: Formula, given: set[str]) -> None:
    """Match the function's arguments after q and p with the parameters."""
    try:
        arguments = list(inspect.signature(formula).parameters.values())
    except (TypeError, ValueError):
        return
    kinds = inspect.Parameter
    own = [a for a in arguments if a.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    positional = [
        a for a in arguments if a.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) < 2 and not any(a.kind is kinds.VAR_POSITIONAL for a in arguments):
        raise ValueError("formula: expected a function of q, p and the parameters")
    named = [a for a in own if a not in positional[:2]]
    needed = {a.name for a in named if a.default is kinds.empty}
    if any(a.kind is kinds.VAR_KEYWORD for a in arguments):
        _check_given(needed | given, given)
    else:
        _check_given(needed | ({a.name for a in named} & given), given)


def _check_given(used: set[str], given: set[str]) -> None:
    missing, unused = sorted(used - given), sorted(given - used)
    if missing:
        raise ValueError(
            f"parameters: no prior or number for {', '.join(missing)}, which the formula uses"
        )
    if unused:
        raise ValueError(f"parameters: {', '.join(unused)} is not in the formula")

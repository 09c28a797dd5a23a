"""Models and inference engines by the short names that the benchmarks know them by.

Add one with a line in ``MODELS`` or ``ENGINES``. A name may be followed by options,
``gauss-newton:num_components=8``, which are handed to the function registered under it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sympgp.dissipation import Conservative, Friction
from sympgp.energies import FourierEnergy
from sympgp.inference import NUTS, GaussNewton, StochasticVI, fit
from sympgp.inference.base import InferenceEngine
from sympgp.models import SSGP, HamiltonianModel
from sympgp.posterior import Posterior
from sympgp.trajectories import Trajectories

ModelMaker = Callable[..., HamiltonianModel]
"""``(num_dof, num_features, damped, seed, **options)`` to a model."""
EngineMaker = Callable[..., InferenceEngine]
"""``(**options)`` to an engine."""


def ssgp(
    num_dof: int, num_features: int, damped: bool, seed: int, **options: Any
) -> HamiltonianModel:
    """The symplectic spectrum Gaussian process; options are those of ``FourierEnergy``."""
    energy = FourierEnergy(num_dof, num_features, seed=seed, **options)
    return SSGP(
        num_dof, num_features, dissipation=Friction() if damped else Conservative(), energy=energy
    )


MODELS: dict[str, ModelMaker] = {"ssgp": ssgp}
ENGINES: dict[str, EngineMaker] = {
    "gauss-newton": GaussNewton,
    "nuts": NUTS,
    "vi": StochasticVI,
    "vi-from-prior": partial(StochasticVI, None),
}


def parse(text: str, known: Mapping[str, Any], what: str) -> tuple[str, dict[str, Any]]:
    """Split ``name:option=value,option=value`` into the name and its options.

    Args:
        text: the name, with options or without.
        known: by name.
        what: the argument that the text was given for.

    Raises:
        ValueError: another name; options that are not written so.

    Example:
        >>> parse("gauss-newton:num_components=2", ENGINES, "engine")
        ('gauss-newton', {'num_components': 2})
    """
    name, _, rest = text.partition(":")
    if name not in known:
        raise ValueError(f"{what}: expected one of {', '.join(known)}, got {name!r}")
    options = {}
    for part in rest.split(",") if rest else []:
        key, equals, value = part.partition("=")
        if not key.isidentifier() or not equals:
            raise ValueError(f"{what}: expected {name}:option=value,..., got {text!r}")
        options[key] = _literal(value)
    return name, options


def _literal(text: str) -> Any:
    """A number, True, False or None where it reads like one; the text itself else."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def make_model(
    text: str, num_dof: int, num_features: int, damped: bool, seed: int
) -> HamiltonianModel:
    """The model of this name.

    Raises:
        ValueError: another name or options that it does not take.
    """
    name, options = parse(text, MODELS, "model")
    try:
        return MODELS[name](num_dof, num_features, damped, seed, **options)
    except TypeError as error:
        raise ValueError(f"model: {text!r} cannot be made: {error}") from error


def make_engine(text: str) -> InferenceEngine:
    """The engine of this name.

    Raises:
        ValueError: another name or options that it does not take.
    """
    name, options = parse(text, ENGINES, "engine")
    try:
        return ENGINES[name](**options)
    except TypeError as error:
        raise ValueError(f"engine: {text!r} cannot be made: {error}") from error


def fit_named(
    model: str, engine: str, data: Trajectories, num_features: int, damped: bool, seed: int
) -> Posterior:
    """Fit by names; the seed is that of the features and of the engine.

    Raises:
        ValueError: names or options that are not known; data that do not suit the model.
    """
    made = make_model(model, data.num_dof, num_features, damped, seed)
    return fit(made, data, inference=make_engine(engine), seed=seed, progress=False)

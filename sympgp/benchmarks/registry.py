"""Models and inference engines by the short names that the benchmarks know them by.

Add one with a line in ``MODELS`` or ``ENGINES``. A name may be followed by options,
``gauss-newton:num_components=8``, which are handed to the function registered under it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, overload

from sympgp.dissipation import Conservative, Dissipation, Friction
from sympgp.energies import FourierEnergy, KANEnergy
from sympgp.inference import (
    MAP,
    NUTS,
    SGHMC,
    DeepEnsemble,
    DerivativeRegression,
    ExactGP,
    GaussNewton,
    Laplace,
    MCDropout,
    MeanFieldVI,
    StochasticVI,
    fit,
)
from sympgp.models import DHNN, HNN, LNN, SSGP, HamiltonianModel, NeuralODE
from sympgp.posterior import DerivativePosterior, Posterior
from sympgp.trajectories import StateDerivatives, Trajectories

Pair = tuple[str, str]
"""A model and an engine, by name."""
ModelMaker = Callable[..., HamiltonianModel]
"""``(num_dof, num_features, damped, seed, **options)`` to a model."""
EngineMaker = Callable[..., Any]
"""``(**options)`` to an engine, for trajectories, for pairs (x, dx/dt) or for both."""


def ssgp(
    num_dof: int, num_features: int, damped: bool, seed: int, **options: Any
) -> HamiltonianModel:
    """The symplectic spectrum Gaussian process; options are those of ``FourierEnergy``."""
    energy = FourierEnergy(num_dof, num_features, seed=seed, **options)
    return SSGP(num_dof, num_features, dissipation=_dissipation(damped), energy=energy)


def network(
    make: Callable[..., HamiltonianModel],
    num_dof: int,
    num_features: int,
    damped: bool,
    seed: int,
    width: int = 64,
    depth: int = 2,
    **options: Any,
) -> HamiltonianModel:
    """A network of ``depth`` hidden layers; other options are those of the model.

    Args:
        make: the model, from degrees of freedom and widths.
        num_dof: degrees of freedom.
        num_features: of no use here.
        damped: whether to learn friction, of models that do not learn it in another way.
        seed: of no use here: engines draw the first weights.
        width: of every hidden layer.
        depth: number of hidden layers.
        options: of the model.
    """
    model = make(num_dof, (width,) * depth, **options)
    own = damped and make not in (DHNN, NeuralODE)
    return replace(model, dissipation=_dissipation(own))


def _kan(num_dof: int, hidden: tuple[int, ...], **options: Any) -> HamiltonianModel:
    return HamiltonianModel(KANEnergy(num_dof, hidden, **options))


def _dissipation(damped: bool) -> Dissipation:
    return Friction() if damped else Conservative()


MODELS: dict[str, ModelMaker] = {
    "ssgp": ssgp,
    "hnn": partial(network, HNN),
    "dhnn": partial(network, DHNN),
    "lnn": partial(network, LNN),
    "node": partial(network, NeuralODE),
    "kan": partial(network, _kan, width=5, depth=1),
    "lnn-kan": partial(network, LNN, width=5, depth=1, network="kan"),
}
ENGINES: dict[str, EngineMaker] = {
    "gauss-newton": GaussNewton,
    "regression": DerivativeRegression,
    "exact": ExactGP,
    "map": MAP,
    "ensemble": DeepEnsemble,
    "meanfield": MeanFieldVI,
    "dropout": MCDropout,
    "laplace": Laplace,
    "sghmc": SGHMC,
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


def make_engine(text: str) -> Any:
    """The engine of this name.

    Raises:
        ValueError: another name or options that it does not take.
    """
    name, options = parse(text, ENGINES, "engine")
    try:
        return ENGINES[name](**options)
    except TypeError as error:
        raise ValueError(f"engine: {text!r} cannot be made: {error}") from error


@overload
def fit_named(
    model: str, engine: str, data: Trajectories, num_features: int, damped: bool, seed: int
) -> Posterior: ...


@overload
def fit_named(
    model: str, engine: str, data: StateDerivatives, num_features: int, damped: bool, seed: int
) -> DerivativePosterior: ...


def fit_named(
    model: str, engine: str, data: Any, num_features: int, damped: bool, seed: int
) -> Posterior | DerivativePosterior:
    """Fit trajectories or pairs by names; the seed is that of the features and of the engine.

    Raises:
        ValueError: names or options that are not known; data that do not suit the model.
    """
    made = make_model(model, data.num_dof, num_features, damped, seed)
    found: Posterior | DerivativePosterior = fit(
        made, data, inference=make_engine(engine), seed=seed, progress=False
    )
    return found

"""Inference engines and ``fit``."""

from sympgp.inference.base import InferenceEngine
from sympgp.inference.derivative_fit import DerivativeEngine, DerivativeRegression
from sympgp.inference.exact_gp import ExactGP
from sympgp.inference.fit import fit
from sympgp.inference.gauss_newton import GaussNewton
from sympgp.inference.networks import (
    MAP,
    SGHMC,
    DeepEnsemble,
    Laplace,
    MCDropout,
    MeanFieldVI,
    NetworkEngine,
)
from sympgp.inference.nuts import NUTS
from sympgp.inference.stochastic_vi import StochasticVI

__all__ = [
    "MAP",
    "NUTS",
    "SGHMC",
    "DeepEnsemble",
    "DerivativeEngine",
    "DerivativeRegression",
    "ExactGP",
    "GaussNewton",
    "InferenceEngine",
    "Laplace",
    "MCDropout",
    "MeanFieldVI",
    "NetworkEngine",
    "StochasticVI",
    "fit",
]

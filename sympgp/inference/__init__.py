"""Inference engines and ``fit``."""

from sympgp.inference.base import InferenceEngine
from sympgp.inference.fit import fit
from sympgp.inference.gauss_newton import GaussNewton

__all__ = ["GaussNewton", "InferenceEngine", "fit"]

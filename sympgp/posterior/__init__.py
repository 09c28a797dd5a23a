"""What every inference engine returns: the posterior over a field, its draws and its rollouts."""

from sympgp.posterior.component import (
    Component,
    GaussianComponent,
    JointDraws,
)
from sympgp.posterior.conditioning import MisfitWarning
from sympgp.posterior.derivative_posterior import DerivativePosterior
from sympgp.posterior.diagnostics import Diagnostics
from sympgp.posterior.draws import FunctionDraws, Marginal
from sympgp.posterior.posterior import Posterior
from sympgp.posterior.residuals import FitCheck, Residuals
from sympgp.posterior.sampled_component import SampledComponent
from sympgp.posterior.states import WindowStates
from sympgp.posterior.storage import load

__all__ = [
    "Component",
    "DerivativePosterior",
    "Diagnostics",
    "FitCheck",
    "FunctionDraws",
    "GaussianComponent",
    "JointDraws",
    "Marginal",
    "MisfitWarning",
    "Posterior",
    "Residuals",
    "SampledComponent",
    "WindowStates",
    "load",
]

"""What every inference engine returns: the posterior over a field, its draws and its rollouts."""

from sympgp.posterior.component import Component
from sympgp.posterior.diagnostics import Diagnostics
from sympgp.posterior.draws import FunctionDraws, Marginal
from sympgp.posterior.posterior import Posterior
from sympgp.posterior.states import WindowStates
from sympgp.posterior.storage import load

__all__ = [
    "Component",
    "Diagnostics",
    "FunctionDraws",
    "Marginal",
    "Posterior",
    "WindowStates",
    "load",
]

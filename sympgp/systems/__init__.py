"""Systems with known truth, simulators of noisy observations, and bundled measured data."""

from sympgp.systems.base import System
from sympgp.systems.chains import OscillatorChain
from sympgp.systems.hare_lynx import hare_lynx
from sympgp.systems.orbits import HenonHeiles, Kepler
from sympgp.systems.oscillators import Duffing, HarmonicOscillator
from sympgp.systems.pendula import DoublePendulum, Pendulum, SpringPendulum
from sympgp.systems.populations import LotkaVolterra

__all__ = [
    "DoublePendulum",
    "Duffing",
    "HarmonicOscillator",
    "HenonHeiles",
    "Kepler",
    "LotkaVolterra",
    "OscillatorChain",
    "Pendulum",
    "SpringPendulum",
    "System",
    "hare_lynx",
]

"""Systems with known truth, simulators of noisy observations, and bundled measured data."""

from sympgp.systems.base import System
from sympgp.systems.hare_lynx import hare_lynx
from sympgp.systems.oscillators import Duffing, HarmonicOscillator, Pendulum

__all__ = ["Duffing", "HarmonicOscillator", "Pendulum", "System", "hare_lynx"]

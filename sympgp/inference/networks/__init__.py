"""Engines for networks, and for whatever else is trained by descent."""

from sympgp.inference.networks.base import NetworkEngine
from sympgp.inference.networks.dropout import MCDropout
from sympgp.inference.networks.ensemble import MAP, DeepEnsemble
from sympgp.inference.networks.laplace import Laplace
from sympgp.inference.networks.sghmc import SGHMC
from sympgp.inference.networks.variational import MeanFieldVI

__all__ = ["MAP", "SGHMC", "DeepEnsemble", "Laplace", "MCDropout", "MeanFieldVI", "NetworkEngine"]

"""Oracles: distributions whose exact models are known in closed form, as reference solutions for tests."""

from .base import AbstractOracle as AbstractOracle, OracleModel as OracleModel
from .gaussian import Gaussian as Gaussian
from .gaussian_mixture import GaussianMixture as GaussianMixture

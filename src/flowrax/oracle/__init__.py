"""Oracles: distributions whose exact models are known in closed form, as reference solutions for tests."""

from .base import AbstractOracle as AbstractOracle, OracleModel as OracleModel
from .gaussians import Gaussian as Gaussian, GaussianMixture as GaussianMixture

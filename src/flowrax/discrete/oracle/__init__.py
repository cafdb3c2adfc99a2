"""Distributions of categorical events whose models are exact."""

from .base import AbstractCategoricalOracle as AbstractCategoricalOracle, ExactDenoiser as ExactDenoiser
from .markov import Markov as Markov
from .tables import Joint as Joint, Sites as Sites

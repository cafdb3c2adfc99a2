"""Distributions of categorical events whose models are exact."""

from .base import AbstractCategoricalOracle as AbstractCategoricalOracle, ExactDenoiser as ExactDenoiser, Joint as Joint
from .markov import Markov as Markov
from .sites import Sites as Sites

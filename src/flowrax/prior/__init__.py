"""Priors: the law of the source."""

from .base import AbstractPrior as AbstractPrior
from .gaussian import Gaussian as Gaussian

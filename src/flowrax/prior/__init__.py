"""Priors: the distribution of the noise, or of another source."""

from .base import AbstractGaussianPrior as AbstractGaussianPrior, AbstractPrior as AbstractPrior
from .centred import CentredGaussian as CentredGaussian, remove_centre as remove_centre
from .conditional import (
    Conditional as Conditional,
    bind_condition as bind_condition,
    bind_row as bind_row,
    check_range as check_range,
)
from .empirical import Empirical as Empirical
from .gaussian import Gaussian as Gaussian
from .scaled import (
    Blurred as Blurred,
    ScaledPrior as ScaledPrior,
    blurred as blurred,
    check_prior as check_prior,
    project as project,
    rescaled as rescaled,
)
from .spectral import CorrelatedGaussian as CorrelatedGaussian, Harmonic as Harmonic

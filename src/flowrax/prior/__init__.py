"""Priors: the distribution of the noise, or of another source."""

from .base import AbstractGaussianPrior as AbstractGaussianPrior, AbstractPrior as AbstractPrior
from .centred import CentredGaussian as CentredGaussian, remove_centre as remove_centre
from .conditional import Conditional as Conditional, check_range as check_range, given as given, row_of as row_of
from .correlated import CorrelatedGaussian as CorrelatedGaussian
from .empirical import Empirical as Empirical
from .gaussian import Gaussian as Gaussian
from .harmonic import Harmonic as Harmonic
from .scaled import (
    Blurred as Blurred,
    Scaled as Scaled,
    blurred as blurred,
    check_prior as check_prior,
    project as project,
    rescaled as rescaled,
)

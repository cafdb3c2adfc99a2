"""A density estimator that works in the units of the data."""

from .estimator import DensityEstimator as DensityEstimator, DensityFit as DensityFit
from .standardise import Standardiser as Standardiser

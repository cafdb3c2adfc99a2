"""Measurements of an event, given by the likelihood of their values."""

from .base import (
    AbstractFunctionOfEvent as AbstractFunctionOfEvent,
    AbstractObservation as AbstractObservation,
    Observation as Observation,
)
from .counts import Poisson as Poisson
from .gaussian import LinearGaussian as LinearGaussian, NonlinearGaussian as NonlinearGaussian
from .robust import Laplace as Laplace, StudentT as StudentT

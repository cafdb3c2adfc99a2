"""Measurements of an event, given by the likelihood of their values."""

from .base import (
    AbstractFunctionOfEvent as AbstractFunctionOfEvent,
    AbstractObservation as AbstractObservation,
    Observation as Observation,
    num_rows as num_rows,
    observation_of_row as observation_of_row,
)
from .counts import Poisson as Poisson
from .gaussian import LinearGaussian as LinearGaussian, NonlinearGaussian as NonlinearGaussian
from .operators import (
    AbstractOperator as AbstractOperator,
    Blur as Blur,
    Downsample as Downsample,
    FourierSubsample as FourierSubsample,
    Mask as Mask,
    Projection as Projection,
    linear_function as linear_function,
)
from .robust import Laplace as Laplace, StudentT as StudentT

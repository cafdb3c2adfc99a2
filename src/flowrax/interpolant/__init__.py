"""Interpolants: conditional paths between noise and data, and their velocities."""

from .affine import Affine as Affine
from .base import AbstractInterpolant as AbstractInterpolant
from .gamma import (
    AbstractGamma as AbstractGamma,
    Brownian as Brownian,
    Constant as Constant,
    Quadratic as Quadratic,
    SineSquared as SineSquared,
)
from .latent import EncoderDecoder as EncoderDecoder, Latent as Latent
from .mixture import Mixture as Mixture
from .path import AbstractCategoricalPath as AbstractCategoricalPath
from .reverse import (
    AbstractReverse as AbstractReverse,
    AveragedJoint as AveragedJoint,
    AveragedPosterior as AveragedPosterior,
    variational_term as variational_term,
)
from .sites import (
    at_class as at_class,
    invert as invert,
    log_or_infinity as log_or_infinity,
    mean_where as mean_where,
    probabilities_of as probabilities_of,
    spread as spread,
)
from .transitions import AbstractTransitions as AbstractTransitions, Ordinal as Ordinal, Transitions as Transitions

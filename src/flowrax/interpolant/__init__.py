"""Interpolants: the conditional path and its velocity."""

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
from .mixture import Mixture as Mixture, probabilities_of as probabilities_of, spread as spread

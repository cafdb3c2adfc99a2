"""Models: a network with its interpolant, prior and target, and the contracts of networks and models."""

from . import target as target
from .base import (
    AbstractContinuousModel as AbstractContinuousModel,
    AbstractModel as AbstractModel,
    AbstractPrediction as AbstractPrediction,
    AbstractWrappedModel as AbstractWrappedModel,
)
from .bridge import Bridge as Bridge
from .network import (
    AbstractAverageVelocity as AbstractAverageVelocity,
    AbstractFeatureNetwork as AbstractFeatureNetwork,
    AbstractNetwork as AbstractNetwork,
    AbstractTimelessNetwork as AbstractTimelessNetwork,
)
from .noise import gaussian_prior as gaussian_prior, scaled_score as scaled_score, shaped as shaped
from .preconditioner import (
    AbstractPreconditioner as AbstractPreconditioner,
    EDMPreconditioner as EDMPreconditioner,
    Unscaled as Unscaled,
)
from .trained import Model as Model, average_velocity as average_velocity
from .warp import WarpedModel as WarpedModel, warp as warp

r"""Models whose network is an average velocity."""

from .network import AbstractAverageVelocity
from .preconditioner import Unscaled
from .target import Velocity
from .trained import Model


def average_velocity(model: Model) -> AbstractAverageVelocity:
    """The network of a model of the average velocity. Raises `ValueError` for any other model."""
    plain = isinstance(model.preconditioner, Unscaled) and isinstance(model.target, Velocity)
    if not isinstance(model.network, AbstractAverageVelocity) or not plain:
        raise ValueError(
            "The model has no average velocity; build it as Model(nn.AverageVelocity(network), schedule), with the "
            "target Velocity() and no preconditioner."
        )
    return model.network

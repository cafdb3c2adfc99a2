"""Networks `network(t, x, condition)` that act on one event."""

from .average import AverageVelocity as AverageVelocity
from .dit import DiT as DiT
from .energy import (
    EnergyGradient as EnergyGradient,
    Timeless as Timeless,
    dot_energy as dot_energy,
    norm_energy as norm_energy,
)
from .features import FourierFeatures as FourierFeatures
from .mlp import MLP as MLP, ResidualMLP as ResidualMLP
from .projected import Projected as Projected, Projector as Projector
from .transformer import Transformer as Transformer
from .unet import UNet as UNet

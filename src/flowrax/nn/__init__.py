"""Networks `network(t, x, condition)` that act on one event."""

from .context import FourierFeatures as FourierFeatures
from .dit import DiT as DiT
from .mlp import MLP as MLP, ResidualMLP as ResidualMLP
from .transformer import Transformer as Transformer
from .unet import UNet as UNet
from .wrapped import (
    AverageVelocity as AverageVelocity,
    EnergyGradient as EnergyGradient,
    Projected as Projected,
    Projector as Projector,
    Timeless as Timeless,
    dot_energy as dot_energy,
    norm_energy as norm_energy,
)

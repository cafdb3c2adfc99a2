"""Networks `network(t, x, condition)` for one event."""

from .features import FourierFeatures as FourierFeatures
from .mlp import MLP as MLP, ResidualMLP as ResidualMLP

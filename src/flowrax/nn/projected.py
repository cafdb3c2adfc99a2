"""A network with the three-layer projector of representation alignment (Yu et al. 2025, appendix A)."""

import equinox as eqx
import jax

from .._base.typing import Array, Condition, Event, KeyArray, Scalar
from ..model.network import AbstractFeatureNetwork


class Projector(eqx.Module):
    """A map of one feature vector: three linear layers with SiLU activations between them."""

    layers: tuple[eqx.nn.Linear, ...]

    def __init__(self, size: int, hidden: int, out_size: int, *, key: KeyArray) -> None:
        """**Arguments:**

        - `size`, `hidden`, `out_size`: the widths of the input, the two hidden layers and the output.
        - `key`: draws the weights.
        """
        widths, keys = (size, hidden, hidden, out_size), jax.random.split(key, 3)
        self.layers = tuple(eqx.nn.Linear(a, b, key=k) for a, b, k in zip(widths[:-1], widths[1:], keys, strict=True))

    def __call__(self, v: Array) -> Array:
        for layer in self.layers[:-1]:
            v = jax.nn.silu(layer(v))
        return self.layers[-1](v)


class Projected(AbstractFeatureNetwork):
    """A network whose hidden features are the features of one block, mapped by a jointly trained projector."""

    network: AbstractFeatureNetwork
    projector: Projector
    block: int = eqx.field(static=True)

    def __init__(self, network: AbstractFeatureNetwork, projector: Projector, block: int) -> None:
        """**Arguments:**

        - `network`: a network that returns the features of its blocks, such as [`DiT`][].
        - `projector`: maps these features to the width of the encoder's features.
        - `block`: the index of the block; 0 is the first.
        """
        self.network, self.projector, self.block = network, projector, block

    def hidden(
        self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> tuple[Event, tuple[Array, ...]]:
        output, hidden = self.network.hidden(t, x, condition, key=key)
        project = self.projector
        features = hidden[self.block]
        flat = jax.vmap(project)(features.reshape(-1, features.shape[-1]))
        return output, (flat.reshape(*features.shape[:-1], flat.shape[-1]),)

r"""Networks that wrap another network: without its time, as a gradient, with a second time, or with a projector."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import check_count
from .._base.typing import Array, Condition, Event, KeyArray, Network, Scalar
from ..model.network import (
    AbstractAverageVelocity,
    AbstractFeatureNetwork,
    AbstractNetwork,
    AbstractTimelessNetwork,
    call_network,
)


class Timeless(AbstractTimelessNetwork):
    """Makes a network time-independent by always passing time zero; a model of it has no score."""

    network: Network

    def __call__(self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None) -> Event:
        return call_network(self.network, jnp.zeros_like(t), x, condition, key=key)


def dot_energy(x: Event, output: Event) -> Array:
    r"""$\langle x, F(x) \rangle$.

    **Arguments:**

    - `x`, `output`: one event, and the output $F(x)$ of the network, of the same shape.

    **Returns:** a scalar.
    """
    return jnp.sum(x * output)


def norm_energy(x: Event, output: Event) -> Array:
    r"""$-\tfrac12 \lVert F(x) \rVert^2$.

    **Arguments:**

    - `x`, `output`: one event, and the output $F(x)$ of the network.

    **Returns:** a scalar.
    """
    return -jnp.sum(output**2) / 2


class EnergyGradient(AbstractNetwork):
    r"""Minus the gradient of an energy that is computed from a network's output, $f = -\nabla_x E$ (Wang & Du 2025,
    section 3.3).

    `form(x, output)` is the energy, a scalar. If the output of the network is the energy itself, pass
    `form=lambda x, output: output`. Default: `dot_energy`.
    """

    network: Network
    form: Callable[[Event, Array], Array] = eqx.field(static=True, default=dot_energy)

    def energy(self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        """The energy of one event, a scalar."""
        return self.form(x, call_network(self.network, t, x, condition, key=key))

    def __call__(self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None) -> Event:
        return -jax.grad(lambda x: self.energy(t, x, condition, key=key))(x)


class AverageVelocity(AbstractAverageVelocity):
    """Passes the length of the averaging interval to an ordinary network as a part of its condition.

    The network is called as `network(t, x, (r - t, condition))`. [`MLP`][] and [`ResidualMLP`][] need one more element
    in `condition_size` for this, and [`DiT`][] and [`UNet`][] one more in `vector_size`.
    """

    network: Network

    def average(
        self, t: Scalar, r: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Event:
        return call_network(self.network, t, x, (r - t, condition), key=key)


class Projector(eqx.Module, metaclass=Checked):
    """The projector of representation alignment (Yu et al. 2025, appendix A): three linear layers with SiLU between."""

    layers: tuple[eqx.nn.Linear, ...]

    def __init__(self, size: int, hidden: int, out_size: int, *, key: KeyArray) -> None:
        """**Arguments:**

        - `size`, `hidden`, `out_size`: the widths of the input, the two hidden layers and the output.
        - `key`: draws the weights.
        """
        for name, width in (("size", size), ("hidden", hidden), ("out_size", out_size)):
            check_count(name, width)
        widths, keys = (size, hidden, hidden, out_size), jax.random.split(key, 3)
        self.layers = tuple(eqx.nn.Linear(a, b, key=k) for a, b, k in zip(widths[:-1], widths[1:], keys, strict=True))

    def __call__(self, v: Array) -> Array:
        for layer in self.layers[:-1]:
            v = jax.nn.silu(layer(v))
        return self.layers[-1](v)


class Projected(AbstractFeatureNetwork):
    """A network whose hidden features are the features of one block, mapped by a jointly trained projector."""

    network: AbstractFeatureNetwork
    """A network that returns the features of its blocks, such as [`DiT`][]."""
    projector: Projector
    """Maps these features to the width of the encoder's features."""
    block: int = eqx.field(static=True)
    """The index of the block; 0 is the first."""

    def hidden(
        self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> tuple[Event, tuple[Array, ...]]:
        output, hidden = self.network.hidden(t, x, condition, key=key)
        features = hidden[self.block]
        flat = jax.vmap(self.projector)(features.reshape(-1, features.shape[-1]))
        return output, (flat.reshape(*features.shape[:-1], flat.shape[-1]),)

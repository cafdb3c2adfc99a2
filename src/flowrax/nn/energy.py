r"""Time-independent fields, and fields that are the gradient of an energy, $f = -\nabla_x E$."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.typing import Array, Condition, Event, KeyArray, Network, Scalar
from ..model.network import AbstractNetwork, AbstractTimelessNetwork, call_network


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
    """Minus the gradient of an energy that is computed from a network's output (Wang & Du 2025, section 3.3).

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

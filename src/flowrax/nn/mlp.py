r"""Multilayer perceptrons of $[\text{features}(t), c, x]$."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_count, check_fraction, check_shape
from .._base.typing import Array, Condition, Event, KeyArray, Scalar, Shape
from ..model.network import AbstractNetwork
from .context import FourierFeatures, flat_condition, zeroed

Activation = Callable[[Array], Array]


class MLP(AbstractNetwork):
    """A multilayer perceptron of the flattened event, the time features and the flattened condition."""

    features: FourierFeatures
    layers: tuple[eqx.nn.Linear, ...]
    activation: Activation = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)
    condition_size: int = eqx.field(static=True)

    def __init__(
        self,
        shape: Shape,
        *,
        key: KeyArray,
        condition_size: int = 0,
        width: int = 256,
        depth: int = 3,
        activation: Activation = jax.nn.silu,
        num_frequencies: int = 8,
        frequency_scale: float = 1.0,
    ) -> None:
        """**Arguments:**

        - `shape`: the shape of one event.
        - `key`: draws frequencies and weights.
        - `condition_size`: the total number of elements of all leaves of a condition; 0 for no condition.
        - `width`: number of units of each hidden layer.
        - `depth`: number of hidden layers.
        - `activation`: the activation function, elementwise.
        - `num_frequencies`, `frequency_scale`: the number and scale of the time features; see [`FourierFeatures`][].
        """
        width, depth = check_count("width", width), check_count("depth", depth, 0)
        condition_size = check_count("condition_size", condition_size, 0)
        self.shape, self.activation, self.condition_size = tuple(shape), activation, condition_size
        size = math.prod(self.shape)
        feature_key, *keys = jax.random.split(key, depth + 2)
        self.features = FourierFeatures(num_frequencies, frequency_scale, key=feature_key)
        widths = (2 * num_frequencies + size + condition_size, *([width] * depth), size)
        self.layers = tuple(
            eqx.nn.Linear(fan_in, fan_out, key=k)
            for fan_in, fan_out, k in zip(widths[:-1], widths[1:], keys, strict=True)
        )

    def __call__(self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None) -> Event:
        check_shape("The network's event", x.shape, self.shape)
        vector = flat_condition(condition, x.dtype, self.condition_size)
        h = jnp.concatenate([self.features(t, x.dtype), vector, x.reshape(-1)])
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        return self.layers[-1](h).reshape(x.shape)


class _Block(eqx.Module):
    """A residual block: a layer norm, a linear layer plus a linear map of the context, and a linear layer."""

    norm: eqx.nn.LayerNorm
    widen: eqx.nn.Linear
    inject: eqx.nn.Linear
    contract: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, width: int, context_size: int, dropout: float, *, key: KeyArray) -> None:
        keys = jax.random.split(key, 3)
        self.norm = eqx.nn.LayerNorm(width)
        self.widen = eqx.nn.Linear(width, width, key=keys[0])
        self.inject = eqx.nn.Linear(context_size, width, use_bias=False, key=keys[1])
        # At initialisation the block is the identity.
        self.contract = zeroed(eqx.nn.Linear(width, width, key=keys[2]))
        self.dropout = eqx.nn.Dropout(dropout)

    def __call__(self, h: Array, context: Array, activation: Activation, key: KeyArray | None) -> Array:
        inner = activation(self.widen(self.norm(h)) + self.inject(context))
        inner = self.dropout(inner, key=key, inference=key is None)
        return h + self.contract(activation(inner))


class ResidualMLP(AbstractNetwork):
    """A residual perceptron: time and condition enter every block, and each block is the identity at initialisation."""

    features: FourierFeatures
    embed: eqx.nn.Linear
    read_in: eqx.nn.Linear
    blocks: tuple[_Block, ...]
    norm: eqx.nn.LayerNorm
    read_out: eqx.nn.Linear
    activation: Activation = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)
    condition_size: int = eqx.field(static=True)

    def __init__(
        self,
        shape: Shape,
        *,
        key: KeyArray,
        width: int = 256,
        depth: int = 4,
        condition_size: int = 0,
        activation: Activation = jax.nn.silu,
        num_frequencies: int = 8,
        frequency_scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        """**Arguments:**

        - `shape`: the shape of one event.
        - `key`: draws frequencies and weights.
        - `width`: the width of the residual stream.
        - `depth`: the number of blocks.
        - `condition_size`: the total number of elements of all leaves of a condition; 0 for no condition.
        - `activation`: the activation function, elementwise.
        - `num_frequencies`, `frequency_scale`: the number and scale of the time features; see [`FourierFeatures`][].
        - `dropout`: the probability of dropping a hidden unit in training.
        """
        width, depth = check_count("width", width), check_count("depth", depth, 0)
        condition_size = check_count("condition_size", condition_size, 0)
        check_fraction("dropout", dropout)
        self.shape, self.activation, self.condition_size = tuple(shape), activation, condition_size
        size, context = math.prod(self.shape), 2 * num_frequencies + condition_size
        keys = jax.random.split(key, depth + 4)
        self.features = FourierFeatures(num_frequencies, frequency_scale, key=keys[0])
        self.embed = eqx.nn.Linear(context, width, key=keys[1])
        self.read_in = eqx.nn.Linear(size, width, key=keys[2])
        self.blocks = tuple(_Block(width, width, dropout, key=k) for k in keys[4:])
        self.norm = eqx.nn.LayerNorm(width)
        self.read_out = eqx.nn.Linear(width, size, key=keys[3])

    def __call__(self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None) -> Event:
        check_shape("The network's event", x.shape, self.shape)
        vector = flat_condition(condition, x.dtype, self.condition_size)
        context = self.activation(self.embed(jnp.concatenate([self.features(t, x.dtype), vector])))
        h = self.read_in(x.reshape(-1))
        for index, block in enumerate(self.blocks):
            own = None if key is None else jax.random.fold_in(key, index)
            h = block(h, context, self.activation, own)
        return self.read_out(self.norm(h)).reshape(x.shape)

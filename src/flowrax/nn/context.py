r"""The embedding of time, class and vector condition, $c = W_2\, \text{silu}(W_1 \phi(t)) + E_y + V z$.

Time enters by Gaussian Fourier features, $\phi(t) = [\sin 2\pi W t, \cos 2\pi W t]$ with frozen
$W \sim \mathcal{N}(0, s^2)$.
"""

import functools
import math
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.arguments import Checked
from .._base.arrays import as_floats
from .._base.checks import check_count, check_positive, check_shape, is_traced, time_dtype
from .._base.typing import Array, Condition, DType, KeyArray, Numbers, Scalar, Shape

Layer = TypeVar("Layer", bound=eqx.Module)


class FourierFeatures(eqx.Module, metaclass=Checked):
    """Fourier features of a scalar time; the frequencies are constants that neither optimisers nor weight decay change.

    **Reference:** [@tancik2020fourier].
    """

    bits: Array
    """The bits of the frequencies. They are integers, so that they are no part of what is trained or cast, and an
    array, so that networks made with different keys share their compiled programs."""

    def __init__(
        self,
        num_frequencies: int | None = None,
        scale: float = 1.0,
        *,
        key: KeyArray | None = None,
        frequencies: Numbers | None = None,
    ) -> None:
        """**Arguments:**

        - `num_frequencies`: the number of frequencies, half the number of features.
        - `scale`: the standard deviation of the frequencies. High frequencies make the field rough in time, and solving
            its ODE costly.
        - `key`: draws the frequencies.
        - `frequencies`: the frequencies of a trained network, `(num_frequencies,)`, in place of a draw.

        Raises `ValueError` unless either `num_frequencies` and `key` or `frequencies` are given.
        """
        if (frequencies is None) == (num_frequencies is None or key is None):
            raise ValueError("FourierFeatures needs either num_frequencies and key, or frequencies.")
        if frequencies is None:
            assert num_frequencies is not None and key is not None
            check_positive("frequency_scale", scale)
            drawn = scale * random.normal(key, (check_count("num_frequencies", num_frequencies, 0),))
        else:
            (drawn,) = as_floats(frequencies=frequencies)
            check_shape("frequencies", drawn.shape, (drawn.size,))
            drawn = drawn.astype(time_dtype(drawn.dtype))
        self.bits = jax.lax.bitcast_convert_type(drawn, jnp.dtype(f"int{8 * drawn.dtype.itemsize}"))

    @property
    def frequencies(self) -> Array:
        """The frequencies, `(num_frequencies,)`."""
        if not jnp.issubdtype(self.bits.dtype, jnp.integer):
            raise ValueError(
                f"FourierFeatures holds its constant frequencies as the bits of integers, and they became "
                f"{self.bits.dtype}; change only the leaves for which eqx.is_inexact_array is true."
            )
        return jax.lax.bitcast_convert_type(self.bits, jnp.dtype(f"float{8 * self.bits.dtype.itemsize}"))

    def __call__(self, t: Scalar, dtype: DType) -> Array:
        """The features at time `t`, `(2 * num_frequencies,)`."""
        angle = 2 * jnp.pi * self.frequencies.astype(dtype) * jnp.asarray(t, dtype)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)])


def flat_condition(condition: object, dtype: DType, size: int | None = None) -> Array:
    """All leaves of a condition concatenated to one vector, empty for None; raises `ValueError` for another size."""
    leaves = map(functools.partial(jnp.asarray, dtype=dtype), jax.tree.leaves(condition))
    vector = jnp.concatenate([jnp.zeros(0, dtype), *map(jnp.ravel, leaves)])
    if size is not None and vector.size != size:
        raise ValueError(f"The condition has {vector.size} elements but the network takes {size}.")
    return vector


class Context(eqx.Module):
    """The embedding of the time and the condition, which a network takes in addition to the event.

    The condition may have any structure: its one integer leaf is the class, and its floating leaves are concatenated to
    one vector. An invalid label raises a `ValueError` if it is concrete, and gives NaN if it is traced.
    """

    features: FourierFeatures | None
    widen: eqx.nn.Linear | None
    mix: eqx.nn.Linear | None
    classes: eqx.nn.Embedding | None
    vector: eqx.nn.Linear | None
    size: int = eqx.field(static=True)
    """The size of the embedding; 0 without time and condition."""
    num_classes: int = eqx.field(static=True)
    vector_size: int = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        *,
        key: KeyArray,
        num_classes: int = 0,
        vector_size: int = 0,
        num_frequencies: int = 16,
        frequency_scale: float = 1.0,
        time: bool = True,
    ) -> None:
        """**Arguments:**

        - `width`: the size of the embedding.
        - `key`: draws frequencies and weights.
        - `num_classes`: the number of classes, with labels from 0 to `num_classes - 1`; the label `num_classes` stands
            for no class. With 0 there is no label.
        - `vector_size`: the number of floating elements of a condition.
        - `num_frequencies`, `frequency_scale`: the number and scale of the time features; see [`FourierFeatures`][].
        - `time`: whether to embed the time.
        """
        width, num_classes = check_count("width", width), check_count("num_classes", num_classes, 0)
        vector_size = check_count("vector_size", vector_size, 0)
        keys = jax.random.split(key, 5)
        self.features = FourierFeatures(num_frequencies, frequency_scale, key=keys[0]) if time else None
        self.widen = eqx.nn.Linear(2 * num_frequencies, width, key=keys[1]) if time else None
        self.mix = eqx.nn.Linear(width, width, key=keys[2]) if time else None
        self.classes = eqx.nn.Embedding(num_classes + 1, width, key=keys[3]) if num_classes else None
        self.vector = eqx.nn.Linear(vector_size, width, use_bias=False, key=keys[4]) if vector_size else None
        self.num_classes, self.vector_size = num_classes, vector_size
        self.size = width if time or num_classes or vector_size else 0

    def __call__(self, t: Scalar, condition: Condition, dtype: DType) -> Array:
        """The embedding, `(size,)`. Raises `ValueError` for a condition with booleans or another number of elements."""
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(condition)]
        labels = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.integer)]
        if any(leaf.dtype == bool for leaf in leaves):
            raise ValueError("The condition has booleans; convert them to floats to make them elements of the vector.")
        vector = flat_condition([leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)], dtype)
        num_labels = sum(label.size for label in labels)
        wanted = int(self.classes is not None), self.vector_size
        if (num_labels, vector.shape[0]) != wanted:
            raise ValueError(
                f"The condition has {num_labels} integer labels and {vector.shape[0]} floating elements but the "
                f"network takes {wanted[0]} and {wanted[1]}."
            )
        total = jnp.zeros(self.size, dtype)
        if self.features is not None:
            assert self.widen is not None and self.mix is not None
            total = self.mix(jax.nn.silu(self.widen(self.features(t, dtype))))
        if self.classes is not None:
            total = total + self._class(labels[0].reshape(()))
        return total if self.vector is None else total + self.vector(vector)

    def _class(self, label: Array) -> Array:
        assert self.classes is not None
        known = (label >= 0) & (label <= self.num_classes)
        if not is_traced(known) and not known:
            raise ValueError(
                f"The label {label} is none of the {self.num_classes} classes, which count from 0; "
                f"{self.num_classes} is the label of no class."
            )
        return jnp.where(known, self.classes(label), jnp.nan)


def check_image(shape: Shape, divisor: int, reason: str) -> Shape:
    """Raises `ValueError` unless `shape` is `(channels, height, width)` with sides that `divisor` divides."""
    if len(shape) != 3 or any(side % divisor for side in shape[1:]) or math.prod(shape) == 0:
        raise ValueError(
            f"shape={tuple(shape)} must be (channels, height, width) with sides divisible by {divisor}, {reason}."
        )
    return tuple(shape)


def zeroed(layer: Layer) -> Layer:
    """The layer with all its weights and biases set to zero."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if eqx.is_inexact_array(leaf) else leaf, layer)

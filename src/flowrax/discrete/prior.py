r"""Categorical priors: the sites of an event are independent draws of one of $K$ classes with probabilities $\pi$."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._base import random
from .._base.arrays import as_numbers
from .._base.checks import check_count, is_traced
from .._base.typing import Array, DType, KeyArray, Numbers, Shape, Tokens
from ..prior import AbstractPrior

TOKENS = jnp.dtype(jnp.int32)
"""The dtype of tokens."""


class AbstractCategoricalPrior(AbstractPrior):
    """A distribution of events whose sites are independent integers in `0 ... num_classes - 1`."""

    dtype: ClassVar[DType] = TOKENS
    num_classes: eqx.AbstractVar[int]
    """The number `K` of classes of a state, which includes the mask if there is one."""
    mask: eqx.AbstractVar[int | None]
    """The class that is the mask, which does not occur in the data. None if the prior has no mask."""
    probabilities: eqx.AbstractVar[Array]
    r"""The probability $\pi$ of each class, `(K,)`."""

    @property
    def rank(self) -> int:
        """Zero, because the prior has probabilities and not a density."""
        return 0

    def draw(self, key: KeyArray) -> Tokens:
        if self.mask is not None:
            return jnp.full(self.shape, self.mask, self.dtype)
        return random.categorical(key, jnp.log(self.probabilities), shape=self.shape).astype(self.dtype)

    def log_density(self, x: Tokens) -> Array:
        """The log-probability of one event, a scalar in nats."""
        return jnp.sum(jnp.log(self.probabilities)[x])


class Categorical(AbstractCategoricalPrior):
    """Classes with user-defined probabilities, for example their frequencies in the data."""

    probabilities: Array
    shape: Shape = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)
    mask: None = eqx.field(static=True, default=None)

    def __init__(self, shape: Shape, probabilities: Numbers):
        """**Arguments:**

        - `shape`: the shape of one event.
        - `probabilities`: the probability of each class, `(K,)`. Raises `ValueError` unless they are not negative and
            sum to one.
        """
        self.shape = tuple(shape)
        self.probabilities = as_numbers("probabilities", probabilities, float)
        if self.probabilities.ndim != 1 or not self.probabilities.size:
            raise ValueError(f"probabilities must be a list of numbers; got shape {self.probabilities.shape}.")
        self.num_classes = len(self.probabilities)
        if not is_traced(self.probabilities):
            given = np.asarray(probabilities, np.float64)
            if given.ndim != 1 or np.any(given < 0) or not abs(given.sum() - 1) < 1e-5:
                raise ValueError(
                    "probabilities must be a list of numbers that are not negative and sum to one; got shape "
                    f"{given.shape}, smallest {given.min():g}, sum {given.sum():g}."
                )


class UniformCategorical(AbstractCategoricalPrior):
    """Classes with equal probabilities."""

    shape: Shape = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)
    mask: None = eqx.field(static=True, default=None)

    def __init__(self, shape: Shape, num_classes: int):
        """**Arguments:**

        - `shape`: the shape of one event.
        - `num_classes`: the number of classes `K`. Raises `ValueError` below 2.
        """
        self.shape = tuple(shape)
        self.num_classes = _at_least_two(num_classes)

    @property
    def probabilities(self) -> Array:
        return jnp.full(self.num_classes, 1 / self.num_classes)


class Masked(AbstractCategoricalPrior):
    """The prior under which every site is masked.

    The mask is one of the `K` classes of a state, and a network returns logits for all `K`. The logit of the mask is
    ignored, because the data contain no mask. Use [`Masked.exclusive`][] to add the mask to the classes of the data.
    """

    shape: Shape = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)
    mask: int = eqx.field(static=True)

    def __init__(self, shape: Shape, num_classes: int, mask: int | None = None):
        """**Arguments:**

        - `shape`: the shape of one event.
        - `num_classes`: the number of classes `K`, including the mask. Raises `ValueError` below 2.
        - `mask`: the class of the mask, the absorbing state. Default: `K - 1`, the last class. Raises `ValueError`
            outside `0 ... K - 1`.
        """
        self.shape = tuple(shape)
        self.num_classes = _at_least_two(num_classes)
        self.mask = self.num_classes - 1 if mask is None else check_count("mask", mask, None)
        if not 0 <= self.mask < num_classes:
            raise ValueError(f"mask={mask} is not one of the classes 0, ..., {num_classes - 1}.")

    @classmethod
    def exclusive(cls, shape: Shape, num_classes: int) -> "Masked":
        """The masked prior for data with `num_classes` classes. The mask is the additional class `num_classes`."""
        return cls(shape, num_classes + 1)

    @property
    def probabilities(self) -> Array:
        return jnp.zeros(self.num_classes).at[self.mask].set(1.0)


def pad_classes(logits: Array) -> Array:
    """Appends a zero for the mask, as the last class, to logits or one-hot vectors of the classes of the data.

    **Arguments:**

    - `logits`: logits or one-hot vectors, `(..., K)`.

    **Returns:** the same values with a zero appended, `(..., K + 1)`.
    """
    return jnp.concatenate([logits, jnp.zeros_like(logits[..., :1])], axis=-1)


def _at_least_two(num_classes: int) -> int:
    return check_count("num_classes", num_classes, 2)

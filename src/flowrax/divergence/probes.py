"""Distributions of random probes with identity covariance."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.arguments import Checked
from .._base.checks import time_dtype
from .._base.typing import Array, DType, KeyArray, Shape


class AbstractProbes(eqx.Module, metaclass=Checked):
    r"""A joint distribution of random vectors $\epsilon$, each with $\mathbb{E}[\epsilon \epsilon^\top] = I$."""

    @abc.abstractmethod
    def __call__(self, key: KeyArray, shape: Shape, dtype: DType) -> Array:
        """Draws `num` probes, an array of shape `shape`, which is `(num, *event)`."""

    @abc.abstractmethod
    def error_ratio(self, num: int, size: int) -> float:
        """The standard error of the mean over `num` probes of `size` elements, relative to independent probes."""


class Rademacher(AbstractProbes):
    """Random signs: the least variance among independent entries, and zero variance for a diagonal Jacobian."""

    def __call__(self, key: KeyArray, shape: Shape, dtype: DType) -> Array:
        return random.rademacher(key, shape, dtype)

    def error_ratio(self, num: int, size: int) -> float:
        return 1.0


class GaussianProbes(AbstractProbes):
    """Standard normal entries."""

    def __call__(self, key: KeyArray, shape: Shape, dtype: DType) -> Array:
        return random.normal(key, shape, dtype)

    def error_ratio(self, num: int, size: int) -> float:
        return 1.0


class Sphere(AbstractProbes):
    r"""Vectors uniform on the sphere of radius $\sqrt d$: Gaussian vectors rescaled to a fixed length."""

    def __call__(self, key: KeyArray, shape: Shape, dtype: DType) -> Array:
        num, *event = shape
        directions = random.normal(key, (num, math.prod(event)), time_dtype(dtype))
        lengths = jnp.linalg.norm(directions, axis=1, keepdims=True)
        return (directions / lengths * math.sqrt(math.prod(event))).astype(dtype).reshape(shape)

    def error_ratio(self, num: int, size: int) -> float:
        return 1.0


class Hadamard(AbstractProbes):
    r"""Distinct random rows of a Hadamard matrix of order $N = 2^m \ge d$, with random signs of its columns.

    The first $d$ columns are used. They are orthogonal, $\sum_a h_{ai} h_{aj} = N \delta_{ij}$, so the mean of
    $\epsilon^\top J \epsilon$ over all $N$ rows is the trace for any signs. The $k$ rows, drawn without replacement,
    are a simple random sample from a finite population with this mean. Hence (Cochran 1977, theorems 2.1 to 2.4) the
    estimate is unbiased for every $d$, and $(1 - k / N)\, s^2 / k$ is an unbiased estimate of its variance, where $s^2$
    is the sample variance of the $k$ terms. With $k = N$ the estimate is exact.

    Drawing more than $N$ probes raises `ValueError`.

    **Reference:** [@cochran1977sampling].
    """

    def __call__(self, key: KeyArray, shape: Shape, dtype: DType) -> Array:
        num, *event = shape
        size = math.prod(event)
        order = self.num_rows(size)
        if num > order:
            raise ValueError(
                f"Hadamard has {order} rows for events of {size} elements, which give the trace exactly; got "
                f"num_probes={num}, use at most {order}."
            )
        row_key, sign_key = jax.random.split(random.as_threefry(key))
        rows = random.permutation(row_key, order)[:num]
        # Sylvester's matrix: entry (a, i) is (-1)^n, where n is the number of ones that a and i share in binary.
        shared = jax.lax.population_count(rows[:, None] & jnp.arange(size)[None, :])
        signs = random.rademacher(sign_key, (size,), dtype)
        return ((1 - 2 * (shared % 2)).astype(dtype) * signs[None, :]).reshape(shape)

    def num_rows(self, size: int) -> int:
        """The order of the matrix: the smallest power of two that is at least `size`."""
        return 1 << (size - 1).bit_length()

    def error_ratio(self, num: int, size: int) -> float:
        return math.sqrt(1 - num / self.num_rows(size))

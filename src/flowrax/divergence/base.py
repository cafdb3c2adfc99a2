r"""The divergence interface: $\nabla \cdot v = \operatorname{tr} J$ with $J = \partial v / \partial x$.

A solve carries a random divergence as several estimates. Their mean estimates the trace, and the standard error of the
mean, computed as if the estimates were independent, is its error. Estimators with dependent terms rescale the
deviations so that this formula is correct. Integration in time is linear and the probes are fixed, so the same formula
holds for the estimates of the log-density.

The probes are drawn once and kept for the whole solve. An estimate with new probes at every evaluation would not be
differentiable in time, and an adaptive solver would reduce its step size indefinitely.
"""

import abc
import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.typing import Array, Event, KeyArray

VectorField = Callable[[Event], Event]


class AbstractDivergence(eqx.Module, metaclass=Checked):
    """An exact or random method for the divergence of a vector field of one event."""

    needs_key: eqx.AbstractClassVar[bool]
    """Whether the method is random, so that `probes` needs a key."""

    @property
    @abc.abstractmethod
    def num_estimates(self) -> int:
        """The number of estimates that a solve carries."""

    @abc.abstractmethod
    def probes(self, key: KeyArray | None, x: Event) -> Array | None:
        """The random probes, drawn once per solve, for events like `x`. None if the method is exact.

        Raises `ValueError` if the method is random and `key` is None.
        """

    @abc.abstractmethod
    def __call__(self, field: VectorField, x: Event, probes: Array | None) -> tuple[Event, Array]:
        """`field(x)`, and the estimates of its divergence, `(num_estimates,)`."""

    @abc.abstractmethod
    def standard_error(self, estimates: Array) -> Array:
        """The standard error of the mean of `estimates` over the last axis, which has length `num_estimates`."""


class AbstractRandomDivergence(AbstractDivergence):
    """A random method whose estimates are independent, or rescaled to be as spread as independent ones."""

    needs_key: ClassVar[bool] = True

    @abc.abstractmethod
    def draw_probes(self, key: KeyArray, x: Event) -> Array:
        """The random probes for events like `x`."""

    def probes(self, key: KeyArray | None, x: Event) -> Array:
        if key is None:
            raise ValueError(f"{type(self).__name__} draws probes; pass key=jax.random.key(...).")
        return self.draw_probes(key, x)

    def standard_error(self, estimates: Array) -> Array:
        """The standard error of the mean of independent estimates; infinite for a single estimate."""
        num = estimates.shape[-1]
        if num == 1:
            return jnp.full_like(estimates[..., 0], jnp.inf)
        # Subtract the first estimate, so that equal estimates give exactly zero.
        deviation = estimates - estimates[..., :1]
        spread = jnp.sum((deviation - jnp.mean(deviation, axis=-1, keepdims=True)) ** 2, axis=-1)
        variance = spread / (num * (num - 1))
        # The square root is not differentiable at zero; select the value there and set its derivative to zero.
        positive = variance > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)


def jacobian_products(field: VectorField, x: Event) -> tuple[Event, Callable[[Array], Array]]:
    """`field(x)`, and the map from `k` vectors, `(k, d)` with the event flattened, to their products with the Jacobian.

    The products are with the transposed Jacobian, which has the same trace. Reverse mode was measured to be faster,
    and some layers define no forward mode.
    """
    value, pull = jax.vjp(field, x)
    return value, jax.vmap(lambda vector: pull(vector.reshape(x.shape))[0].reshape(-1))


def exact_trace(products: Callable[[Array], Array], x: Event) -> Array:
    """The exact trace from products with all basis vectors, for estimators with at least `d` products."""
    return jnp.trace(products(jnp.eye(math.prod(x.shape), dtype=x.dtype)))

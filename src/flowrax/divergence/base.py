r"""What a solve asks of a divergence $\nabla \cdot v = \operatorname{tr} J$, $J = \partial v / \partial x$.

A random divergence is carried through the solve as several estimates: their mean is the estimate of the trace, and
the standard error of that mean, taken as if they were independent, is its error. Estimators whose terms are not
independent scale the deviations so that this holds. Integration in time is linear and the probes stay the same, so
what holds for the estimates of the divergence holds for those of the log-density.

Probes are drawn once and kept for the whole solve: an estimate that changes between evaluations has no derivative in
time, and an adaptive solver would shrink its steps without end.
"""

import abc
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._typing import Array, Event, KeyArray

VectorField = Callable[[Event], Event]


class AbstractDivergence(eqx.Module):
    """A way to the divergence of a vector field of one event."""

    needs_key: eqx.AbstractClassVar[bool]

    @property
    @abc.abstractmethod
    def num_estimates(self) -> int:
        """How many estimates a solve carries."""

    @abc.abstractmethod
    def probes(self, key: KeyArray | None, x: Event) -> Array | None:
        """The random part, drawn once for a solve that starts or ends at `x`."""

    @abc.abstractmethod
    def __call__(self, field: VectorField, x: Event, probes: Array | None) -> tuple[Event, Array]:
        """`field(x)` and the `(num_estimates,)` estimates of its divergence."""

    @abc.abstractmethod
    def standard_error(self, estimates: Array) -> Array:
        """Of the mean of `estimates`, whose last axis is `num_estimates`."""


def standard_error_of_mean(estimates: Array) -> Array:
    """That of independent `estimates` along the last axis, infinite for a single one."""
    num = estimates.shape[-1]
    if num == 1:
        return jnp.full_like(estimates[..., 0], jnp.inf)
    # Deviations from the first estimate: equal estimates give zero to the bit.
    deviation = estimates - estimates[..., :1]
    spread = jnp.sum((deviation - jnp.mean(deviation, axis=-1, keepdims=True)) ** 2, axis=-1)
    variance = spread / (num * (num - 1))
    # The square root has no derivative at zero; its value there is wanted, not its slope.
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)


def jacobian_products(field: VectorField, x: Event) -> tuple[Event, Callable[[Array], Array]]:
    """`field(x)`, and the map from `(k, d)` vectors, an event flattened, to their `(k, d)` products with its Jacobian.

    With its transpose, to be exact, which has the same trace: reverse mode was measured to be faster, and is all that
    some layers define.
    """
    value, pull = jax.vjp(field, x)
    return value, jax.vmap(lambda vector: pull(vector.reshape(x.shape))[0].reshape(-1))


def exact_trace(products: Callable[[Array], Array], x: Event) -> Array:
    """The trace by products with the whole basis, for estimators that have as many to spend."""
    return jnp.trace(products(jnp.eye(math.prod(x.shape), dtype=x.dtype)))


def key_or_raise(divergence: AbstractDivergence, key: KeyArray | None) -> KeyArray:
    """Returns `key`; raises `ValueError` where there is none."""
    if key is None:
        raise ValueError(f"{type(divergence).__name__} draws probes; pass key=jax.random.key(...).")
    return key

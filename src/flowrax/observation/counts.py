r"""Counts $y_i \sim \operatorname{Poisson}(\lambda_i(x))$."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._base.arrays import as_floats
from .._base.checks import check_finite, is_traced
from .._base.typing import Array, Event, Shape
from .base import AbstractObservation, Measured, Values, batched_like, check_one, check_prediction, plain, row_shape


class Poisson(AbstractObservation):
    """Independent counts with rates that depend on the event."""

    rate_function: Callable[[Event], Array]
    y: Values

    def __init__(self, rate_function: Callable[[Event], Array], y: Measured) -> None:
        """**Arguments:**

        - `rate_function`: maps one event to the expected counts, positive numbers of the shape of `y`. An event with a
            negative rate has likelihood NaN; take `jnp.exp` or `jax.nn.softplus` of what may be negative.
        - `y`: the counts, non-negative integers of any shape, or `Batched` rows of them.

        Raises `ValueError` for counts that are negative or not whole.
        """
        (counts,) = as_floats(y=plain(y))
        self.rate_function = rate_function
        row_shape("y", y, counts)
        self.y = batched_like(y, counts)
        check_finite("y", counts)
        if not is_traced(counts):
            bad = np.asarray((counts < 0) | (counts != jnp.round(counts)))
            if np.any(bad):
                raise ValueError(f"y holds {int(np.sum(bad))} values that are no counts; pass non-negative integers.")

    def check_event(self, shape: Shape) -> None:
        """Raises `ValueError` unless the rates of events of shape `shape` have the shape of the counts."""
        check_one(self)
        check_prediction("rate_function", self.rate_function, shape, self.y.shape)

    def log_likelihood(self, x: Event) -> Array:
        """The log-probability of the counts given the event `x`, a scalar in nats."""
        check_one(self)
        rate = jnp.asarray(self.rate_function(x))
        y = self.y.astype(rate.dtype)
        logs = jax.scipy.special.xlogy(y, rate)
        return jnp.sum(logs - rate - jax.lax.lgamma(y + 1))

"""What a coupling is: how a batch of noise meets a batch of data."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._typing import Array, Batch, Condition, Float, Int, KeyArray, PyTree, Rows


class Pairs(eqx.Module):
    """What a coupling gives: row `k` of `x0` meets row `k` of `x1`."""

    x0: Rows
    """`(n, *event)`."""
    x1: Rows
    """`(n, *event)`."""
    noise_rows: Int[Array, " n"]
    """Which row of the batch of noise each pair is made of."""
    data_rows: Int[Array, " n"]
    """Which row of the batch of data; whatever belongs to the data follows these rows."""
    weights: Float[Array, " n"] | None = None
    """What each pair counts in the loss, with mean one; None where all count the same."""

    def follow(self, condition: Condition) -> Condition:
        """The conditions (or masks, or labels) of these pairs, from those of the batch of data."""
        return jax.tree.map(lambda leaf: leaf[self.data_rows], condition)


class AbstractCoupling(eqx.Module):
    """Pairs the rows of two batches."""

    independent: eqx.AbstractClassVar[bool]
    """Whether noise and data stay independent; only then does a model of the pairs have a score."""

    @abc.abstractmethod
    def __call__(self, key: KeyArray, x0: Any, x1: Any, condition: Condition = None) -> Pairs:
        """The pairs of `x0` and `x1`, both `(n, *event)`.

        `condition`, leaves `(n, ...)`, is what is known of each row of data. Row `k` of the noise has no condition of
        its own: it is taken to have come with row `k` of the data.
        """


class AbstractHostCoupling(AbstractCoupling):
    """A permutation that the host finds from costs of the device; `fit` finds it ahead, while the device trains."""

    @abc.abstractmethod
    def costs(self, x0: Batch, x1: Batch, condition: Condition = None) -> PyTree[Array]:
        """What [`order`][] needs to know of the batches."""

    @abc.abstractmethod
    def order(self, costs: PyTree[np.ndarray]) -> np.ndarray:
        """`(n,)` int32: which row of `x0` meets each row of `x1`. Called on several threads, outside the compiler."""

    @abc.abstractmethod
    def pairs(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition, order: Int[Array, " n"]) -> Pairs:
        """The pairs, once their order is known."""

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        def order(costs: PyTree[Array]) -> np.ndarray:
            return self.order(jax.tree.map(np.asarray, costs))

        form = jax.ShapeDtypeStruct(x0.shape[:1], jnp.int32)
        # The order is constant wherever it has a derivative.
        costs = jax.lax.stop_gradient(self.costs(x0, x1, condition))
        found = jax.pure_callback(order, form, costs, vmap_method="sequential")
        return self.pairs(key, x0, x1, condition, found)

"""The interface of couplings, which pair a batch of noise with a batch of data."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.checks import check_fields, is_traced
from .._base.typing import Array, Batch, Condition, Float, Int, KeyArray, PyTree, Rows
from .transport import Convergence


class Pairs(eqx.Module):
    """The result of a coupling: row `k` of `x0` is paired with row `k` of `x1`.

    **Attributes:**

    - `x0`: `(n, *event)`.
    - `x1`: `(n, *event)`.
    - `noise_rows`: The row of the batch of noise that each pair takes.
    - `data_rows`: The row of the batch of data that each pair takes; conditions and masks of the data follow these
        rows.
    - `weights`: The weight of each pair in the loss, with mean one; None if all pairs have equal weight.
    - `convergence`: How close the plan from which the pairs were drawn is to the requested one; None for couplings
        without iterations.
    """

    x0: Rows
    x1: Rows
    noise_rows: Int[Array, " n"]
    data_rows: Int[Array, " n"]
    weights: Float[Array, " n"] | None = None
    convergence: Convergence | None = None

    def follow(self, condition: Condition) -> Condition:
        """Reorders the conditions (or masks, or labels) of the batch of data, leaves `(n, ...)`, to match the pairs."""
        return jax.tree.map(lambda leaf: leaf[self.data_rows], condition)


def check_paired_rows(x0: PyTree, x1: PyTree, condition: Condition = None) -> None:
    """Raises `ValueError` unless noise, data and conditions have equally many rows: each row is paired once."""
    (noise, *_), (data, *_) = ([leaf.shape[0] for leaf in jax.tree.leaves(x)] for x in (x0, x1))
    if noise != data:
        raise ValueError(
            f"x0 has {noise} rows but x1 has {data}; a coupling pairs equally many rows of noise and data."
        )
    for leaf in jax.tree.leaves(condition):
        if jnp.shape(leaf)[:1] != (data,):
            raise ValueError(f"The condition has shape {jnp.shape(leaf)}, but each of the {data} rows of x1 needs one.")


class AbstractCoupling(eqx.Module):
    """Pairs the rows of two batches."""

    independent: eqx.AbstractClassVar[bool]
    """Whether noise and data stay independent; only then does a model trained on the pairs have a score."""

    def __check_init__(self) -> None:
        check_fields(self)

    @abc.abstractmethod
    def __call__(self, key: KeyArray, x0: Any, x1: Any, condition: Condition = None) -> Pairs:
        """Pairs `x0` with `x1`, both `(n, *event)`.

        `condition`, with leaves `(n, ...)`, is the condition of each row of data. Row `k` of the noise has no condition
        of its own and takes the condition of row `k` of the data. Raises `ValueError` for unequal numbers of rows.
        """


class AbstractHostCoupling(AbstractCoupling):
    """A coupling whose permutation is computed on the host, from costs computed on the device.

    `fit` computes it ahead of time, while the device trains.
    """

    @abc.abstractmethod
    def costs(self, x0: Batch, x1: Batch, condition: Condition = None) -> PyTree[Array]:
        """The costs from which [`order`][] computes the permutation."""

    @abc.abstractmethod
    def order(self, costs: PyTree[np.ndarray]) -> np.ndarray:
        """The row of `x0` paired with each row of `x1`, `(n,)` int32. Called by several threads, outside of `jit`."""

    @abc.abstractmethod
    def pairs(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition, order: Int[Array, " n"]) -> Pairs:
        """The pairs for the permutation `order`."""

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        check_paired_rows(x0, x1, condition)

        # The permutation is piecewise constant, so its derivative is zero wherever it exists.
        costs = jax.lax.stop_gradient(self.costs(x0, x1, condition))
        if not is_traced(costs):
            found = jnp.asarray(self.order(jax.tree.map(np.asarray, costs)))
            return self.pairs(key, x0, x1, condition, found)

        def order(costs: PyTree[Array]) -> np.ndarray:
            # An error raised within a callback would have a long traceback.
            try:
                return self.order(jax.tree.map(np.asarray, costs))
            except ValueError:
                return np.full(x0.shape[:1], -1, np.int32)

        form = jax.ShapeDtypeStruct(x0.shape[:1], jnp.int32)
        found = jax.pure_callback(order, form, costs, vmap_method="sequential")
        message = "Some rows have no partner, because their costs are infinite; give each row a partner of finite cost."
        found = eqx.error_if(found, found < 0, message)
        return self.pairs(key, x0, x1, condition, found)


class AbstractDataCoupling(AbstractCoupling):
    """A coupling that holds the whole data set and chooses a row of it for each noise sample.

    `fit` uses these rows instead of a random batch.
    """

    @abc.abstractmethod
    def rows(self, key: KeyArray, x0: Batch) -> Int[Array, " n"]:
        """The row of the data set paired with each noise sample."""

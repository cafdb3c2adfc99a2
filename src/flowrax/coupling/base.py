"""What a coupling is: how a batch of noise meets a batch of data."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._typing import Array, Batch, KeyArray, PyTree


class AbstractCoupling(eqx.Module):
    """Pairs the rows of two batches."""

    independent: eqx.AbstractClassVar[bool]
    """Whether noise and data stay independent; only then does a model of the pairs have a score."""

    @abc.abstractmethod
    def __call__(self, key: KeyArray, x0: Batch, x1: Batch) -> Batch:
        """The rows of `x0` in the order in which they meet the rows of `x1`; both `(n, *event)`."""


class AbstractHostCoupling(AbstractCoupling):
    """A permutation that the host finds from costs of the device; `fit` finds it ahead, while the device trains."""

    @abc.abstractmethod
    def costs(self, x0: Batch, x1: Batch) -> PyTree[Array]:
        """What [`order`][] needs to know of the batches."""

    @abc.abstractmethod
    def order(self, costs: PyTree[np.ndarray]) -> np.ndarray:
        """`(n,)` int32: which row of `x0` meets each row of `x1`. Called on several threads, outside the compiler."""

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch) -> Batch:
        def order(costs: PyTree[Array]) -> np.ndarray:
            return self.order(jax.tree.map(np.asarray, costs))

        form = jax.ShapeDtypeStruct(x0.shape[:1], jnp.int32)
        # The order is constant wherever it has a derivative.
        costs = jax.lax.stop_gradient(self.costs(x0, x1))
        return x0[jax.pure_callback(order, form, costs, vmap_method="sequential")]

r"""Reductions of the squared error of one event to one number.

With the error $e$, the mask $m$, nodes $i$ and features $j$:

| reduction | value |
|---|---|
| [`Mean`][] | $\sum_{ij} m_i e_{ij}^2 / \sum_{ij} m_i$ |
| [`PerNode`][] | $\sum_{ij} m_i e_{ij}^2 / \sum_i m_i$ |
| [`Sum`][] | $\sum_{ij} m_i e_{ij}^2$ |
"""

import abc
import math

import equinox as eqx
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import in_single
from .._base.typing import Array, Condition, Event, MaskOf, Shape


class AbstractReduction(eqx.Module, metaclass=Checked):
    """Reduces the error of one event to a scalar. Masked nodes do not contribute, even if their error is NaN."""

    mask: eqx.AbstractVar[MaskOf | None]
    """`mask(condition)`, nonzero where a node is real, of the shape of the leading axes of an event. Default: all nodes
    are real."""

    @abc.abstractmethod
    def count(self, shape: Shape, num_nodes: Array | int, num_node_axes: int) -> Array | int:
        """The divisor of the sum of squares, for an event of this shape with `num_nodes` nodes that are not masked."""

    def __call__(self, error: Event, condition: Condition = None) -> Array:
        """The reduced error, a scalar. Raises `ValueError` if the mask does not have the shape of the leading axes."""
        error = in_single(error)
        if self.mask is None:
            total = jnp.sum(error**2)
            return total / self.count(error.shape, error.shape[0] if error.shape else 1, min(1, error.ndim))
        mask = jnp.asarray(self.mask(condition)).astype(bool)
        if mask.shape != error.shape[: mask.ndim]:
            raise ValueError(f"The mask has shape {mask.shape}, which does not start the event's shape {error.shape}.")
        inner = mask.reshape(mask.shape + (1,) * (error.ndim - mask.ndim))
        total = jnp.sum(jnp.where(inner, error, 0) ** 2)
        # An event whose nodes are all masked has error zero.
        num_nodes = jnp.maximum(jnp.sum(mask), 1).astype(total.dtype)
        return total / self.count(error.shape, num_nodes, mask.ndim)


class Mean(AbstractReduction):
    """The mean over all elements that are not masked."""

    mask: MaskOf | None = None

    def count(self, shape: Shape, num_nodes: Array | int, num_node_axes: int) -> Array | int:
        return num_nodes * math.prod(shape[num_node_axes:])


class PerNode(AbstractReduction):
    """The mean over nodes of the sum over features. The node axes are the mask's axes, or the first without a mask."""

    mask: MaskOf | None = None

    def count(self, shape: Shape, num_nodes: Array | int, num_node_axes: int) -> Array | int:
        return num_nodes


class Sum(AbstractReduction):
    """The squared norm, as in a log-likelihood."""

    mask: MaskOf | None = None

    def count(self, shape: Shape, num_nodes: Array | int, num_node_axes: int) -> Array | int:
        return 1

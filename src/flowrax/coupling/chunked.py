r"""Squared distances for ott-jax without a matrix in memory.

The iterations need only $\varepsilon \log \sum_j e^{(g_j - \lVert x_i - y_j \rVert^2) / \varepsilon}$, which is
computed here for some rows at a time. (The chunks of ott-jax 0.6 use a function that JAX has removed.)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._base.typing import Array, PyTree
from .ott_jax import ott_jax


@functools.cache
def chunked_point_cloud(chunk_size: int) -> Any:
    """The class of point clouds whose sums are taken over `chunk_size` rows at a time."""
    with ott_jax():
        from ott.geometry.pointcloud import PointCloud

    class ChunkedPointCloud(PointCloud):
        def apply_lse_kernel(
            self, f: Array, g: Array, eps: Any, vec: Array | None = None, axis: int = 0
        ) -> tuple[Array, Array]:
            assert vec is None
            rows, others, potential = (self.x, self.y, g) if axis == 1 else (self.y, self.x, f)
            shift = (potential - jnp.sum(others**2, axis=1))[None]

            def chunk(rows: Array) -> Array:
                return jax.nn.logsumexp((shift + 2 * rows @ others.T) / eps, axis=1)

            sums = eps * by_chunks(chunk, rows, chunk_size)
            return sums - jnp.sum(rows**2, axis=1), jnp.ones(1, sums.dtype)

    return jax.tree_util.register_pytree_node_class(ChunkedPointCloud)


def by_chunks(function: Callable[..., Array], rows: PyTree[Array], chunk_size: int) -> Array:
    """`function(chunk)` for chunks of rows, `(size, ...) -> (size,)`, concatenated; the last chunk is padded with its
    last row.
    """
    number = jax.tree.leaves(rows)[0].shape[0]
    size = min(chunk_size, number)
    index = jnp.minimum(jnp.arange(number + -number % size), number - 1).reshape(-1, size)
    return jax.lax.map(lambda index: function(jax.tree.map(lambda leaf: leaf[index], rows)), index).reshape(-1)[:number]

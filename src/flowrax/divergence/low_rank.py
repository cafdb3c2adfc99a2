"""Orthonormal bases of the range of a Jacobian, for the trace estimators with a low-rank part."""

import jax
import jax.numpy as jnp

from .._base.typing import Array


@jax.custom_jvp
def orthonormal_basis(columns: Array) -> tuple[Array, Array]:
    r"""An orthonormal basis $Q$ of the range of $Y$, `(d, m)`, and the upper triangular $T$ with $Q = Y T$.

    The method is Gram-Schmidt with two passes per column, which takes $O(d m^2)$ operations. It avoids calls to a
    linear algebra library, which are slow for many small matrices on accelerators and can deadlock on a CPU with few
    cores if several run at once. A column that is linearly dependent on earlier columns gives a zero column of $Q$.
    In this case the range is not differentiable, and $Q$ and $T$ are treated as constants: the estimators, and hence
    their gradients, are unbiased for any basis that does not depend on their probes.
    """
    size, num = columns.shape
    tolerance = 4 * num * jnp.finfo(columns.dtype).eps
    order = jnp.arange(num)

    def step(j: Array, work: Array) -> Array:
        earlier = jnp.where((order < j)[None, :], work, 0)
        column = work[:, j]
        length = jnp.linalg.norm(column[:size])
        for _ in range(2):
            column = column - earlier @ (earlier[:size].T @ column[:size])
        pivot = jnp.linalg.norm(column[:size])
        dependent = pivot <= tolerance * length
        floor = tolerance * jnp.where(length > 0, length, 1)
        column = column / jnp.where(dependent, floor, pivot)
        return work.at[:, j].set(jnp.where(dependent & (jnp.arange(size + num) < size), 0, column))

    # The column operations that turn Y into Q turn the identity into T.
    start = jnp.concatenate([columns, jnp.eye(num, dtype=columns.dtype)])
    work = jax.lax.fori_loop(0, num, step, start)
    return work[:size], work[size:]


@orthonormal_basis.defjvp
def _orthonormal_basis_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    (columns,), (change,) = primals, tangents
    basis, factor = orthonormal_basis(columns)
    dependent = jnp.any(jnp.all(basis == 0, axis=0))
    # dY T = dQ - Y dT. Here Q^T dQ is antisymmetric, and -Q^T Y dT = -T^-1 dT is upper triangular.
    scaled = jnp.where(dependent, 0, change) @ jnp.where(dependent, 0, factor)
    inside = basis.T @ scaled
    lower = jnp.tril(inside, -1)
    upper = inside - lower + lower.T
    return (basis, factor), (scaled - basis @ upper, -factor @ upper)

"""Bases of the range of a Jacobian, which the estimators with a low-rank part take away from it."""

import jax
import jax.numpy as jnp

from .._typing import Array


@jax.custom_jvp
def orthonormal_basis(columns: Array) -> tuple[Array, Array]:
    r"""`Q`, an orthonormal basis of the range of `(d, m)` columns $Y$, and the triangular `T` of $Q = Y T$.

    By Gram-Schmidt, twice per column: `d m^2` operations without a library call, which for many small matrices is
    slow on accelerators and, beside another one, can stand still on a processor of few cores. A column that depends
    on those before it gives zeros in `Q`. There the range has no derivative, and `Q` and `T` are constants:
    the estimators are unbiased for any basis that does not depend on their probes, and so are their gradients.
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

    # The operations that make Y into Q make the identity into T.
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
    # dY T = dQ - Y dT, where Q^T dQ is antisymmetric and -T^-1 dT, which is also Q^T (-Y dT), upper triangular.
    scaled = jnp.where(dependent, 0, change) @ jnp.where(dependent, 0, factor)
    inside = basis.T @ scaled
    lower = jnp.tril(inside, -1)
    upper = inside - lower + lower.T
    return (basis, factor), (scaled - basis @ upper, -factor @ upper)

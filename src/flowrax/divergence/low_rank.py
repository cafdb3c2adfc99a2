r"""Trace estimators with a low-rank part: the exact trace on a range of the Jacobian plus an estimate of the remainder.

Hutch++ takes one such range for all test vectors; XTrace takes for each test vector the range of all the others.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_count
from .._base.typing import Array, Event, KeyArray
from .base import AbstractRandomDivergence, VectorField, exact_trace, jacobian_products
from .probes import Rademacher, Sphere


class HutchPP(AbstractRandomDivergence):
    r"""$\operatorname{tr}(Q^\top J Q) + \frac1m \sum_i g_i^\top J g_i$ with $g_i = (I - Q Q^\top) \epsilon_i$.

    This is algorithm 1 of Meyer et al. (2021). A third of the products is used for $Q$, a basis of the range of $J S$
    with random signs $S$; another third for the exact trace on this range; and the rest for probes, whose spread gives
    the standard error. The estimator suits Jacobians with a rapidly decaying spectrum; for others [`Hutchinson`][] is
    more accurate with the same number of products. It is exact if there are at least as many products as dimensions.

    **Reference:** [@meyer2021hutch].
    """

    num_products: int = eqx.field(static=True)

    def __init__(self, num_products: int = 12):
        """**Arguments:**

        - `num_products`: the number of products with the Jacobian per evaluation of the field. Raises `ValueError`
            unless `num_products >= 4`.
        """
        self.num_products = check_count("num_products", num_products, 4)

    @property
    def rank(self) -> int:
        """The rank of the part whose trace is exact."""
        return self.num_products // 3

    @property
    def num_estimates(self) -> int:
        return self.num_products - 2 * self.rank

    def draw_probes(self, key: KeyArray, x: Event) -> Array:
        return Rademacher()(key, (self.rank + self.num_estimates, *x.shape), x.dtype)

    def __call__(self, field: VectorField, x: Event, probes: Array | None) -> tuple[Event, Array]:
        assert probes is not None
        value, products = jacobian_products(field, x)
        if math.prod(x.shape) <= self.num_products:
            return value, jnp.broadcast_to(exact_trace(products, x), (self.num_estimates,))
        vectors = probes.reshape(len(probes), -1)
        basis, _ = orthonormal_basis(products(vectors[: self.rank]).T)
        probe = vectors[self.rank :]
        rest = probe - (probe @ basis) @ basis.T
        images = products(jnp.concatenate([basis.T, rest]))
        known = jnp.sum(basis.T * images[: self.rank])
        return value, known + jnp.sum(rest * images[self.rank :], axis=1)


class XTrace(AbstractRandomDivergence):
    r"""The mean of $\operatorname{tr}(P_i J) + c_i\, \omega_i^\top (I - P_i) J (I - P_i)\, \omega_i$.

    This is the estimator of Epperly et al. (2024). The $m$ vectors $\omega_i$ are uniform on the sphere. $P_i$ is the
    projection onto the span of $J \omega_j$, $j \ne i$, and $c_i = (d - m + 1) / |(I - P_i)\, \omega_i|^2$ removes the
    variance due to the length. All $P_i$ follow from one basis $Q$ of the range of $J \Omega = Q R$:
    $P_i = Q (I - s_i s_i^\top) Q^\top$, where the unit vector $s_i$ is orthogonal to all columns of $R$ except the
    $i$-th. Half of the products are used for $Q$ and half for $J Q$.

    The standard error treats the estimates as independent, which is accurate except for few vectors: for 6 vectors it
    was measured to be 7% too small. The estimator suits Jacobians with a rapidly decaying spectrum; for others
    [`Hutchinson`][] is more accurate with the same number of products. It is exact if there are at least as many
    products as dimensions.

    **Reference:** [@epperly2024xtrace].
    """

    num_products: int = eqx.field(static=True)

    def __init__(self, num_products: int = 12):
        """**Arguments:**

        - `num_products`: the number of products with the Jacobian per evaluation of the field. Raises `ValueError`
            unless it is even and at least 4.
        """
        num_products = check_count("num_products", num_products, None)
        if num_products < 4 or num_products % 2:
            raise ValueError(f"num_products must be even and at least 4; got {num_products}.")
        self.num_products = num_products

    @property
    def num_estimates(self) -> int:
        return self.num_products // 2

    def draw_probes(self, key: KeyArray, x: Event) -> Array:
        return Sphere()(key, (self.num_estimates, *x.shape), x.dtype)

    def __call__(self, field: VectorField, x: Event, probes: Array | None) -> tuple[Event, Array]:
        assert probes is not None
        value, products = jacobian_products(field, x)
        size = math.prod(x.shape)
        if size <= self.num_products:
            return value, jnp.broadcast_to(exact_trace(products, x), (self.num_estimates,))
        vectors = probes.reshape(self.num_estimates, size).T
        images = products(vectors.T).T
        basis, factor = orthonormal_basis(images)
        mapped = products(basis.T).T
        core, inside = basis.T @ mapped, basis.T @ vectors
        # The columns of R^-T have the directions s_i: column i is orthogonal to all columns of R except the i-th.
        removed = (factor / jnp.linalg.norm(factor, axis=1, keepdims=True)).T
        along = jnp.sum(removed * inside, axis=0)
        # P_i omega_i in the coordinates of the basis.
        kept = inside - along[None, :] * removed
        known = jnp.trace(core) - jnp.sum(removed * (core @ removed), axis=0)
        # (I - P_i) omega_i and its image under J, which need no further products with the Jacobian.
        rest = vectors - basis @ kept
        remaining = jnp.sum(rest * (images - mapped @ kept), axis=0)
        square = jnp.sum(rest**2, axis=0)
        # The remainder vanishes if the range contains the vector, for example if two vectors are parallel.
        left = square > size * jnp.finfo(x.dtype).eps
        scale = jnp.where(left, (size - self.num_estimates + 1) / jnp.where(left, square, 1), 0)
        return value, known + scale * remaining


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

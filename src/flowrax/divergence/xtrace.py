r"""XTrace: Hutch++ for each test vector in turn, with the low-rank part that all the others give."""

import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from .._typing import Array, Event, KeyArray
from .base import (
    AbstractDivergence,
    VectorField,
    exact_trace,
    jacobian_products,
    key_or_raise,
    standard_error_of_mean,
)
from .low_rank import orthonormal_basis
from .probes import Sphere


class XTrace(AbstractDivergence):
    r"""The mean of $\operatorname{tr}(P_i J) + c_i\, \omega_i^\top (I - P_i) J (I - P_i)\, \omega_i$.

    That is Epperly et al. (2024). The $m$ vectors $\omega_i$ are uniform on the sphere. $P_i$ projects on the range of
    $J$ on the other vectors, and $c_i = (d - m + 1) / |(I - P_i)\, \omega_i|^2$ removes the noise of the length. One
    basis $Q$ of the range of $J \Omega = Q R$ serves all: $P_i = Q (I - s_i s_i^\top) Q^\top$, $s_i$ the unit vector
    that is orthogonal to all columns of $R$ but the $i$-th. Half the products go into $Q$ and half into $J Q$.

    The standard error takes the estimates for independent, which they are nearly but for few vectors: measured, it is
    7% low for 6 of them. For Jacobians of fast decaying spectrum; elsewhere [`Hutchinson`][] makes more of as many
    products. Exact where there are as many products as dimensions.

    **Reference:** [@epperly2024xtrace].
    """

    num_products: int = eqx.field(static=True)
    needs_key: ClassVar[bool] = True

    def __init__(self, num_products: int = 12):
        """**Arguments:**

        - `num_products`: with the Jacobian at each evaluation, an even number. Raises `ValueError` unless it is, and at
            least 4.
        """
        if num_products < 4 or num_products % 2:
            raise ValueError(f"num_products must be even and at least 4; got {num_products}.")
        self.num_products = num_products

    @property
    def num_estimates(self) -> int:
        return self.num_products // 2

    def probes(self, key: KeyArray | None, x: Event) -> Array:
        return Sphere()(key_or_raise(self, key), (self.num_estimates, *x.shape), x.dtype)

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
        # R^-T has these directions for columns, as its products with the columns of R are the identity.
        removed = (factor / jnp.linalg.norm(factor, axis=1, keepdims=True)).T
        along = jnp.sum(removed * inside, axis=0)
        # P_i omega_i in the coordinates of the basis.
        kept = inside - along[None, :] * removed
        known = jnp.trace(core) - jnp.sum(removed * (core @ removed), axis=0)
        # (I - P_i) omega_i and its image; both need products of the basis alone.
        rest = vectors - basis @ kept
        remaining = jnp.sum(rest * (images - mapped @ kept), axis=0)
        square = jnp.sum(rest**2, axis=0)
        # Nothing of the vector is left where the others reach all of it, as where it is one of them up to length.
        left = square > size * jnp.finfo(x.dtype).eps
        scale = jnp.where(left, (size - self.num_estimates + 1) / jnp.where(left, square, 1), 0)
        return value, known + scale * remaining

    def standard_error(self, estimates: Array) -> Array:
        return standard_error_of_mean(estimates)

r"""Hutch++: the exact trace of a low-rank part plus Hutchinson's estimate of the remainder."""

import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from .._base.checks import check_count
from .._base.typing import Array, Event, KeyArray
from .base import AbstractDivergence, VectorField, exact_trace, jacobian_products, key_or_raise, standard_error_of_mean
from .low_rank import orthonormal_basis
from .probes import Rademacher


class HutchPP(AbstractDivergence):
    r"""$\operatorname{tr}(Q^\top J Q) + \frac1m \sum_i g_i^\top J g_i$ with $g_i = (I - Q Q^\top) \epsilon_i$.

    This is algorithm 1 of Meyer et al. (2021). A third of the products is used for $Q$, a basis of the range of $J S$
    with random signs $S$; another third for the exact trace on this range; and the rest for probes, whose spread gives
    the standard error. The estimator suits Jacobians with a rapidly decaying spectrum; for others [`Hutchinson`][] is
    more accurate with the same number of products. It is exact if there are at least as many products as dimensions.

    **Reference:** [@meyer2021hutch].
    """

    num_products: int = eqx.field(static=True)
    needs_key: ClassVar[bool] = True

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

    def probes(self, key: KeyArray | None, x: Event) -> Array:
        return Rademacher()(key_or_raise(self, key), (self.rank + self.num_estimates, *x.shape), x.dtype)

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

    def standard_error(self, estimates: Array) -> Array:
        return standard_error_of_mean(estimates)

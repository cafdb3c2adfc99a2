r"""Hutchinson's trace estimator: the mean of $\epsilon^\top J\, \epsilon$ over probes with identity covariance."""

import math

import equinox as eqx
import jax.numpy as jnp

from .._base.checks import check_count
from .._base.typing import Array, Event, KeyArray
from .base import AbstractRandomDivergence, VectorField, jacobian_products
from .probes import AbstractProbes, Rademacher


class Hutchinson(AbstractRandomDivergence):
    """The mean over random probes, with its standard error.

    Use [`Exact`][] in few dimensions, where it costs no more. There, `k` Rademacher probes in `d` dimensions are all
    equal up to sign with probability $2^{-(d - 1)(k - 1)}$, and the estimated standard error of such a sample is zero
    although its estimate is wrong.

    **Reference:** [@grathwohl2019ffjord].
    """

    num_probes: int = eqx.field(static=True)
    distribution: AbstractProbes

    def __init__(self, num_probes: int = 1, distribution: AbstractProbes | None = None):
        """**Arguments:**

        - `num_probes`: the number of probes, each of which costs one product with the Jacobian per evaluation of the
            field. Raises `ValueError` unless `num_probes >= 1`.
        - `distribution`: the distribution of the probes. Default: `Rademacher()`.
        """
        self.num_probes = check_count("num_probes", num_probes)
        self.distribution = Rademacher() if distribution is None else distribution

    @property
    def num_estimates(self) -> int:
        return self.num_probes

    def draw_probes(self, key: KeyArray, x: Event) -> Array:
        return self.distribution(key, (self.num_probes, *x.shape), x.dtype)

    def __call__(self, field: VectorField, x: Event, probes: Array | None) -> tuple[Event, Array]:
        assert probes is not None
        value, products = jacobian_products(field, x)
        vectors = probes.reshape(self.num_probes, -1)
        estimates = jnp.sum(vectors * products(vectors), axis=1)
        ratio = self.distribution.error_ratio(self.num_probes, math.prod(x.shape))
        if ratio == 1:
            return value, estimates
        mean = jnp.mean(estimates)
        return value, mean + ratio * (estimates - mean)

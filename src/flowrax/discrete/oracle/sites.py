"""Independent sites, each with its own class probabilities."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base.typing import Array, KeyArray, Numbers, Shape, Tokens
from ..sampler.draw import draw
from .base import AbstractCategoricalOracle, check_rows, entropy_of, normalised


class Sites(AbstractCategoricalOracle):
    """A distribution of independent sites, for which ancestral sampling is exact in one step."""

    probabilities: Array
    shape: Shape = eqx.field(static=True)
    dtype: jnp.dtype = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)

    def __init__(self, probabilities: Numbers):
        """**Arguments:**

        - `probabilities`: the class probabilities of every site, `(L, K)`.

        **Raises:** `ValueError` for another number of axes, or unless every row is nonnegative and sums to one.
        """
        self.probabilities = jnp.asarray(probabilities, float)
        if self.probabilities.ndim != 2:
            raise ValueError(f"probabilities must have shape (L, K); got {self.probabilities.shape}.")
        check_rows("probabilities", self.probabilities)
        length, self.num_classes = self.probabilities.shape
        self.shape, self.dtype = (length,), jnp.dtype(jnp.int32)

    def draw(self, key: KeyArray) -> Tokens:
        return draw(key, self.probabilities).astype(self.dtype)

    def log_density(self, x: Tokens) -> Array:
        return jnp.sum(jnp.log(jnp.take_along_axis(self.probabilities, x[:, None], axis=1)))

    @property
    def marginals(self) -> Array:
        return self.probabilities

    @property
    def entropy(self) -> Array:
        return entropy_of(self.probabilities, axis=None)

    def log_posterior(self, log_likelihood: Array) -> Array:
        return normalised(jnp.log(self.probabilities) + log_likelihood)

    def log_evidence(self, log_likelihood: Array) -> Array:
        return jnp.sum(jax.nn.logsumexp(jnp.log(self.probabilities) + log_likelihood, axis=1))

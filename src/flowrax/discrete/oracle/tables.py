"""Distributions given by tables of probabilities: of all events of a few sites, or of each independent site."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._base import random
from ..._base.arrays import as_numbers
from ..._base.checks import is_traced
from ..._base.typing import Array, KeyArray, Numbers, Shape, Tokens
from ..sites import at_class, draw
from .base import AbstractCategoricalOracle, check_distributions, entropy_of, normalised


class Joint(AbstractCategoricalOracle):
    """Any distribution of a few sites, given by the table of its probabilities."""

    table: Array
    shape: Shape = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)

    def __init__(self, table: Numbers):
        """**Arguments:**

        - `table`: the probabilities of all events, `(K,) * L`, nonnegative, with at most 4096 entries. They are
            normalised to sum to one.

        **Raises:** `ValueError` for another shape or size, a negative entry, or a table of zeros.
        """
        table = as_numbers("table", table, jnp.result_type(float))
        if len(set(table.shape)) != 1 or not 0 < table.size <= 4096:
            raise ValueError(f"table must have shape (K,) * L and at most 4096 entries; got {table.shape}.")
        if not is_traced(table) and not (np.all(np.asarray(table) >= 0) and 0 < np.sum(table) < np.inf):
            raise ValueError(
                f"table must be finite, not negative and not all zero; its smallest entry is {table.min()}."
            )
        self.table = table / jnp.sum(table)
        self.shape, self.num_classes = (table.ndim,), table.shape[0]

    def draw(self, key: KeyArray) -> Tokens:
        index = random.categorical(key, jnp.log(self.table).ravel())
        return jnp.stack(jnp.unravel_index(index, self.table.shape)).astype(self.dtype)

    def log_density(self, x: Tokens) -> Array:
        return jnp.log(self.table[tuple(x)])

    @property
    def marginals(self) -> Array:
        return jnp.stack([jnp.sum(self.table, axis=axes) for axes in self._other_axes()])

    @property
    def entropy(self) -> Array:
        return entropy_of(self.table, axis=None)

    def log_posterior(self, log_likelihood: Array) -> Array:
        joint = self._log_joint(log_likelihood)
        return normalised(jnp.stack([jax.nn.logsumexp(joint, axis=axes) for axes in self._other_axes()]))

    def log_evidence(self, log_likelihood: Array) -> Array:
        return jax.nn.logsumexp(self._log_joint(log_likelihood))

    def _log_joint(self, log_likelihood: Array) -> Array:
        length, joint = self.shape[0], jnp.log(self.table)
        for i in range(length):
            joint = joint + log_likelihood[i].reshape([-1 if j == i else 1 for j in range(length)])
        return joint

    def _other_axes(self) -> list[tuple[int, ...]]:
        length = self.shape[0]
        return [tuple(j for j in range(length) if j != i) for i in range(length)]


class Sites(AbstractCategoricalOracle):
    """A distribution of independent sites, for which ancestral sampling is exact in one step."""

    probabilities: Array
    shape: Shape = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)

    def __init__(self, probabilities: Numbers):
        """**Arguments:**

        - `probabilities`: the class probabilities of every site, `(L, K)`.

        **Raises:** `ValueError` for another number of axes, or unless every row is nonnegative and sums to one.
        """
        self.probabilities = as_numbers("probabilities", probabilities, jnp.result_type(float))
        if self.probabilities.ndim != 2 or not self.probabilities.size:
            raise ValueError(f"probabilities must have shape (L, K); got {self.probabilities.shape}.")
        check_distributions("probabilities", self.probabilities)
        length, self.num_classes = self.probabilities.shape
        self.shape = (length,)

    def draw(self, key: KeyArray) -> Tokens:
        return draw(key, self.probabilities).astype(self.dtype)

    def log_density(self, x: Tokens) -> Array:
        return jnp.sum(jnp.log(at_class(self.probabilities, x)))

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

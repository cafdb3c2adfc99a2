"""What an oracle of categorical data is: a law whose every posterior is known exactly, and the exact model of it."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from .._typing import Array, Condition, KeyArray, Numbers, Scalar, Shape, Tokens
from ..abstract import AbstractNetwork
from ..categorical import CategoricalModel
from ..interpolant import AbstractCategoricalPath, Mixture
from ..prior import AbstractCategoricalPrior, AbstractPrior
from ..schedule import AbstractMasking


class AbstractCategoricalOracle(AbstractPrior):
    """A law of `(L,)` classes `0 ... num_classes - 1`."""

    num_classes: eqx.AbstractVar[int]

    @abc.abstractmethod
    def log_posterior(self, log_likelihood: Array) -> Array:
        r"""$\log p(x^i = k | y)$, `(L, K)`, where $y$ says of site $i$ alone $\log p(y | x^i = k)$, `(L, K)`."""

    @property
    def rank(self) -> int:
        """Zero: probabilities, not densities."""
        return 0

    def sample(self, key: KeyArray, shape: Shape = ()) -> Array:
        """Draws `(*shape, L)`."""
        size = 1
        for n in shape:
            size *= n
        return jax.vmap(self.draw)(jax.random.split(key, size)).reshape(*shape, *self.shape)

    def log_prob(self, x: Numbers) -> Array:
        """Log-probabilities in nats of events `(n, L)`."""
        return jax.vmap(self.log_density)(jnp.asarray(x, self.dtype))

    def model(
        self, interpolant: AbstractCategoricalPath | AbstractMasking, *, prior: AbstractCategoricalPrior
    ) -> CategoricalModel:
        """The exact model of this law, to be sampled and bounded as any other.

        **Arguments:**

        - `interpolant`: the path; a schedule stands for its [`Mixture`][].
        - `prior`: of the noise, which may have more classes than the oracle: a mask.
        """
        interpolant = Mixture(interpolant) if isinstance(interpolant, AbstractMasking) else interpolant
        return CategoricalModel(ExactDenoiser(self, interpolant, prior), interpolant, prior=prior)


class ExactDenoiser(AbstractNetwork):
    r"""$\log p(x_1^i = k | x_t)$ as a network."""

    oracle: AbstractCategoricalOracle
    interpolant: AbstractCategoricalPath
    prior: AbstractCategoricalPrior

    def __call__(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        classes, num_classes = self.oracle.num_classes, self.prior.num_classes
        data = jnp.arange(num_classes)
        if self.prior.mask is not None and classes < num_classes:
            data = jnp.delete(data, self.prior.mask, assume_unique_indices=True)
        # (L, classes): the probability of the token that is seen, were the data that class.
        seen = self.interpolant.marginal(self.prior, t, data[:classes])[:, x].T
        known = self.oracle.log_posterior(jnp.log(seen))
        return jnp.full((*x.shape, num_classes), -jnp.inf, known.dtype).at[:, data[:classes]].set(known)


class Joint(AbstractCategoricalOracle):
    """Any law of a few sites, by the table of its probabilities."""

    table: Array
    shape: Shape = eqx.field(static=True)
    dtype: jnp.dtype = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)

    def __init__(self, table: Numbers):
        """**Arguments:**

        - `table`: `(K,) * L`, probabilities of all events, not negative; they are made to sum to one. At most 4096.
        """
        table = jnp.asarray(table, float)
        if len(set(table.shape)) != 1 or table.size > 4096:
            raise ValueError(f"table must have shape (K,) * L and at most 4096 entries; got {table.shape}.")
        self.table = table / jnp.sum(table)
        self.shape, self.dtype, self.num_classes = (table.ndim,), jnp.dtype(jnp.int32), table.shape[0]

    def draw(self, key: KeyArray) -> Tokens:
        index = jax.random.categorical(key, jnp.log(self.table).ravel())
        return jnp.stack(jnp.unravel_index(index, self.table.shape)).astype(self.dtype)

    def log_density(self, x: Tokens) -> Array:
        return jnp.log(self.table[tuple(x)])

    def log_posterior(self, log_likelihood: Array) -> Array:
        length, joint = self.shape[0], jnp.log(self.table)
        for i in range(length):
            joint = joint + log_likelihood[i].reshape([-1 if j == i else 1 for j in range(length)])
        axes = [tuple(j for j in range(length) if j != i) for i in range(length)]
        sites = jnp.stack([jax.nn.logsumexp(joint, axis=axis) for axis in axes])
        return jax.nn.log_softmax(sites, axis=-1)

"""What an oracle of categorical data is: a law whose every posterior is known exactly, and the exact model of it."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_shape, is_traced
from .._typing import Array, Condition, KeyArray, Numbers, Scalar, Shape, Tokens
from ..abstract import AbstractNetwork
from ..categorical import CategoricalModel
from ..interpolant import AbstractCategoricalPath, Mixture
from ..prior import AbstractCategoricalPrior, AbstractPrior
from ..schedule import AbstractMasking


class AbstractCategoricalOracle(AbstractPrior):
    """A law of `(L,)` classes `0 ... num_classes - 1`."""

    num_classes: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def marginals(self) -> Array:
        """The probabilities of every site on its own, `(L, K)`."""

    @property
    @abc.abstractmethod
    def entropy(self) -> Array:
        """Of an event, in nats: no model has a smaller mean of minus its log-probability."""

    @abc.abstractmethod
    def log_posterior(self, log_likelihood: Array) -> Array:
        r"""$\log p(x^i = k | y)$, `(L, K)`, where $y$ says of site $i$ alone $\log p(y^i | x^i = k)$, `(L, K)`.

        It is that of a uniform law where no event could have given $y$.
        """

    @abc.abstractmethod
    def log_evidence(self, log_likelihood: Array) -> Array:
        r"""$\log p(y)$ of the same $y$, in nats."""

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

    def marginal_log_prob(
        self,
        interpolant: AbstractCategoricalPath | AbstractMasking,
        prior: AbstractCategoricalPrior,
        t: Scalar,
        x: Numbers,
    ) -> Array:
        """Log-probabilities in nats of the path's law at time `t`, of events `(n, L)` of the prior's classes."""
        path = _path(interpolant)

        def one(x: Tokens) -> Array:
            return self.log_evidence(_log_seen(path, prior, t, x, _data_classes(self, prior)))

        return jax.vmap(one)(jnp.asarray(x, self.dtype))

    def model(
        self, interpolant: AbstractCategoricalPath | AbstractMasking, *, prior: AbstractCategoricalPrior
    ) -> CategoricalModel:
        """The exact model of this law, to be sampled and bounded as any other.

        **Arguments:**

        - `interpolant`: the path; a schedule stands for its [`Mixture`][].
        - `prior`: of the noise, of events `(L,)`; it may have more classes than the oracle: a mask. Raises `ValueError`
            where it has fewer.
        """
        check_shape("An event of the prior", prior.shape, self.shape)
        if prior.num_classes < self.num_classes:
            raise ValueError(f"The prior has {prior.num_classes} classes but the data have {self.num_classes}.")
        path = _path(interpolant)
        return CategoricalModel(ExactDenoiser(self, path, prior), path, prior=prior)


class ExactDenoiser(AbstractNetwork):
    r"""$\log p(x_1^i = k | x_t)$ as a network."""

    oracle: AbstractCategoricalOracle
    interpolant: AbstractCategoricalPath
    prior: AbstractCategoricalPrior

    def __call__(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        data = _data_classes(self.oracle, self.prior)
        known = self.oracle.log_posterior(_log_seen(self.interpolant, self.prior, t, x, data))
        return jnp.full((*x.shape, self.prior.num_classes), -jnp.inf, known.dtype).at[:, data].set(known)


def _path(interpolant: AbstractCategoricalPath | AbstractMasking) -> AbstractCategoricalPath:
    return Mixture(interpolant) if isinstance(interpolant, AbstractMasking) else interpolant


def _data_classes(oracle: AbstractCategoricalOracle, prior: AbstractCategoricalPrior) -> Array:
    """Which of the prior's classes those of the oracle are: the first ones that are no extra mask."""
    classes = jnp.arange(prior.num_classes)
    if prior.mask is not None and oracle.num_classes < prior.num_classes:
        classes = jnp.delete(classes, prior.mask, assume_unique_indices=True)
    return classes[: oracle.num_classes]


def _log_seen(
    path: AbstractCategoricalPath, prior: AbstractCategoricalPrior, t: Scalar, x: Tokens, data: Array
) -> Array:
    """The log-probability of every token that is seen, were the data each of their classes: `(L, K)`."""
    return jnp.log(path.marginal(prior, t, data)[:, x].T)


def normalised(log_weights: Array) -> Array:
    """The logarithms of probabilities over the last axis, uniform where all weights are zero.

    **Arguments:**

    - `log_weights`: `(..., K)`, any of them minus infinity.

    **Returns:** `(..., K)`.
    """
    total = jax.nn.logsumexp(log_weights, axis=-1, keepdims=True)
    possible = total > -jnp.inf
    return jnp.where(possible, log_weights - jnp.where(possible, total, 0), -jnp.log(float(log_weights.shape[-1])))


def entropy_of(probabilities: Array, axis: int | None = -1) -> Array:
    r"""$-\sum p \log p$ in nats; nothing of what is impossible.

    **Arguments:**

    - `probabilities`: `(..., K)`.
    - `axis`: over which to sum, or None for all.

    **Returns:** `(...)`.
    """
    return -jnp.sum(probabilities * jnp.log(jnp.where(probabilities > 0, probabilities, 1)), axis=axis)


def check_rows(name: str, probabilities: Array) -> None:
    """Raises `ValueError` unless the numbers are not negative and sum to one over the last axis.

    **Arguments:**

    - `name`: of the argument.
    - `probabilities`: `(..., K)`; traced values are let through.
    """
    if is_traced(probabilities):
        return
    given = np.asarray(probabilities, np.float64)
    off = np.max(np.abs(given.sum(axis=-1) - 1))
    if np.any(given < 0) or not off < 1e-5:
        raise ValueError(
            f"{name} must not be negative, and sum to one over the last axis; its smallest number is {given.min():g} "
            f"and a sum is off by {off:g}."
        )


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
        if not is_traced(table) and not (np.all(np.asarray(table) >= 0) and np.sum(np.asarray(table)) > 0):
            raise ValueError(f"table must not be negative, and not all zero; its smallest entry is {table.min()}.")
        self.table = table / jnp.sum(table)
        self.shape, self.dtype, self.num_classes = (table.ndim,), jnp.dtype(jnp.int32), table.shape[0]

    def draw(self, key: KeyArray) -> Tokens:
        index = jax.random.categorical(key, jnp.log(self.table).ravel())
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

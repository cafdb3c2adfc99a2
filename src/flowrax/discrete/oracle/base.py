"""The interface of categorical oracles: distributions with exactly known posteriors, and their exact models."""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._base import random
from ..._base.checks import check_shape, is_traced
from ..._base.typing import Array, Condition, DType, KeyArray, KeyLike, Numbers, Scalar, Shape, Tokens
from ...model.network import AbstractNetwork
from ...prior import AbstractPrior
from ..categorical_model import CategoricalModel
from ..path.base import AbstractCategoricalPath
from ..path.mixture import as_path
from ..prior import TOKENS, AbstractCategoricalPrior
from ..schedule import AbstractMasking


class AbstractCategoricalOracle(AbstractPrior):
    """A distribution of sequences `(L,)` of classes `0 ... num_classes - 1`."""

    num_classes: eqx.AbstractVar[int]
    dtype: ClassVar[DType] = TOKENS

    @property
    @abc.abstractmethod
    def marginals(self) -> Array:
        """The marginal class probabilities of every site, `(L, K)`."""

    @property
    @abc.abstractmethod
    def entropy(self) -> Array:
        """The entropy of an event, in nats: the smallest mean negative log-probability that any model can reach."""

    @abc.abstractmethod
    def log_posterior(self, log_likelihood: Array) -> Array:
        r"""$\log p(x^i = k | y)$, `(L, K)`, from the log-likelihoods $\log p(y^i | x^i = k)$ of every site, `(L, K)`.

        The observations $y^i$ are independent given $x$. If no event is compatible with $y$, the posterior is uniform.
        """

    @abc.abstractmethod
    def log_evidence(self, log_likelihood: Array) -> Array:
        r"""$\log p(y)$ in nats, with the arguments of [`log_posterior`][]."""

    @property
    def rank(self) -> int:
        """Zero, because log-probabilities of discrete events are not densities."""
        return 0

    def sample(self, key: KeyLike, shape: Shape = ()) -> Array:
        """Draws `(*shape, L)`."""
        keys = jax.random.split(random.as_threefry(key), math.prod(shape))
        return _draws(self, keys).reshape(*shape, *self.shape)

    def log_prob(self, x: Numbers) -> Array:
        """The log-probabilities of events `(n, L)`, in nats."""
        return _log_densities(self, jnp.asarray(x, self.dtype))

    def marginal_log_prob(
        self,
        interpolant: AbstractCategoricalPath | AbstractMasking,
        prior: AbstractCategoricalPrior,
        t: Scalar,
        x: Numbers,
    ) -> Array:
        """The log-probabilities of events `(n, L)`, in the classes of the prior, under the path's marginal at time `t`,
        in nats.
        """
        path = as_path(interpolant)

        def one(x: Tokens) -> Array:
            return self.log_evidence(_log_seen(path, prior, t, x, _data_classes(self, prior)))

        return jax.vmap(one)(jnp.asarray(x, self.dtype))

    def model(
        self, interpolant: AbstractCategoricalPath | AbstractMasking, *, prior: AbstractCategoricalPrior
    ) -> CategoricalModel:
        """The exact model of this distribution, sampled and evaluated like any other model.

        **Arguments:**

        - `interpolant`: the path, or a schedule, which stands for its [`Mixture`][].
        - `prior`: the distribution of the noise, of events `(L,)`. It may have more classes than the oracle, such as a
            mask.

        **Raises:** `ValueError` if the prior has another shape or fewer classes than the oracle.
        """
        check_shape("An event of the prior", prior.shape, self.shape)
        if prior.num_classes < self.num_classes:
            raise ValueError(
                f"The prior has {prior.num_classes} classes but the data have {self.num_classes}; use a prior with at "
                f"least {self.num_classes} classes."
            )
        path = as_path(interpolant)
        return CategoricalModel(ExactDenoiser(self, path, prior), path, prior=prior)


# Compiled, because one program runs faster than its many small operations, and compiles faster than they do.
@eqx.filter_jit
def _draws(oracle: AbstractCategoricalOracle, keys: Array) -> Array:
    return jax.vmap(oracle.draw)(keys)


@eqx.filter_jit
def _log_densities(oracle: AbstractCategoricalOracle, x: Array) -> Array:
    return jax.vmap(oracle.log_density)(x)


class ExactDenoiser(AbstractNetwork):
    r"""A network whose output is the exact $\log p(x_1^i = k | x_t)$, `(L, K)` in the classes of the prior."""

    oracle: AbstractCategoricalOracle
    interpolant: AbstractCategoricalPath
    prior: AbstractCategoricalPrior

    def __call__(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        data = _data_classes(self.oracle, self.prior)
        known = self.oracle.log_posterior(_log_seen(self.interpolant, self.prior, t, x, data))
        return jnp.full((*x.shape, self.prior.num_classes), -jnp.inf, known.dtype).at[:, data].set(known)


def _data_classes(oracle: AbstractCategoricalOracle, prior: AbstractCategoricalPrior) -> Array:
    """The indices of the oracle's classes among the prior's classes: the first ones, skipping an extra mask."""
    classes = jnp.arange(prior.num_classes)
    if prior.mask is not None and oracle.num_classes < prior.num_classes:
        classes = jnp.delete(classes, prior.mask, assume_unique_indices=True)
    return classes[: oracle.num_classes]


def _log_seen(
    path: AbstractCategoricalPath, prior: AbstractCategoricalPrior, t: Scalar, x: Tokens, data: Array
) -> Array:
    """The log-likelihood of each observed token for every class of the data, `(L, K)`."""
    return jnp.log(path.marginal(prior, t, data)[:, x].T)


def normalised(log_weights: Array) -> Array:
    """Normalises log-weights over the last axis; the result is uniform where all weights are zero.

    **Arguments:**

    - `log_weights`: `(..., K)`; entries may be minus infinity.

    **Returns:** log-probabilities, `(..., K)`.
    """
    total = jax.nn.logsumexp(log_weights, axis=-1, keepdims=True)
    possible = total > -jnp.inf
    return jnp.where(possible, log_weights - jnp.where(possible, total, 0), -jnp.log(float(log_weights.shape[-1])))


def entropy_of(probabilities: Array, axis: int | None = -1) -> Array:
    r"""The entropy $-\sum p \log p$ in nats, with $0 \log 0 = 0$.

    **Arguments:**

    - `probabilities`: `(..., K)`.
    - `axis`: the axis over which to sum, or None for all axes. Default: the last.

    **Returns:** the entropies, `(...)`.
    """
    return -jnp.sum(probabilities * jnp.log(jnp.where(probabilities > 0, probabilities, 1)), axis=axis)


def check_distributions(name: str, probabilities: Array) -> None:
    """Raises `ValueError` unless the probabilities are nonnegative and sum to one over the last axis.

    **Arguments:**

    - `name`: the name of the argument, for the error message.
    - `probabilities`: `(..., K)`; traced values are not checked.
    """
    if is_traced(probabilities):
        return
    given = np.asarray(probabilities, np.float64)
    off = np.max(np.abs(given.sum(axis=-1) - 1))
    if np.any(given < 0) or not off < 1e-5:
        raise ValueError(
            f"{name} must not be negative and must sum to one over the last axis; its smallest entry is "
            f"{given.min():g} and the largest deviation of a sum from one is {off:g}."
        )

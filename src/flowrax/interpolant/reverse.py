r"""From what a model says of the data, $p(x_1 | x_s)$ of one site, to one step towards them, $p(x_t | x_s)$."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from .._typing import Array, Scalar, Tokens
from ..prior import AbstractCategoricalPrior
from .path import AbstractCategoricalPath
from .sites import at_class, log_or_infinity


class AbstractReverse(eqx.Module):
    """How the law of the data becomes that of a step, every site for itself."""

    @abc.abstractmethod
    def __call__(
        self, path: AbstractCategoricalPath, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens, p1: Array
    ) -> Array:
        """Probabilities of every class at `t > s`, `(*shape, K)`, by those of the data, `(*shape, K)`.

        Those of the data may have a factor on each site; the answer then has one as well, or sums to one.
        """

    @abc.abstractmethod
    def log(
        self,
        path: AbstractCategoricalPath,
        prior: AbstractCategoricalPrior,
        s: Scalar,
        t: Scalar,
        x: Tokens,
        log_p1: Array,
    ) -> Array:
        """The same in logarithms, normalised, where probabilities would be too small for numbers; for losses."""


class AveragedPosterior(AbstractReverse):
    r"""$\sum_{x_1} p(x_1 | x_s)\, q(x_t | x_s, x_1)$: a class that is drawn for the data, then the posterior given it.

    With the exact law of the data each site has the exact law of the step.
    """

    def __call__(
        self, path: AbstractCategoricalPath, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens, p1: Array
    ) -> Array:
        return path.posterior(prior, s, t, x, p1)

    def log(
        self,
        path: AbstractCategoricalPath,
        prior: AbstractCategoricalPrior,
        s: Scalar,
        t: Scalar,
        x: Tokens,
        log_p1: Array,
    ) -> Array:
        evidence = path.likelihood(prior, s, jnp.ones_like(jnp.asarray(t)), x).astype(log_p1.dtype)
        possible = evidence > 0
        weights = jnp.where(possible, log_p1 - jnp.log(jnp.where(possible, evidence, 1)), -jnp.inf)
        return _joint(path, prior, s, t, x, weights)


class AveragedJoint(AbstractReverse):
    r"""$\propto \sum_{x_1} p(x_1 | x_s)\, q(x_t, x_s | x_1)$: as D3PM was published (Austin et al. 2021, eq. 4).

    A class of the data counts by how likely it makes $x_s$, which $p(x_1 | x_s)$ has counted already. Where that is the
    same for all that are possible, as it is for masks, nothing changes. For other noise the step is biased even where
    the law of the data is exact; a network that is trained by the variational bound of these steps, not by
    cross-entropy, learns to allow for it.

    **Reference:** [@austin2021structured].
    """

    def __call__(
        self, path: AbstractCategoricalPath, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens, p1: Array
    ) -> Array:
        # A marginal is that of a law.
        p1 = p1 / jnp.sum(p1, axis=-1, keepdims=True)
        joint = path.likelihood(prior, s, t, x).astype(p1.dtype) * path.marginal(prior, t, p1)
        # The step to the data is the law of the data.
        weights = jnp.where(t >= 1, p1, joint)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        # A token that no data could have left there is kept, as by the posterior.
        here = jax.nn.one_hot(x, p1.shape[-1], dtype=p1.dtype)
        return jnp.where(total == 0, here, weights / jnp.where(total == 0, 1, total))

    def log(
        self,
        path: AbstractCategoricalPath,
        prior: AbstractCategoricalPrior,
        s: Scalar,
        t: Scalar,
        x: Tokens,
        log_p1: Array,
    ) -> Array:
        return jnp.where(t >= 1, log_p1, _joint(path, prior, s, t, x, log_p1))


def _joint(
    path: AbstractCategoricalPath, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens, log_p1: Array
) -> Array:
    r"""$\log \sum_{x_1} w(x_1)\, q(x_t, x_s | x_1)$ of weights, normalised."""
    seen = log_or_infinity(path.likelihood(prior, s, t, x)).astype(log_p1.dtype)
    return jax.nn.log_softmax(seen + path.log_marginal(prior, t, log_p1), axis=-1)


def variational_term(
    reverse: AbstractReverse,
    path: AbstractCategoricalPath,
    prior: AbstractCategoricalPrior,
    s: Scalar,
    t: Scalar,
    x: Tokens,
    x1: Tokens,
    log_p1: Array,
) -> Array:
    r"""$D_{\text{KL}}(q(x_t | x_s, x_1) \,\|\, p(x_t | x_s))$ of every site: what one step adds to the bound.

    The step to the data, $t = 1$, adds $-\log p(x_1 | x_s)$. (Austin et al. 2021, eq. 1.)

    **Arguments:**

    - `reverse`: of the model.
    - `path`, `prior`: of the noise.
    - `s`, `t`: start and end, $s < t$.
    - `x`, `x1`: the state at `s` and the data, `(*shape)`.
    - `log_p1`: $\log p(x_1 = k | x_s)$, `(*shape, K)`.

    **Returns:** `(*shape)`, in nats.
    """
    q = path.posterior(prior, s, t, x, x1).astype(log_p1.dtype)
    possible = q > 0
    gap = jnp.log(jnp.where(possible, q, 1)) - jnp.where(possible, reverse.log(path, prior, s, t, x, log_p1), 0)
    divergence = jnp.sum(jnp.where(possible, q * gap, 0), axis=-1)
    return jnp.where(t >= 1, -at_class(log_p1, x1), divergence)

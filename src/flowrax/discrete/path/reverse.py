r"""Reverse steps: from a model's prediction $p(x_1 | x_s)$ of the data at each site to $p(x_t | x_s)$ for $s < t$."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base.arguments import Checked
from ..._base.typing import Array, Scalar, Tokens
from ..prior import AbstractCategoricalPrior
from ..sites import at_class, log_or_infinity
from .base import AbstractCategoricalPath


class AbstractReverse(eqx.Module, metaclass=Checked):
    """Computes the distribution of a reverse step from the predicted distribution of the data, for each site."""

    @abc.abstractmethod
    def __call__(
        self, path: AbstractCategoricalPath, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens, p1: Array
    ) -> Array:
        """The probability of every class at `t > s`, `(*shape, K)`, given the state `x` at `s`.

        The probabilities `p1` of the data, `(*shape, K)`, need not be normalised. The result then has the same
        normalisation or sums to one, depending on the implementation.
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
        """The normalised log-probabilities of the step, `(*shape, K)`, given `log_p1`. Losses use this method.

        It remains finite where the probabilities themselves would underflow.
        """


class AveragedPosterior(AbstractReverse):
    r"""$\sum_{x_1} p(x_1 | x_s)\, q(x_t | x_s, x_1)$: draw the clean token, then draw from the posterior given it.

    If $p(x_1 | x_s)$ is exact, the distribution of the step is exact at each site.
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
    r"""$\propto \sum_{x_1} p(x_1 | x_s)\, q(x_t, x_s | x_1)$, the published step of D3PM (Austin et al. 2021, eq. 4).

    Each clean token is weighted by the likelihood $q(x_s | x_1)$, which $p(x_1 | x_s)$ already contains. The extra
    factor has no effect if it is the same for all possible tokens, as for masks. For other noise the step is biased
    even if $p(x_1 | x_s)$ is exact. A network that is trained with the variational bound of these steps, and not with
    cross-entropy, learns to compensate for the factor.

    **Reference:** [@austin2021structured].
    """

    def __call__(
        self, path: AbstractCategoricalPath, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens, p1: Array
    ) -> Array:
        # The marginal needs normalised probabilities.
        p1 = p1 / jnp.sum(p1, axis=-1, keepdims=True)
        joint = path.likelihood(prior, s, t, x).astype(p1.dtype) * path.marginal(prior, t, p1)
        # The step to t = 1 draws from the predicted distribution of the data.
        weights = jnp.where(t >= 1, p1, joint)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        # A token that has probability zero under every class of the data is kept, as in the posterior.
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
    r"""$\log \sum_{x_1} w(x_1)\, q(x_t, x_s | x_1)$ for weights $w$ with logarithm `log_p1`, normalised."""
    log_likelihood = log_or_infinity(path.likelihood(prior, s, t, x)).astype(log_p1.dtype)
    return jax.nn.log_softmax(log_likelihood + path.log_marginal(prior, t, log_p1), axis=-1)


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
    r"""$D_{\text{KL}}(q(x_t | x_s, x_1) \,\|\, p(x_t | x_s))$ at every site: the contribution of one step to the bound.

    The step to the data, $t = 1$, contributes $-\log p(x_1 | x_s)$ (Austin et al. 2021, eq. 1).

    **Arguments:**

    - `reverse`: the model's reverse step.
    - `path`, `prior`: the path and the prior of the noise.
    - `s`, `t`: start and end of the step, $s < t$.
    - `x`, `x1`: the state at `s` and the data, `(*shape)`.
    - `log_p1`: $\log p(x_1 = k | x_s)$, `(*shape, K)`.

    **Returns:** the contribution of each site, `(*shape)`, in nats.
    """
    q = path.posterior(prior, s, t, x, x1).astype(log_p1.dtype)
    possible = q > 0
    gap = jnp.log(jnp.where(possible, q, 1)) - jnp.where(possible, reverse.log(path, prior, s, t, x, log_p1), 0)
    divergence = jnp.sum(jnp.where(possible, q * gap, 0), axis=-1)
    return jnp.where(t >= 1, -at_class(log_p1, x1), divergence)

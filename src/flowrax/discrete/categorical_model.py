r"""Models of categorical data (tokens, types, spins): a network maps $x_t$ to logits of the clean tokens.

The network is called as any other, with integers for `x`: `network(t, x, condition)` has shape `(*shape, K)`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arrays import float_dtype
from .._base.checks import (
    check_instance,
    check_interval,
    check_network,
    check_shape,
    time_dtype,
)
from .._base.typing import Array, Condition, DType, KeyArray, Network, Scalar, Shape, Tokens
from ..coupling import AbstractCoupling, Independent
from ..model.network import AbstractNetwork, as_logits, call_network
from ..model.trained import network_dtype
from .base import AbstractLogitModel, AbstractSampler
from .path.base import AbstractCategoricalPath
from .path.mixture import as_path
from .prior import AbstractCategoricalPrior
from .sampler.ancestral import Ancestral
from .schedule import AbstractMasking
from .sites import spread


class CategoricalModel(AbstractLogitModel):
    """A model of categorical data: a network, a path and a categorical prior."""

    network: Network
    interpolant: AbstractCategoricalPath
    prior: AbstractCategoricalPrior
    coupling: AbstractCoupling
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(
        self,
        network: Network,
        interpolant: AbstractCategoricalPath | AbstractMasking,
        *,
        prior: AbstractCategoricalPrior,
        dtype: DType | None = None,
        t_min: float = 0.0,
        t_max: float = 1.0,
    ):
        """**Arguments:**

        - `network`: `network(t, x, condition)` returns logits `(*shape, K)` for one event `x` of integers, a scalar `t`
            and one condition (or None).
        - `interpolant`: the path, or a masking schedule, which stands for its [`Mixture`][].
        - `prior`: the distribution of the noise. It has the shape of an event and as many classes as the logits.
        - `dtype`: the dtype of times and log-probabilities, at least single precision. Default: the dtype of the
            network's parameters.
        - `t_min`, `t_max`: the time interval, within [0, 1]. Defaults: 0 and 1.

        Raises `ValueError` if the path does not fit the prior, or for an invalid time interval.
        """
        check_network(network)
        check_instance("interpolant", interpolant, AbstractCategoricalPath | AbstractMasking)
        check_instance("prior", prior, AbstractCategoricalPrior)
        self.network, self.prior, self.coupling = network, prior, Independent()
        self.interpolant = as_path(interpolant)
        self.interpolant.check_prior(prior)
        self.shape = prior.shape
        self.dtype = time_dtype(float_dtype(network_dtype(network) if dtype is None else dtype))
        self.t_min, self.t_max = t_min, t_max
        check_interval(t_min, t_max)

    @property
    def default_sampler(self) -> AbstractSampler:
        return Ancestral()

    def logits(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        """The network's output, `(*shape, K)`; `key` is for dropout in training."""
        out = call_network(self.network, t, x, condition, key=key)
        logits = as_logits(out, self.dtype)
        check_shape("The network's output", logits.shape, (*self.shape, self.prior.num_classes))
        return logits

    def log_probabilities(
        self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        r"""$\log p(x_1^i = k | x_t)$ of every site, `(*shape, K)`.

        Under a masking prior the mask has probability zero, and an unmasked site keeps its token with probability one
        (Sahoo et al. 2024, section 3.2.3).
        """
        logits = self.logits(t, x, condition, key=key)
        mask = self.prior.mask
        if mask is None:
            return jax.nn.log_softmax(logits, axis=-1)
        classes = spread(jnp.arange(logits.shape[-1], dtype=x.dtype), logits.ndim)
        logits = jnp.where(classes == mask, -jnp.inf, logits)
        known = jnp.where(classes == x[..., None], 0, -jnp.inf).astype(logits.dtype)
        # log_softmax would keep the shifted logits in memory as well as the result.
        data = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        return jnp.where((x == mask)[..., None], data, known)


class WithEvidence(AbstractNetwork):
    r"""Adds the log-likelihood of each site's noisy token to a network's logits, which learn the remaining factor.

    By Bayes' theorem $p(x_1^i | x_t) \propto p(x_1^i | x_t^{j \ne i})\, q(x_t^i | x_1^i)$, and the second factor is
    known. This generalises the carry-over rule of masked diffusion, by which an unmasked token is the clean token, to
    any noise: near the data the posterior becomes certain. Otherwise the network has to learn this, and any remaining
    uncertainty makes its continuous-time bound infinite.

    Example: `CategoricalModel(discrete.WithEvidence(network, schedule, prior), schedule, prior=prior)`.
    """

    network: Network
    path: AbstractCategoricalPath
    prior: AbstractCategoricalPrior

    def __init__(
        self, network: Network, path: AbstractCategoricalPath | AbstractMasking, prior: AbstractCategoricalPrior
    ):
        """**Arguments:**

        - `network`: a network with logits `(*shape, K)`, as for a [`CategoricalModel`][].
        - `path`: the path of the model, or a schedule, which stands for its [`Mixture`][].
        - `prior`: the prior of the model, without a mask.

        **Raises:** `ValueError` if the prior has a mask: [`CategoricalModel`][] then carries over unmasked tokens
        itself.
        """
        check_network(network)
        check_instance("path", path, AbstractCategoricalPath | AbstractMasking)
        check_instance("prior", prior, AbstractCategoricalPrior)
        if prior.mask is not None:
            raise ValueError(
                "With a mask prior CategoricalModel itself carries over unmasked tokens; pass it the plain network."
            )
        self.network, self.path, self.prior = network, as_path(path), prior

    def __call__(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        out = call_network(self.network, t, x, condition, key=key)
        logits = as_logits(out)
        likelihood = self.path.likelihood(self.prior, jnp.asarray(t), jnp.ones_like(t), x).astype(logits.dtype)
        return logits + jnp.log(likelihood)

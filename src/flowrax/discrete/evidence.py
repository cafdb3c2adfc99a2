r"""The log-likelihood of a site's noisy token for each clean token, in closed form: $\log q(x_t^i | x_1^i = k)$."""

import jax.numpy as jnp

from .._base.checks import check_instance, check_network
from .._base.typing import Array, Condition, KeyArray, Network, Scalar, Tokens
from ..model.network import AbstractNetwork, call_network
from .path.base import AbstractCategoricalPath
from .path.mixture import Mixture
from .prior import AbstractCategoricalPrior
from .schedule import AbstractMasking


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
        self.network, self.prior = network, prior
        self.path = Mixture(path) if isinstance(path, AbstractMasking) else path

    def __call__(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        logits = call_network(self.network, t, x, condition, key=key)
        seen = self.path.likelihood(self.prior, jnp.asarray(t), jnp.ones_like(t), x).astype(logits.dtype)
        return logits + jnp.log(seen)

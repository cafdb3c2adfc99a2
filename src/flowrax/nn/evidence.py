r"""What a site's own state says of its datum, in closed form: $\log q(x_t^i | x_1^i = k)$."""

import jax.numpy as jnp

from .._typing import Array, Condition, KeyArray, Network, Scalar, Tokens
from ..abstract import AbstractNetwork, call_network
from ..interpolant import AbstractCategoricalPath, Mixture
from ..prior import AbstractCategoricalPrior
from ..schedule import AbstractMasking


class WithEvidence(AbstractNetwork):
    r"""Adds to the logits of a network what each site's own state says of its datum, so that the rest is left to learn.

    By Bayes' theorem $p(x_1^i | x_t) \propto p(x_1^i | x_t^{j \ne i})\, q(x_t^i | x_1^i)$: the second factor is
    known. It does for any noise what the rule that a token seen is the datum does for masks: near the data there is no
    doubt left. Without it a network under other noise than masks has to learn that, and any doubt it keeps makes its
    bound in continuous time infinite.

    Example: `CategoricalModel(nn.WithEvidence(network, schedule, prior), schedule, prior=prior)`.
    """

    network: Network
    path: AbstractCategoricalPath
    prior: AbstractCategoricalPrior

    def __init__(
        self, network: Network, path: AbstractCategoricalPath | AbstractMasking, prior: AbstractCategoricalPrior
    ):
        """**Arguments:**

        - `network`: gives logits `(*shape, K)`, as that of a [`CategoricalModel`][].
        - `path`, `prior`: the model's; a schedule stands for its [`Mixture`][]. The prior has no mask, or `ValueError`:
            under one the model itself does this.
        """
        if prior.mask is not None:
            raise ValueError(
                "Under a prior of masks a CategoricalModel knows what is seen; give it the network itself."
            )
        self.network, self.prior = network, prior
        self.path = Mixture(path) if isinstance(path, AbstractMasking) else path

    def __call__(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        logits = call_network(self.network, t, x, condition, key=key)
        seen = self.path.likelihood(self.prior, jnp.asarray(t), jnp.ones_like(t), x).astype(logits.dtype)
        return logits + jnp.log(seen)

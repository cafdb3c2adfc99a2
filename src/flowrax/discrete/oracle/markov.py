r"""A Markov chain of any length, whose posteriors are computed by the forward-backward algorithm.

With $\ell_i(k) = p(y^i | x^i = k)$, $f_{i+1}(j) = \sum_k f_i(k)\, \ell_i(k)\, P_{kj}$ and
$b_i(k) = \sum_j P_{kj}\, \ell_{i+1}(j)\, b_{i+1}(j)$

$$p(x^i = k | y) \propto f_i(k)\, \ell_i(k)\, b_i(k).$$

All quantities are computed as logarithms, because a path whose probability would underflow from one end may be the only
possible one from the other end.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base import random
from ..._base.arrays import as_numbers
from ..._base.checks import check_count, check_shape
from ..._base.typing import Array, KeyArray, Numbers, Shape, Tokens
from .base import AbstractCategoricalOracle, check_distributions, entropy_of, normalised


class Markov(AbstractCategoricalOracle):
    """A Markov chain of `L` sites with `K` classes; each posterior costs `O(L K^2)`.

    **Reference:** [@rabiner1989tutorial].
    """

    initial: Array
    transition: Array
    shape: Shape = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)

    def __init__(self, initial: Numbers, transition: Numbers, length: int):
        """**Arguments:**

        - `initial`: the class probabilities of the first site, `(K,)`.
        - `transition`: the transition matrix `P`, `(K, K)`; row `k` holds the probabilities of the classes that follow
            class `k`.
        - `length`: the number of sites `L`, at least 1.

        **Raises:** `ValueError` for inconsistent shapes, or unless all rows are nonnegative and sum to one.
        """
        dtype = jnp.result_type(float)
        self.initial, self.transition = (
            as_numbers("initial", initial, dtype),
            as_numbers("transition", transition, dtype),
        )
        length = check_count("length", length)
        if self.initial.ndim != 1:
            raise ValueError(f"initial must be (K,); got {self.initial.shape}.")
        self.num_classes = len(self.initial)
        check_shape("transition", self.transition.shape, (self.num_classes, self.num_classes))
        check_distributions("initial", self.initial)
        check_distributions("transition", self.transition)
        self.shape = (length,)

    def draw(self, key: KeyArray) -> Tokens:
        log_transition = jnp.log(self.transition)

        def follow(logits: Array, key: KeyArray) -> tuple[Array, Array]:
            x = random.categorical(key, logits).astype(self.dtype)
            return log_transition[x], x

        return jax.lax.scan(follow, jnp.log(self.initial), jax.random.split(random.as_threefry(key), self.shape[0]))[1]

    def log_density(self, x: Tokens) -> Array:
        return jnp.log(self.initial)[x[0]] + jnp.sum(jnp.log(self.transition)[x[:-1], x[1:]])

    @property
    def marginals(self) -> Array:
        def follow(p: Array, _: None) -> tuple[Array, Array]:
            return p @ self.transition, p

        return jax.lax.scan(follow, self.initial, length=self.shape[0])[1]

    @property
    def entropy(self) -> Array:
        return entropy_of(self.initial) + jnp.sum(self.marginals[:-1] @ entropy_of(self.transition))

    def log_posterior(self, log_likelihood: Array) -> Array:
        log_transition = jnp.log(self.transition)

        def backward(b: Array, evidence: Array) -> tuple[Array, Array]:
            b = jax.nn.logsumexp(log_transition + (evidence + b)[None, :], axis=1)
            return b, b

        last = jnp.zeros_like(self.initial)
        _, rest = jax.lax.scan(backward, last, log_likelihood[1:], reverse=True)
        return normalised(self._forward(log_likelihood) + jnp.concatenate([rest, last[None]]))

    def log_evidence(self, log_likelihood: Array) -> Array:
        return jax.nn.logsumexp(self._forward(log_likelihood)[-1])

    def _forward(self, log_likelihood: Array) -> Array:
        r"""$\log f_i \ell_i$, `(L, K)`."""
        log_transition = jnp.log(self.transition)

        def forward(f: Array, evidence: Array) -> tuple[Array, Array]:
            here = f + evidence
            return jax.nn.logsumexp(log_transition + here[:, None], axis=0), here

        return jax.lax.scan(forward, jnp.log(self.initial), log_likelihood)[1]

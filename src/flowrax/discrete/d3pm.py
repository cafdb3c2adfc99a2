r"""Structured denoising diffusion of classes by index: a chain of `T` steps from noise, index `T - 1`, to the data.

With probabilities as row vectors, $x_i \sim x_{i-1} Q_i$ and $\bar Q_i = Q_0 \cdots Q_i$ (Austin et al. 2021, eq. 3),

$$q(x_{i-1} | x_i, x_1) \propto (x_i Q_i^\top) \odot (x_1 \bar Q_{i-1}).$$

Index $i$ corresponds to the time $t = 1 - (i + 1) / T$ of this library, and $x_1$ denotes the data.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import check_count, check_instance, check_shape, is_traced, plain_int, time_dtype
from .._base.typing import Array, ArrayLike, Int, KeyArray, Tokens
from ..schedule import DiscreteSchedule
from .path.base import AbstractCategoricalPath
from .path.mixture import Mixture
from .path.reverse import AbstractReverse, AveragedPosterior, variational_term
from .path.transitions import AbstractTransitions
from .prior import AbstractCategoricalPrior
from .sampler.clean_tokens import log_tempered
from .schedule import TabulatedMasking
from .sites import at_class, draw, invert, mean_where

Index = Int[ArrayLike, ""]


class D3PM(eqx.Module, metaclass=Checked):
    r"""The steps of a discrete diffusion chain, applied to one event.

    A step goes from index `i` to `i - 1`, or to any lower index `to`; from the last index, or with `to=last_index - 1`,
    it ends at the data. States are `(*shape)` integers, logits of the data `(*shape, K)`.

    `frx.sample(model, ..., grid=T)` takes the same steps for the models
    `CategoricalModel(network, TabulatedMasking(table), prior=prior)` and
    `CategoricalModel(network, Ordinal(table, K), prior=prior)`.

    **Reference:** [@austin2021structured].
    """

    path: AbstractCategoricalPath
    prior: AbstractCategoricalPrior
    reverse: AbstractReverse
    num_steps: int = eqx.field(static=True, converter=plain_int)
    last_index: int = eqx.field(static=True, converter=plain_int)

    def __init__(
        self,
        noise: DiscreteSchedule | AbstractTransitions,
        prior: AbstractCategoricalPrior,
        *,
        reverse: AbstractReverse | None = None,
        last_index: int = 0,
    ):
        r"""**Arguments:**

        - `noise`: a table of rates $\beta_i$, for $Q_i = (1 - \beta_i) I + \beta_i \mathbb{1} \pi^\top$ with the
            prior's probabilities $\pi$ (uniform, absorbing or any other); or transition matrices, such as
            [`Ordinal`][].
        - `prior`: the distribution of the noise.
        - `reverse`: converts the predicted distribution of the data into the distribution of a step. Default:
            [`AveragedPosterior`][].
        - `last_index`: the index of the last step: 0 where indices run from T - 1 to 0, 1 where they run from T to 1.
            Default: 0.

        Raises `ValueError` for a prior that does not fit the noise.
        """
        check_instance("noise", noise, DiscreteSchedule | AbstractTransitions)
        check_instance("prior", prior, AbstractCategoricalPrior)
        self.path = Mixture(TabulatedMasking(noise)) if isinstance(noise, DiscreteSchedule) else noise
        self.path.check_prior(prior)
        self.num_steps, self.last_index, self.prior = noise.num_steps, last_index, prior
        self.reverse = AveragedPosterior() if reverse is None else reverse

    def __check_init__(self) -> None:
        check_count("last_index", self.last_index, 0)

    def time(self, index: Index) -> Array:
        """The time that corresponds to an index; 1, the data, for `last_index - 1`.

        Raises `ValueError` for a concrete index out of range.
        """
        row = jnp.asarray(index) - self.last_index
        if not is_traced(row) and not -1 <= int(row) < self.num_steps:
            last = self.last_index + self.num_steps - 1
            raise ValueError(f"index={int(row) + self.last_index} is not one of {self.last_index}, ..., {last}.")
        return 1 - (row + 1).astype(float) / self.num_steps

    def _ends(self, index: Index, to: Index | None) -> tuple[Array, Array]:
        end = jnp.asarray(index) - 1 if to is None else jnp.asarray(to)
        if not is_traced(index, end) and not int(end) < int(jnp.asarray(index)):
            raise ValueError(f"to={to} must be below index={index}.")
        return self.time(index), self.time(end)

    def transition(self, index: Index, x: Array) -> Array:
        """$x Q_i$, `(*shape, K)`: the distribution of the state at index `i` given the state `x` at `i - 1`.

        `x` holds tokens or probabilities.
        """
        s, t = self._ends(index, None)
        return self.path.transition(self.prior, s, t, x)

    def marginal(self, index: Index, x1: Array) -> Array:
        r"""$x_1 \bar Q_i$, `(*shape, K)`: the distribution of the state at an index given the data `x1`.

        `x1` holds tokens or probabilities.
        """
        return self.path.marginal(self.prior, self.time(index), x1)

    def interpolate(
        self, index: Index, x1: Tokens, *, key: KeyArray | None = None, uniform: Array | None = None
    ) -> Tokens:
        """A draw from [`marginal`][], with a key or with uniform numbers as in [`step`][]."""
        return _pick(self.marginal(index, x1), key, uniform).astype(x1.dtype)

    def posterior(self, index: Index, x: Tokens, x1: Array, *, to: Index | None = None) -> Array:
        r"""$q(x_{i-1} | x_i = x, x_1)$, `(*shape, K)`, exact; the average over $x_1$ if `x1` holds probabilities."""
        return self.path.posterior(self.prior, *self._ends(index, to), x, x1)

    def predict(
        self,
        logits: Array,
        index: Index,
        x: Tokens,
        *,
        to: Index | None = None,
        temperature: float | Array = 1.0,
    ) -> Array:
        """$p(x_{i-1} | x_i = x)$, `(*shape, K)`, from logits of the data.

        For the step that ends at the data these are the probabilities of the data.
        """
        s, t = self._ends(index, to)
        p1 = jnp.exp(log_tempered(jax.nn.log_softmax(logits, axis=-1), temperature))
        p = self.reverse(self.path, self.prior, s, t, x, p1)
        p = jnp.where(t >= 1, p1, p)
        return p / jnp.sum(p, axis=-1, keepdims=True)

    def step(
        self,
        logits: Array,
        index: Index,
        x: Tokens,
        *,
        to: Index | None = None,
        key: KeyArray | None = None,
        uniform: Array | None = None,
        temperature: float | Array = 1.0,
    ) -> Tokens:
        """A draw from [`predict`][]; the temperature applies to the distribution of the data, as in `Ancestral`.

        Pass a key or uniform numbers. Uniform numbers `(*shape)`, one per site, are used for inversion sampling, as are
        those drawn from a key; uniform numbers `(*shape, K)` are used for the Gumbel-max trick.
        """
        p = self.predict(logits, index, x, to=to, temperature=temperature)
        return _pick(p, key, uniform).astype(x.dtype)

    def variational(self, logits: Array, index: Index, x: Tokens, x1: Tokens) -> Array:
        r"""$D_{\text{KL}}(q(x_{i-1} | x_i, x_1) \,\|\, p(x_{i-1} | x_i))$ for every site in nats, `(*shape)`.

        At the last index it is $-\log p(x_1 | x_i)$. Its sum over all indices, each with its own draw of $x_i$, plus
        [`prior_term`][] is an upper bound on the negative log-probability of the data; divide it by $L \log 2$, for $L$
        tokens, to obtain bits per token.
        """
        log_p1 = jax.nn.log_softmax(logits, axis=-1)
        return variational_term(self.reverse, self.path, self.prior, *self._ends(index, None), x, x1, log_p1)

    def prior_term(self, x1: Tokens) -> Array:
        r"""$D_{\text{KL}}(q(x_{T-1} | x_1) \,\|\, \pi)$ for every site in nats, `(*shape)`.

        It is infinite where a token may remain that the prior never draws: under a mask prior, unless the last
        $\bar\alpha$ is zero.
        """
        q = self.marginal(self.last_index + self.num_steps - 1, x1)
        pi = jnp.broadcast_to(self.prior.probabilities, q.shape)
        return jnp.sum(jax.scipy.special.rel_entr(q, pi), axis=-1)

    def loss(
        self,
        logits: Array,
        index: Index,
        x: Tokens,
        x1: Tokens,
        *,
        scale: float | Array = 0.0,
        mask: ArrayLike | None = None,
    ) -> Array:
        """The cross-entropy plus `scale` times [`variational`][], averaged over the sites of one event: a scalar.

        `mask`, `(*shape)`, is true or one for the sites that count, in both terms; the loss is zero where none counts.
        (Austin et al. 2021, eq. 5, where the weight is on the cross-entropy.)
        """
        log_p1 = jax.nn.log_softmax(logits, axis=-1)
        total = -at_class(log_p1, x1)
        if is_traced(scale) or scale:
            total = total + scale * self.variational(logits, index, x, x1)
        return mean_where(mask, total)


def _pick(weights: Array, key: KeyArray | None, uniform: Array | None) -> Tokens:
    """Draws a class for each site, with a key or uniform numbers."""
    if (key is None) == (uniform is None):
        raise ValueError("This step draws classes: pass either key=, or uniform= with numbers in [0, 1).")
    if key is not None:
        return draw(key, weights)
    weights = weights.astype(time_dtype(weights.dtype))
    uniform = jnp.asarray(uniform, weights.dtype)
    if uniform.shape == weights.shape:
        # Zero is replaced by the smallest positive number, so that the Gumbel noise is finite.
        tiny = jnp.finfo(weights.dtype).tiny
        return jnp.argmax(jnp.log(weights) - jnp.log(-jnp.log(jnp.maximum(uniform, tiny))), axis=-1)
    check_shape("uniform", uniform.shape, weights.shape[:-1])
    return invert(uniform, weights)

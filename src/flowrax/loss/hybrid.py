r"""The loss of D3PM: cross-entropy of the data and a term of the variational bound, at one step of a chain.

$$\mathcal{L} = \frac1L \sum_i \Big[-\log p_\theta(x_1^i | x_s) + \lambda\,
D_{\text{KL}}\big(q(x_t^i | x_s^i, x_1^i) \,\|\, p_\theta(x_t^i | x_s)\big)\Big], \qquad t = s + 1 / T.$$
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_not_negative
from .._typing import Array, Condition, KeyArray, PyTree, Scalar, Tokens
from ..abstract import AbstractCategoricalModel
from ..interpolant import AbstractReverse, AveragedPosterior, at_class, mean_where, variational_term
from ..times import AbstractTimes, Stepped
from .matching import AbstractLoss, ConditionDropout
from .reductions import MaskOf


class Hybrid(AbstractLoss):
    r"""Cross-entropy and `scale` times a term of the bound (Austin et al. 2021, eq. 5, with the weight on the former).

    Its mean over the states of the chain is, with $\lambda = T$ and without the cross-entropy, the bound in nats per
    token but for the term of the prior.

    **Reference:** [@austin2021structured].
    """

    num_steps: int = eqx.field(static=True)
    scale: float | Array
    reverse: AbstractReverse
    times: AbstractTimes
    mask: MaskOf | None
    condition_dropout: ConditionDropout | None

    def __init__(
        self,
        num_steps: int,
        scale: float | Array = 1.0,
        *,
        reverse: AbstractReverse | None = None,
        times: AbstractTimes | None = None,
        mask: MaskOf | None = None,
        condition_dropout: ConditionDropout | None = None,
    ):
        r"""**Arguments:**

        - `num_steps`: `T`, that of the table where the noise is one.
        - `scale`: $\lambda$, not negative, or `ValueError`.
        - `reverse`: of the sampler whose bound is meant; [`AveragedPosterior`][] without.
        - `times`: where steps start; those of the chain, [`flowrax.times.Stepped`][], all equally often, without.
        - `mask`: `mask(condition)`, `(*shape)`, is nonzero where a site counts, in both terms; an event without any has
            loss zero.
        - `condition_dropout`: [`ConditionDropout`][], for classifier-free guidance; the mask is that of the condition
            as it was.
        """
        check_not_negative("scale", scale)
        self.num_steps, self.scale, self.mask = num_steps, scale, mask
        self.condition_dropout = condition_dropout
        self.reverse = AveragedPosterior() if reverse is None else reverse
        self.times = Stepped(num_steps) if times is None else times

    def __call__(
        self,
        model: AbstractCategoricalModel,
        t: Scalar,
        x0: PyTree,
        x1: Tokens,
        condition: Condition = None,
        *,
        key: KeyArray | None = None,
    ) -> Array:
        given = condition
        if key is not None and self.condition_dropout is not None:
            key, dropout_key = jax.random.split(key)
            condition = self.condition_dropout(condition, dropout_key)
        x = model.interpolant.interpolate(t, x0, x1)
        log_p1 = model.log_probabilities(t, x, condition, key=key)
        error = -at_class(log_p1, x1)
        term = variational_term(self.reverse, model.interpolant, model.prior, t, self._end(t), x, x1, log_p1)
        error = error + self.scale * term
        return jnp.mean(error) if self.mask is None else mean_where(self.mask(given), error)

    def _end(self, t: Scalar) -> Array:
        """One step further; from a state of the chain the next one, without rounding, and at most the data."""
        place = jnp.asarray(t) * self.num_steps
        near = jnp.round(place)
        close = jnp.abs(place - near) <= 4 * self.num_steps * jnp.finfo(place.dtype).eps
        return jnp.minimum((jnp.where(close, near, place) + 1) / self.num_steps, 1)

r"""The loss of D3PM: the cross-entropy of the data plus a term of the variational bound, at one step of a chain.

$$\mathcal{L} = \frac1L \sum_i \Big[-\log p_\theta(x_1^i | x_s) + \lambda\,
D_{\text{KL}}\big(q(x_t^i | x_s^i, x_1^i) \,\|\, p_\theta(x_t^i | x_s)\big)\Big], \qquad t = s + 1 / T.$$
"""

import equinox as eqx
import jax.numpy as jnp

from ..._base.checks import check_not_negative, plain_int
from ..._base.typing import Array, Condition, KeyArray, MaskOf, PyTree, Scalar, Tokens
from ...loss import AbstractLoss, ConditionDropout
from ...loss.matching import drop_condition
from ...times import AbstractTimes, Stepped
from ..base import AbstractCategoricalModel
from ..path.reverse import AbstractReverse, AveragedPosterior, variational_term
from ..sites import at_class, mean_where


class Hybrid(AbstractLoss):
    r"""Cross-entropy plus `scale` times a term of the bound (Austin et al. 2021, eq. 5, who weight the cross-entropy).

    With $\lambda = T$, the mean of the second term over the steps of the chain is the variational bound in nats per
    token, except for its prior term.

    **Reference:** [@austin2021structured].
    """

    num_steps: int = eqx.field(static=True, converter=plain_int)
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

        - `num_steps`: the number of steps $T$; for a tabulated noise schedule, the number of steps of its table.
        - `scale`: the factor $\lambda$, nonnegative.
        - `reverse`: the reverse step of the sampler to which the bound applies. Default: `AveragedPosterior()`.
        - `times`: the distribution of the times at which steps start. Default: `Stepped(num_steps)`, see
            [`flowrax.times.Stepped`][], which draws all steps of the chain equally often.
        - `mask`: `mask(condition)`, `(*shape)`, nonzero where a site counts, in both terms. An event whose sites are
            all masked has loss zero. Default: all sites count.
        - `condition_dropout`: [`ConditionDropout`][], for classifier-free guidance; the mask is taken from the
            condition before dropout. Default: no dropout.

        **Raises:** `ValueError` if `scale` is negative.
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
        kept, key = drop_condition(self.condition_dropout, condition, key)
        x = model.interpolant.interpolate(t, x0, x1)
        log_p1 = model.log_probabilities(t, x, kept, key=key)
        error = -at_class(log_p1, x1)
        term = variational_term(self.reverse, model.interpolant, model.prior, t, self._end(t), x, x1, log_p1)
        error = error + self.scale * term
        return mean_where(None if self.mask is None else self.mask(condition), error)

    def _end(self, t: Scalar) -> Array:
        """The end of the step from `t`, at most 1. A time within rounding of a state of the chain gives the next state
        exactly.
        """
        place = jnp.asarray(t) * self.num_steps
        near = jnp.round(place)
        close = jnp.abs(place - near) <= 4 * self.num_steps * jnp.finfo(place.dtype).eps
        return jnp.minimum((jnp.where(close, near, place) + 1) / self.num_steps, 1)

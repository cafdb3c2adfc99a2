r"""Losses of categorical models: the cross-entropy of the data given the noisy state.

$$\mathcal{L} = \mathbb{E}_{t, x_1, x_t}\; \omega(t)\, \frac1L \sum_i -\log p_\theta(x_1^i | x_t).$$

Its minimiser is the posterior distribution of every site, whatever the weight.
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from ..._base.arguments import Checked
from ..._base.typing import Array, Condition, KeyArray, MaskOf, PyTree, Scalar, Tokens
from ...loss import AbstractLoss, ConditionDropout
from ...loss.matching import drop_condition
from ...times import AbstractTimes, Stratified
from ..base import AbstractCategoricalModel
from ..sites import at_class, sum_where


class AbstractTokenWeight(eqx.Module, metaclass=Checked):
    """A weight of the cross-entropy that depends on the time `t`."""

    @abc.abstractmethod
    def __call__(self, model: AbstractCategoricalModel, t: Scalar) -> Array:
        """The factor on the cross-entropy at time `t`, a scalar."""


class ELBOWeight(AbstractTokenWeight):
    r"""$\dot\alpha / (1 - \alpha)$: the weight of the continuous-time bound of masked diffusion (Sahoo et al. 2024,
    eq. 10).

    With uniform times and the sum over tokens (`per_token=False`), the mean of the loss bounds $-\log p(x_1)$ in nats,
    except for the contribution of tokens that the schedule's `eps` leaves unmasked at `t = 0`. The bound does not
    depend on the schedule. The weight is zero at the data end, where no token is masked. Raises `ValueError` if the
    prior has no mask.

    **Reference:** [@sahoo2024simple].
    """

    def __call__(self, model: AbstractCategoricalModel, t: Scalar) -> Array:
        if model.prior.mask is None:
            raise ValueError(
                f"ELBOWeight() is the weight of masked diffusion, but {type(model.prior).__name__} has no mask; leave "
                "out weight=."
            )
        schedule = model.interpolant.schedule
        return _over(schedule.alpha_rate(t), schedule.mask_probability(t))


class InverseRemaining(AbstractTokenWeight):
    r"""$1 / (1 - t)$; at the single point `t = 1` the weight is zero instead of infinite."""

    def __call__(self, model: AbstractCategoricalModel, t: Scalar) -> Array:
        t = jnp.asarray(t)
        return _over(jnp.ones_like(t), 1 - t)


class CrossEntropy(AbstractLoss):
    r"""The mean over tokens of $-\log p_\theta(x_1^i | x_t)$.

    With a mask prior the model assigns probability one to an unmasked token, so only masked tokens contribute; the mean
    is nevertheless over all tokens of the event, masked or not.
    """

    weight: AbstractTokenWeight | None = None
    """The weight in time, such as [`ELBOWeight`][] or [`InverseRemaining`][]. Default: weight one."""
    times: AbstractTimes = Stratified()
    condition_dropout: ConditionDropout | None = None
    mask: MaskOf | None = None
    """`mask(condition)`, of the shape of an event, nonzero where a token is real; padding does not enter the loss."""
    per_token: bool = eqx.field(static=True, default=True)
    """Whether to take the mean over real tokens; otherwise the sum, in which long events have more weight."""

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
        log_p = model.log_probabilities(t, x, kept, key=key)
        total, number = sum_where(None if self.mask is None else self.mask(condition), -at_class(log_p, x1))
        if self.weight is not None:
            total = self.weight(model, t).astype(total.dtype) * total
        return total / number if self.per_token else total


def _over(numerator: Array, denominator: Array) -> Array:
    """The ratio; zero where the denominator is zero."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)

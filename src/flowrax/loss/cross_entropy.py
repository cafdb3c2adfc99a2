r"""Losses of categorical models: the cross-entropy of the data given what is left of it.

$$\mathcal{L} = \mathbb{E}_{t, x_1, x_t}\; \omega(t)\, \frac1L \sum_i -\log p_\theta(x_1^i | x_t).$$

Its minimiser is the posterior of every site, whatever the weight.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_shape
from .._typing import Array, Condition, KeyArray, PyTree, Scalar, Tokens
from ..abstract import AbstractCategoricalModel
from ..interpolant import at_class
from ..times import AbstractTimes, Stratified
from .matching import AbstractLoss, ConditionDropout
from .reductions import MaskOf


class AbstractTokenWeight(eqx.Module):
    """A weight of the cross-entropy at time `t`."""

    @abc.abstractmethod
    def __call__(self, model: AbstractCategoricalModel, t: Scalar) -> Array:
        """The factor, a scalar."""


class Bound(AbstractTokenWeight):
    r"""$\dot\alpha / (1 - \alpha)$: the bound of masked diffusion in continuous time (Sahoo et al. 2024, eq. 10).

    With uniform times and the sum over tokens (`per_token=False`) the mean of the loss is a bound of $-\log p(x_1)$ in
    nats, but for what the schedule's `eps` leaves at `t = 0`. It does not depend on the schedule. Zero at the data end,
    where no masks are left to count. Raises `ValueError` where the prior has no mask.

    **Reference:** [@sahoo2024simple].
    """

    def __call__(self, model: AbstractCategoricalModel, t: Scalar) -> Array:
        if model.prior.mask is None:
            raise ValueError(
                f"Bound is that of masked diffusion, and {type(model.prior).__name__} has no mask; leave out weight=."
            )
        schedule = model.interpolant.schedule
        return _over(schedule.alpha_rate(t), schedule.mask_probability(t))


class InverseRemaining(AbstractTokenWeight):
    r"""$1 / (1 - t)$. At `t = 1` itself, one point of the integral, it is zero instead of infinite."""

    def __call__(self, model: AbstractCategoricalModel, t: Scalar) -> Array:
        t = jnp.asarray(t)
        return _over(jnp.ones_like(t), 1 - t)


class CrossEntropy(AbstractLoss):
    r"""The mean over tokens of $-\log p_\theta(x_1^i | x_t)$.

    Under a prior of masks a known token has probability one, so that masks alone count; tokens are all of the event's,
    whether masked or not.
    """

    weight: AbstractTokenWeight | None = None
    """[`Bound`][], [`InverseRemaining`][] or none."""
    times: AbstractTimes = Stratified()
    condition_dropout: ConditionDropout | None = None
    mask: MaskOf | None = None
    """`mask(condition)`, of the shape of an event, nonzero where a token is real: what is padded counts for nothing."""
    per_token: bool = eqx.field(static=True, default=True)
    """The mean over real tokens; the sum without, in which long events count for more."""

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
        log_p = model.log_probabilities(t, x, condition, key=key)
        loss = -at_class(log_p, x1)
        count = jnp.asarray(x1.size, jnp.int32)
        if self.mask is not None:
            real = jnp.asarray(self.mask(given)).astype(bool)
            check_shape("The mask of the tokens", real.shape, x1.shape)
            loss, count = jnp.where(real, loss, 0), jnp.sum(real, dtype=jnp.int32)
        total = jnp.sum(loss)
        if self.weight is not None:
            total = self.weight(model, t).astype(total.dtype) * total
        # An event without tokens has no loss.
        return total / jnp.maximum(count, 1).astype(total.dtype) if self.per_token else total


def _over(numerator: Array, denominator: Array) -> Array:
    """Their ratio; zero where the denominator is."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)

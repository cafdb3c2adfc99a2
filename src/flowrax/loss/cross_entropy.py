r"""Losses of categorical models: the cross-entropy of the data given what is left of it.

$$\mathcal{L} = \mathbb{E}_{t, x_1, x_t}\; \omega(t) \sum_i -\log p_\theta(x_1^i | x_t).$$

Its minimiser is the posterior of every site, whatever the weight.
"""

from typing import Any

import jax.numpy as jnp

from .._typing import Array, Condition, KeyArray, PyTree, Scalar, Tokens
from ..abstract import AbstractCategoricalModel
from ..times import AbstractTimes, Stratified
from .matching import AbstractLoss, ConditionDropout


class CrossEntropy(AbstractLoss):
    r"""The mean over sites of $-\log p_\theta(x_1^i | x_t)$, with the weight of the variational bound or without."""

    times: AbstractTimes = Stratified()
    condition_dropout: ConditionDropout | None = None
    mask: Any = None

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
        x = model.interpolant.interpolate(t, x0, x1)
        log_p = model.log_probabilities(t, x, condition, key=key)
        return -jnp.mean(jnp.take_along_axis(log_p, x1[..., None], axis=-1))

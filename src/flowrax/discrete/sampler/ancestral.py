"""Ancestral sampling: the exact reverse step of the noise, averaged over the model's clean-token probabilities."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._base import random
from ..._base.checks import check_grid, check_not_negative, is_traced
from ..._base.typing import Array, Condition, KeyArray, Tokens
from ...model.base import AbstractModel
from ..base import AbstractCategoricalModel, AbstractSingleEvaluationSampler, SamplerStep
from ..path.reverse import AbstractReverse, AveragedPosterior
from ..sites import draw, invert
from .clean_tokens import data_probabilities, data_weights


class Ancestral(AbstractSingleEvaluationSampler):
    r"""Draws every site independently from $\sum_{x_1} p(x_1 | x_s)\, q(x_t | x_s, x_1)$, for $s < t$.

    With an exact model each site has the exact marginal for any number of steps. Several sites that jump in the same
    step are drawn independently, which is an error of first order in the step. Under masks this is the sampler of
    masked diffusion (Sahoo et al. 2024, eq. 6), under other noise the sampler of D3PM.

    - `temperature`: the temperature of the clean-token probabilities. Default: 1. Raises `ValueError` if negative.
    - `reverse`: how the clean-token probabilities become a reverse step. Default: `discrete.AveragedPosterior()`;
        `discrete.AveragedJoint()` is D3PM as published.
    """

    temperature: float | Array = 1.0
    reverse: AbstractReverse = AveragedPosterior()

    def __check_init__(self) -> None:
        check_not_negative("temperature", self.temperature)

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        return even_times(model, grid)

    def probabilities(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition = None
    ) -> Array:
        """The probability of every class after the step, `(*shape, K)`."""
        return self._law(model, step, x, data_probabilities(model, step.start, x, condition, self.temperature))

    def step(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        # The weights may be unnormalised: the step is linear in them, and draw normalises.
        p1 = data_weights(model, step.start, x, condition, self.temperature)
        if model.prior.mask is None:
            return draw(key, self._law(model, step, x, p1))
        # Only masked sites change, and whether a site is unmasked does not depend on its token.
        schedule = model.interpolant.schedule
        kept = schedule.mask_probability(step.end) / schedule.mask_probability(step.start)
        when, what = random.uniform(key, (2, *x.shape), p1.dtype)
        return jnp.where((x == model.prior.mask) & (when >= kept.astype(p1.dtype)), invert(what, p1), x)

    def _law(self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, p1: Array) -> Array:
        return self.reverse(model.interpolant, model.prior, step.start, step.end, x, p1)


def even_times(model: AbstractModel, grid: Any) -> Array:
    """The times of `sample`'s argument `grid`.

    **Arguments:**

    - `model`: supplies the time interval, which is divided evenly.
    - `grid`: a number of even steps, or the increasing times themselves. Default: 128 steps. Raises `ValueError` for
        fewer than one step, and for times that do not increase within the model's interval up to its end.

    **Returns:** the times, `(k + 1,)` for `k` steps.
    """
    count = 128 if grid is None else check_grid(grid)
    if count is not None:
        return jnp.linspace(model.t_min, model.t_max, count + 1)
    times = jnp.asarray(grid)
    if not is_traced(times):
        given = np.asarray(times)
        good = given.ndim == 1 and len(given) > 1 and bool(np.all(np.diff(given) > 0))
        if not good or given[0] < model.t_min - 1e-6 or abs(given[-1] - model.t_max) > 1e-6:
            raise ValueError(
                f"grid must hold increasing times from {model.t_min} (or later if x0 is given) to {model.t_max}; got "
                f"{given}."
            )
    return times

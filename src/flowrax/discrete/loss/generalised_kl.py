r"""A likelihood bound for jump processes from noise to data: a generalised Kullback-Leibler divergence of rates.

If the path given the data jumps at rates $u_j$ and the model at rates $u^\theta_j$, the distribution $p_\theta$ of the
model's samples satisfies

$$-\log p_\theta(x_1) \le \int_0^1 \mathbb{E}_{x_t | x_1} \sum_i \sum_{j \ne x_t^i}
\Bigl[u_j \log \frac{u_j}{u^\theta_j} - u_j + u^\theta_j\Bigr]\, \mathrm{d}t,$$

and for the rates $\frac{\dot\alpha}{1 - \alpha}\, p(x_1 = j | x_t)$ of a mixture path, the sum over $j$ is

$$\frac{\dot\alpha}{1 - \alpha} \times \begin{cases} 1 - p_\theta(x_1^i | x_t) & x_t^i = x_1^i \\
-\log p_\theta(x_1^i | x_t) - p_\theta(x_t^i | x_t) & \text{otherwise} \end{cases}$$

(Shaul et al. 2025; Lipman et al. 2024).
"""

import jax.numpy as jnp

from ..._base.typing import Array, Condition, KeyArray, MaskOf, PyTree, Scalar, Tokens
from ...loss import AbstractLoss, ConditionDropout
from ...loss.matching import drop_condition
from ...times import AbstractTimes, Stratified
from ..base import AbstractCategoricalModel
from ..sites import at_class, mean_where


class GeneralisedKL(AbstractLoss):
    r"""The bound per site, in nats: the mean over sites of the integrand at one time.

    Integrated over `[0, 1]` and summed over sites, it bounds $-\log p_\theta$ of the model's jump process. With a mask
    prior it is the weighted cross-entropy of masked diffusion, and the bound is tight for an exact model. With other
    noise the bound is not tight: the path given the data jumps straight to the data, whereas the model also reaches
    them through intermediate tokens.

    - `times`: the distribution of the times. The weight is unbounded as `t` tends to 1, but the proportion of noisy
      sites falls correspondingly, so the mean needs no clamp; the default never draws `t = 1` itself.
    - `condition_dropout`: for classifier-free guidance.
    - `mask`: `mask(condition)`, of the shape of an event, nonzero at real sites. Other sites are padding and do not
      enter the loss. A mask of another shape raises a `ValueError`.

    **References:** [@shaul2025flow], [@lipman2024flow].
    """

    times: AbstractTimes = Stratified()
    condition_dropout: ConditionDropout | None = None
    mask: MaskOf | None = None

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
        values = self.per_site(model, t, model.interpolant.interpolate(t, x0, x1), x1, kept, key=key)
        return mean_where(None if self.mask is None else self.mask(condition), values)

    def per_site(
        self,
        model: AbstractCategoricalModel,
        t: Scalar,
        x: Tokens,
        x1: Tokens,
        condition: Condition = None,
        *,
        key: KeyArray | None = None,
    ) -> Array:
        """The integrand at each site, `(*shape)`, for data `x1` in the state `x` at time `t`."""
        log_p = model.log_probabilities(t, x, condition, key=key)
        clean, observed = (at_class(log_p, at) for at in (x1, x))
        rate = model.interpolant.schedule.unmask_rate(t).astype(log_p.dtype)
        return rate * jnp.where(x == x1, -jnp.expm1(observed), -clean - jnp.exp(observed))

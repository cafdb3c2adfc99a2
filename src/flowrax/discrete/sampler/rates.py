r"""The rates of the jump process that carries noise to data along a mixture path.

Let $\alpha$ be any schedule and $\pi$ any prior. Given its clean token $x_1$, a site at $x \ne x_1$ jumps to $x_1$ at
the rate $\dot\alpha / (1 - \alpha)$, which yields the marginals
$q_t(x | x_1) = \alpha\, \delta_{x_1} + (1 - \alpha)\, \pi$ (Gat et al. 2024). Any jumps in detailed balance with $q_t$
may be added (Campbell et al. 2024, proposition 3.3). Those used here are, with $m = \max \pi$,

$$R(x_1 \to j) = \frac{\eta}{m}\, \pi_j, \qquad
R(j \to x_1) = \frac{\eta}{m}\, \frac{\alpha + (1 - \alpha)\, \pi_{x_1}}{1 - \alpha},$$

so that under masks $\eta$ is the rate of remasking. The rates of a site are averaged over $p(x_1 | x_t)$; the process
of all sites then has the marginals of the path.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base.arguments import Checked
from ..._base.typing import Array, Condition, Scalar, Tokens
from ..base import AbstractCategoricalModel
from ..sites import at_class, spread


class AbstractRateGuide(eqx.Module, metaclass=Checked):
    """A guide of the jump process: it multiplies the rate of every jump by a factor."""

    @abc.abstractmethod
    def log_factor(self, model: AbstractCategoricalModel, t: Scalar, x: Tokens, condition: Condition = None) -> Array:
        """The logarithm of the factor for a jump of each site to each class, `(*shape, K)`."""


def jump_rates(
    model: AbstractCategoricalModel, t: Scalar, x: Tokens, p1: Array, stochasticity: float | Array = 0.0
) -> Array:
    r"""The rate at which each site jumps to every other class.

    **Reference:** [@campbell2024generative].

    **Arguments:**

    - `model`: supplies the path and the prior; its network is not called.
    - `t`: the time, before the data end, where the rates are infinite.
    - `x`: `(*shape)`, the current classes.
    - `p1`: `(*shape, K)`, the clean-token probabilities of each site given `x`.
    - `stochasticity`: $\eta$, the rate of the added noise in jumps per unit of time. Default: 0.

    **Returns:** `(*shape, K)`, in jumps per unit of time; zero at the current class.
    """
    dtype, schedule = p1.dtype, model.interpolant.schedule
    rates = schedule.unmask_rate(t).astype(dtype) * p1
    if not (isinstance(stochasticity, float | int) and stochasticity == 0):
        pi = model.prior.probabilities.astype(dtype)
        eta = jnp.asarray(stochasticity, dtype) / jnp.max(pi)
        odds = (schedule.alpha(t) / schedule.mask_probability(t)).astype(dtype)
        here, pi = at_class(p1, x)[..., None], spread(pi, p1.ndim)
        rates = rates + eta * (here * pi + p1 * (odds + pi))
    return jnp.where(jax.nn.one_hot(x, p1.shape[-1], dtype=bool), 0, rates)


def guided_jumps(
    model: AbstractCategoricalModel,
    t: Scalar,
    x: Tokens,
    p1: Array,
    factor: Array,
    stochasticity: float | Array = 0.0,
) -> tuple[Array, Array]:
    r"""Jump rates conditioned on an observation $y$, from the likelihood ratios `factor` $= p(y | x') / p(y | x)$.

    The rates of the time-reversed noise, $R(x \to j) = \beta\, \pi_x\, q_t(j) / q_t(x)$ with
    $\beta = \dot\alpha / \alpha$, become the rates of $p(\cdot | y)$ when they are multiplied by the ratio (Nisonoff et
    al. 2025, eq. 4): they contain a ratio of two marginals, and conditioning on $y$ multiplies each marginal by
    $p(y | \cdot)$. Other rates do not have this property. Under masks the rates equal [`jump_rates`][]; under other
    noise sites jump more often. The noise added by `stochasticity` does not depend on $y$ and is left unguided.

    **Reference:** [@nisonoff2025unlocking].

    **Arguments:**

    - `model`, `t`, `x`, `p1`, `stochasticity`: as in [`jump_rates`][].
    - `factor`: `(*shape, K)`, the likelihood ratio of the jump of each site to each class.

    **Returns:** `(*shape, K)` relative rates, and the scalar in jumps per unit of time that multiplies them. The scalar
    is infinite where $\alpha = 0$.
    """
    dtype, schedule = p1.dtype, model.interpolant.schedule
    alpha, lost = schedule.alpha(t).astype(dtype), schedule.mask_probability(t).astype(dtype)
    pi = model.prior.probabilities.astype(dtype)
    fresh = jnp.asarray(stochasticity, dtype) / jnp.max(pi)
    here, pi_x, pi = jax.nn.one_hot(x, p1.shape[-1], dtype=bool), pi[x][..., None], spread(pi, p1.ndim)
    evidence = jnp.where(here, alpha, 0) + lost * pi_x
    ratio = jnp.where(evidence > 0, p1 / jnp.where(evidence > 0, evidence, 1), 0)
    back = pi_x * (alpha * ratio + lost * pi * jnp.sum(ratio, axis=-1, keepdims=True))
    # The factor may be NaN at an impossible jump, so mask it there.
    back = jnp.where(back == 0, 0, back * factor)
    rate = jnp.where(alpha > 0, schedule.alpha_rate(t).astype(dtype) / jnp.where(alpha > 0, alpha, 1), jnp.inf)
    speed = rate + fresh
    return jnp.where(here, 0, back + fresh / speed * pi), speed

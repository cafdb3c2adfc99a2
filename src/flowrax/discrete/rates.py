r"""Rates of jumps that carry noise to data along a mixture path, for any schedule $\alpha$ and any prior $\pi$.

Given its datum $x_1$ a site at $x \ne x_1$ jumps there at the rate $\dot\alpha / (1 - \alpha)$, which makes
$q_t(x | x_1) = \alpha\, \delta_{x_1} + (1 - \alpha)\, \pi$ of the prior (Gat et al. 2024). Jumps in detailed balance
with $q_t$ may be added at will (Campbell et al. 2024, proposition 3.3); here, with $m = \max \pi$,

$$R(x_1 \to j) = \frac{\eta}{m}\, \pi_j, \qquad
R(j \to x_1) = \frac{\eta}{m}\, \frac{\alpha + (1 - \alpha)\, \pi_{x_1}}{1 - \alpha},$$

so that $\eta$ is the rate at which masks come back. The rates of a site are their mean over $p(x_1 | x_t)$, and all
sites together then have the marginals of the path.
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from .._typing import Array, Bool, Condition, Scalar, Tokens
from ..abstract import AbstractCategoricalModel
from ..interpolant import spread


class AbstractRateGuide(eqx.Module):
    """Makes some jumps more frequent and others rarer."""

    @abc.abstractmethod
    def log_factor(self, model: AbstractCategoricalModel, t: Scalar, x: Tokens, condition: Condition = None) -> Array:
        """The logarithm of what the rate of each jump is multiplied by, `(*shape, K)`."""


def at(x: Tokens, num_classes: int) -> Bool[Array, "..."]:
    """Where each class is that of the site.

    **Arguments:**

    - `x`: `(*shape)` integers.
    - `num_classes`: `K`.

    **Returns:** `(*shape, K)` booleans.
    """
    return x[..., None] == spread(jnp.arange(num_classes, dtype=x.dtype), x.ndim + 1)


def jump_rates(
    model: AbstractCategoricalModel, t: Scalar, x: Tokens, p1: Array, stochasticity: float | Array = 0.0
) -> Array:
    r"""The rates at which each site jumps to every other class.

    **Reference:** [@campbell2024generative].

    **Arguments:**

    - `model`: whose path and prior count; its network is not called.
    - `t`: the time, before the data end, where rates are infinite.
    - `x`: `(*shape)`, the classes now.
    - `p1`: `(*shape, K)`, the probabilities of the data on each site given `x`.
    - `stochasticity`: $\eta$, in jumps per unit of time: how fast what is there is lost again.

    **Returns:** `(*shape, K)`, in jumps per unit of time; zero at the class that is there.
    """
    dtype, schedule = p1.dtype, model.interpolant.schedule
    rates = schedule.unmask_rate(t).astype(dtype) * p1
    if not (isinstance(stochasticity, float | int) and stochasticity == 0):
        pi = model.prior.probabilities.astype(dtype)
        eta = jnp.asarray(stochasticity, dtype) / jnp.max(pi)
        odds = (schedule.alpha(t) / schedule.mask_probability(t)).astype(dtype)
        here, pi = jnp.take_along_axis(p1, x[..., None], axis=-1), spread(pi, p1.ndim)
        rates = rates + eta * (here * pi + p1 * (odds + pi))
    return jnp.where(at(x, p1.shape[-1]), 0, rates)


def guided_jumps(
    model: AbstractCategoricalModel,
    t: Scalar,
    x: Tokens,
    p1: Array,
    factor: Array,
    stochasticity: float | Array = 0.0,
) -> tuple[Array, Array]:
    r"""Rates that carry the law of the data given something else, $y$, by `factor` $= p(y | x') / p(y | x)$.

    Only rates that undo noise, $R(x \to j) = \beta\, \pi_x\, q_t(j) / q_t(x)$ with $\beta = \dot\alpha / \alpha$,
    become those of $p(\cdot | y)$ by the ratio (Nisonoff et al. 2025, eq. 4): they hold the ratio of two marginals, and
    under $y$ both are multiplied by $p(y | \cdot)$. Under masks they are those of [`jump_rates`][]; under other noise
    sites move more often than there. What `stochasticity` loses is noise, which no $y$ has a say in.

    **Reference:** [@nisonoff2025unlocking].

    **Arguments:**

    - `model`, `t`, `x`, `p1`, `stochasticity`: as of [`jump_rates`][].
    - `factor`: `(*shape, K)`.

    **Returns:** `(*shape, K)` relative rates and the scalar that they are multiplied by, in jumps per unit of time;
    infinite where nothing is left of the data.
    """
    dtype, schedule = p1.dtype, model.interpolant.schedule
    alpha, lost = schedule.alpha(t).astype(dtype), schedule.mask_probability(t).astype(dtype)
    pi = model.prior.probabilities.astype(dtype)
    fresh = jnp.asarray(stochasticity, dtype) / jnp.max(pi)
    here, pi_x, pi = at(x, p1.shape[-1]), pi[x][..., None], spread(pi, p1.ndim)
    evidence = jnp.where(here, alpha, 0) + lost * pi_x
    ratio = jnp.where(evidence > 0, p1 / jnp.where(evidence > 0, evidence, 1), 0)
    back = pi_x * (alpha * ratio + lost * pi * jnp.sum(ratio, axis=-1, keepdims=True))
    # A jump that cannot be needs no factor, which may not be a number there.
    back = jnp.where(back == 0, 0, back * factor)
    rate = jnp.where(alpha > 0, schedule.alpha_rate(t).astype(dtype) / jnp.where(alpha > 0, alpha, 1), jnp.inf)
    speed = rate + fresh
    return jnp.where(here, 0, back + fresh / speed * pi), speed

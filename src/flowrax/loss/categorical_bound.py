r"""The variational bound of a categorical model in continuous time: how far its jumps are from those of the data.

Backwards in time the noise replaces every token at the rate $\beta = \dot\alpha / \alpha$ by a draw of $\pi$. Its time
reversal given the data takes a site from $x$ to $j$ at the rate $u$ and the model, which averages over what it says of
the data, at the rate $u^\theta$ (Campbell et al. 2022, propositions 1 to 3):

$$u_j = \beta\, \pi_x\, \frac{q_t(j | x_1)}{q_t(x | x_1)}, \qquad
u^\theta_j = \sum_{x_1} p_\theta(x_1 | x_t)\, u_j(x_1), \qquad
-\log p(x_1) \le \int \mathbb{E} \sum_i \sum_{j \ne x^i}
\Big[ u^\theta_j - u_j + u_j \log \frac{u_j}{u^\theta_j} \Big] \mathrm{d}t$$

for noise that ends in $\pi$. For masks the sum is $\frac{\dot\alpha}{1 - \alpha} \sum_i -\log p_\theta(x_1^i | x_t)$
over masked sites (Sahoo et al. 2024, eq. 10). The bound is tight for every event where the model is exact.

The integral is over the share $m = 1 - \alpha$ of what is lost, and $1 / m$ is not evaluated: let every site have a
uniform level and be lost below $m$; of $L$ sites $N$ are lost, and

$$\int_0^1 \frac{\mathrm{d}m}{m}\, \mathbb{E}\, f = \sum_{N=1}^{L} \frac1N\, \mathbb{E}\big[ f \,\big|\,
\text{lost are the sites of the } N \text{ lowest levels, and } m \text{ is the highest of these} \big]$$

plus the term of $N = 0$, in which $f$ is of order $m$. So a draw of $N$ and of the levels has a bounded weight, $L / N$
for masks, where a draw of $m$ has one without a variance.
"""

import jax
import jax.numpy as jnp

from .._typing import Array, Condition, KeyArray, PyTree, Scalar, Tokens
from ..abstract import AbstractCategoricalModel
from ..interpolant import Mixture, probabilities_of, spread
from ..times import AbstractTimes, Stratified
from .matching import AbstractLoss, ConditionDropout
from .reductions import MaskOf


class CategoricalBound(AbstractLoss):
    """The continuous bound of one event, in nats: the sum over its sites.

    Its mean is the bound of `log_prob`. The time that is drawn chooses how much is lost, so `times` must be uniform,
    and as even as can be.

    **References:** [@campbell2022continuous], [@ou2025absorbing].
    """

    times: AbstractTimes = Stratified()
    condition_dropout: ConditionDropout | None = None
    mask: MaskOf | None = None
    """`mask(condition)`, of the shape of an event, nonzero where a site is real. Others are never lost and count for
    nothing: the bound is that of the real sites given them."""

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
        real = None if self.mask is None else jnp.asarray(self.mask(condition)) != 0
        if key is not None and self.condition_dropout is not None:
            key, dropout_key = jax.random.split(key)
            condition = self.condition_dropout(condition, dropout_key)
        x0, level = x0
        unit = (jnp.asarray(t, level.dtype) - model.t_min) / (model.t_max - model.t_min)
        return bound_draw(model, unit, x0, level, x1, condition, real=real, key=key)


def bound_draw(
    model: AbstractCategoricalModel,
    unit: Array,
    x0: Tokens,
    level: Array,
    x1: Tokens,
    condition: Condition = None,
    *,
    real: Array | None = None,
    key: KeyArray | None = None,
) -> Array:
    """One draw whose mean is the continuous bound.

    **Arguments:**

    - `model`: of a [`Mixture`][], that ends at `t_max=1`; or `ValueError`.
    - `unit`: uniform in [0, 1), which chooses how many sites are lost.
    - `x0`: a draw of the prior.
    - `level`: uniform in [0, 1), one number per site.
    - `x1`: the event.
    - `real`: which sites there are; all without.
    - `key`: for dropout.

    **Returns:** nats, a scalar.
    """
    check_continuous(model)
    masked = model.prior.mask is not None
    schedule, kept_at_start = model.interpolant.schedule, model.interpolant.schedule.alpha(model.t_min)
    flat = level.ravel()
    if real is not None:
        flat = jnp.where(real.ravel(), flat, 1)
    rank = jnp.argsort(jnp.argsort(flat)).astype(jnp.int32).reshape(x1.shape)
    count = jnp.asarray(x1.size, jnp.int32) if real is None else jnp.sum(real, dtype=jnp.int32)
    # Masks are exact where nothing is lost; other noise has a term there.
    cells = count + (0 if masked else 1)
    number = jnp.minimum((unit * cells.astype(unit.dtype)).astype(jnp.int32), cells - 1) + (1 if masked else 0)
    # Half a unit of rounding off both ends, where a level of zero would be divided by.
    lost = (
        jnp.sort(flat)[jnp.maximum(number, 1) - 1] * (1 - jnp.finfo(level.dtype).eps) + jnp.finfo(level.dtype).eps / 2
    )
    size, kept = jnp.maximum(count, 1).astype(level.dtype), 1 - lost
    start = kept_at_start.astype(level.dtype)
    # Masks are complete at t_min, where this is what the source gives: the share of a noise that is chosen so.
    share = start + (1 - start) * kept if masked else kept
    t = jnp.clip(schedule.time_at(jnp.maximum(share, start)), model.t_min, model.t_max)
    x = jnp.where(rank < number, x0, x1)
    log_p = model.log_probabilities(t.astype(model.dtype), x, condition, key=key).astype(level.dtype)
    if masked:
        weight = size / jnp.maximum(number, 1).astype(level.dtype)
        return weight * jnp.sum(_where_real(real, masked_terms(model, log_p, x, x1)))
    weight = (size + 1) / jnp.where(number > 0, number.astype(level.dtype) * share, size * lost)
    terms = _where_real(real, jump_terms(model, jnp.exp(log_p), share, x, x1))
    return jnp.where(share >= start, weight * jnp.sum(terms), 0)


def masked_terms(model: AbstractCategoricalModel, log_p: Array, x: Tokens, x1: Tokens) -> Array:
    r"""$-\log p(x_1^i | x_t)$ of what is masked.

    **Arguments:**

    - `log_p`: `(*shape, K)`.
    - `x`, `x1`: `(*shape)`.

    **Returns:** `(*shape)`, zero where nothing is masked.
    """
    there = jnp.take_along_axis(log_p, x1[..., None], axis=-1)[..., 0]
    return -jnp.where(x == model.prior.mask, there, 0)


def jump_terms(model: AbstractCategoricalModel, p1: Array, alpha: Array, x: Tokens, x1: Tokens) -> Array:
    r"""The divergence of the rates of every site, times $(1 - \alpha) / \beta$.

    **Arguments:**

    - `p1`: of the data, `(*shape, K)`.
    - `alpha`: $\alpha(t)$.
    - `x`, `x1`: `(*shape)`.

    **Returns:** `(*shape)`; of order $\alpha^2$ where nothing is left of the data.
    """
    rates = _scaled_rates(model, p1, alpha, x)
    truth = _scaled_rates(model, probabilities_of(x1, model.prior.num_classes).astype(p1.dtype), alpha, x)
    return jnp.sum(divergence_terms(truth, rates), axis=-1)


def _scaled_rates(model: AbstractCategoricalModel, p1: Array, alpha: Array, x: Tokens) -> Array:
    r"""The rates times $(1 - \alpha) / \beta$, zero for $x$ itself and where no noise is $x$; for $j \ne x$

    $$\alpha p_j + (1 - \alpha)\, \pi_j\,
    \frac{\alpha (1 - p_x) + (1 - \alpha)\, \pi_x}{\alpha + (1 - \alpha)\, \pi_x}.$$
    """
    pi, lost = model.prior.probabilities.astype(p1.dtype), 1 - alpha
    here = jax.nn.one_hot(x, model.prior.num_classes, dtype=bool)
    # Summed, not taken from one: near the data it is small.
    others = jnp.sum(jnp.where(here, 0, p1), axis=-1)
    pi_x = pi[x]
    share = (alpha * others + lost * pi_x) / (alpha + lost * pi_x)
    rates = alpha * p1 + lost * spread(pi, p1.ndim) * share[..., None]
    return jnp.where(here | (pi_x == 0)[..., None], 0, rates)


def divergence_terms(v: Array, w: Array) -> Array:
    r"""$w - v + v \log (v / w)$, elementwise: the terms of a Kullback-Leibler divergence, each not negative.

    **Arguments:**

    - `v`, `w`: not negative, of one shape.

    **Returns:** of that shape; infinite where $v > 0 = w$, and of second order where the two are close, with nothing
    cancelled.
    """
    near = (jnp.abs(w - v) <= v / 2) & (v > 0)
    change = jnp.where(near, w - v, 0) / jnp.where(near, v, 1)
    ratio = jnp.log(jnp.where(near | (v == 0), 1, v)) - jnp.log(jnp.where(near | (v == 0), 1, w))
    return jnp.where(near, v * (change - jnp.log1p(change)), w - v + v * ratio)


def check_continuous(model: AbstractCategoricalModel) -> None:
    """Raises `ValueError` where noise is left at the end, or has no rate.

    **Arguments:**

    - `model`: any.
    """
    if model.t_max != 1:
        raise ValueError(f"The bound is one of data, at t=1, but the model ends at t_max={model.t_max}.")
    if not isinstance(model.interpolant, Mixture):
        raise ValueError(
            f"{type(model.interpolant).__name__} has steps and no rates in between; use log_prob(grid=) in its steps."
        )


def _where_real(real: Array | None, terms: Array) -> Array:
    return terms if real is None else jnp.where(real, terms, 0)

r"""The variational bound of a categorical model in continuous time: a divergence between jump rates.

From data to noise, each token is replaced by a draw of $\pi$ at the rate $\beta = \dot\alpha / \alpha$. The time
reversal of this process given the data takes a site from $x$ to $j$ at the rate $u_j$. The model averages these rates
over its predicted distribution of the data, which gives $u^\theta_j$ (Campbell et al. 2022, propositions 1 to 3):

$$u_j = \beta\, \pi_x\, \frac{q_t(j | x_1)}{q_t(x | x_1)}, \qquad
u^\theta_j = \sum_{x_1} p_\theta(x_1 | x_t)\, u_j(x_1), \qquad
-\log p(x_1) \le \int \mathbb{E} \sum_i \sum_{j \ne x^i}
\Big[ u^\theta_j - u_j + u_j \log \frac{u_j}{u^\theta_j} \Big] \mathrm{d}t$$

provided that the noising process ends in $\pi$. With masks the sum is $\frac{\dot\alpha}{1 - \alpha} \sum_i
-\log p_\theta(x_1^i | x_t)$ over masked sites (Sahoo et al. 2024, eq. 10). If the model is exact, the bound is tight
for every event.

The integral is taken over the probability $m = 1 - \alpha$ that a site is corrupted, without evaluating $1 / m$. Give
every site a uniform level and corrupt it if its level is below $m$. With $N$ of $L$ sites corrupted,

$$\int_0^1 \frac{\mathrm{d}m}{m}\, \mathbb{E}\, f = \sum_{N=1}^{L} \frac1N\, \mathbb{E}\big[ f \,\big|\,
\text{the } N \text{ sites of lowest level are corrupted, and } m \text{ is the highest of their levels} \big]$$

plus the term for $N = 0$, in which $f$ is of order $m$. Drawing $N$ and the levels thus gives a bounded weight, $L / N$
for masks, whereas the weight of a uniform draw of $m$ has infinite variance.
"""

import jax
import jax.numpy as jnp

from ..._base.typing import Array, Condition, KeyArray, MaskOf, PyTree, Scalar, Tokens
from ...loss import AbstractLoss, ConditionDropout
from ...loss.matching import drop_condition
from ...times import AbstractTimes, Stratified
from ..base import AbstractCategoricalModel
from ..path.mixture import Mixture
from ..sites import at_class, probabilities_of, spread, sum_where


class CategoricalBound(AbstractLoss):
    """The continuous-time bound on the negative log-likelihood of one event, in nats, summed over its sites.

    Its mean is minus the bound that `log_prob` returns. The drawn time selects the number of corrupted sites, so
    `times` must be uniform, and should be as evenly spread as possible.

    **References:** [@campbell2022continuous], [@ou2025absorbing].
    """

    times: AbstractTimes = Stratified()
    condition_dropout: ConditionDropout | None = None
    mask: MaskOf | None = None
    """`mask(condition)`, of the shape of an event, nonzero where a site is real. Other sites are never corrupted and do
    not enter the loss, which bounds the real sites conditioned on them."""

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
        real = None if self.mask is None else jnp.asarray(self.mask(condition)).astype(bool)
        condition, key = drop_condition(self.condition_dropout, condition, key)
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
    """One Monte Carlo draw of the continuous-time bound, which is its mean.

    **Arguments:**

    - `model`: a model of a [`Mixture`][] that ends at `t_max=1`.
    - `unit`: a uniform number in [0, 1), which selects the number of corrupted sites.
    - `x0`: a draw of the prior, `(*shape)`.
    - `level`: uniform numbers in [0, 1), `(*shape)`.
    - `x1`: the event, `(*shape)`.
    - `condition`: the condition of the model.
    - `real`: nonzero where a site is real, `(*shape)`. Default: all sites.
    - `key`: for dropout in the network.

    **Returns:** a scalar, in nats.

    **Raises:** `ValueError` for any other model.
    """
    check_continuous(model)
    masked = model.prior.mask is not None
    schedule, kept_at_start = model.interpolant.schedule, model.interpolant.schedule.alpha(model.t_min)
    flat = level.ravel()
    if real is not None:
        flat = jnp.where(real.ravel(), flat, 1)
    rank = jnp.argsort(jnp.argsort(flat)).astype(jnp.int32).reshape(x1.shape)
    count = jnp.asarray(x1.size, jnp.int32) if real is None else jnp.sum(real, dtype=jnp.int32)
    # With masks the term for no corrupted site vanishes; with other noise it does not.
    cells = count + (0 if masked else 1)
    number = jnp.minimum((unit * cells.astype(unit.dtype)).astype(jnp.int32), cells - 1) + (1 if masked else 0)
    # Keep `lost` half a machine epsilon away from 0 and 1: it is a divisor below.
    lost = (
        jnp.sort(flat)[jnp.maximum(number, 1) - 1] * (1 - jnp.finfo(level.dtype).eps) + jnp.finfo(level.dtype).eps / 2
    )
    size, kept = jnp.maximum(count, 1).astype(level.dtype), 1 - lost
    start = kept_at_start.astype(level.dtype)
    # Sampling starts with every site masked at t_min. A site is then still masked at t with probability
    # lost = (1 - alpha(t)) / (1 - alpha(t_min)), and `share` is the alpha(t) that solves this.
    share = start + (1 - start) * kept if masked else kept
    t = jnp.clip(schedule.time_at(jnp.maximum(share, start)), model.t_min, model.t_max)
    x = jnp.where(rank < number, x0, x1)
    log_p = model.log_probabilities(t.astype(model.dtype), x, condition, key=key).astype(level.dtype)
    if masked:
        weight = size / jnp.maximum(number, 1).astype(level.dtype)
        return weight * sum_where(real, masked_terms(model, log_p, x, x1))[0]
    weight = (size + 1) / jnp.where(number > 0, number.astype(level.dtype) * share, size * lost)
    total, _ = sum_where(real, jump_terms(model, jnp.exp(log_p), share, x, x1))
    return jnp.where(share >= start, weight * total, 0)


def masked_terms(model: AbstractCategoricalModel, log_p: Array, x: Tokens, x1: Tokens) -> Array:
    r"""$-\log p(x_1^i | x_t)$ at the masked sites.

    **Arguments:**

    - `model`: a model whose prior has a mask.
    - `log_p`: log-probabilities of the data, `(*shape, K)`.
    - `x`, `x1`: the state and the data, `(*shape)`.

    **Returns:** `(*shape)`, zero at sites that are not masked.
    """
    return -jnp.where(x == model.prior.mask, at_class(log_p, x1), 0)


def jump_terms(model: AbstractCategoricalModel, p1: Array, alpha: Array, x: Tokens, x1: Tokens) -> Array:
    r"""The divergence of the model's rates from the true rates at every site, times $(1 - \alpha) / \beta$.

    **Arguments:**

    - `model`: a model of a [`Mixture`][].
    - `p1`: predicted probabilities of the data, `(*shape, K)`.
    - `alpha`: $\alpha(t)$.
    - `x`, `x1`: the state and the data, `(*shape)`.

    **Returns:** `(*shape)`; of order $\alpha^2$ as $\alpha \to 0$.
    """
    rates = _scaled_rates(model, p1, alpha, x)
    truth = _scaled_rates(model, probabilities_of(x1, model.prior.num_classes).astype(p1.dtype), alpha, x)
    return jnp.sum(divergence_terms(truth, rates), axis=-1)


def _scaled_rates(model: AbstractCategoricalModel, p1: Array, alpha: Array, x: Tokens) -> Array:
    r"""The rates times $(1 - \alpha) / \beta$. They are zero for $j = x$ and where $\pi_x = 0$; otherwise

    $$\alpha p_j + (1 - \alpha)\, \pi_j\,
    \frac{\alpha (1 - p_x) + (1 - \alpha)\, \pi_x}{\alpha + (1 - \alpha)\, \pi_x}.$$
    """
    pi, lost = model.prior.probabilities.astype(p1.dtype), 1 - alpha
    here = jax.nn.one_hot(x, model.prior.num_classes, dtype=bool)
    # Sum the other probabilities instead of computing 1 - p_x, which loses digits near the data.
    others = jnp.sum(jnp.where(here, 0, p1), axis=-1)
    pi_x = pi[x]
    share = (alpha * others + lost * pi_x) / (alpha + lost * pi_x)
    rates = alpha * p1 + lost * spread(pi, p1.ndim) * share[..., None]
    return jnp.where(here | (pi_x == 0)[..., None], 0, rates)


def divergence_terms(v: Array, w: Array) -> Array:
    r"""$w - v + v \log (v / w)$, elementwise: the terms of a Kullback-Leibler divergence, each nonnegative.

    **Arguments:**

    - `v`, `w`: nonnegative arrays of equal shape.

    **Returns:** an array of the same shape, infinite where $v > 0 = w$. Where $v$ and $w$ are close, the result is of
    second order in their difference and free of cancellation.
    """
    near = (jnp.abs(w - v) <= v / 2) & (v > 0)
    change = jnp.where(near, w - v, 0) / jnp.where(near, v, 1)
    ratio = jnp.log(jnp.where(near | (v == 0), 1, v)) - jnp.log(jnp.where(near | (v == 0), 1, w))
    return jnp.where(near, v * (change - jnp.log1p(change)), w - v + v * ratio)


def check_continuous(model: AbstractCategoricalModel) -> None:
    """Raises `ValueError` if the model ends before the data at `t = 1`, or its path has no continuous-time rates.

    **Arguments:**

    - `model`: any categorical model.
    """
    if model.t_max != 1:
        raise ValueError(f"The bound is on data at t=1, but the model ends at t_max={model.t_max}; use t_max=1.")
    if not isinstance(model.interpolant, Mixture):
        raise ValueError(
            f"{type(model.interpolant).__name__} has discrete steps and no rates; use log_prob(grid=) with its steps."
        )

r"""The variational bound of a diffusion model on the log-likelihood of its data (Kingma et al. 2021).

$$-\log p(x) \le \underbrace{D_{\text{KL}}\big(q(z_{t_{\min}} | x) \,\|\, p(z_{t_{\min}})\big)}_{\text{prior}}
- \underbrace{\mathbb{E}_{q} \log p(x | z_{t_{\max}})}_{\text{reconstruction}}
+ \underbrace{\tfrac12 \int_{\lambda_{\min}}^{\lambda_{\max}}
\mathbb{E}\, \lVert \varepsilon - \hat\varepsilon \rVert^2\, \mathrm{d}\lambda}_{\text{diffusion}}$$

in the log-SNR $\lambda$; the last term depends on the schedule only through its end points. In $T$ steps it is
$\tfrac12 \sum_i (e^{\lambda_{i+1} - \lambda_i} - 1)\, \mathbb{E}\, \lVert \varepsilon - \hat\varepsilon \rVert^2$, with
the noise predicted at the noisier end $i$ of each step.
"""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.arguments import Checked, checked
from .._base.arrays import as_numbers
from .._base.checks import (
    check_batch,
    check_count,
    check_finite,
    check_increasing,
    check_instance,
    check_interval,
    check_number,
    plain_int,
)
from .._base.condition import Batched, cast_condition, condition_of, split_condition
from .._base.random import as_threefry
from .._base.typing import Array, BatchLike, Condition, Event, KeyArray, KeyLike, PyTree
from ..model.base import AbstractContinuousModel
from ..prior import AbstractGaussianPrior, AbstractPrior


class AbstractReconstruction(eqx.Module, metaclass=Checked):
    r"""The distribution $p(x | z)$ of the data given the least noisy latent, $z = \alpha x + \sigma \varepsilon$."""

    @abc.abstractmethod
    def __call__(self, x: Event, z: Event, alpha: Array, sigma: Array) -> Array:
        """Minus the log-density, or log-probability, of one event, in nats."""


class GaussianReconstruction(AbstractReconstruction):
    r"""$\mathcal{N}(z / \alpha, (\sigma / \alpha)^2 I)$, for data with a density.

    It neglects the structure of the data at the scale of this noise, which loosens the bound by about $(\sigma /
    \alpha)^2$ divided by the variance of the data: keep $\sigma(t_{\max})$ small.
    """

    def __call__(self, x: Event, z: Event, alpha: Array, sigma: Array) -> Array:
        std = sigma / alpha
        return jnp.sum(((x - z / alpha) / std) ** 2) / 2 + x.size * (jnp.log(std) + math.log(2 * math.pi) / 2)


class DiscreteReconstruction(AbstractReconstruction):
    r"""Each element is one of `levels` evenly spaced values from `low` to `high`, with probabilities in proportion to
    $q(z | x)$ (section 3.2).

    The bound then applies to a discrete distribution: divided by $D \log 2$ it is in bits per dimension, without a
    dequantisation correction.
    """

    low: float
    high: float
    levels: int = eqx.field(static=True, converter=plain_int)

    def __check_init__(self) -> None:
        check_number("low", self.low)
        check_number("high", self.high)
        check_increasing("low", self.low, "high", self.high)
        check_count("levels", self.levels, 2)

    def __call__(self, x: Event, z: Event, alpha: Array, sigma: Array) -> Array:
        values = jnp.linspace(self.low, self.high, self.levels, dtype=x.dtype)
        grid = values.reshape((1,) * x.ndim + (-1,))
        logits = -(((z / alpha)[..., None] - grid) ** 2) / (2 * (sigma / alpha) ** 2)
        given = -((z / alpha - x) ** 2) / (2 * (sigma / alpha) ** 2)
        return jnp.sum(jax.nn.logsumexp(logits, axis=-1) - given)


class VariationalBound(eqx.Module):
    """An upper bound on the negative log-likelihood of `n` events, in nats per event; every array is `(n,)`.

    **Attributes:**

    - `prior`: the divergence of the noisiest latent from the prior.
    - `reconstruction`: the expected cost of the data given the least noisy latent.
    - `diffusion`: the integrated error of the noise prediction.
    - `standard_error`: The standard error of `value`, treating the draws as independent although their times are spread
        evenly; infinite if there is only one pair of draws.
    - `size`: the number of elements of an event.
    """

    prior: Array
    reconstruction: Array
    diffusion: Array
    standard_error: Array
    size: int = eqx.field(static=True, converter=plain_int)

    @property
    def value(self) -> Array:
        """The sum of the three terms."""
        return self.prior + self.reconstruction + self.diffusion

    @property
    def bits_per_dimension(self) -> Array:
        """`value` divided by the number of elements of an event, in bits."""
        return self.value / (self.size * math.log(2))


@checked
def variational_bound(
    model: AbstractContinuousModel,
    x: BatchLike,
    key: KeyLike,
    *,
    condition: Condition | Batched = None,
    num_steps: int | None = None,
    num_draws: int = 64,
    reconstruction: AbstractReconstruction | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
) -> VariationalBound:
    """Evaluates the variational bound of every event.

    **Arguments:**

    - `model`: a model with standard normal noise that is independent of the data.
    - `x`: the data (not latents), `(n, *event)`.
    - `key`: draws the times, spread evenly in log-SNR, and the noise, in pairs of opposite sign.
    - `condition`: one condition for all events, or `Batched(c)` with a leading axis `n` on every leaf.
    - `num_steps`: the number $T$ of steps, of equal length in time. Default: continuous time, the tightest bound.
    - `num_draws`: the number of evaluations of the model for each event, rounded up to an even number.
    - `reconstruction`: the distribution of the data given the last latent. Default: `GaussianReconstruction()`.
    - `t_min`, `t_max`: the time interval of the latents, with finite log-SNR at both ends. Default: the interval of the
        model.

    **Returns:** [`VariationalBound`][].

    **Raises:** `ValueError` if the log-SNR is infinite at `t_min` or `t_max`, if the noise is not standard normal and
    independent of the data, or if `x` has another shape or is not finite.

    **Reference:** [@kingma2021variational].
    """
    check_instance("model", model, AbstractContinuousModel)
    low = model.t_min if t_min is None else t_min
    high = model.t_max if t_max is None else t_max
    check_interval(low, high)
    for name, t in (("t_min", low), ("t_max", high)):
        if t in model.schedule.singularities.log_snr:
            raise ValueError(f"The log-SNR is infinite at {name}={t}; pass a {name}= at which it is finite.")
    _check_noise(model)
    key = as_threefry(key)
    rows = as_numbers("x", x, model.dtype)
    check_batch("x", rows, model.shape)
    check_finite("x", rows)
    chosen = GaussianReconstruction() if reconstruction is None else reconstruction
    num_steps = None if num_steps is None else check_count("num_steps", num_steps)
    num_draws = check_count("num_draws", num_draws)
    task = _Bound(low, high, num_steps, max(1, (num_draws + 1) // 2), chosen)
    shared, own = split_condition(cast_condition(condition, model.dtype, rows.shape[0]))
    return _evaluate(task, model, rows, key, shared, own)


def _check_noise(model: AbstractContinuousModel) -> None:
    # This property raises if noise and data depend on each other.
    _ = model.score_interval
    if not (isinstance(model.prior, AbstractGaussianPrior) and model.prior.is_standard):
        raise ValueError(
            f"The variational bound needs standard normal noise, but the prior is {type(model.prior).__name__}; "
            "use log_prob."
        )


class _Bound(eqx.Module):
    t_min: float
    t_max: float
    num_steps: int | None = eqx.field(static=True, converter=plain_int)
    num_pairs: int = eqx.field(static=True, converter=plain_int)
    reconstruction: AbstractReconstruction

    def one(
        self,
        model: AbstractContinuousModel,
        source: AbstractPrior,
        x: Event,
        condition: Condition,
        key: KeyArray,
    ) -> VariationalBound:
        time_key, noise_key = jax.random.split(key)
        k = self.num_pairs
        shift = random.uniform(time_key, (), x.dtype)
        u = (jnp.arange(k, dtype=shift.dtype) + shift) / k
        noises = random.normal(noise_key, (k, *x.shape), x.dtype)

        def draw(u: Array, noise: Event) -> tuple[Array, Array, Array]:
            both = jnp.stack([noise, -noise])
            terms = jax.vmap(lambda e: self.terms(model, source, x, condition, u, e))(both)
            return jax.tree.map(jnp.mean, terms)

        prior, reconstruction, diffusion = jax.vmap(draw)(u, noises)
        spread = (
            jnp.std(prior + reconstruction + diffusion, ddof=1) / k**0.5 if k > 1 else jnp.asarray(jnp.inf, x.dtype)
        )
        return VariationalBound(jnp.mean(prior), jnp.mean(reconstruction), jnp.mean(diffusion), spread, x.size)

    def terms(
        self,
        model: AbstractContinuousModel,
        source: AbstractPrior,
        x: Event,
        condition: Condition,
        u: Array,
        noise: Event,
    ) -> tuple[Array, Array, Array]:
        """The three terms for one draw of the noise and of `u`, uniform in [0, 1)."""
        schedule = model.schedule
        t, weight = self.time_and_weight(model, u)
        alpha, sigma = (scale(t).astype(x.dtype) for scale in (schedule.alpha, schedule.sigma))
        predicted = model.predict(t, alpha * x + sigma * noise, condition).noise
        diffusion = weight.astype(x.dtype) * jnp.sum((noise - predicted) ** 2) / 2
        (a0, s0), (a1, s1) = (
            [scale(jnp.asarray(end, u.dtype)).astype(x.dtype) for scale in (schedule.alpha, schedule.sigma)]
            for end in (self.t_min, self.t_max)
        )
        log_q = -jnp.sum(noise**2) / 2 - x.size * (jnp.log(s0) + math.log(2 * math.pi) / 2)
        prior = log_q - source.log_density(a0 * x + s0 * noise)
        return prior, self.reconstruction(x, a1 * x + s1 * noise, a1, s1), diffusion

    def time_and_weight(self, model: AbstractContinuousModel, u: Array) -> tuple[Array, Array]:
        """The time at which to evaluate the noise error, and twice its weight divided by the density of that time."""
        schedule = model.schedule
        low, high = (jnp.asarray(end, u.dtype) for end in (self.t_min, self.t_max))
        if self.num_steps is None:
            first, last = schedule.log_snr(low), schedule.log_snr(high)
            t = schedule.time_at(first + u * (last - first))
            return jnp.clip(t, low, high), last - first
        step = (high - low) / self.num_steps
        t = low + step * jnp.floor(u * self.num_steps)
        climb = schedule.log_snr(jnp.minimum(t + step, high)) - schedule.log_snr(t)
        return t, self.num_steps * jnp.expm1(climb)


@eqx.filter_jit
def _evaluate(
    task: _Bound, model: AbstractContinuousModel, x: Array, key: KeyArray, condition: Condition, rows: PyTree
) -> VariationalBound:
    source = model.source_at(task.t_min)

    def one(index: Array, x: Event, row: PyTree) -> VariationalBound:
        own = jax.random.fold_in(key, index)
        return task.one(model, source, x, condition_of(condition, row), own)

    return jax.vmap(one)(jnp.arange(x.shape[0]), x, rows)

r"""Twisted sequential Monte Carlo along the reverse SDE, for linear-Gaussian measurements.

For a step from $t$ to $u$ with $h = \lambda_u - \lambda_t$ in log-SNR and $x_t = \alpha x_1 + \sigma x_0$,
$x_0 \sim \mathcal{N}(m, \Sigma_0)$, the prior moves by the kernel

$$p(x_u | x_t) = \mathcal{N}\big(\alpha_u \hat x_1 + \sigma_u m
+ e^{-h} \tfrac{\alpha_u}{\alpha_t} (x_t - \alpha_t \hat x_1 - \sigma_t m),\; \sigma_u^2 (1 - e^{-h}) \Sigma_0\big),$$

the kernel of DDPM. Particles move by the kernel $q$ that has $\hat x_1 + (\sigma_t^2 / \alpha_t) \Sigma_0 g$ in place
of $\hat x_1$, with the likelihood score $g$ of a guidance rule, and their weights are multiplied by

$$\frac{p(x_u | x_t)\, \tilde p(y | x_u)}{q(x_u | x_t)\, \tilde p(y | x_t)}, \qquad
\log \frac pq = -\tfrac12 \sigma_t^2 (e^h - 1)\, g^\top \Sigma_0 g
- \sigma_t \sqrt{e^h - 1}\; g^\top \Sigma_0^{1/2} z,$$

where $\tilde p$ is the rule's density of the measurement and $z$ the noise of the step. The last step moves to
$\hat x_1$, where the twist is the likelihood itself. The mean weight is an unbiased estimate of the evidence of the
prior that these steps draw from, and the weighted particles are its posterior in the limit of many.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.checks import check_count, check_fraction, check_instance, is_traced, time_dtype
from .._base.typing import Array, Event, KeyArray
from ..guidance import TMPD, AbstractGaussianGuidance
from ..model import gaussian_prior
from ..model.base import TIME_MARGIN
from ..observation import LinearGaussian
from ..prior import bind_condition
from .base import AbstractModelMethod, ModelProblem, PosteriorDraws
from .islands import spread_of, systematic

# Standard deviations of the islands' log-evidences in nats beyond which a warning is given.
_WIDE_SPREAD = 0.5
# The last noise level as a fraction of that which the measurement resolves.
_FINEST = 0.3


class TwistedSMC(AbstractModelMethod):
    """Particles that follow the guided reverse SDE, with weights that make up for the error of the guidance.

    Exact up to Monte Carlo error and the error of `num_steps` steps of the prior, for [`LinearGaussian`][] only. Each
    particle takes one evaluation of the guidance rule per step.

    **Reference:** [@wu2023practical].
    """

    twist: AbstractGaussianGuidance = eqx.field(default_factory=TMPD)
    """The rule that gives the score and the density of the measurement, such as [`TMPD`][] or [`PiGDM`][]."""
    num_steps: int = eqx.field(default=100, converter=lambda n: check_count("num_steps", n, 3))
    """The number of steps, equal in log-SNR."""
    num_islands: int = eqx.field(default=4, converter=lambda n: check_count("num_islands", n))
    """The number of independent groups of particles. One island gives no error bar of the evidence."""
    ess: float = 0.5
    """Particles are resampled when their effective sample size falls below this fraction of an island."""

    def __check_init__(self) -> None:
        check_fraction("ess", self.ess)

    @property
    def differentiable(self) -> bool:
        return False

    def __call__(self, problem: ModelProblem, key: KeyArray, num_samples: int) -> PosteriorDraws:
        check_instance("observation", problem.observation, LinearGaussian)
        islands = self.num_islands
        if num_samples % islands or num_samples < 2 * islands:
            up = max(-(-num_samples // islands), 2) * islands
            raise ValueError(
                f"num_samples={num_samples} does not divide into {islands} islands of two particles or more; pass "
                f"num_samples={up} or TwistedSMC(num_islands=)."
            )
        model, schedule = problem.model, problem.model.schedule
        low, high = model.score_interval
        low = max(low, TIME_MARGIN) if 0.0 in schedule.singularities.forward_sde else low
        times = _times(problem, self.num_steps, low, high)
        log_evidences, undefined, draws = _run(self, problem, times, key, num_samples)
        return draws if is_traced(draws) else _doubted(islands, log_evidences, undefined, draws)


def _times(problem: ModelProblem, num_steps: int, low: float, high: float) -> Array:
    """Times equal in log-SNR, up to where the noise of the state is well below that of the measurement."""
    schedule, observation = problem.model.schedule, problem.observation
    gain = jnp.sqrt(jnp.sum(observation.operator**2, axis=1))
    finest = _FINEST * jnp.min(observation.noise_std / jnp.where(gain > 0, gain, 1))
    first, last = (schedule.log_snr(jnp.asarray(t, float)) for t in (low, high))
    last = jnp.minimum(last, jnp.maximum(-2 * jnp.log(finest).astype(last.dtype), first + 1))
    return schedule.time_at(first + (last - first) * jnp.linspace(0, 1, num_steps))


class _State(eqx.Module):
    """The particles of all islands, `(islands, n, *shape)`, with what the twist gives at each."""

    x: Array
    data: Array
    score: Array
    log_twist: Array
    log_weights: Array
    log_evidence: Array
    """`(islands,)`, of the weights before the last resampling."""
    undefined: Array


@eqx.filter_jit
def _run(
    method: TwistedSMC, problem: ModelProblem, times: Array, key: KeyArray, num_samples: int
) -> tuple[Array, Array, PosteriorDraws]:
    """The log-evidence of each island, the number of undefined weights, and the draws."""
    model = bind_condition(problem.model, problem.condition)
    islands, n, shape = method.num_islands, num_samples // method.num_islands, model.shape
    start_key, loop_key = jax.random.split(key)
    source = model.source_at(times[0])
    x = jax.vmap(source.draw)(jax.random.split(start_key, num_samples)).reshape(islands, n, *shape)
    dtype = time_dtype(model.dtype)
    twisted = _twisted(method, eqx.tree_at(lambda p: p.model, problem, model), times[0], x)
    zeros = jnp.zeros(islands, dtype)
    log_twist, undefined = _defined(twisted[2].astype(dtype))
    state = _State(x, twisted[0], twisted[1], log_twist, log_twist, zeros, undefined)

    def step(state: _State, inputs: tuple[Array, Array, KeyArray]) -> tuple[_State, None]:
        return _step(method, eqx.tree_at(lambda p: p.model, problem, model), state, *inputs), None

    keys = jax.random.split(loop_key, times.shape[0] - 1)
    state, _ = jax.lax.scan(step, state, (times[:-1], times[1:], keys))
    value = jax.vmap(jax.vmap(problem.observation.log_likelihood))(state.data).astype(dtype)
    log_weights, undefined = _defined(state.log_weights + value - state.log_twist)
    each = jax.scipy.special.logsumexp(log_weights, axis=1)
    log_evidences = state.log_evidence + each - jnp.log(jnp.asarray(n, dtype))
    log_evidence = jax.scipy.special.logsumexp(log_evidences) - jnp.log(jnp.asarray(islands, dtype))
    alive = jnp.isfinite(log_evidence)
    shares = jnp.where(alive, log_evidences - log_evidence - jnp.log(jnp.asarray(islands, dtype)), -jnp.inf)
    within = log_weights - jnp.where(jnp.isfinite(each), each, 0)[:, None]
    draws = PosteriorDraws(
        x=state.data.reshape(num_samples, *shape),
        log_weights=(shares[:, None] + within).reshape(-1),
        log_evidence=log_evidence,
        log_evidence_error=spread_of(log_evidences) / jnp.sqrt(jnp.asarray(islands, dtype)),
        num_evaluations=jnp.asarray(times.shape[0], jnp.int32),
        finished=alive,
    )
    return log_evidences, state.undefined + undefined, draws


def _twisted(method: TwistedSMC, problem: ModelProblem, t: Array, x: Array) -> tuple[Array, Array, Array]:
    """The denoised data, the likelihood score and the log-density of the measurement at each particle."""

    def one(x: Event) -> tuple[Event, Event, Array]:
        likelihood = method.twist.likelihood(problem.model, problem.observation, t, x, problem.condition)
        score, log_density = likelihood.score_and_log_density()
        return likelihood.prediction.data, score, log_density

    return jax.vmap(jax.vmap(one))(x)


def _defined(log_weights: Array) -> tuple[Array, Array]:
    """Log-weights with minus infinity where they are undefined, and the number of these."""
    undefined = jnp.isnan(log_weights) | (log_weights == jnp.inf)
    return jnp.where(undefined, -jnp.inf, log_weights), jnp.sum(undefined, dtype=jnp.int32)


def _step(method: TwistedSMC, problem: ModelProblem, state: _State, t: Array, u: Array, key: KeyArray) -> _State:
    """Resample where the weights have become uneven, and move from time `t` to `u`."""
    resample_key, noise_key = jax.random.split(key)
    state = _resampled(resample_key, state, method.ess)
    model, prior, x = problem.model, gaussian_prior(problem.model), state.x
    now, then = (model.schedule.scales(time, x.dtype) for time in (t, u))
    h = (model.schedule.log_snr(u) - model.schedule.log_snr(t)).astype(x.dtype)
    z = random.normal(noise_key, x.shape, x.dtype)
    spread, shaped = (jax.vmap(jax.vmap(f)) for f in (prior.covariance_product, prior.root))
    pulled, noise, mean = spread(state.score), shaped(z), prior.mean.astype(x.dtype)[None, None]
    data = state.data + now.sigma**2 / now.alpha * pulled
    rest = x - now.alpha * data - now.sigma * mean
    moved = then.alpha * data + then.sigma * mean + jnp.exp(-h) * then.alpha / now.alpha * rest
    moved = moved + then.sigma * jnp.sqrt(-jnp.expm1(-h)) * noise
    ratio = now.sigma * jnp.sqrt(jnp.expm1(h))

    def inner(a: Array, b: Array) -> Array:
        return jnp.sum((a * b).reshape(*a.shape[:2], -1), axis=2)

    log_ratio = -0.5 * ratio**2 * inner(state.score, pulled) - ratio * inner(state.score, noise)
    data, score, log_twist = _twisted(method, problem, u, moved)
    dtype = state.log_weights.dtype
    log_twist, _ = _defined(log_twist.astype(dtype))
    # A particle of weight zero stays so, and its twist of minus infinity is not subtracted.
    previous = jnp.where(state.log_twist == -jnp.inf, 0, state.log_twist)
    log_weights, undefined = _defined(state.log_weights + log_ratio.astype(dtype) + log_twist - previous)
    return _State(moved, data, score, log_twist, log_weights, state.log_evidence, state.undefined + undefined)


def _resampled(key: KeyArray, state: _State, ess: float) -> _State:
    """The particles after systematic resampling of the islands whose effective sample size is too small."""
    n = state.log_weights.shape[1]
    total = jax.scipy.special.logsumexp(state.log_weights, axis=1)
    alive = jnp.isfinite(total)
    normalised = state.log_weights - jnp.where(alive, total, 0)[:, None]
    size = jnp.exp(-jax.scipy.special.logsumexp(2 * normalised, axis=1))
    due = alive & (size < ess * n)
    chosen = jnp.where(due[:, None], systematic(key, state.log_weights), jnp.arange(n)[None])
    x, data, score, log_twist = (
        jax.vmap(lambda a, i: a[i])(leaf, chosen) for leaf in (state.x, state.data, state.score, state.log_twist)
    )
    log_mean = total - jnp.log(jnp.asarray(n, total.dtype))
    log_weights = jnp.where(due[:, None], 0, state.log_weights)
    log_evidence = jnp.where(due, state.log_evidence + log_mean, state.log_evidence)
    return _State(x, data, score, log_twist, log_weights, log_evidence, state.undefined)


def _doubted(islands: int, log_evidences: Array, undefined: Array, draws: PosteriorDraws) -> PosteriorDraws:
    """The draws with sentences about what casts doubt on them."""
    said, lost = [], int(jnp.sum(~jnp.isfinite(log_evidences)))
    if lost:
        said.append(f"TwistedSMC: {lost} of {islands} islands have no particle left; pass more num_samples.")
    if int(undefined):
        said.append(
            f"TwistedSMC: {int(undefined)} weights were NaN or plus infinity and count as zero; the model or the twist "
            "gave no finite value there."
        )
    spread = float(spread_of(log_evidences))
    if islands > 1 and not lost and spread > _WIDE_SPREAD:
        said.append(
            f"TwistedSMC: the log-evidences of the {islands} islands have a standard deviation of {spread:.2g} nats, "
            "so some of them lack modes; pass more num_samples or TwistedSMC(num_steps=)."
        )
    return dataclasses.replace(draws, warnings=tuple(said))

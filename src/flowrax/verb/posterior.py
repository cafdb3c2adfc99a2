r"""`posterior`: draws from $p(x | y)$, by a guided model or by a method that is exact.

The density $q$ of a guided flow only approximates the posterior. Since $q(x_i)$ is computed along with the samples, the
weights $w_i \propto p(x_i)\, p(y | x_i) / q(x_i)$ correct for it, and their mean estimates the evidence $p(y)$. A draw
whose solve fails has weight zero and counts in this mean.
"""

import dataclasses
import math
import warnings
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import checked
from .._base.checks import check_count, is_traced
from .._base.condition import Batched
from .._base.random import as_threefry
from .._base.result import (
    RESULTS,
    LogProb,
    Samples,
    Stats,
    described,
    is_failed,
    on_successful,
    raise_if_failed,
    without_failed,
)
from .._base.typing import Array, Batch, BatchLike, Condition, Float, Int, Integer, KeyArray, KeyLike, PerSample
from ..divergence import AbstractDivergence, Exact
from ..dynamics.base import AbstractDynamics
from ..engine import Grid, ProgressLike
from ..guidance import AbstractGuidance, GuidedModel, PiGDM
from ..inverse import AbstractPosteriorMethod
from ..model.base import AbstractContinuousModel, AbstractModel
from ..observation import Observation
from .last_step import AbstractLastStep
from .log_prob import log_prob
from .noise_space import check_none, noise_flow, noise_posterior
from .options import DEFAULT_MAX_STEPS, check_model
from .sample import sample
from .shared_condition import check_shared

_PIGDM = PiGDM()


class PosteriorSamples(eqx.Module):
    """What `posterior` returns.

    **Attributes:**

    - `x`: `(n, *event)`.
    - `residual`: $(y - f(x)) / s$ for each sample, in units of the noise: about standard normal where model and data
        agree and the noise is Gaussian. None if the observation has no method `residual`.
    - `log_weights`: `(n,)`, normalised; for guidance equal unless `reweight=True`.
    - `log_evidence`: Log-density of `y` in nats; for guidance with `reweight=True` only.
    - `stats`: the work done for each sample.
    - `result`: `(n,)`, one result code per sample.
    - `log_evidence_error`: the standard error of `log_evidence`, None without one.
    - `temperatures`: the temperatures of a tempered method, NaN beyond the last one inside `jit`; None for guidance.
    - `acceptance`: the mean acceptance probability of the moves at each of them.
    """

    x: Batch
    residual: Float[Array, "n ..."] | None
    log_weights: PerSample
    """`(n,)`, normalised. Minus infinity for failed draws, whose weight is zero."""
    log_evidence: Float[Array, ""] | None
    """Log-density of `y` in nats. Failed draws count with likelihood zero."""
    stats: Stats
    result: RESULTS
    """`(n,)`, one result code per draw; with `reweight=True` it covers the likelihood solve of the prior too."""
    log_evidence_error: Float[Array, ""] | None = None
    r"""The standard error of `log_evidence`.

    With `reweight=True` it is $\sqrt{1 / \text{ess} - 1 / n}$, to first order, estimated from the same weights: it is
    too small where few of them dominate; do not trust it if `ess` is below a tenth of the draws. [`TemperedSMC`][]
    takes it from the spread of its islands.
    """
    temperatures: Float[Array, " k"] | None = None
    acceptance: Float[Array, " k"] | None = None

    @property
    def num_failed(self) -> Int[Array, ""]:
        """The number of draws that failed."""
        return jnp.sum(is_failed(self.result))

    def __repr__(self) -> str:
        return described(self, self.result)

    @property
    def ess(self) -> Array:
        """Effective sample size of the weights, between 1 and n; zero if every draw failed.

        It does not count that the draws of [`TemperedSMC`][] depend on each other.
        """
        return jnp.where(jnp.all(self.log_weights == -jnp.inf), 0, jnp.exp(-_log_sum(2 * self.log_weights)))

    @property
    def weights(self) -> PerSample:
        """`(n,)`, summing to one."""
        return jnp.exp(self.log_weights)


@checked
def posterior(
    model: AbstractModel,
    observation: Observation,
    key: KeyLike,
    num_samples: Integer,
    *,
    method: AbstractGuidance | AbstractPosteriorMethod = _PIGDM,
    condition: Condition | Batched = None,
    reweight: bool = False,
    divergence: AbstractDivergence | None = None,
    x0: BatchLike | None = None,
    dynamics: AbstractDynamics | None = None,
    solver: dfx.AbstractSolver | None = None,
    rtol: float | Array | None = None,
    atol: float | Array | None = None,
    grid: Grid | None = None,
    stepsize_controller: dfx.AbstractStepSizeController | None = None,
    adjoint: dfx.AbstractAdjoint | None = None,
    lanes: Integer | None = None,
    last_step: AbstractLastStep | None = None,
    max_steps: Integer | None = None,
    progress: ProgressLike = False,
    throw: bool = True,
) -> PosteriorSamples:
    """Draws from the distribution of `x` given the observation.

    **Arguments:**

    - `model`: the prior; a model with a score.
    - `observation`: the measurement, [`LinearGaussian`][] for guidance. An exact method takes any object with a method
        `log_likelihood(x)` of one event, such as those of `flowrax.observation`.
    - `key`: with guidance, sample `i` draws from `fold_in(key, i)` only.
    - `num_samples`: `n`.
    - `method`: a guidance rule, which is exact only for the prior that it assumes, or a posterior method such as
        [`TemperedSMC`][], which is exact up to Monte Carlo error. Default: [`PiGDM`][], whose posterior standard
        deviations were up to 1.4 times too large for a smooth Gaussian process.
    - `condition`: as in [`sample`][].
    - `reweight`: whether to solve for the densities too and return importance weights and the log-evidence. Needs the
        probability flow, and costs a likelihood solve of the guided model and one of the prior. If the effective
        sample size is below a tenth of the draws, a warning says so (outside `jit`): the evidence and its standard
        error are then unreliable.
    - `divergence`: the estimator of the divergence for `reweight`; a random one makes the weights noisy. Default:
        [`Exact`][].
    - `x0`, `dynamics`, `solver`, `rtol`, `atol`, `grid`, `stepsize_controller`, `adjoint`, `lanes`, `last_step`,
        `max_steps`, `progress`, `throw`: as in [`sample`][]. For a prior that is far from Gaussian,
        `dynamics=ReverseSDE()` with a `grid` forgets early errors of the guidance and leaves smaller residuals than the
        flow. The prior's likelihood solve is adaptive, whatever the `grid`.

    A posterior method solves the flow on a grid. It takes `condition` (one for all draws), `solver` (default:
    `Heun()`), `grid` (default: 24 steps), `lanes` and `throw`, and refuses the other options. Outside `jit` a warning
    says so if a quarter of 16 draws end more than 0.1 standard deviations or 0.5 nats of log-likelihood away from
    adaptive solves.

    With `throw=False` failed draws have weight zero: their rows of `x` and `residual` are NaN, unless only the
    likelihood solve of the prior failed. They count as draws of likelihood zero in the evidence, which is then in
    expectation a lower bound: it lacks the part of $p(y)$ that comes from where the solves fail. Leaving failed draws
    out would overestimate the evidence if the solves fail where the weights are small. A warning gives their number.

    **Returns:** [`PosteriorSamples`][].

    **Raises:** `ValueError` for a model without a score or an operator of the wrong width; [`SolveError`][].
    """
    check_model(model, "posterior")
    num_samples = check_count("num_samples", num_samples)
    model = _continuous(model)
    key = as_threefry(key)
    chosen = (Exact() if divergence is None else divergence) if reweight else None
    # The options that the draws and the likelihood of the prior have in common.
    common: dict[str, Any] = {"condition": condition, "solver": solver, "rtol": rtol, "atol": atol, "adjoint": adjoint}
    common |= {"stepsize_controller": stepsize_controller, "lanes": lanes, "max_steps": max_steps}
    common |= {"progress": progress, "throw": False}
    own: dict[str, Any] = {"x0": x0, "dynamics": dynamics, "grid": grid, "last_step": last_step}
    if isinstance(method, AbstractPosteriorMethod):
        given = {**common, **own, "reweight": reweight, "divergence": divergence}
        return _in_noise_space(model, observation, method, key, num_samples, given, throw=throw)
    guided = GuidedModel(model, observation, method)
    draws = sample(guided, key, num_samples, with_log_prob=reweight, divergence=chosen, **own, **common)
    limit = DEFAULT_MAX_STEPS if max_steps is None else int(max_steps)
    if throw:
        draws = raise_if_failed("posterior, draws of the guided model", draws, draws.result, limit)
    good, x = ~is_failed(draws.result), without_failed(draws.result, draws.x)
    answer = PosteriorSamples(
        x=draws.x,
        residual=on_successful(jax.vmap(observation.residual), draws.result, draws.x),
        log_weights=_normalised(jnp.where(good, jnp.zeros(num_samples, model.dtype), -jnp.inf)),
        log_evidence=None,
        stats=draws.stats,
        result=draws.result,
    )
    if chosen is None:
        return answer
    prior_key = jax.random.fold_in(key, num_samples)
    prior = log_prob(model, x, key=prior_key, divergence=chosen, **common)
    if throw:
        prior = raise_if_failed("posterior, log-densities of the prior", prior, prior.result, limit)
    return _doubted(_reweighted(answer, draws, prior, jax.vmap(observation.log_likelihood)(x)))


def _continuous(model: AbstractModel) -> AbstractContinuousModel:
    if not isinstance(model, AbstractContinuousModel):
        raise ValueError(
            f"posterior is for continuous events; {type(model).__name__} has none. Known tokens are given by sample's "
            "x0=, readings of them by discrete.Euler(guide=)."
        )
    return model


def _in_noise_space(
    model: AbstractContinuousModel,
    observation: Observation,
    method: AbstractPosteriorMethod,
    key: KeyArray,
    num_samples: int,
    options: dict[str, Any],
    *,
    throw: bool,
) -> PosteriorSamples:
    """The answer of a method that works in the noise space of the flow."""
    check_none(method, options)
    condition = options["condition"]
    check_shared(model, condition, num_samples)
    flow = noise_flow(model, condition, *(options[name] for name in ("solver", "grid", "lanes")))
    draws, stats, result = noise_posterior(flow, observation, method, key, num_samples, throw=throw)
    residual = getattr(observation, "residual", None)
    return PosteriorSamples(
        x=draws.x,
        residual=None if residual is None else on_successful(jax.vmap(residual), result, draws.x),
        log_weights=jnp.where(is_failed(result), -jnp.inf, draws.log_weights),
        log_evidence=draws.log_evidence,
        stats=stats,
        result=result,
        log_evidence_error=draws.log_evidence_error,
        temperatures=draws.temperatures,
        acceptance=draws.acceptance,
    )


def _reweighted(
    answer: PosteriorSamples, draws: Samples, prior: LogProb, log_likelihood: PerSample
) -> PosteriorSamples:
    """The answer with importance weights and the evidence, in both of which a failed draw has likelihood zero."""
    assert draws.log_prob is not None
    n, drawn = log_likelihood.shape[0], ~is_failed(draws.result)
    result = jax.vmap(RESULTS.where)(drawn, prior.result, draws.result)
    good = drawn & ~is_failed(prior.result)
    # Select before and after the sum: a NaN that is subtracted would reach the gradient.
    terms = (jnp.where(good, term, 0) for term in (prior.value, log_likelihood, draws.log_prob))
    value, likelihood, own = terms
    raw = jnp.where(good, value + likelihood - own, -jnp.inf)
    changed = _normalised(raw), _log_sum(raw) - math.log(n), result
    weighed = eqx.tree_at(_weighed, answer, changed, is_leaf=lambda leaf: leaf is None)
    error = jnp.sqrt(jnp.maximum(1 / weighed.ess - jnp.asarray(1 / n, raw.dtype), 0))
    return dataclasses.replace(weighed, log_evidence_error=error)


def _weighed(answer: PosteriorSamples) -> tuple[Any, ...]:
    return answer.log_weights, answer.log_evidence, answer.result


def _normalised(raw: Array) -> Array:
    """The logarithms of the normalised weights; minus infinity throughout if all of them are."""
    total = _log_sum(raw)
    return raw - jnp.where(jnp.isfinite(total), total, 0)


def _log_sum(logs: Array) -> Array:
    """The logarithm of the sum of exponentials, with gradient zero in elements of minus infinity."""
    largest = jax.lax.stop_gradient(jnp.max(logs))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    total = jnp.sum(jnp.where(logs == -jnp.inf, 0, jnp.exp(jnp.where(logs == -jnp.inf, 0, logs - largest))))
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)) + largest, -jnp.inf)


def _doubted(answer: PosteriorSamples) -> PosteriorSamples:
    """The answer; outside `jit` with a warning where its evidence is doubtful."""
    if is_traced(answer):
        return answer
    n, failed, ess = answer.log_weights.shape[0], int(answer.num_failed), float(answer.ess)
    if failed:
        warnings.warn(
            f"posterior: {failed} of {n} draws failed and count as draws of likelihood zero, so the evidence is a "
            "lower bound in expectation; raise max_steps or loosen rtol and atol. result names the failed rows.",
            stacklevel=4,
        )
    if ess < 0.1 * n:
        warnings.warn(
            f"posterior: the effective sample size is {ess:.1f} of {n} draws, so the evidence and its standard "
            "error are unreliable: the draws of this method lie too far from the posterior.",
            stacklevel=4,
        )
    return answer

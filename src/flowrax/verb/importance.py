"""`posterior` by draws of a guided model, with or without importance weights."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.result import RESULTS, LogProb, Samples, is_failed, on_successful, raise_if_failed, without_failed
from .._base.typing import KeyArray, PerSample
from ..guidance import AbstractGuidance, GuidedModel
from ..inverse import ImportanceSampling
from ..model.base import AbstractContinuousModel
from ..observation import Observation
from .log_prob import log_prob
from .options import DEFAULT_MAX_STEPS
from .posterior_samples import PosteriorSamples, log_sum, normalised, pareto_khat
from .sample import sample

# The options that the likelihood of the prior does not share with the draws.
_OWN = ("x0", "dynamics", "grid", "last_step")


def by_guidance(
    model: AbstractContinuousModel,
    observation: Observation,
    method: AbstractGuidance | ImportanceSampling,
    key: KeyArray,
    num_samples: int,
    options: dict[str, Any],
    *,
    throw: bool,
) -> PosteriorSamples:
    """Draws of the model guided by a rule, weighted if they are the proposals of importance sampling."""
    weighted = isinstance(method, ImportanceSampling)
    divergence = method.divergence if weighted else None
    guided = GuidedModel(model, observation, method.proposal if weighted else method)
    draws = sample(guided, key, num_samples, with_log_prob=weighted, divergence=divergence, throw=False, **options)
    limit = DEFAULT_MAX_STEPS if options["max_steps"] is None else int(options["max_steps"])
    if throw:
        draws = raise_if_failed("posterior, draws of the guided model", draws, draws.result, limit)
    good, x = ~is_failed(draws.result), without_failed(draws.result, draws.x)
    answer = PosteriorSamples(
        x=draws.x,
        residual=on_successful(jax.vmap(observation.residual), draws.result, draws.x),
        log_weights=normalised(jnp.where(good, jnp.zeros(num_samples, model.dtype), -jnp.inf)),
        log_evidence=None,
        stats=draws.stats,
        result=draws.result,
    )
    if divergence is None:
        return answer
    common = {name: value for name, value in options.items() if name not in _OWN}
    prior_key = jax.random.fold_in(key, num_samples)
    prior = log_prob(model, x, key=prior_key, divergence=divergence, throw=False, **common)
    if throw:
        prior = raise_if_failed("posterior, log-densities of the prior", prior, prior.result, limit)
    return _weighted(answer, draws, prior, jax.vmap(observation.log_likelihood)(x))


def _weighted(answer: PosteriorSamples, draws: Samples, prior: LogProb, log_likelihood: PerSample) -> PosteriorSamples:
    """The answer with importance weights and the evidence, in both of which a failed draw has likelihood zero."""
    assert draws.log_prob is not None
    n, drawn = log_likelihood.shape[0], ~is_failed(draws.result)
    result = jax.vmap(RESULTS.where)(drawn, prior.result, draws.result)
    good = drawn & ~is_failed(prior.result)
    # Select before and after the sum: a NaN that is subtracted would reach the gradient.
    terms = (jnp.where(good, term, 0) for term in (prior.value, log_likelihood, draws.log_prob))
    value, likelihood, own = terms
    raw = jnp.where(good, value + likelihood - own, -jnp.inf)
    changed = normalised(raw), log_sum(raw) - math.log(n), result
    weighed = eqx.tree_at(_changed, answer, changed, is_leaf=lambda leaf: leaf is None)
    error = jnp.sqrt(jnp.maximum(1 / weighed.ess - jnp.asarray(1 / n, raw.dtype), 0))
    return dataclasses.replace(weighed, log_evidence_error=error, khat=pareto_khat(raw))


def _changed(answer: PosteriorSamples) -> tuple[Any, ...]:
    return answer.log_weights, answer.log_evidence, answer.result

r"""Markov chains in the noise space of a flow, with stationary density $\pi(z) \propto \mathcal{N}(z; 0, I)\, L(z)$.

The chains start over-dispersed, at draws of a tempered posterior $\mathcal{N}(z; 0, I)\, L(z)^\beta$: of 256 draws of
the prior for each chain, one for each is chosen without replacement with the weights $L^\beta$, for the largest
$\beta \le 1$ that leaves an effective sample size of 8 for each. Chains that start apart and agree in the end have

$$\hat R = \sqrt{\tfrac{N - 1}{N} + \tfrac{B}{N W}} \to 1,$$

with the variances $B / N$ between and $W$ within the chains, here of halves of chains and of ranks.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base import random
from .._base.checks import check_count, is_traced, time_dtype
from .._base.typing import Array, KeyArray
from .base import AbstractNoiseMethod, NoiseProblem, PosteriorDraws
from .kernels import NUTS, AbstractKernel, Chain, Target
from .tempered_smc import next_rise

# How many draws of the prior are made for each chain, and the effective sample size for each that tempering leaves.
_DRAWS, _LEFT = 256, 8
# The acceptance below which a warm-up has failed.
_LOW_ACCEPTANCE = 0.3


class NoiseSpaceMCMC(AbstractNoiseMethod):
    r"""Markov chains in noise space: exact for any prior and likelihood in the limit of long chains.

    Each chain takes at least `num_steps` steps after its warm-up, of which evenly spaced ones are returned, chain after
    chain. `r_hat` is the largest rank-normalised split $\hat R$ over the elements of the noise, from all steps;
    `effective_size` is the smallest bulk effective sample size over the same, at most the number of draws returned.
    Both are known outside `jit` only.

    Chains give no evidence, and a mode in which no chain starts leaves no trace. Prefer [`TemperedSMC`][] for
    posteriors with several modes.

    **References:** [@gelman1992inference], [@vehtari2021rank].
    """

    kernel: AbstractKernel = eqx.field(default_factory=NUTS)
    """[`NUTS`][], [`HMC`][] and [`MALA`][] need a flow and a likelihood with gradients, [`EllipticalSlice`][] does
    not."""
    num_chains: int = eqx.field(default=4, converter=lambda n: check_count("num_chains", n, 2))
    """The number of chains; all advance together."""
    num_warmup: int = eqx.field(default=500, converter=lambda n: check_count("num_warmup", n, 20))
    """The number of steps of each chain that adapt the kernel and are discarded."""
    num_steps: int = eqx.field(default=1000, converter=lambda n: check_count("num_steps", n, 4))
    """The least number of steps of each chain after the warm-up."""

    @property
    def differentiable(self) -> bool:
        return False

    def __call__(self, problem: NoiseProblem, key: KeyArray, num_samples: int) -> PosteriorDraws:
        ended, draws = _run(self, problem, key, num_samples)
        if is_traced(draws, ended):
            return draws
        r_hat, effective_size = diagnostics(np.asarray(ended.chains.z))
        size = jnp.asarray(min(effective_size, num_samples), draws.log_weights.dtype)
        said = tuple(f"NoiseSpaceMCMC: {sentence}" for sentence in _doubts(self, ended))
        return dataclasses.replace(draws, r_hat=jnp.asarray(r_hat, size.dtype), effective_size=size, warnings=said)


class _Ended(eqx.Module):
    """What is known of all chains."""

    chains: Chain
    """With a leading axis of chains."""
    num_undefined: Array
    """The number of draws of the prior whose likelihood was NaN or plus infinity."""


@eqx.filter_jit
def _run(
    method: NoiseSpaceMCMC, problem: NoiseProblem, key: KeyArray, num_samples: int
) -> tuple[_Ended, PosteriorDraws]:
    chains, size = method.num_chains, math.prod(problem.shape)
    each = -(-num_samples // chains)
    stride = -(-method.num_steps // each)
    start_key, key = jax.random.split(key)
    start, undefined, finished = _starts(problem, start_key, chains)
    run = lambda key, z: method.kernel.run(Target(problem), key, z, method.num_warmup, stride * each)  # noqa: E731
    ended = jax.vmap(run)(jax.random.split(key, chains), start)
    dtype = time_dtype(problem.dtype)
    z = ended.z[:, stride - 1 :: stride].reshape(chains * each, size).astype(dtype)
    # Evenly, chain after chain, where the number of draws is no multiple of that of chains.
    z = z[np.arange(num_samples) * (chains * each) // num_samples].reshape(num_samples, *problem.shape)
    evaluations = jnp.sum(ended.num_evaluations) + _DRAWS * chains + num_samples
    draws = PosteriorDraws(
        x=problem.flow(z.astype(problem.dtype)),
        log_weights=jnp.full(num_samples, -math.log(num_samples), dtype),
        log_evidence=None,
        log_evidence_error=None,
        num_evaluations=-(-evaluations // num_samples),
        finished=finished,
        z=z,
        acceptance=None if ended.acceptance is None else jnp.mean(ended.acceptance).astype(dtype)[None],
    )
    return _Ended(ended, undefined), draws


def _starts(problem: NoiseProblem, key: KeyArray, chains: int) -> tuple[Array, Array, Array]:
    """The starts `(chains, d)`, the number of undefined likelihoods, and whether any start has a likelihood.

    The chains are in default precision, since blackjax mixes it with that of its states.
    """
    draw_key, choice_key = jax.random.split(key)
    dtype = jnp.zeros(()).dtype
    z = random.normal(draw_key, (_DRAWS * chains, math.prod(problem.shape)), dtype)
    x = problem.flow(z.reshape(-1, *problem.shape).astype(problem.dtype))
    raw = jax.vmap(problem.log_likelihood)(x).astype(dtype)
    undefined = jnp.isnan(raw) | (raw == jnp.inf)
    value = jnp.where(undefined, -jnp.inf, raw)
    beta = next_rise(value[None], jnp.zeros((), dtype), _LEFT / _DRAWS)
    # The largest of Gumbel variables shifted by log-weights are draws without replacement.
    weights = jnp.where(value > -jnp.inf, beta * jnp.where(value > -jnp.inf, value, 0), -jnp.inf)
    best, chosen = jax.lax.top_k(weights + random.gumbel(choice_key, weights.shape, dtype), chains)
    # Chains share a start where too few draws have a positive likelihood.
    chosen = jnp.where(best > -jnp.inf, chosen, chosen[0])
    return z[chosen], jnp.sum(undefined, dtype=jnp.int32), best[0] > -jnp.inf


def diagnostics(z: np.ndarray) -> tuple[float, float]:
    r"""The largest $\hat R$ and the smallest bulk effective sample size over the elements of chains `(chains, n, d)`.

    Chains that never moved have infinite $\hat R$ and are worth no draws.

    **References:** [@vehtari2021rank].
    """
    # Imported at first use: it takes half a second.
    from arviz_stats.base.array import array_stats

    z = z.astype(np.float64)
    if np.any(np.ptp(z, axis=1) == 0):
        return math.inf, 0.0
    r_hat = np.max(array_stats.rhat(z, chain_axis=0, draw_axis=1))
    return float(r_hat), float(np.min(array_stats.ess(z, chain_axis=0, draw_axis=1)))


def _doubts(method: NoiseSpaceMCMC, ended: _Ended) -> list[str]:
    """Sentences about what casts doubt on the draws, besides R-hat and the effective sample size."""
    said, chains, name = [], ended.chains, type(method.kernel).__name__
    undefined = int(ended.num_undefined)
    if undefined:
        said.append(
            f"the log-likelihood was NaN or plus infinity, or the flow failed, for {undefined} of "
            f"{_DRAWS * method.num_chains} draws of the prior; wherever this happens the likelihood counts as zero."
        )
    divergent = 0 if chains.num_divergent is None else int(jnp.sum(chains.num_divergent))
    if divergent:
        total = method.num_chains * chains.z.shape[1]
        said.append(
            f"{divergent} of {total} transitions of {name} diverged: the likelihood is too rough there for the step "
            "size, or it has a hard bound, so the draws may lack regions. Raise target_acceptance of the kernel, or "
            "pass kernel=frx.inverse.EllipticalSlice()."
        )
    least = 1.0 if chains.acceptance is None else float(jnp.min(chains.acceptance))
    if not least > _LOW_ACCEPTANCE:
        said.append(
            f"a chain accepted its moves with a mean probability of {least:.2g}, so the warm-up did not find a step "
            "size; pass NoiseSpaceMCMC(num_warmup=)."
        )
    return said

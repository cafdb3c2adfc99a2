r"""Sequential Monte Carlo along the tempered posteriors $\pi_\beta(z) \propto \mathcal{N}(z; 0, I)\, L(z)^\beta$.

Particles start as standard normal noise, $\beta = 0$. Each step raises $\beta$ as far as the effective sample size
allows, multiplies the evidence by the mean of the weights $L^{\Delta\beta}$, resamples by these weights and moves the
particles by Markov chains that leave $\pi_\beta$ invariant. The estimate of $p(y)$ is unbiased up to the adaptation.

The particles form islands that never exchange particles and share the temperatures only. The moves of one half of the
islands are preconditioned by the particles of the other half, since a covariance fitted to the particles that it moves
biases the evidence. The spread of the islands' evidences is the error bar of their mean.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.checks import check_between, check_count, is_traced, time_dtype
from .._base.typing import Array, KeyArray
from .base import AbstractNoiseMethod, NoiseProblem, PosteriorDraws
from .islands import spread_of, systematic
from .reference import Reference, fitted_reference, standard_reference

# The scales of the proposals, of which each move draws one by how far it has carried accepted particles.
_SCALES = (1.0, 0.6, 0.3, 0.15, 0.07, 0.03, 0.015)
# The particles take so many times more moves at the posterior itself.
_LAST = 3
# How much of the record of accepted moves is kept from one move to the next.
_MEMORY = 0.8
_BISECTIONS = 30
# Standard deviations of the islands' log-evidences in nats, and mean acceptances, beyond which a warning is given.
_WIDE_SPREAD, _LOW_ACCEPTANCE = 0.5, 0.02


class TemperedSMC(AbstractNoiseMethod):
    """Tempered sequential Monte Carlo in noise space: exact for any prior and likelihood, up to Monte Carlo error.

    It needs the value of the likelihood only, neither its gradient nor that of the flow. Half of the moves are
    preconditioned Crank-Nicolson proposals, the other half are the same with respect to a Gaussian fitted to the
    particles.

    Modes that no particle of an island finds at the start are lost to it. The islands then disagree about the evidence,
    which widens its error bar and gives a warning; a mode that all of them miss leaves no trace.

    **References:** [@delmoral2006sequential], [@cotter2013mcmc].
    """

    num_islands: int = eqx.field(default=16, converter=lambda n: check_count("num_islands", n))
    """The number of independent groups of particles. One island gives no error bar of the evidence."""
    num_particles: int = eqx.field(default=2048, converter=lambda n: check_count("num_particles", n))
    """The least number of particles. There are as many as samples if these are more, rounded up to fill the islands."""
    num_moves: int = eqx.field(default=10, converter=lambda n: check_count("num_moves", n))
    """The number of moves at each temperature, three times as many at the last."""
    ess: float = 0.8
    """The effective sample size that each temperature leaves, as a fraction of the particles of an island."""
    max_temperatures: int = eqx.field(default=200, converter=lambda n: check_count("max_temperatures", n))
    """The limit of temperatures; an error is raised if it is reached."""

    def __check_init__(self) -> None:
        check_between("ess", self.ess, 0.0, 1.0)

    @property
    def differentiable(self) -> bool:
        return False

    def __call__(self, problem: NoiseProblem, key: KeyArray, num_samples: int) -> PosteriorDraws:
        islands = self.num_islands
        particles = max(num_samples, 2 * islands, self.num_particles)
        ended, draws = _run(self, problem, key, num_samples, -(-particles // islands) * islands)
        if not is_traced(draws):
            trimmed = ended.temperatures[: int(ended.count)], ended.acceptance[: int(ended.count)]
            draws = eqx.tree_at(lambda draws: (draws.temperatures, draws.acceptance), draws, trimmed)
            draws = dataclasses.replace(draws, warnings=_doubts(self, ended, draws))
        return draws


class _State(eqx.Module):
    """The particles of all islands, `(islands, n)`, at a temperature."""

    z: Array
    x: Array
    log_likelihood: Array
    beta: Array
    log_evidence: Array
    """`(islands,)`."""
    accepted: Array
    """`(2, scales)`: sums of acceptance probabilities, of plain and preconditioned moves."""
    proposed: Array
    count: Array
    """The number of temperatures."""
    num_flows: Array
    num_undefined: Array
    """The number of evaluations whose likelihood was NaN or plus infinity."""
    temperatures: Array
    acceptance: Array


@eqx.filter_jit
def _run(
    method: TemperedSMC, problem: NoiseProblem, key: KeyArray, num_samples: int, particles: int
) -> tuple[_State, PosteriorDraws]:
    islands, (start_key, loop_key) = method.num_islands, jax.random.split(key)
    dtype = time_dtype(problem.dtype)
    z = random.normal(start_key, (islands, particles // islands, *problem.shape), dtype)
    z = z.reshape(islands, particles // islands, -1)
    x, log_likelihood, undefined = _evaluate(problem, z)
    zeros, trace = jnp.zeros((2, len(_SCALES)), dtype), jnp.full(method.max_temperatures, jnp.nan, dtype)
    none = jnp.zeros((), jnp.int32)
    state = _State(
        z, x, log_likelihood, jnp.zeros((), dtype), jnp.zeros(islands, dtype), zeros, zeros, none, none + 1, undefined,
        trace, trace,
    )  # fmt: skip

    def unfinished(state: _State) -> Array:
        alive = jnp.any(state.log_evidence > -jnp.inf)
        return (state.beta < 1) & (state.count < method.max_temperatures) & alive

    ended = jax.lax.while_loop(unfinished, lambda s: _step(method, problem, loop_key, s), state)
    return ended, _returned(problem, ended, jax.random.fold_in(key, 1), num_samples)


def _returned(problem: NoiseProblem, ended: _State, key: KeyArray, num_samples: int) -> PosteriorDraws:
    """The particles, weighted by the evidences of their islands, or as many of them as were asked for."""
    islands, size = ended.log_likelihood.shape
    dtype, particles = ended.z.dtype, islands * size
    log_evidence = jax.scipy.special.logsumexp(ended.log_evidence) - jnp.log(jnp.asarray(islands, dtype))
    shares = jnp.where(jnp.isfinite(log_evidence), jax.nn.log_softmax(ended.log_evidence), -jnp.inf)
    log_weights = jnp.repeat(shares - jnp.log(jnp.asarray(size, dtype)), size)
    z, x = (a.reshape(particles, *problem.shape) for a in (ended.z, ended.x))
    if num_samples < particles:
        chosen = systematic(key, log_weights[None], num_samples)[0]
        equal = -jnp.log(jnp.asarray(num_samples, dtype))
        z, x, log_weights = z[chosen], x[chosen], jnp.where(log_weights[chosen] > -jnp.inf, equal, -jnp.inf)
    return PosteriorDraws(
        x=x,
        log_weights=log_weights,
        log_evidence=log_evidence,
        log_evidence_error=spread_of(ended.log_evidence) / jnp.sqrt(jnp.asarray(islands, dtype)),
        num_evaluations=-(-ended.num_flows * particles // num_samples),
        finished=ended.beta >= 1,
        z=z,
        temperatures=ended.temperatures,
        acceptance=ended.acceptance,
    )


def _evaluate(problem: NoiseProblem, z: Array) -> tuple[Array, Array, Array]:
    """The events, their log-likelihoods (minus infinity where undefined) and the number of undefined ones."""
    x = problem.flow(z.reshape(-1, *problem.shape))
    value = jax.vmap(problem.log_likelihood)(x).astype(z.dtype)
    undefined = jnp.isnan(value) | (value == jnp.inf)
    value = jnp.where(undefined, -jnp.inf, value).reshape(z.shape[:2])
    return x.reshape(*z.shape[:2], -1), value, jnp.sum(undefined, dtype=jnp.int32)


def _step(method: TemperedSMC, problem: NoiseProblem, key: KeyArray, state: _State) -> _State:
    """One temperature: reweight, resample, move."""
    resample_key, move_key = jax.random.split(jax.random.fold_in(key, state.count))
    rise = next_rise(state.log_likelihood, state.beta, method.ess)
    beta = jnp.where(rise >= 1 - state.beta, 1, state.beta + rise)
    log_weights = _weights(state.log_likelihood, rise)
    log_mean = jax.scipy.special.logsumexp(log_weights, axis=1) - jnp.log(jnp.asarray(state.z.shape[1], state.z.dtype))
    chosen = systematic(resample_key, log_weights)
    z, x, value = (jax.vmap(lambda a, i: a[i])(a, chosen) for a in (state.z, state.x, state.log_likelihood))
    state = eqx.tree_at(
        lambda s: (s.z, s.x, s.log_likelihood, s.beta, s.log_evidence),
        state,
        (z, x, value, beta, state.log_evidence + log_mean),
    )
    references = _references(z, method.ess)
    count = jnp.where(beta >= 1, _LAST * method.num_moves, method.num_moves)
    move = lambda i, carry: _move(problem, references, jax.random.fold_in(move_key, i), i, *carry)  # noqa: E731
    state, total = jax.lax.fori_loop(0, count, move, (state, jnp.zeros((), z.dtype)))
    at = state.count
    traces = state.temperatures.at[at].set(beta), state.acceptance.at[at].set(total / count.astype(z.dtype))
    return eqx.tree_at(lambda s: (s.temperatures, s.acceptance, s.count), state, (*traces, at + 1))


def _weights(log_likelihood: Array, rise: Array) -> Array:
    r"""The logarithms of $L^{\Delta\beta}$. Particles of likelihood zero have weight zero at once."""
    finite = jnp.isfinite(log_likelihood)
    return jnp.where(finite, rise * jnp.where(finite, log_likelihood, 0), -jnp.inf)


def next_rise(log_likelihood: Array, beta: Array, ess: float) -> Array:
    """The largest step in temperature that leaves the effective sample size, averaged over the islands, at `ess`."""
    finite = jnp.isfinite(log_likelihood)
    alive = jnp.sum(finite, axis=1).astype(log_likelihood.dtype)
    largest = jnp.max(log_likelihood, axis=1, keepdims=True)
    centred = jnp.where(finite, log_likelihood - jnp.where(jnp.isfinite(largest), largest, 0), 0)

    def left(rise: Array) -> Array:
        weights = jnp.where(finite, jnp.exp(rise * centred), 0)
        size = jnp.sum(weights, axis=1) ** 2 / jnp.maximum(jnp.sum(weights**2, axis=1), 1e-30)
        share = jnp.where(alive > 0, size / jnp.maximum(alive, 1), 0)
        return jnp.sum(share) / jnp.maximum(jnp.sum(jnp.minimum(alive, 1)), 1)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        good = left(jnp.exp(middle)) >= ess
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    rest = 1 - beta
    # In logarithms, since the first steps may be smaller than the last ones by many orders of magnitude.
    low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.log(rest) - 30, jnp.log(rest)))
    return jnp.where(left(rest) >= ess, rest, jnp.exp(low))


def _references(z: Array, ess: float) -> Reference | None:
    """For each island, the Gaussian fitted to the other half of the islands; None if these have too few particles."""
    islands, n, size = z.shape
    halves = [z[: islands // 2], z[islands // 2 :]] if islands > 1 else [z]
    if size >= min(half.shape[0] for half in halves) * n:
        return None

    def fit(half: Array) -> Reference:
        rows = half.reshape(-1, size)
        mean, count = jnp.mean(rows, axis=0), rows.shape[0]
        covariance = rows.T @ rows / count - mean[:, None] * mean[None]
        # Resampling has left copies: there are fewer particles than rows.
        return fitted_reference(mean, covariance, jnp.asarray(ess * count, z.dtype))

    # One after the other: eigenvalues of a batch of matrices within a compiled loop can block on the CPU for ever.
    fitted = [fit(half) for half in halves][::-1]
    counts = [half.shape[0] for half in halves]
    return jax.tree.map(
        lambda *leaves: jnp.concatenate(
            [jnp.broadcast_to(leaf, (count, *leaf.shape)) for leaf, count in zip(leaves, counts, strict=True)]
        ),
        *fitted,
    )


def _move(
    problem: NoiseProblem, references: Reference | None, key: KeyArray, i: Array, state: _State, total: Array
) -> tuple[_State, Array]:
    """One move of every particle, plain for even `i` and preconditioned for odd `i`."""
    scale_key, noise_key, accept_key = jax.random.split(key, 3)
    islands, n, size = state.z.shape
    dtype = state.z.dtype
    kind = jnp.zeros((), jnp.int32) if references is None else (i % 2).astype(jnp.int32)
    plain = jax.vmap(lambda _: standard_reference(size, dtype))(jnp.zeros(islands))
    used = plain if references is None else jax.tree.map(lambda a, b: jnp.where(kind == 0, a, b), plain, references)
    scales = jnp.asarray(_SCALES, dtype)
    # A scale that was never proposed counts as accepted in half of the moves.
    expected = (state.accepted[kind] + 1) / (state.proposed[kind] + 2)
    scale_index = random.categorical(scale_key, jnp.log(expected * scales**2), shape=(islands, n))
    noise = random.normal(noise_key, state.z.shape, dtype)
    z = jax.vmap(Reference.propose)(used, state.z, scales[scale_index], noise)
    x, value, undefined = _evaluate(problem, z)
    correction = jax.vmap(Reference.log_correction)
    log_ratio = state.beta * (value - state.log_likelihood) + correction(used, z) - correction(used, state.z)
    probability = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio), 0))
    accept = random.uniform(accept_key, (islands, n), dtype) < probability
    one_hot = jax.nn.one_hot(scale_index, len(_SCALES), dtype=dtype)
    proposed = jnp.sum(one_hot, axis=(0, 1))
    accepted = jnp.sum(one_hot * probability[:, :, None], axis=(0, 1))
    state = eqx.tree_at(
        lambda s: (s.z, s.x, s.log_likelihood, s.accepted, s.proposed, s.num_flows, s.num_undefined),
        state,
        (
            jnp.where(accept[:, :, None], z, state.z),
            jnp.where(accept[:, :, None], x, state.x),
            jnp.where(accept, value, state.log_likelihood),
            state.accepted.at[kind].set(_MEMORY * state.accepted[kind] + accepted),
            state.proposed.at[kind].set(_MEMORY * state.proposed[kind] + proposed),
            state.num_flows + 1,
            state.num_undefined + undefined,
        ),
    )
    return state, total + jnp.mean(probability)


def _doubts(method: TemperedSMC, ended: _State, draws: PosteriorDraws) -> tuple[str, ...]:
    """Sentences about what casts doubt on the draws."""
    said = []
    islands, lost = method.num_islands, int(jnp.sum(ended.log_evidence == -jnp.inf))
    if lost:
        said.append(
            f"{lost} of {islands} islands have no particle of positive likelihood and count with evidence zero; pass "
            "TemperedSMC(num_particles=)."
        )
    undefined = int(ended.num_undefined)
    if undefined:
        total = int(ended.num_flows) * ended.log_likelihood.size
        said.append(
            f"the log-likelihood was NaN or plus infinity, or the flow failed, in {undefined} of {total} evaluations, "
            "which count as likelihood zero."
        )
    spread = float(spread_of(ended.log_evidence))
    if islands > 1 and not lost and spread > _WIDE_SPREAD:
        said.append(
            f"the log-evidences of the {islands} islands have a standard deviation of {spread:.2g} nats, so some of "
            "them lack modes or have not reached equilibrium; pass TemperedSMC(num_particles=) or TemperedSMC("
            "num_moves=)."
        )
    last = float(draws.acceptance[-1]) if draws.acceptance is not None and draws.acceptance.shape[0] else 1.0
    if last < _LOW_ACCEPTANCE:
        said.append(
            f"the moves at the last temperature were accepted with a mean probability of {last:.2g}, so the draws may "
            "be copies of few particles; the posterior is too narrow for the moves in noise space."
        )
    return tuple(f"TemperedSMC: {sentence}" for sentence in said)

"""What `posterior` returns, its weights, and the warnings about it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.checks import is_traced
from .._base.result import RESULTS, Stats, described, is_failed, on_successful
from .._base.typing import Array
from ..inverse import PosteriorDraws
from ..observation import Observation

# The share of effective draws, and the values of k-hat and of R-hat, beyond which a warning is given.
_FEW, _HEAVY, _APART = 0.1, 0.7, 1.01


class PosteriorSamples(eqx.Module):
    r"""What `posterior` returns.

    All arrays have a leading axis for the rows of an observation that has rows.

    **Attributes:**

    - `x`: `(n, *event)`.
    - `residual`: $(y - f(x)) / s$ for each sample, in units of the noise: about standard normal where model and data
        agree and the noise is Gaussian. None if the observation has no method `residual`.
    - `log_weights`: `(n,)`, normalised; equal where the method has no weights. Minus infinity for failed draws.
    - `log_evidence`: the log-density of `y` in nats; None for methods that do not estimate it.
    - `stats`: the work done for each sample.
    - `result`: `(n,)`, one result code per sample.
    - `log_evidence_error`: the standard error of `log_evidence`, None without one.
    - `khat`: Pareto's $\hat k$ of the importance weights, outside `jit`; None without weights. Above 0.7 neither the
        weights nor the evidence can be trusted.
    - `r_hat`: the largest split $\hat R$ of a Markov chain method, else None. It tends to 1.
    - `effective_size`: the number of independent draws that Markov chains are worth, else None.
    - `temperatures`: the temperatures of a tempered method, NaN beyond the last one inside `jit`, else None.
    - `acceptance`: the mean acceptance probability of the moves at each of them.
    - `method`: the name of the method.
    - `reason`: why it was chosen, with `method=None`.
    - `warnings`: sentences about what casts doubt on the draws, which are also issued as warnings; none inside `jit`.
    """

    x: Array
    residual: Array | None
    log_weights: Array
    log_evidence: Array | None
    stats: Stats
    result: RESULTS
    log_evidence_error: Array | None = None
    khat: Array | None = None
    r_hat: Array | None = None
    effective_size: Array | None = None
    temperatures: Array | None = None
    acceptance: Array | None = None
    method: str = eqx.field(static=True, default="")
    reason: str = eqx.field(static=True, default="")
    warnings: tuple[str, ...] = eqx.field(static=True, default=())

    @property
    def num_failed(self) -> Array:
        """The number of draws that failed, for each row of an observation that has rows."""
        return jnp.sum(is_failed(self.result), axis=-1)

    def __repr__(self) -> str:
        return described(self, self.result)

    @property
    def ess(self) -> Array:
        """Effective sample size, between 1 and n; zero if every draw failed.

        That of the Markov chains where there are any, otherwise that of the weights. It does not count that the draws
        of [`TemperedSMC`][] depend on each other.
        """
        if self.effective_size is not None:
            return self.effective_size
        if self.log_weights.ndim > 1:
            return jax.vmap(_size)(self.log_weights)
        return _size(self.log_weights)

    @property
    def weights(self) -> Array:
        """`(n,)`, summing to one."""
        return jnp.exp(self.log_weights)


def _size(log_weights: Array) -> Array:
    """The effective sample size of normalised weights, `(n,)`."""
    return jnp.where(jnp.all(log_weights == -jnp.inf), 0, jnp.exp(-log_sum(2 * log_weights)))


def normalised(raw: Array) -> Array:
    """The logarithms of the normalised weights; minus infinity throughout if all of them are."""
    total = log_sum(raw)
    return raw - jnp.where(jnp.isfinite(total), total, 0)


def log_sum(logs: Array) -> Array:
    """The logarithm of the sum of exponentials, with gradient zero in elements of minus infinity."""
    largest = jax.lax.stop_gradient(jnp.max(logs))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    total = jnp.sum(jnp.where(logs == -jnp.inf, 0, jnp.exp(jnp.where(logs == -jnp.inf, 0, logs - largest))))
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)) + largest, -jnp.inf)


def pareto_khat(log_weights: Array) -> Array | None:
    """Pareto's shape of the largest weights, outside transformations; infinite if fewer than 25 draws have weight."""
    if is_traced(log_weights):
        return None
    finite = np.asarray(log_weights, np.float64)
    finite = finite[np.isfinite(finite)]
    if len(finite) < 25:
        return jnp.asarray(jnp.inf, log_weights.dtype)
    if np.ptp(finite) < 1e-6:
        return jnp.asarray(-jnp.inf, log_weights.dtype)
    # Imported at first use: it takes half a second.
    from arviz_stats.base.array import array_stats

    _, khat = array_stats.psislw(finite)
    return jnp.asarray(float(khat), log_weights.dtype)


def answer_of(draws: PosteriorDraws, observation: Observation, stats: Stats, result: RESULTS) -> PosteriorSamples:
    """The draws of a posterior method, with their residuals; those that failed have weight zero."""
    residual = getattr(observation, "residual", None)
    return PosteriorSamples(
        x=draws.x,
        residual=None if residual is None else on_successful(jax.vmap(residual), result, draws.x),
        log_weights=jnp.where(is_failed(result), -jnp.inf, draws.log_weights),
        log_evidence=draws.log_evidence,
        stats=stats,
        result=result,
        log_evidence_error=draws.log_evidence_error,
        r_hat=draws.r_hat,
        effective_size=draws.effective_size,
        temperatures=draws.temperatures,
        acceptance=draws.acceptance,
        warnings=draws.warnings,
    )


def with_doubts(answer: PosteriorSamples, mend: str) -> PosteriorSamples:
    """The answer; outside `jit` with the sentences that cast doubt on it. `mend` says how failed draws are mended."""
    if is_traced(answer):
        return answer
    return dataclasses.replace(answer, warnings=(*answer.warnings, *_doubts(answer, mend)))


def stacked(answers: list[PosteriorSamples]) -> PosteriorSamples:
    """The answers to the rows of an observation, with a leading axis for the rows. Traces end in NaN."""
    longest = max((a.temperatures.shape[0] for a in answers if a.temperatures is not None), default=0)

    def padded(trace: Array | None) -> Array | None:
        return None if trace is None else jnp.pad(trace, (0, longest - trace.shape[0]), constant_values=jnp.nan)

    sentences = tuple(f"Row {i} of the observation: {one}" for i, a in enumerate(answers) for one in a.warnings)
    alike = [
        dataclasses.replace(a, temperatures=padded(a.temperatures), acceptance=padded(a.acceptance), warnings=sentences)
        for a in answers
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *alike)


def _doubts(answer: PosteriorSamples, mend: str) -> list[str]:
    n, failed, said = answer.log_weights.shape[0], int(answer.num_failed), []
    weighted = answer.log_evidence is not None
    if failed and weighted:
        said.append(
            f"posterior: {failed} of {n} draws failed and count as draws of likelihood zero, so the evidence is a "
            f"lower bound in expectation; {mend}. result names the failed rows."
        )
    elif failed:
        said.append(f"posterior: {failed} of {n} draws failed and have weight zero; {mend}.")
    ess = float(answer.ess)
    if ess < _FEW * n and answer.effective_size is not None:
        said.append(
            f"posterior: the chains are worth {ess:.1f} independent draws of {n}; pass "
            "frx.NoiseSpaceMCMC(num_steps=) for longer chains, or another kernel."
        )
    elif ess < _FEW * n and weighted:
        said.append(
            f"posterior: the effective sample size is {ess:.1f} of {n} draws, so the evidence and its standard "
            "error are unreliable: the draws of this method lie too far from the posterior."
        )
    if answer.khat is not None and float(answer.khat) > _HEAVY:
        said.append(
            f"posterior: Pareto's k-hat of the weights is {float(answer.khat):.2f}, above 0.7, so neither the weights "
            "nor the evidence can be trusted; pass method=frx.TemperedSMC()."
        )
    if answer.r_hat is not None and not float(answer.r_hat) <= _APART:
        said.append(
            f"posterior: R-hat is {float(answer.r_hat):.3f}, above 1.01, so the chains have not mixed: they may be "
            "in different modes. Pass frx.NoiseSpaceMCMC(num_warmup=, num_steps=), or method=frx.TemperedSMC()."
        )
    return said

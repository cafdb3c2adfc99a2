"""The records that verbs return, and the sentences of a solve that failed."""

import math
from typing import TypeVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ._checks import is_traced
from ._typing import Array, Event, Int, PerSample, PyTree

RESULTS = dfx.RESULTS
"""Codes of a solve: diffrax's own; `RESULTS.nonfinite` marks a sample that became NaN or infinite."""


T = TypeVar("T", bound=eqx.Module)


class SolveError(RuntimeError):
    """A solve that did not reach its end; the message counts the samples and names the likely cause."""


class Stats(eqx.Module):
    """Work done for each sample, integer arrays of shape `(n,)`."""

    num_steps: Int[Array, "*n"]
    """Steps attempted."""
    num_rejected: Int[Array, "*n"]
    """Steps that the error control refused."""
    num_evaluations: Int[Array, "*n"]
    """Evaluations of the drift, those of rejected steps and of a last step included."""


class Samples(eqx.Module):
    """What `sample` returns."""

    x: PyTree[Array]
    """`(n, *event)`, at the end of the dynamics' interval."""
    log_prob: PerSample | None
    """`(n,)` nats, with `with_log_prob=True`."""
    standard_error: PerSample | None
    """`(n,)`, of `log_prob`: zero for an exact divergence."""
    trajectory: PyTree[Array] | None
    """`(n, times, *event)` at the times of `saveat`."""
    times: Array | None
    """`(n, times)`, those times."""
    stats: Stats
    result: RESULTS
    """One code per sample."""


class LogProb(eqx.Module):
    """What `log_prob` returns."""

    value: PerSample
    """`(n,)`, log-density at `t_max` in nats; of classes a log-probability."""
    standard_error: PerSample
    """`(n,)`, of the divergence estimate: zero for an exact one, infinite for a single probe. Of a bound, that of its
    draws."""
    latent: Event | None
    """`(n, *event)`, the state at `t_min` that flows into each row; None for a bound."""
    stats: Stats
    result: RESULTS
    is_bound: bool = eqx.field(static=True, default=False)
    """Whether `value` is a lower bound rather than the log-density."""
    num_probes: Int[Array, "*n"] | None = None
    """`(n,)`, probes that each row took, with `target_standard_error`."""
    discretisation_error: PerSample | None = None
    """`(n,)`, an estimate of what the steps of the solve add to `value`, in nats and signed; NaN where the finer solve
    failed."""

    def bits_per_token(self, num_tokens: int | Array) -> Array:
        """Minus the value in bits, over the number of tokens of an event; of a bound an upper one.

        **Arguments:**

        - `num_tokens`: of all events, or `(n,)`.

        **Returns:** `(n,)`.
        """
        return -self.value / (jnp.asarray(num_tokens, self.value.dtype) * math.log(2))


def is_failed(result: RESULTS) -> Array:
    """Where a solve did not succeed."""
    return jnp.logical_not(result == RESULTS.successful)


def _message(verb: str, result: RESULTS, max_steps: int | None) -> str:
    failed = np.asarray(is_failed(result))
    limit = int(np.sum(np.asarray(result == RESULTS.max_steps_reached)))
    short = int(np.sum(np.asarray(result == RESULTS.dt_min_reached)))
    count = int(failed.sum())
    if limit:
        cause = (
            f"the limit of max_steps={max_steps} was reached in {limit}; raise max_steps, loosen rtol and atol, "
            "or look for NaN in the network's output."
        )
    elif short:
        cause = (
            f"the steps became too small for the precision of time in {short}; the velocity may be singular there: "
            "loosen rtol and atol, or stop short of it by t_min and t_max."
        )
    else:
        cause = "the state became NaN or infinite; check the network's output, or take smaller steps."
    return f"{verb}: {count} of {failed.size} solves failed: {cause} throw=False keeps the good rows."


def raise_if_failed(verb: str, tree: T, result: RESULTS, max_steps: int | None) -> T:
    """Returns `tree`, or raises [`SolveError`][] (a run-time error with one static sentence inside `jit`)."""
    failed = is_failed(result)
    if is_traced(failed):
        sentence = (
            f"{verb}: a solve failed (NaN, or the limit of steps was reached); "
            "call it outside jit or with throw=False to see which."
        )
        return eqx.error_if(tree, jnp.any(failed), sentence)
    if bool(jnp.any(failed)):
        raise SolveError(_message(verb, result, max_steps))
    return tree

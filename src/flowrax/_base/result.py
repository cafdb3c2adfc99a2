"""The results of `sample` and `log_prob`, and the error messages of failed solves."""

import dataclasses
import math
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .checks import is_traced
from .typing import Array, Event, Int, PerSample, PyTree

RESULTS = dfx.RESULTS
"""The result codes of a solve, taken from diffrax."""

NONFINITE: Any = RESULTS.nonfinite
"""The result code of a sample that became NaN or infinite."""

T = TypeVar("T", bound=eqx.Module)
U = TypeVar("U")


class SolveError(RuntimeError):
    """Raised for a solve that did not reach its end; the message counts the samples and states the likely cause."""


def described(record: eqx.Module, result: RESULTS) -> str:
    """A record on a few lines: the shapes and dtypes of its arrays, and the number of failed rows if it is known."""
    lines = []
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if value is not None and field.name not in ("stats", "result"):
            lines.append(f"{field.name}={eqx.tree_pformat(value, width=10_000)}")
    codes = jax.tree.leaves(result)
    if codes and all(map(eqx.is_array, codes)) and not is_traced(codes):
        failed = np.asarray(is_failed(result))
        lines.append(f"failed={int(np.sum(failed))} of {failed.size}")
    return "\n  ".join(textwrap.wrap(f"{type(record).__name__}({', '.join(lines)})", 100, break_long_words=False))


class Stats(eqx.Module):
    """The work done for each sample, as integer arrays of shape `(n,)`.

    **Attributes:**

    - `num_steps`: The number of attempted steps.
    - `num_rejected`: The number of steps that the step size control rejected.
    - `num_evaluations`: The number of evaluations of the drift, including those of rejected steps and of a last step.
    """

    num_steps: Int[Array, "*n"]
    num_rejected: Int[Array, "*n"]
    num_evaluations: Int[Array, "*n"]


class Samples(eqx.Module):
    """The result of `sample`, for `n` samples.

    **Attributes:**

    - `x`: The samples, `(n, *event)`: the states at the end of the dynamics' interval.
    - `log_prob`: `(n,)`, the log-densities of the samples in nats; None unless `with_log_prob=True`.
    - `standard_error`: `(n,)`, the standard errors of `log_prob`, which are zero for an exact divergence.
    - `trajectory`: `(n, times, *event)`, the states at the times of `saveat`.
    - `times`: `(n, times)`, the times of `trajectory`.
    - `stats`: The work done for each sample.
    - `result`: `(n,)`, one result code per sample.
    """

    x: PyTree[Array | np.ndarray]
    log_prob: PerSample | None
    standard_error: PerSample | None
    trajectory: PyTree[Array | np.ndarray] | None
    times: Array | None
    stats: Stats
    result: RESULTS

    def __repr__(self) -> str:
        return described(self, self.result)


class LogProb(eqx.Module):
    """The result of `log_prob`, for `n` events.

    **Attributes:**

    - `value`: `(n,)`, the log-density at `t_max` in nats; a log-probability for classes.
    - `standard_error`: `(n,)`, the standard error of `value` from the divergence estimate: zero for an exact
        divergence, infinite for a single probe. For a bound, the standard error of its Monte Carlo draws.
    - `x0`: `(n, *event)`, the state at `t_min` that flows into each row of `x`; None for a bound.
    - `stats`: The work done for each row.
    - `result`: `(n,)`, one result code per row.
    - `is_bound`: Whether `value` is a lower bound rather than the log-density.
    - `num_probes`: `(n,)`, the number of probes used for each row; None unless `target_standard_error` is given.
    - `discretisation_error`: `(n,)`, an estimate of the error of `value` due to the steps of the solve, in nats and
        signed; NaN where the finer solve failed.
    """

    value: PerSample
    standard_error: PerSample
    x0: Event | None
    stats: Stats
    result: RESULTS
    is_bound: bool = eqx.field(static=True, default=False)
    num_probes: Int[Array, "*n"] | None = None
    discretisation_error: PerSample | None = None

    def __repr__(self) -> str:
        return described(self, self.result)

    def bits_per_token(self, num_tokens: int | Array) -> Array:
        """The negative log-probability in bits per token; an upper bound where `value` is a lower bound.

        **Arguments:**

        - `num_tokens`: the number of tokens in an event, an integer for all events or an array `(n,)`.

        **Returns:** an array `(n,)`.
        """
        return -self.value / (jnp.asarray(num_tokens, self.value.dtype) * math.log(2))


def is_failed(result: RESULTS) -> Array:
    """Whether each solve failed."""
    return result != RESULTS.successful


def without_failed(result: RESULTS, rows: PyTree[Array]) -> PyTree[Array]:
    """The rows with zeros instead of failed ones.

    Otherwise gradients of later computations would be NaN, since a cotangent of zero times NaN is NaN.
    """
    return _fill_failed(result, rows, 0.0)


def on_successful(function: Callable[[PyTree[Array]], U], result: RESULTS, rows: PyTree[Array]) -> U:
    """`function(rows)`, one row per solve; NaN in the rows of failed solves, for which `function` receives zeros."""
    return _fill_failed(result, function(without_failed(result, rows)), math.nan)


def _fill_failed(result: RESULTS, rows: U, value: float) -> U:
    def one(leaf: Array) -> Array:
        failed = is_failed(result).reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(failed, jnp.asarray(value, leaf.dtype), leaf)

    return jax.tree.map(one, rows)


def _message(verb: str, result: RESULTS, max_steps: int | None) -> str:
    failed = np.asarray(is_failed(result))
    limit = int(np.sum(np.asarray(result == RESULTS.max_steps_reached)))
    short = int(np.sum(np.asarray(result == RESULTS.dt_min_reached)))
    count = int(failed.sum())
    if limit:
        cause = (
            f"the limit of max_steps={max_steps} was reached in {limit}; raise max_steps, loosen rtol and atol, take "
            "fixed steps by grid=, or look for NaN in the network's output."
        )
    elif short:
        cause = (
            f"in {short} the error of the smallest possible step, or of dtmin, exceeded the tolerance; the velocity or "
            "score is singular or very steep there, as for data of tiny spread: loosen rtol and atol, use float64, "
            "or stop before that time with t_min and t_max."
        )
    else:
        cause = "the state became NaN or infinite; check the network's output, or take smaller steps."
    return f"{verb}: {count} of {failed.size} solves failed: {cause} throw=False returns the successful rows."


def raise_if_failed(verb: str, tree: T, result: RESULTS, max_steps: int | None) -> T:
    """Returns `tree`, or raises [`SolveError`][]; inside `jit`, a run-time error with a fixed message."""
    failed = is_failed(result)
    if is_traced(failed):
        sentence = (
            f"{verb}: a solve failed (NaN, or the limit of steps was reached); "
            "call it outside jit or with throw=False to see which."
        )
        return eqx.error_if(tree, jnp.any(failed), sentence)
    if np.any(np.asarray(failed)):
        raise SolveError(_message(verb, result, max_steps))
    return tree

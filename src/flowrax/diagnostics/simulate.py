r"""Truths from the prior, data from the truths, posterior draws from the data: what calibration is tested on."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.arguments import checked
from .._base.checks import check_batch, check_count, check_function, check_shape
from .._base.random import as_threefry
from .._base.result import Samples, SolveError
from .._base.typing import Array, Integer, KeyArray, KeyLike
from .._base.wording import described
from ..joint import JointModel
from ..model.base import AbstractModel
from ..train.progress import Bar
from ..verb import PosteriorSamples, sample
from .runs import host

Prior = Any
"""A model, or a function of a key that draws one event."""


class Simulations(eqx.Module):
    """The result of `simulate_posteriors`: the arguments of the diagnostics.

    **Attributes:**

    - `truths`: `(s, *event)`, draws from the prior.
    - `draws`: `(s, n, *event)`, posterior draws for each of them; NaN where a posterior failed.
    - `log_weights`: `(s, n)`, the normalised log-weights of the draws; minus infinity for failed draws.
    - `observations`: a tuple of the `s` observations.
    - `num_failed`: the number of simulations whose posterior failed.
    """

    truths: np.ndarray
    draws: np.ndarray
    log_weights: np.ndarray
    observations: tuple[Any, ...]
    num_failed: int

    def __repr__(self) -> str:
        s, n = self.draws.shape[:2]
        return f"Simulations({s:,} of {n:,} draws, events of shape {self.truths.shape[1:]}; {self.num_failed} failed)"

    def quantity(self, function: Callable[[Any, Array], Any]) -> tuple[np.ndarray, np.ndarray]:
        """A quantity that depends on the observation, such as its log-likelihood or the log-density of an estimator.

        **Arguments:**

        - `function`: `function(observation, x)` of events `x`, `(m, *event)`, that returns `m` numbers.

        **Returns:** its values at the truths, `(s,)`, and at the draws, `(s, n)`: a pair for `quantities` or `log_prob`
            of the diagnostics.

        **Raises:** `ValueError` if the function returns another shape.
        """
        values = []
        for truth, draws, observation in zip(self.truths, self.draws, self.observations, strict=True):
            events = jnp.asarray(np.concatenate([truth[None], draws]))
            values.append(host("the values of function", function(observation, events)))
            check_shape("the values of function", values[-1].shape, (len(events),))
        return np.stack(values)[:, 0], np.stack(values)[:, 1:]


@checked
def simulate_posteriors(
    prior: Prior,
    observe: Callable[[KeyArray, Any], Any],
    posterior: Callable[[Any, KeyArray, int], Any],
    key: KeyLike,
    num_simulations: Integer,
    num_draws: Integer,
    *,
    progress: bool = True,
) -> Simulations:
    """Draws truths from the prior, simulates data from each, and draws from the posterior of each.

    **Arguments:**

    - `prior`: a model, or a function of a key that draws one event.
    - `observe`: a function `observe(key, x)` that simulates the observation of one event.
    - `posterior`: a function `posterior(observation, key, num_draws)` that returns the draws `(n, *event)`, a pair of
        draws and log-weights, [`PosteriorSamples`][] or [`Samples`][]. A [`SolveError`][] counts as a failed
        simulation; any other error is raised.
    - `key`: simulation `i` depends on `fold_in(key, i)` only, except for draws from a model, which depend on `key`.
    - `num_simulations`, `num_draws`: how many truths, and how many draws for each.
    - `progress`: whether to show a progress bar.

    **Returns:** [`Simulations`][]. A warning counts the simulations that failed.

    **Raises:** `ValueError` for events or draws of another shape; errors of `prior`, `observe` and `posterior`.
    """
    num_simulations = check_count("num_simulations", num_simulations)
    num_draws, key = check_count("num_draws", num_draws), as_threefry(key)
    keys = [_keys(key, index) for index in range(num_simulations)]
    if isinstance(prior, AbstractModel):
        if isinstance(prior, JointModel):
            raise ValueError("prior has events of several parts; pass a function of a key that joins them.")
        events = list(np.asarray(sample(prior, jax.random.fold_in(key, num_simulations), num_simulations).x))
    else:
        check_function("prior", prior)
        events = [prior(own[0]) for own in keys]
    truths = _stacked(events)
    draws, log_weights, observations, failures = [], [], [], []
    bar = Bar(num_simulations, 0, enabled=progress, name="simulate_posteriors", unit="simulation")
    try:
        for event, own in zip(events, keys, strict=True):
            observations.append(observe(own[1], event))
            try:
                answer = posterior(observations[-1], own[2], num_draws)
            except SolveError as error:
                failures.append(str(error))
                answer = np.full((num_draws, *truths.shape[1:]), np.nan)
            one, weights = _draws(answer, truths.shape[1:], num_draws)
            draws.append(one)
            log_weights.append(weights)
            bar.step(1)
    finally:
        bar.close()
    result = _result(truths, draws, log_weights, observations)
    if result.num_failed:
        reason = f" The first error: {failures[0]}" if failures else ""
        warnings.warn(
            f"simulate_posteriors: {result.num_failed} of {num_simulations} posteriors failed; the diagnostics leave "
            f"them out and count them.{reason}",
            stacklevel=3,
        )
    return result


@jax.jit
def _keys(key: KeyArray, index: int | Array) -> tuple[Array, Array, Array]:
    """The keys of the truth, the observation and the draws of one simulation."""
    first, second, third = jax.random.split(jax.random.fold_in(key, index), 3)
    return first, second, third


def _stacked(events: list[Any]) -> np.ndarray:
    arrays = [host("an event of the prior", event) for event in events]
    for array in arrays:
        check_shape("an event of the prior", array.shape, arrays[0].shape)
    return np.stack(arrays)


def _result(truths: np.ndarray, draws: list[Any], log_weights: list[Any], observations: list[Any]) -> Simulations:
    weights = np.stack(log_weights)
    failed = int(np.sum(np.all(weights == -np.inf, axis=1)))
    return Simulations(truths, np.stack(draws), weights, tuple(observations), failed)


def _draws(answer: Any, event: tuple[int, ...], num_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """The draws of one posterior and their normalised log-weights, minus infinity for draws that are not finite."""
    if isinstance(answer, PosteriorSamples):
        x, log_weights = answer.x, answer.log_weights
    elif isinstance(answer, Samples):
        x, log_weights = answer.x, None
    elif isinstance(answer, tuple):
        if len(answer) != 2:
            raise ValueError(f"posterior must return draws, or draws and log-weights; got {len(answer)} values.")
        x, log_weights = answer
    else:
        x, log_weights = answer, None
    if not isinstance(x, jax.Array | np.ndarray | list):
        raise ValueError(f"posterior must return an array of draws; got {described(x)}.")
    x = host("the draws of posterior", x)
    check_batch("the draws of posterior", x, event, num_draws)
    logs = np.zeros(num_draws) if log_weights is None else host("the log-weights of posterior", log_weights)
    check_shape("the log-weights of posterior", logs.shape, (num_draws,))
    good = np.all(np.isfinite(x).reshape(num_draws, -1), axis=1) & ~np.isnan(logs)
    logs = np.where(good, logs, -np.inf)
    highest = np.max(logs)
    if highest == -np.inf:
        return x, logs
    return x, logs - highest - np.log(np.sum(np.exp(logs - highest)))

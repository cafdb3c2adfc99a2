r"""`log_prob` of categorical models: a variational bound, for the ancestral chain of a grid or in continuous time.

For a chain of $k$ steps from $t_0$ to $t_k = 1$ (Austin et al. 2021, eq. 1),

$$-\log p(x_1) \le D_{\text{KL}}\big(q(x_{t_0} | x_1) \,\|\, \pi\big) + \sum_{j < k} \mathbb{E}\,
D_{\text{KL}}\big(q(x_{t_{j+1}} | x_{t_j}, x_1) \,\|\, p_\theta(x_{t_{j+1}} | x_{t_j})\big),$$

where the last step is the reconstruction of the data. In the limit of many steps this is the bound of
[`CategoricalBound`][]. Under masks the first term is zero even if $\alpha(t_0) > 0$: sampling starts from an event of
masks only, so the bound masks every site at $t_0$ as well, and rescales the mask probabilities of the later times.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.checks import is_traced
from .._base.condition import Batched, cast_condition, condition_of, split_condition
from .._base.result import NONFINITE, RESULTS, LogProb, Stats, raise_if_failed
from .._base.typing import Array, BatchLike, Condition, KeyArray, PyTree, Tokens
from ..engine import Grid, ProgressLike, answer_of_none, in_lanes, on_each_device, shard_rows
from ..engine.solve import make_meter
from .base import AbstractCategoricalModel
from .loss.categorical_bound import bound_draw, check_continuous, divergence_terms, masked_terms
from .path.reverse import AveragedPosterior, variational_term
from .sampler.ancestral import even_times
from .sites import spread

# Evaluations of the network per event, at least two per step; their spread gives the standard error.
_DRAWS = 128


class _Continuous(eqx.Module):
    """The continuous-time bound, stratified over the number of noised sites."""

    count: int = eqx.field(static=True, default=_DRAWS // 2)

    def first(self, model: AbstractCategoricalModel, x1: Tokens) -> Array:
        return start_divergence(model, model.t_min, x1)

    def draw(
        self, model: AbstractCategoricalModel, cell: Array, x1: Tokens, condition: Condition, key: KeyArray
    ) -> Array:
        unit_key, prior_key, level_key = jax.random.split(key, 3)
        x0, level = model.interpolant.noise(level_key, model.prior.draw(prior_key))
        unit = (cell.astype(level.dtype) + random.uniform(unit_key, (), level.dtype)) / self.count
        return bound_draw(model, unit, x0, level, x1, condition) / self.count


class _Chain(eqx.Module):
    """The bound of an ancestral chain, with one stratum per step."""

    times: Array

    @property
    def count(self) -> int:
        return self.times.shape[0] - 1

    def first(self, model: AbstractCategoricalModel, x1: Tokens) -> Array:
        return start_divergence(model, self.times[0], x1)

    def draw(
        self, model: AbstractCategoricalModel, cell: Array, x1: Tokens, condition: Condition, key: KeyArray
    ) -> Array:
        s, t, path = self.times[cell], self.times[cell + 1], model.interpolant
        prior_key, noise_key = jax.random.split(key)
        noise = path.noise(noise_key, model.prior.draw(prior_key))
        if model.prior.mask is None:
            x = path.interpolate(s, noise, x1)
            log_p = model.log_probabilities(s, x, condition)
            return jnp.sum(variational_term(AveragedPosterior(), path, model.prior, s, t, x, x1, log_p))
        first, start, end = (path.schedule.mask_probability(time) for time in (self.times[0], s, t))
        x0, level = noise
        x = jnp.where(level < (start / first).astype(level.dtype), x0, x1)
        terms = masked_terms(model, model.log_probabilities(s, x, condition), x, x1)
        return (1 - end / start).astype(terms.dtype) * jnp.sum(terms)


def start_divergence(model: AbstractCategoricalModel, t: float | Array, x1: Tokens) -> Array:
    r"""The first term of the bound, $D_{\text{KL}}\big(q(x_t | x_1) \,\|\, \pi\big)$ at the start; zero under masks.

    **Arguments:**

    - `model`: a categorical model.
    - `t`: the start time.
    - `x1`: one event.

    **Returns:** a scalar, in nats.
    """
    left = model.interpolant.marginal(model.prior, t, x1)
    if model.prior.mask is not None:
        return jnp.zeros((), left.dtype)
    pi = jnp.broadcast_to(spread(model.prior.probabilities.astype(left.dtype), left.ndim), left.shape)
    return jnp.sum(divergence_terms(left, pi))


def categorical_bound(
    model: AbstractCategoricalModel,
    x: BatchLike,
    condition: Condition | Batched,
    key: KeyArray | None,
    grid: Grid | None,
    lanes: int | None,
    progress: ProgressLike,
    *,
    throw: bool,
) -> LogProb:
    """[`log_prob`][] of a categorical model, with the same arguments and result.

    **Arguments:** as in [`log_prob`][].

    **Returns:** a [`LogProb`][] in nats whose `value` is a lower bound in expectation over the key.
    """
    if key is None:
        raise ValueError(f"log_prob of a {type(model).__name__} is a Monte Carlo bound; pass key=jax.random.key(...).")
    events = model.events("x", x)
    if grid is None:
        check_continuous(model)
        bound: _Continuous | _Chain = _Continuous()
    else:
        times = even_times(model, grid).astype(model.dtype)
        if not is_traced(times) and (times[0] < 0 or times[-1] != 1):
            raise ValueError(
                "grid must be a number of steps, or times that increase from at least 0 to 1, the time of the data."
            )
        bound = _Chain(times)
    shared, rows = split_condition(cast_condition(condition, model.dtype, events.shape[0]))
    if len(events) == 0:
        own = bound, model, shared, key, lanes, progress
        return answer_of_none(lambda rows: _evaluate(own, rows, jnp.zeros(1, jnp.int32)), (events, rows))
    rows, placement = shard_rows((events, rows), (model, bound, shared))
    answer = on_each_device(_evaluate, placement, len(events), (bound, model, shared, key, lanes, progress), rows)
    return raise_if_failed("log_prob", answer, answer.result, None) if throw else answer


def _evaluate(shared: PyTree, rows: tuple[Array, PyTree], index: Array) -> LogProb:
    *shared, lanes, progress = shared
    return in_lanes(lambda rows: _together(tuple(shared), rows, progress), (index, *rows), lanes)


def _together(
    shared: tuple[_Continuous | _Chain, AbstractCategoricalModel, Condition, KeyArray],
    rows: tuple[Array, Array, PyTree],
    progress: ProgressLike,
) -> LogProb:
    (bound, model, condition, key), (index, x, own) = shared, rows
    repeats = max(2, -(-_DRAWS // bound.count))
    total, meter = bound.count * repeats, make_meter(progress)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)

    def body(state: PyTree, number: Array) -> tuple[PyTree, Array]:
        def one(x: Tokens, key: KeyArray, row: PyTree) -> Array:
            cell, key = number // repeats, jax.random.fold_in(key, number)
            return bound.draw(model, cell, x, condition_of(condition, row), key)

        return meter.step(state, (number + 1) / total), jax.vmap(one)(x, keys, own)

    state, draws = jax.lax.scan(body, meter.init(), jnp.arange(total))
    meter.close(state)
    draws = draws.reshape(bound.count, repeats, -1)
    value = jax.vmap(lambda x: bound.first(model, x))(x) + jnp.sum(jnp.mean(draws, axis=1), axis=0)
    finite = jnp.where(jnp.isfinite(draws), draws, 0)
    error = jnp.sqrt(jnp.sum(jnp.var(finite, axis=1, ddof=1), axis=0) / repeats)
    error = jnp.where(jnp.isfinite(value), error, jnp.inf)
    number = jnp.full(x.shape[0], total, jnp.int32)
    result = jax.vmap(lambda bad: RESULTS.where(bad, NONFINITE, RESULTS.successful))(jnp.isnan(value))
    return LogProb(-value, error, None, Stats(number, jnp.zeros_like(number), number), result, is_bound=True)

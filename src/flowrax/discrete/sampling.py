"""`sample` for models with samplers of their own steps, categorical or joint: a loop over the steps of all samples."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_instance, is_traced
from .._base.condition import Batched, cast_condition, split_condition
from .._base.result import NONFINITE, RESULTS, Samples, Stats, raise_if_failed
from .._base.typing import Array, Condition, KeyArray, PyTree
from ..engine import Grid, ProgressLike, in_lanes, on_each_device, shard_rows
from ..engine.solve import make_meter
from ..model.base import AbstractModel
from ..prior import bind_row
from .base import AbstractSampler, SamplerStep


class _Plan(eqx.Module):
    """The settings of a run that all samples share."""

    sampler: AbstractSampler
    times: Array
    keeps: bool = eqx.field(static=True)
    """Whether to keep the states at all times."""
    progress: ProgressLike
    lanes: int | None = eqx.field(static=True)


def sample_discretely(
    model: AbstractModel,
    key: KeyArray,
    num_samples: int,
    sampler: AbstractSampler,
    condition: Condition | Batched,
    x0: Any,
    grid: Grid | None,
    saveat: Any,
    lanes: int | None,
    progress: ProgressLike,
    *,
    throw: bool,
) -> Samples:
    """[`sample`][] for models sampled by [`AbstractSampler`][], with the same arguments."""
    start: Any = None if x0 is None else model.events("x0", x0, num_samples)
    times = sampler.times(model, grid).astype(model.dtype)
    if x0 is None and not is_traced(times) and float(times[0]) > model.t_min + 1e-6:
        raise ValueError(
            f"grid starts at {float(times[0]):g}, but samples of the prior start at {model.t_min:g}; pass x0= to start "
            "later."
        )
    plan = _Plan(sampler, times, _keeps_steps(saveat), progress, lanes)
    shared, rows = split_condition(cast_condition(condition, model.dtype, num_samples))
    rows, placement = shard_rows((start, rows), (model, plan, shared))
    answer = on_each_device(_draw, placement, num_samples, (plan, model, shared, key), rows)
    return raise_if_failed("sample", answer, answer.result, None) if throw else answer


def _keeps_steps(saveat: dfx.SaveAt | None) -> bool:
    """Whether `saveat` asks for the state at every step; raises `ValueError` for anything else than steps."""
    if saveat is None:
        return False
    check_instance("saveat", saveat, dfx.SaveAt)
    sub = saveat.subs
    if saveat.dense or not isinstance(sub, dfx.SubSaveAt) or sub.ts is not None or not sub.steps:
        raise ValueError(
            "This sampler has states at the times of its steps only; pass saveat=diffrax.SaveAt(steps=True)."
        )
    return True


def _draw(shared: PyTree, rows: PyTree, index: Array) -> Samples:
    """Draws the samples numbered `index`: sample `i` uses `fold_in(key, i)`, and its step `k` the k-th fold of that."""
    (plan, model, condition, key), (x0, rows) = shared, rows
    return in_lanes(lambda rows: _together(plan, model, condition, key, *rows), (index, x0, rows), plan.lanes)


def _together(
    plan: _Plan, model: AbstractModel, condition: Condition, key: Array, index: Array, x0: PyTree, rows: PyTree
) -> Samples:
    count, meter = plan.times.shape[0] - 1, make_meter(plan.progress)
    # For each sample, one key for its initial state and one for its steps.
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(index)

    def source(key: Array, row: PyTree) -> PyTree:
        return bind_row(model, condition, row)[0].source.draw(key)

    start = jax.vmap(source)(keys[:, 0], rows) if x0 is None else x0
    n = index.shape[0]

    def body(carry: PyTree, xs: tuple[Array, Array, Array]) -> tuple[PyTree, PyTree]:
        x, failed, progress = carry
        k, begin, end = xs

        def one(x: PyTree, first: PyTree, key: Array, row: PyTree) -> PyTree:
            # Index `count` is unused by any step, so shared and per-step draws are independent.
            step = SamplerStep(k, count, begin, end, first, jax.random.fold_in(key, count))
            own, given = bind_row(model, condition, row)
            return plan.sampler.step(own, step, x, given, jax.random.fold_in(key, k))

        x = jax.vmap(one)(x, start, keys[:, 1], rows)
        # A later step may replace a failed token, so remember the failure.
        failed |= _failed(x, n)
        return (x, failed, meter.step(progress, (k + 1) / count)), (x if plan.keeps else None)

    steps = jnp.arange(count), plan.times[:-1], plan.times[1:]
    (x, failed, progress), states = jax.lax.scan(body, (start, jnp.zeros(n, bool), meter.init()), steps)
    meter.close(progress)
    number = jnp.full(n, count, jnp.int32)
    stats = Stats(number, jnp.zeros_like(number), number * plan.sampler.num_evaluations_per_step)
    trajectory = None
    if plan.keeps:
        joined = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states)
        trajectory = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), joined)
    times = jnp.broadcast_to(plan.times, (n, count + 1)) if plan.keeps else None
    result = jax.vmap(lambda bad: RESULTS.where(bad, NONFINITE, RESULTS.successful))(failed)
    return Samples(_marked(x, failed), None, None, trajectory, times, stats, result)


def _failed(x: PyTree, n: int) -> Array:
    """Marks the samples with a token of -1 or a number that is not finite."""
    failed = jnp.zeros(n, bool)
    for leaf in jax.tree.leaves(x):
        bad = leaf < 0 if jnp.issubdtype(leaf.dtype, jnp.integer) else ~jnp.isfinite(leaf)
        failed |= jnp.any(bad.reshape(n, -1), axis=1)
    return failed


def _marked(x: PyTree, failed: Array) -> PyTree:
    """Replaces failed samples by -1 (tokens) and NaN (numbers)."""

    def mark(leaf: Array) -> Array:
        bad = -1 if jnp.issubdtype(leaf.dtype, jnp.integer) else jnp.nan
        return jnp.where(failed.reshape((-1,) + (1,) * (leaf.ndim - 1)), jnp.asarray(bad, leaf.dtype), leaf)

    return jax.tree.map(mark, x)

"""`sample` for models with samplers of their own steps: categorical models and models of several parts."""

from typing import Any

from .._base.checks import is_traced
from .._base.condition import Batched, cast_condition, split_condition
from .._base.result import Samples, raise_if_failed
from .._base.typing import Array, Condition, KeyArray, PyTree
from ..engine import Grid, ProgressLike, on_each_device, shard_rows
from ..model.base import AbstractModel
from .base import AbstractSampler
from .loop import SamplerSpec, keeps_steps, run_sampler


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
    plan = SamplerSpec(sampler, times, keeps_steps(saveat), progress, lanes)
    shared, rows = split_condition(cast_condition(condition, model.dtype, num_samples))
    rows, placement = shard_rows((start, rows), (model, plan, shared))
    answer = on_each_device(_draw, placement, num_samples, (plan, model, shared, key), rows)
    return raise_if_failed("sample", answer, answer.result, None) if throw else answer


def _draw(shared: PyTree, rows: PyTree, index: Array) -> Samples:
    (plan, model, condition, key), (x0, rows) = shared, rows
    return run_sampler(plan, model, condition, key, index, x0, rows)

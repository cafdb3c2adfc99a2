"""One solve for the log-densities of many rows, from data to noise."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.condition import Batched, split_condition
from .._base.result import LogProb, raise_if_failed, without_failed
from .._base.typing import Array, Batch, Condition, KeyArray, PyTree
from ..divergence import AbstractDivergence
from ..dynamics import ProbabilityFlow
from ..engine import SolveSpec, answer_of_none, on_each_device, shard_rows, solve
from ..model.base import AbstractContinuousModel
from ..prior import bind_row
from .augmented import augmented_state
from .options import ModelEquation, Start


class DensitySolve(eqx.Module):
    """How the log-densities of a model are solved."""

    model: AbstractContinuousModel
    divergence: AbstractDivergence
    spec: SolveSpec
    throw: bool = eqx.field(static=True)

    def __call__(self, x: Batch, condition: Condition | Batched, keys: Array | None) -> LogProb:
        """The log-density of each row of `x`.

        **Arguments:**

        - `x`: `(n, *event)`.
        - `condition`: one for all rows, or `Batched`.
        - `keys`: `(n,)`, for the probes of a random divergence.

        **Returns:** a [`LogProb`][].
        """
        if x.shape[0] == 0:
            one = DensitySolve(self.model, self.divergence, self.spec, throw=False)
            if isinstance(condition, Batched):
                return answer_of_none(lambda rows: one(rows[0], Batched(rows[1]), rows[2]), (x, condition.value, keys))
            return answer_of_none(lambda rows: one(rows[0], condition, rows[1]), (x, keys))
        shared, rows = split_condition(condition)
        equation = ModelEquation(ProbabilityFlow(), self.divergence, self.model, shared)
        rows, placement = shard_rows((x, rows), (equation, self.spec))
        answer = on_each_device(_evaluate, placement, x.shape[0], (equation, self.spec, keys), rows)
        return (
            raise_if_failed("log_prob", answer, answer.result, self.spec.stepping.max_steps) if self.throw else answer
        )


def keys_of_rows(key: KeyArray, num: int) -> Array:
    """The keys of `num` rows, `fold_in(key, i)` for row `i`."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(num))


def _evaluate(
    shared: tuple[ModelEquation, SolveSpec, Array | None], rows: tuple[Batch, PyTree], index: Array
) -> LogProb:
    equation, spec, keys = shared
    divergence = equation.divergence
    assert divergence is not None

    def start(key: KeyArray | None, x: Array, row: PyTree) -> tuple[PyTree, Start]:
        return augmented_state(divergence, x), Start(None, divergence.probes(key, x), row)

    solved = solve(equation, jax.vmap(start)(None if keys is None else keys[index], *rows), spec)
    latent, change = solved.y

    def source_density(x: Array, row: PyTree) -> Array:
        return bind_row(equation.model, equation.condition, row)[0].source.log_density(x)

    # The solve runs from t_max to t_min, so the state holds minus the change from noise to data.
    at_source = jax.vmap(source_density)(without_failed(solved.result, latent), rows[1])
    value = at_source - jnp.mean(change, axis=-1)
    return LogProb(value, divergence.standard_error(change), latent, solved.stats, solved.result)

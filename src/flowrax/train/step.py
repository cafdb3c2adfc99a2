"""The compiled part of training: a run of optimiser steps, and the loss on held-out data."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._typing import Array, Batch, Condition, KeyArray
from ..loss import AbstractLoss
from ..model import Model

Augment = Callable[[KeyArray, Array], Array]
"""`augment(key, row)`: one stored row as one training event."""


class TrainState(eqx.Module):
    """All that a run needs to go on: step `k` draws from `fold_in(key, k)` and nothing else."""

    parameters: Any
    average: Any
    optimizer: Any
    step: Array
    best: Any
    best_loss: Array
    best_step: Array


class Task(eqx.Module):
    """What stays fixed during a run."""

    static: Any
    loss: AbstractLoss
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    augment: Augment | None = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    average_decay: float

    def model(self, parameters: Any) -> Model:
        """The model with those parameters."""
        return eqx.combine(parameters, self.static)

    def batch_loss(self, parameters: Any, rows: Batch, condition: Condition, key: KeyArray, *, training: bool) -> Array:
        """Mean loss over `(n, ...)` rows."""
        model, n = self.model(parameters), rows.shape[0]
        keys = jax.random.split(key, 5)
        x1 = rows if self.augment is None else jax.vmap(self.augment)(jax.random.split(keys[0], n), rows)
        x0 = jax.random.normal(keys[1], x1.shape, x1.dtype)
        x0 = model.coupling(keys[2], x0, x1)
        t = self.loss.times(keys[3], n, model.t_min, model.t_max, x1.dtype)

        def one(t: Array, x0: Array, x1: Array, condition: Condition, key: KeyArray) -> Array:
            return self.loss(model, t, x0, x1, condition, key=key if training else None)

        return jnp.mean(jax.vmap(one)(t, x0, x1, condition, jax.random.split(keys[4], n)))


def first_state(parameters: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(
        parameters=parameters,
        average=parameters,
        optimizer=optimizer.init(parameters),
        step=jnp.zeros((), jnp.int32),
        best=parameters,
        best_loss=jnp.asarray(jnp.inf, jnp.float32),
        best_step=jnp.zeros((), jnp.int32),
    )


@eqx.filter_jit
def advance(
    task: Task, state: TrainState, data: Batch, condition: Condition, key: KeyArray, num_steps: Array
) -> tuple[TrainState, Array]:
    """`num_steps` steps of the optimiser; also their mean loss. Compiles once, whatever the number of steps."""

    def body(_: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
        state, total = carry
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
        rows = jax.random.randint(batch_key, (task.batch_size,), 0, data.shape[0])
        own = jax.tree.map(lambda leaf: leaf[rows], condition)
        value, gradient = jax.value_and_grad(lambda p: task.batch_loss(p, data[rows], own, loss_key, training=True))(
            state.parameters
        )
        # optax itself mixes dtypes.
        with jax.numpy_dtype_promotion("standard"):
            updates, optimizer = task.optimizer.update(gradient, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        average = _average(state, parameters, task.average_decay)
        state = TrainState(parameters, average, optimizer, state.step + 1, state.best, state.best_loss, state.best_step)
        return state, total + value.astype(jnp.float32)

    state, total = jax.lax.fori_loop(0, num_steps, body, (state, jnp.zeros((), jnp.float32)))
    return state, total / num_steps.astype(jnp.float32)


def _average(state: TrainState, parameters: Any, decay: float) -> Any:
    # A short memory at first, so that the average forgets the initial weights.
    step = state.step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(
        lambda old, new: old + (1 - decay_now).astype(old.dtype) * (new - old), state.average, parameters
    )


@eqx.filter_jit
def held_out_loss(task: Task, parameters: Any, data: Batch, condition: Condition, key: KeyArray, repeats: int) -> Array:
    """The loss without dropout on all rows, `repeats` times with draws that are the same at every call."""

    def once(key: KeyArray) -> Array:
        return task.batch_loss(parameters, data, condition, key, training=False)

    return jnp.mean(jax.lax.map(once, jax.random.split(key, repeats))).astype(jnp.float32)

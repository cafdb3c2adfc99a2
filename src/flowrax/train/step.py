"""The compiled part of training: a sequence of optimiser steps, and the loss on held-out data."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.checks import check_methods, time_dtype
from .._base.typing import Array, Bool, Condition, GradientTransformation, KeyArray, PyTree, Rows
from ..coupling import AbstractDataCoupling, AbstractHostCoupling
from ..coupling.in_order import in_order
from ..loss import AbstractLoss
from ..prior import AbstractGaussianPrior, Conditional, bind_condition
from .plans import PlanRecord, no_plan, plan_of

Augment = Callable[[KeyArray, Array], Array]
"""`augment(key, row)`: turns one stored row into one training event."""


class TrainState(eqx.Module):
    """The complete state of a training run; step `k` draws from `fold_in(key, k)` only, so a run can be resumed."""

    parameters: Any
    average: Any
    """The exponential moving average of the parameters, in single precision at least."""
    optimizer: Any
    step: Array
    """The number of optimiser steps taken."""
    best: Any
    """The averaged parameters with the lowest held-out loss so far."""
    best_loss: Array
    best_step: Array


class Task(eqx.Module):
    """The parts of a training run that do not change."""

    static: Any
    """The model without its parameters."""
    loss: AbstractLoss
    optimizer: GradientTransformation
    augment: Augment | None
    """A function, or an `eqx.Module` whose arrays may differ between runs."""
    batch_size: int = eqx.field(static=True)
    average_decay: float
    paired: bool = eqx.field(static=True, default=False)
    """Whether each row is a pair of noise and data, stacked along the first axis of the row."""
    gives_loss: bool = eqx.field(static=True, default=False)
    """Whether the optimiser takes `value`, `grad` and `value_fn`: the loss, its gradient and its function."""

    def model(self, parameters: Any, like: Any = None) -> Any:
        """The model with the given parameters, cast to the dtypes of the parameters `like` if these are given."""
        if like is not None:
            parameters = jax.tree.map(lambda leaf, own: leaf.astype(own.dtype), parameters, like)
        return eqx.combine(parameters, self.static)

    def batch(self, data: Rows, key: KeyArray, step: Array, first: Array | None = None) -> tuple[Array, KeyArray]:
        """The indices of the rows in the batch of one step, `(batch_size,)`, and the key for the step's other draws.

        With `first`, `data` are the batches of the steps from `first`, one after the other.
        """
        if first is None:
            return drawn(key, step, self.batch_size, num_rows(data))
        within = jnp.arange(self.batch_size, dtype=jnp.int32)
        return (step - first) * self.batch_size + within, drawn(key, step, 0, 1)[1]

    def rows_of_noise(self, rows: Array, data: Rows, condition: Condition, key: KeyArray) -> Array:
        """The rows that the coupling chooses for the noise of one step, or `rows` if it does not choose rows."""
        coupling = self.static.coupling
        if not isinstance(coupling, AbstractDataCoupling):
            return rows
        x0, _ = self.ends(data[rows], key, jax.tree.map(lambda leaf: leaf[rows], condition))
        return coupling.rows(jax.random.split(key, 5)[2], x0)

    def ends(self, rows: Rows, key: KeyArray, condition: Condition = None) -> tuple[Rows, Rows]:
        """Noise and data before they are coupled.

        Noise from a prior that depends on the condition is still standard normal here; `batch_loss` transforms it.
        """
        if self.paired:
            return rows[:, 0], rows[:, 1]
        row_key, noise_key, *_ = jax.random.split(key, 5)
        x1 = rows if self.augment is None else jax.vmap(self.augment)(jax.random.split(row_key, num_rows(rows)), rows)
        prior = self.static.prior
        if isinstance(prior, AbstractGaussianPrior):
            z = random.normal(noise_key, x1.shape, x1.dtype)
            return (z if prior.is_standard or isinstance(prior, Conditional) else jax.vmap(prior.transform)(z)), x1
        noise_keys = jax.random.split(noise_key, num_rows(x1))
        return jax.vmap(lambda key, condition: bind_condition(prior, condition).draw(key))(noise_keys, condition), x1

    def batch_loss(
        self,
        parameters: Any,
        rows: Rows,
        condition: Condition,
        key: KeyArray,
        *,
        order: Array | None = None,
        training: bool,
    ) -> tuple[Array, PlanRecord]:
        """The mean loss over `(n, ...)` rows, paired by the model's coupling or in the `order` that it has computed,
        and the record of the transport plan from which the pairs were drawn.
        """
        model, n = self.model(parameters), num_rows(rows)
        keys = jax.random.split(key, 5)
        x0, x1 = self.ends(rows, key, condition)
        if training and isinstance(model.coupling, AbstractDataCoupling):
            # The coupling has already chosen these rows.
            pairs = in_order(x0, x1, condition)
        elif order is None:
            pairs = model.coupling(keys[2], x0, x1, condition)
        else:
            assert isinstance(model.coupling, AbstractHostCoupling)
            pairs = model.coupling.pairs(keys[2], x0, x1, condition, order)
        condition, x0 = pairs.follow(condition), pairs.x0
        if isinstance(model.prior, Conditional) and not self.paired:
            x0 = jax.vmap(lambda x0, condition: bind_condition(model.prior, condition).transform(x0))(x0, condition)
        t = self.loss.times(keys[3], n, model.t_min, model.t_max, time_dtype(model.dtype))

        # A sixth key; the five above are numbered 0 to 4.
        latent_keys = jax.random.split(jax.random.fold_in(key, 5), n)
        noise = jax.vmap(model.interpolant.noise)(latent_keys, x0)

        def one(t: Array, x0: PyTree, x1: PyTree, condition: Condition, key: KeyArray) -> Array:
            value = self.loss(bind_condition(model, condition), t, x0, x1, condition, key=key if training else None)
            value = value.astype(time_dtype(value.dtype))
            return value * self.loss.times.correction(t, model.t_min, model.t_max).astype(value.dtype)

        own = jax.random.split(keys[4], n)
        losses = jax.vmap(one)(t, noise, pairs.x1, condition, own)
        weighted = losses if pairs.weights is None else pairs.weights.astype(losses.dtype) * losses
        return jnp.mean(weighted), plan_of(pairs)


def drawn(key: KeyArray, step: Array, batch_size: int, n: int) -> tuple[Array, KeyArray]:
    """The batch of one step, drawn from `n` rows with replacement, and the key for the step's other draws."""
    batch_key, loss_key = jax.random.split(jax.random.fold_in(key, step))
    return random.randint(batch_key, (batch_size,), 0, n), loss_key


def num_rows(rows: PyTree) -> int:
    """The length of the leading axis."""
    return jax.tree.leaves(rows)[0].shape[0]


def first_state(parameters: Any, optimizer: GradientTransformation) -> TrainState:
    """The state before the first step."""
    check_methods("optimizer", optimizer, ("init", "update"))
    average = jax.tree.map(lambda leaf: leaf.astype(time_dtype(leaf.dtype)), parameters)
    return TrainState(
        parameters=parameters,
        average=average,
        optimizer=optimizer.init(parameters),
        step=jnp.zeros((), jnp.int32),
        best=average,
        best_loss=jnp.asarray(jnp.inf, jnp.float32),
        best_step=jnp.zeros((), jnp.int32),
    )


@eqx.filter_jit
def advance(
    task: Task,
    state: TrainState,
    data: Rows,
    condition: Condition,
    key: KeyArray,
    num_steps: Array,
    orders: Array | None = None,
    first: Array | None = None,
) -> tuple[TrainState, Array, PlanRecord]:
    """Takes `num_steps` optimiser steps; returns the new state, the mean loss of these steps and their plans.

    It compiles once for all numbers of steps. `orders`, `(k, batch_size)` with `k >= num_steps`, are the pairings of
    these steps if the host has computed them. With `first`, `data` are the batches of the steps from `first`.
    """

    def body(index: Array, carry: tuple[TrainState, Array, PlanRecord]) -> tuple[TrainState, Array, PlanRecord]:
        state, total, plans = carry
        rows, loss_key = task.batch(data, key, state.step, first)
        rows = task.rows_of_noise(rows, data, condition, loss_key)
        chosen, own = jax.tree.map(lambda leaf: leaf[rows], (data, condition))
        order = None if orders is None else orders[index]

        def loss(parameters: Any) -> tuple[Array, PlanRecord]:
            return task.batch_loss(parameters, chosen, own, loss_key, order=order, training=True)

        (value, plan), gradient = jax.value_and_grad(loss, has_aux=True)(state.parameters)
        extra = (
            {"value": value, "grad": gradient, "value_fn": lambda parameters: loss(parameters)[0]}
            if task.gives_loss
            else {}
        )
        # optax mixes dtypes internally.
        with jax.numpy_dtype_promotion("standard"):
            updates, optimizer = task.optimizer.update(gradient, state.optimizer, state.parameters, **extra)
        # The same as `optax.apply_updates`, without importing optax.
        parameters = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), state.parameters, updates)
        average = _average(state, parameters, task.average_decay)
        state = TrainState(parameters, average, optimizer, state.step + 1, state.best, state.best_loss, state.best_step)
        return state, total + value.astype(jnp.float32), plans + plan

    start = state, jnp.zeros((), jnp.float32), no_plan()
    state, total, plans = jax.lax.fori_loop(0, num_steps, body, start)
    return state, total / num_steps.astype(jnp.float32), plans


@eqx.filter_jit
def has_finite_weights(state: TrainState) -> Bool[Array, ""]:
    """Whether all weights and their averages are finite."""
    leaves = jax.tree.leaves((state.parameters, state.average))
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def _average(state: TrainState, parameters: Any, decay: float) -> Any:
    # A short memory at first, so that the average forgets the initial weights.
    step = state.step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(
        lambda old, new: old + (1 - decay_now).astype(old.dtype) * (new.astype(old.dtype) - old),
        state.average,
        parameters,
    )


@eqx.filter_jit
def held_out_loss(
    task: Task, state: TrainState, data: Rows, condition: Condition, key: KeyArray, repeats: int
) -> Array:
    """The loss of the averaged weights without dropout on all rows, averaged over `repeats` draws, which are the same
    at every call.

    It takes `batch_size` rows at a time: a coupling then pairs them as in training, and memory does not grow with
    their number.
    """
    parameters = jax.tree.map(lambda mean, own: mean.astype(own.dtype), state.average, state.parameters)
    n = num_rows(data)
    size = min(n, task.batch_size)

    def block(start: Array | int, size: int, key: KeyArray) -> Array:
        rows, own = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), (data, condition))
        return task.batch_loss(parameters, rows, own, key, training=False)[0] * (size / n)

    def once(key: KeyArray) -> Array:
        keys = jax.random.split(key, n // size + 1)
        rest = n % size
        last = block(n - rest, rest, keys[-1]) if rest else jnp.zeros((), jnp.float32)
        return jax.lax.fori_loop(
            0, n // size, lambda i, total: total + block(i * size, size, keys[i]).astype(total.dtype), last
        )

    return jnp.mean(jax.lax.map(once, jax.random.split(key, repeats))).astype(jnp.float32)

"""`fit`: trains a model's network, keeps the best weights, and resumes after an interruption."""

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any, Generic

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.arrays import as_leaf
from .._base.condition import Batched
from .._base.random import as_threefry
from .._base.tracebacks import short_traceback
from .._base.typing import BatchLike, Condition, GradientTransformation, KeyArray, KeyLike, Rows
from ..coupling import AbstractCoupling, AbstractHostCoupling, MeasuredPairs
from ..loss import AbstractLoss
from .prefetch import Prefetch
from .prepare import (
    Trainable,
    check_data,
    check_pairing,
    check_schedules,
    coupled,
    default_loss,
    paired,
    without_priors,
)
from .resume import RunFile
from .step import Augment, Task, TrainState, advance, first_state, held_out_loss, num_rows

_CHUNK = 50


class FitResult(eqx.Module, Generic[Trainable]):
    """The result of `fit`."""

    model: Trainable
    """The model with the averaged weights of lowest held-out loss; the last averaged weights without held-out data."""
    last_model: Trainable
    """The model with the last weights, not averaged."""
    history: dict[str, np.ndarray]
    """`step`, `train_loss` and `validation_loss` at each validation."""
    num_steps: int
    """The number of optimiser steps taken, including earlier runs of the same checkpoint."""
    best_step: int
    """The step at which the weights of `model` were reached."""
    stopped: str
    """Why training ended, in one sentence."""


@short_traceback
def fit(
    model: Trainable,
    data: BatchLike | Mapping[str, BatchLike],
    key: KeyLike,
    *,
    loss: AbstractLoss | None = None,
    coupling: AbstractCoupling | None = None,
    optimizer: GradientTransformation | None = None,
    num_steps: int = 10_000,
    batch_size: int = 256,
    condition: Condition = None,
    validation: BatchLike | Mapping[str, BatchLike] | None = None,
    validation_condition: Condition = None,
    validate_every: int = 500,
    patience: int | None = None,
    ema_decay: float = 0.999,
    augment: Augment | None = None,
    x0: BatchLike | None = None,
    validation_x0: BatchLike | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> FitResult[Trainable]:
    """Trains a model by minimising a matching loss over the network's parameters.

    **Arguments:**

    - `model`: the model whose network is trained.
    - `data`: `(n, *row)`; each row is an event, or `augment` turns it into one. Integers for a [`CategoricalModel`][],
        a dictionary of the parts for a [`JointModel`][].
    - `key`: step `k` draws from `fold_in(key, k)` only, so a resumed run gives bitwise the same result.
    - `loss`: the loss. Default: [`Matching`][] with uniform weight; `loss.AntitheticMatching` for the velocity of a
        path with a latent variable, `discrete.CrossEntropy` for classes, `joint.JointMatching` for several parts.
    - `coupling`: how noise is paired with data, also recorded in the returned model. Conditions stay with their data.
        Held-out rows are paired in batches of `batch_size`, as in training. Default: the model's coupling.
    - `optimizer`: an optax transformation. Default: Adam with a warm-up and a cosine decay to zero.
    - `num_steps`, `batch_size`: the number of optimiser steps, and of rows in each. Batches are drawn with
        replacement.
    - `condition`: a PyTree whose leaves have a leading axis `n`. Default: None, no condition.
    - `validation`, `validation_condition`: held-out rows; the returned weights are those with the lowest loss on them.
    - `validate_every`: the number of steps between validations and checkpoints.
    - `patience`: stop after this many validations without a new lowest loss. Default: None, never stop early.
    - `ema_decay`: the decay of the exponential moving average of the weights. The averaged weights are validated and
        returned.
    - `augment`: `augment(key, row)` turns one row into one event, anew at every step: dequantise, rotate, standardise.
    - `x0`, `validation_x0`: `(n, *event)`, the other end of each row of data, for data that come in pairs. They
        replace draws from the model's prior and the coupling.
    - `checkpoint`: a path, written atomically; an interrupted run with the same arguments resumes from it. `num_steps`
        and `patience` may change; the code of functions that have a name is not compared. If a checkpoint cannot be
        written, training goes on with a warning.
    - `progress`: whether to show a progress bar.

    **Returns:** [`FitResult`][]. A loss that becomes NaN stops the run, which keeps the best weights; `stopped` then
    states the cause.

    **Raises:** `ValueError` for NaN in the data, rows that do not fit the model, or a checkpoint of another run (the
    message names what differs), and `OSError` if no checkpoint can be written when training starts.
    """
    key = as_threefry(key)
    check_pairing(model, augment, coupling, x0)
    if coupling is not None:
        model = coupled(model, coupling)
    condition, validation_condition = (
        jax.tree.map(lambda leaf, name=name: as_leaf(name, leaf, model.dtype), tree)
        for name, tree in (("condition", condition), ("validation_condition", validation_condition))
    )
    conditions = Batched(condition), Batched(validation_condition)
    rows, held_out = check_data(model, data, validation, augment, key, conditions)
    if x0 is not None:
        if augment is not None or coupling is not None:
            raise ValueError("x0 already pairs noise and data; leave out coupling and augment.")
        model = coupled(model, MeasuredPairs())
        rows = paired("x0", x0, rows)
        held_out = None if held_out is None else paired("validation_x0", validation_x0, held_out)
    is_default = optimizer is None
    if optimizer is None:
        import optax

        warm = min(500, max(1, num_steps // 10))
        optimizer = optax.adam(optax.warmup_cosine_decay_schedule(0.0, 1e-3, warm, max(num_steps, warm + 1)))
    trained = without_priors(jax.tree.map(eqx.is_inexact_array, model))
    parameters, static = eqx.partition(model, trained)
    loss = default_loss(model) if loss is None else loss
    check_schedules(loss, model)
    task = Task(static, loss, optimizer, augment, batch_size, ema_decay, x0 is not None)
    run = _Run(task, model, rows, condition, held_out, validation_condition, key, validate_every, patience)
    if checkpoint is not None:
        run.file = RunFile(checkpoint, run.arguments("default" if is_default else optimizer))
    state, history = run.restore(first_state(parameters, optimizer))
    state, history, stopped = run.train(state, history, num_steps, progress)
    best = state.average if validation is None else state.best
    return FitResult(
        model=task.model(best),
        last_model=task.model(state.parameters),
        history={name: np.asarray([row[i] for row in history]) for i, name in enumerate(_COLUMNS)},
        num_steps=int(state.step),
        best_step=int(state.step if validation is None else state.best_step),
        stopped=stopped if run.file is None else f"{stopped}{run.file.problem}",
    )


_COLUMNS = ("step", "train_loss", "validation_loss")
History = list[list[float]]


@dataclasses.dataclass
class _Run:
    """One call of `fit`: the loop around the compiled steps."""

    task: Task
    model: Any
    data: Rows
    condition: Condition
    validation: Rows | None
    validation_condition: Condition
    key: KeyArray
    validate_every: int
    patience: int | None
    prefetch: Prefetch | None = None
    file: RunFile | None = None

    def __post_init__(self) -> None:
        self.train_key, self.validation_key = jax.random.split(self.key)

    def arguments(self, optimizer: Any) -> dict[str, Any]:
        """Everything that must not change between the runs that share a checkpoint."""
        task = self.task
        return {
            # The parameters of the network are part of the state.
            "model": eqx.tree_at(lambda m: m.network, self.model, task.static.network),
            "data": self.data,
            "condition": self.condition,
            "validation": self.validation,
            "validation_condition": self.validation_condition,
            "loss": task.loss,
            "optimizer": optimizer,
            "augment": task.augment,
            "batch_size": task.batch_size,
            "ema_decay": task.average_decay,
            "validate_every": self.validate_every,
            "key": self.train_key,
        }

    def restore(self, state: TrainState) -> tuple[TrainState, History]:
        return (state, []) if self.file is None else self.file.restore(state)

    def train(
        self, state: TrainState, history: History, num_steps: int, progress: bool
    ) -> tuple[TrainState, History, str]:
        bar = _Bar(num_steps, int(state.step), progress)
        coupling = self.task.model(state.parameters).coupling
        if isinstance(coupling, AbstractHostCoupling):
            self.prefetch = Prefetch(coupling, self.task, self.data, self.train_key, num_steps, self.condition)
        try:
            while (step := int(state.step)) < num_steps:
                if self._is_out_of_patience(state, history):
                    return state, history, f"No lower held-out loss in {self.patience} validations, at step {step}."
                until = min(num_steps, (step // self.validate_every + 1) * self.validate_every)
                last_good = state
                state, train_loss = self._advance(state, until, bar)
                if not np.isfinite(train_loss):
                    return last_good, history, f"The loss became NaN or infinite before step {until}; kept step {step}."
                state, validation_loss = self._validate(state)
                history = [*history, [float(until), train_loss, validation_loss]]
                bar.show(train_loss, validation_loss)
                if self.file is not None:
                    self.file.write(state, history)
        finally:
            bar.close()
            if self.prefetch is not None:
                self.prefetch.close()
        return state, history, f"All {num_steps} steps were taken."

    def _is_out_of_patience(self, state: TrainState, history: History) -> bool:
        if self.patience is None or self.validation is None:
            return False
        return sum(row[0] > int(state.best_step) for row in history) >= self.patience

    def _advance(self, state: TrainState, until: int, bar: "_Bar") -> tuple[TrainState, float]:
        total, taken = 0.0, 0
        while (step := int(state.step)) < until:
            chunk = min(_CHUNK if self.prefetch is None else self.prefetch.steps, until - step)
            orders = None if self.prefetch is None else self.prefetch.orders(step, chunk)
            state, mean = advance(
                self.task, state, self.data, self.condition, self.train_key, jnp.asarray(chunk, jnp.int32), orders
            )
            total, taken = total + float(mean) * chunk, taken + chunk
            if not np.isfinite(total):
                break
            bar.step(chunk)
        return state, total / taken

    def _validate(self, state: TrainState) -> tuple[TrainState, float]:
        if self.validation is None:
            return state, float("nan")
        repeats = max(1, 4096 // num_rows(self.validation))
        value = held_out_loss(
            self.task, state.average, self.validation, self.validation_condition, self.validation_key, repeats
        )
        if value < state.best_loss:
            state = eqx.tree_at(lambda s: (s.best, s.best_loss, s.best_step), state, (state.average, value, state.step))
        return state, float(value)


class _Bar:
    """A tqdm progress bar, or printed lines where tqdm is not installed."""

    def __init__(self, total: int, start: int, enabled: bool) -> None:
        self.bar: Any = None
        self.enabled, self.total, self.done = enabled, total, start
        if enabled and importlib.util.find_spec("tqdm") is not None:
            import tqdm

            self.bar = tqdm.tqdm(total=total, initial=start, desc="fit", unit="step", file=sys.stderr)

    def step(self, count: int) -> None:
        self.done += count
        if self.bar is not None:
            self.bar.update(count)

    def show(self, train_loss: float, validation_loss: float) -> None:
        if self.bar is not None:
            self.bar.set_postfix(train=f"{train_loss:.4f}", held_out=f"{validation_loss:.4f}")
        elif self.enabled:
            print(f"fit: {self.done}/{self.total} train {train_loss:.4f} held out {validation_loss:.4f}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

"""`fit`: trains a model's network, keeps the best weights, and resumes after an interruption."""

import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Generic

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.arguments import checked
from .._base.random import as_threefry
from .._base.typing import Array, BatchLike, Condition, GradientTransformation, Integer, KeyArray, KeyLike, Number, Rows
from ..coupling import AbstractCoupling, AbstractHostCoupling, MeasuredPairs
from ..loss import AbstractLoss
from .arguments import check_numbers, check_optimizer, compared_by_value, default_optimizer
from .by_value import ByValue
from .plans import PlanRecord, sum_plans, warn_of_plans
from .prefetch import Prefetch
from .prepare import (
    Given,
    Trainable,
    by_compiler,
    check_pairing,
    check_schedules,
    check_trainable,
    coupled,
    default_loss,
    without_priors,
)
from .progress import Bar
from .resume import RunFile
from .step import Augment, Task, TrainState, advance, first_state, has_finite_weights, held_out_loss, num_rows
from .stream import Stream, open_data, split_key

_CHUNK = 50


class FitResult(eqx.Module, Generic[Trainable]):
    """The result of `fit`.

    **Attributes:**

    - `model`: The model with the averaged weights of lowest held-out loss; with the last finite averaged weights if no
        held-out loss was computed or finite.
    - `last_model`: The model with the last finite weights, not averaged.
    - `history`: a dictionary of arrays with one element for each validation: `step`, `train_loss`, `validation_loss`
        and, for the transport plans since the previous validation, `unconverged_plans`, the number of plans that did
        not converge, and `marginal_error`, the largest error (NaN without plans).
    - `num_steps`: The number of optimiser steps taken, including earlier runs of the same checkpoint.
    - `best_step`: The step at which the weights of `model` were reached.
    - `stopped`: Why training ended, in one sentence.
    """

    model: Trainable
    last_model: Trainable
    history: dict[str, np.ndarray]
    num_steps: int
    best_step: int
    stopped: str

    def __repr__(self) -> str:
        losses = [f"{name}={rows[-1]:.6g}" for name, rows in self.history.items() if len(rows) and name != "step"]
        parts = [f"model={type(self.model).__name__}(...)", *losses, f"best_step={self.best_step}"]
        return f"FitResult({', '.join(parts)}, num_steps={self.num_steps}, stopped={self.stopped!r})"


@checked
def fit(
    model: Trainable,
    data: BatchLike | Mapping[str, BatchLike] | Iterable[Any],
    key: KeyLike,
    *,
    loss: AbstractLoss | None = None,
    coupling: AbstractCoupling | None = None,
    optimizer: GradientTransformation | None = None,
    num_steps: Integer = 10_000,
    batch_size: Integer | None = None,
    condition: Condition = None,
    validation: BatchLike | Mapping[str, BatchLike] | None = None,
    validation_condition: Condition = None,
    validate_every: Integer = 500,
    patience: Integer | None = None,
    ema_decay: Number = 0.999,
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
        a dictionary of the parts for a [`JointModel`][]. Memory-mapped arrays and data sets of h5py or zarr stay in
        their files: only the rows of the next batches are read, and the batches are the same as for arrays in memory.
        Or an iterable of batches of equal size, each `rows` or `(rows, condition)`. An iterable that is not an
        iterator, such as a data loader, starts again at its end; a resumed run skips the batches of earlier steps.
        Rows that are sharded over devices stay there, and training gives the same weights as on one device.
    - `key`: step `k` draws from `fold_in(key, k)` only, so a resumed run gives bitwise the same result.
    - `loss`: the loss. Default: [`Matching`][] with uniform weight; `loss.AntitheticMatching` for the velocity of a
        path with a latent variable, `discrete.CrossEntropy` for classes, `joint.JointMatching` for several parts.
    - `coupling`: how noise is paired with data, also recorded in the returned model. Conditions stay with their data.
        Held-out rows are paired in batches of `batch_size`, as in training. Default: the model's coupling.
    - `optimizer`: an optax transformation; its update may take `value`, `grad` and `value_fn`. Default: Adam with a
        warm-up and a cosine decay to zero.
    - `num_steps`: the number of optimiser steps.
    - `batch_size`: the number of rows in each batch, drawn with replacement. Default: 256, or the size of the batches
        of an iterator.
    - `condition`: a PyTree whose leaves have a leading axis `n`. Default: None, no condition.
    - `validation`, `validation_condition`: held-out rows, which are held in memory; the returned weights are those with
        the lowest loss on them.
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

    **Returns:** [`FitResult`][]. A loss, held-out loss or weights that become NaN or infinite, and an iterator that
    ends, stop the run with a warning. The best finite weights are kept, and `stopped` states the cause.

    **Raises:** `ValueError` for NaN in the data, rows that do not fit the model, or a checkpoint of another run (the
    message names what differs), and `OSError` if no checkpoint can be written when training starts. Rows that are not
    in memory are checked when they are read; `checkpoint` keeps what was trained before.
    """
    key = as_threefry(key)
    num_steps, batch_size, validate_every, patience, ema_decay = check_numbers(
        num_steps, batch_size, validate_every, patience, ema_decay
    )
    check_pairing(model, augment, coupling, x0)
    check_trainable(model)
    model = by_compiler(model)
    if coupling is not None or x0 is not None:
        model = coupled(model, MeasuredPairs() if coupling is None else coupling)
    given, held_out = Given(data, condition, x0), Given(validation, validation_condition, validation_x0)
    rows = open_data(model, augment, given, held_out, batch_size, num_steps, key)
    used = compared_by_value(default_optimizer(num_steps) if optimizer is None else optimizer)
    trained = without_priors(jax.tree.map(eqx.is_inexact_array, model))
    parameters, static = eqx.partition(model, trained)
    loss = default_loss(model) if loss is None else loss
    check_schedules(loss, model)
    augmented: Any = augment if augment is None or isinstance(augment, eqx.Module) else ByValue(augment)
    check_optimizer(used, parameters)
    task = Task(static, loss, used, augmented, rows.batch_size, ema_decay, x0 is not None, gives_loss=True)
    run = _Run(task, model, *rows.first, *rows.held_out, key, validate_every, patience, rows.stream)
    if checkpoint is not None:
        run.file = RunFile(checkpoint, run.arguments("default" if optimizer is None else optimizer, augment))
    state, history = run.restore(first_state(parameters, used))
    state, history, stopped = run.train(state, history, num_steps, progress)
    if run.failed:
        warnings.warn(f"fit took {int(state.step)} of {num_steps} steps. {stopped}", stacklevel=3)
    is_best = bool(jnp.isfinite(state.best_loss))
    return FitResult(
        model=task.model(state.best if is_best else state.average, like=state.parameters),
        last_model=task.model(state.parameters),
        history={name: np.asarray([row[i] for row in history]) for i, name in enumerate(_COLUMNS)},
        num_steps=int(state.step),
        best_step=int(state.best_step if is_best else state.step),
        stopped=stopped if run.file is None else f"{stopped}{run.file.problem}",
    )


_END = "The iterator of data ended"
_COLUMNS = ("step", "train_loss", "validation_loss", "unconverged_plans", "marginal_error")
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
    stream: Stream | None = None
    """The batches of data that are not in memory; `data` and `condition` are the first batch."""
    prefetch: Prefetch | None = None
    file: RunFile | None = None
    failed: str = ""
    """The reason why training ended early, if it did."""
    plans: dict[int, PlanRecord] = dataclasses.field(default_factory=dict)
    """The transport plans of the last steps, by the first step of each chunk."""

    def __post_init__(self) -> None:
        self.train_key, self.validation_key = split_key(self.key)

    def arguments(self, optimizer: Any, augment: Any) -> dict[str, Any]:
        """Everything that must not change between the runs that share a checkpoint."""
        task = self.task
        return {
            # The parameters of the network are part of the state.
            "model": eqx.tree_at(lambda m: m.network, self.model, task.static.network),
            "data": self.data if self.stream is None else (self.stream.source.size, self.data),
            "condition": self.condition,
            "validation": self.validation,
            "validation_condition": self.validation_condition,
            "loss": task.loss,
            "optimizer": optimizer,
            "augment": augment,
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
        bar = Bar(num_steps, int(state.step), enabled=progress)
        coupling = self.task.model(state.parameters).coupling
        if isinstance(coupling, AbstractHostCoupling):
            self.prefetch = Prefetch(
                coupling, self.task, self.data, self.train_key, num_steps, self.condition, self.stream
            )
        if self.stream is not None:
            self.stream.start(int(state.step))
        try:
            while (step := int(state.step)) < num_steps:
                if self._is_out_of_patience(state, history):
                    return state, history, f"No lower held-out loss in {self.patience} validations, at step {step}."
                until = min(num_steps, (step // self.validate_every + 1) * self.validate_every)
                state, train_loss, self.failed = self._advance(state, until, bar)
                if int(state.step) > step:
                    state, validation_loss = self._validate(state)
                    history = [
                        *history,
                        [float(state.step), train_loss, validation_loss, *self._plans(history, step, state)],
                    ]
                    bar.show(train_loss, validation_loss)
                    if not (self.failed or self.validation is None or np.isfinite(validation_loss)):
                        self.failed = f"The held-out loss became NaN or infinite at step {until}"
                if self.file is not None and self.failed in ("", _END):
                    self.file.write(state, history)
                if self.failed:
                    kept = state.best_step if np.isfinite(state.best_loss) else state.step
                    hint = "" if self.failed == _END else self._labels()
                    return state, history, f"{self.failed}; kept the weights of step {int(kept)}.{hint}"
        finally:
            bar.close()
            for ahead in (self.prefetch, self.stream):
                if ahead is not None:
                    ahead.close()
        return state, history, f"All {num_steps} steps were taken."

    def _labels(self) -> str:
        """A hint with the range of the integers in the conditions, because labels unknown to a network give NaN."""
        whole = [leaf for leaf in jax.tree.leaves(self.condition) if jnp.issubdtype(leaf.dtype, jnp.integer)]
        if not whole:
            return ""
        low, high = min(int(leaf.min()) for leaf in whole), max(int(leaf.max()) for leaf in whole)
        return f" Conditions hold integers from {low} to {high}; is the network made for all of these labels?"

    def _is_out_of_patience(self, state: TrainState, history: History) -> bool:
        if self.patience is None or self.validation is None:
            return False
        return sum(row[0] > int(state.best_step) for row in history) >= self.patience

    def _advance(self, state: TrainState, until: int, bar: Bar) -> tuple[TrainState, float, str]:
        """The state at step `until`, the mean loss, and the reason why training failed, or an empty string."""
        total, taken, earlier = 0.0, 0, state
        while (step := int(state.step)) < until:
            chunk = min(until - step, self._most_steps())
            if self.stream is not None:
                chunk = self.stream.available(step, chunk)
                if not chunk:
                    return state, total / max(taken, 1), _END
            after, mean, finite = self._steps(state, chunk)
            if not (np.isfinite(mean) and finite):
                return self._last_finite(earlier, step + chunk)
            earlier, state = state, after
            total, taken = total + float(mean) * chunk, taken + chunk
            bar.step(chunk)
        return state, total / taken, ""

    def _most_steps(self) -> int:
        """The largest number of steps that are taken at once."""
        ahead = self.prefetch or self.stream
        return _CHUNK if ahead is None else ahead.steps

    def _steps(self, state: TrainState, count: int) -> tuple[TrainState, Array, Array]:
        """The state after `count` steps, their mean loss, and whether the weights are finite."""
        orders = None if self.prefetch is None else self.prefetch.orders(int(state.step), count)
        number, step = jnp.asarray(count, jnp.int32), int(state.step)
        data, condition, first = self.data, self.condition, None
        if self.stream is not None:
            (data, condition), first = self.stream.block(step), state.step
        state, mean, plans = advance(self.task, state, data, condition, self.train_key, number, orders, first)
        self.plans[step] = plans
        return state, mean, has_finite_weights(state)

    def _plans(self, history: History, step: int, state: TrainState) -> tuple[float, float]:
        """The entries of the history about the transport plans after `step`; warns of the first that fail."""
        unconverged, error = sum_plans(self.plans.values())
        self.plans.clear()
        if unconverged and not any(row[_COLUMNS.index("unconverged_plans")] for row in history):
            warn_of_plans(unconverged, error, step + 1, int(state.step))
        return float(unconverged), error

    def _last_finite(self, state: TrainState, until: int) -> tuple[TrainState, float, str]:
        """Repeats the steps from `state` one by one, up to the last weights whose loss is finite."""
        before, total, taken = state, 0.0, 0
        while (step := int(state.step)) < until:
            after, value, finite = self._steps(state, 1)
            if not np.isfinite(value):
                return before, total / max(taken, 1), f"The loss became NaN or infinite in step {step + 1}"
            total, taken = total + float(value), taken + 1
            if not finite:
                return state, total / taken, f"The gradient or the weights became NaN or infinite in step {step + 1}"
            before, state = state, after
        return state, total / max(taken, 1), f"The loss became NaN or infinite before step {until}"

    def _validate(self, state: TrainState) -> tuple[TrainState, float]:
        if self.validation is None:
            return state, float("nan")
        repeats = max(1, 4096 // num_rows(self.validation))
        value = held_out_loss(
            self.task, state, self.validation, self.validation_condition, self.validation_key, repeats
        )
        if value < state.best_loss:
            state = eqx.tree_at(lambda s: (s.best, s.best_loss, s.best_step), state, (state.average, value, state.step))
        return state, float(value)

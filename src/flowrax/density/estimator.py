r"""A density estimator: standardises the data, fits a model, draws samples and evaluates log-densities.

The model works in standardised units $z = (x - m) / s$, so $\log p(x) = \log p_z(z) - \sum_i \log s_i$,
or $\log p_z(z) - r \log s$ for a singular prior of rank $r$.
"""

import dataclasses
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.arguments import Checked, checked
from .._base.arrays import as_real
from .._base.checks import check_batch, check_count, check_instance, is_traced
from .._base.condition import Batched
from .._base.random import as_threefry
from .._base.result import LogProb, Samples, on_successful
from .._base.rows import check_finite_leaves, check_rows, check_some, row_arrays
from .._base.typing import Array, BatchLike, Condition, KeyLike, Numbers, PyTree, Shape
from ..model.trained import Model
from ..observation import Observation
from ..schedule import Linear
from ..train import FitResult, fit, save
from ..train.checkpoint import read
from ..train.prepare import Given, check_held_out
from ..train.source import is_iterable, is_stored
from ..verb import PosteriorSamples, log_prob, sample
from .encode import Encoder
from .measured import posterior_of
from .standardise import (
    StandardisedRows,
    Standardiser,
    cast_like,
    check_finite_rows,
    check_isotropic,
    make_standardiser,
    widened,
)


class DensityFit(eqx.Module):
    """The result of `DensityEstimator.fit`.

    **Attributes:**

    - `estimator`: The fitted estimator, which can be sampled and evaluated.
    - `result`: The result of the training: `history`, `best_step`, `stopped`; its models work in standardised units.
    """

    estimator: "DensityEstimator"
    result: FitResult

    def __repr__(self) -> str:
        return f"DensityFit(estimator=DensityEstimator(...), result={self.result!r})"


class DensityEstimator(eqx.Module, metaclass=Checked):
    """A density of events given conditions, learned from samples; all inputs and outputs are in the units of the data.

    It consists of a [`Model`][] and of the shifts and scales of the data and the conditions. It is immutable:
    [`fit`][] returns a new estimator. Its `sample` and `log_prob` support `jit`, `vmap` and gradients, as do
    `flowrax.sample` and `flowrax.log_prob`.

    !!! example

        ```python
        import jax
        import flowrax as frx

        key = jax.random.key(0)
        data = 40 + 5 * jax.random.normal(key, (1000, 2))
        estimator = frx.DensityEstimator((2,), key=key)
        estimator = estimator.fit(data, key, num_steps=100, progress=False).estimator
        estimator.log_prob(data[:3]).value
        ```
    """

    model: Model
    """The model of the standardised data."""
    standard: Standardiser
    """The standardiser of the data."""
    condition_standard: Standardiser
    """The standardiser of the conditions."""
    encoder: Encoder | None
    """Encodes the standardised conditions for the default network; None with a [`Model`][] or without conditions."""
    fitted: Array
    """Whether the estimator represents a density, a bool: it was fitted, or made from a model with all scales."""

    def __init__(
        self,
        model: Model | Shape,
        *,
        key: KeyLike | None = None,
        condition: Condition = None,
        shift: Numbers | None = None,
        scale: Numbers | None = None,
        condition_shift: Condition = None,
        condition_scale: Condition = None,
        labels: bool | int | None = None,
    ) -> None:
        """**Arguments:**

        - `model`: any [`Model`][] of standardised events, or the shape of one event; a shape creates a multilayer
            perceptron ([`nn.MLP`][]) that predicts the velocity along straight paths.
        - `key`: the key for the weights of that perceptron; not used with a [`Model`][].
        - `condition`: an example of one condition. It sets the structure and the shapes; floating-point leaves are
            numbers to standardise. Integer leaves are passed to a [`Model`][] as they are; otherwise see `labels`.
            Default: None, for a density without conditions.
        - `shift`, `scale`: shift and scale of the data, scalars or arrays of an event's shape. Default: the means and
            standard deviations of the data passed to `fit`.
        - `condition_shift`, `condition_scale`: shift and scale of the conditions, scalars or PyTrees of their
            structure. Default: the means and standard deviations of the conditions passed to `fit`.
        - `labels`: whether integers of the condition are labels, encoded as one-hot vectors, or numbers, which are
            standardised; a number allows this many labels. Default: integers are labels where at most 50 values occur,
            each in 10 rows on average. For a [`Model`][] only False has an effect: its integers are numbers then.

        A trained [`Model`][] with all shifts and scales given needs no `fit`. Raises `ValueError` for a scale that is
        not positive, for a shape without a key, for a prior that depends on the condition, and for a singular prior
        unless `scale` is one number.
        """
        trained = isinstance(model, Model)
        labels = labels if labels is None or isinstance(labels, bool) else check_count("labels", labels)
        example = jax.tree.map(lambda leaf: jnp.asarray(as_real("condition", leaf)), condition)
        self.encoder = None
        if not isinstance(model, Model):
            from ..nn import MLP

            if isinstance(model, str | type) or not isinstance(model, tuple | list):
                check_instance("model", model, Model)
            if key is None:
                raise ValueError("DensityEstimator(shape) draws a network's weights; pass key=jax.random.key(...).")
            size = sum(leaf.size for leaf in jax.tree.leaves(example))
            if size:
                self.encoder = Encoder(example, labels, jnp.result_type(float))
                size += self.encoder.size
            model = Model(MLP(tuple(model), key=as_threefry(key), condition_size=size), Linear(), shape=tuple(model))
        self.model = model
        if self.encoder is not None or labels is False:
            example = jax.tree.map(lambda leaf: leaf.astype(model.dtype), example)
        check_isotropic(model.prior, scale)
        event = jax.ShapeDtypeStruct(model.shape, model.dtype)
        self.standard = make_standardiser("", event, shift, scale, model.dtype)
        self.condition_standard = make_standardiser(
            "condition_", example, condition_shift, condition_scale, model.dtype
        )
        parts = [self.standard, self.condition_standard] if jax.tree.leaves(example) else [self.standard]
        self.fitted = jnp.asarray(trained and not any(part.learns_shift or part.learns_scale for part in parts))

    @checked
    def fit(
        self,
        data: BatchLike,
        key: KeyLike,
        *,
        condition: Condition = None,
        validation: BatchLike | None = None,
        validation_condition: Condition = None,
        **options: Any,
    ) -> DensityFit:
        """Estimates the shifts and scales that were not given, then trains the network.

        **Arguments:**

        - `data`: `(n, *event)`, in the units of the data. Rows of a memory-mapped array or another array in a file are
            read three times for the standardisation, and then batch by batch; conditions are held in memory.
        - `key`: as in [`flowrax.fit`][].
        - `condition`: conditions of the estimator's structure, with a leading axis `n` on every leaf.
        - `validation`, `validation_condition`: held-out rows; the weights with the lowest loss on them are kept.
        - `options`: further arguments of [`flowrax.fit`][], such as `loss`, `num_steps`, `patience`, `augment` (whose
            rows and events are in the units of the data) and `checkpoint`.

        **Returns:** [`DensityFit`][].

        **Raises:** `ValueError` for NaN, wrong shapes, and constant columns, which have no scale.
        """
        check_held_out(Given(data), Given(validation, validation_condition))
        rows, own = self._rows("data", "condition", data, condition)
        standard = self.standard.learned("data", rows)
        condition_standard = self.condition_standard.learned("condition", own)
        encoder = None if self.encoder is None else self.encoder.learned("condition", own)
        this = eqx.tree_at(
            lambda e: (e.standard, e.condition_standard, e.encoder),
            self,
            (standard, condition_standard, encoder),
            is_leaf=lambda node: node is None,
        )
        if (loss := options.get("loss")) is not None:
            options["loss"] = this._dropping(loss)
        held_out, held_out_condition = None, None
        if validation is not None:
            checked = self._rows("validation", "validation_condition", validation, validation_condition)
            held_out = checked[0]
            held_out_condition = this._encoded("validation_condition", checked[1], (len(held_out),))
        if (augment := options.pop("augment", None)) is None:
            used: Any = StandardisedRows(standard, "data", rows) if is_stored(rows) else standard.forward(rows)
            held_out = None if held_out is None else standard.forward(held_out)
        else:
            used = rows
            options["augment"] = lambda key, row: standard.forward(augment(key, row))
        result = fit(
            self.model,
            used,
            key,
            condition=this._encoded("condition", own, (rows.shape[0],)),
            validation=held_out,
            validation_condition=held_out_condition,
            **options,
        )
        return DensityFit(eqx.tree_at(lambda e: (e.model, e.fitted), this, (result.model, jnp.asarray(True))), result)

    @checked
    def sample(
        self, key: KeyLike, num_samples: int, *, condition: Condition | Batched = None, **options: Any
    ) -> Samples:
        """Draws samples of the density, by the probability flow or any other dynamics and solver.

        **Arguments:**

        - `key`, `num_samples`: as in [`flowrax.sample`][].
        - `condition`: one condition for all samples, or `Batched(c)` with a leading axis `n` on every leaf.
        - `options`: further arguments of [`flowrax.sample`][]; `dynamics=ReverseSDE(), grid=100`, for example, takes
            100 steps of the reverse SDE. A start `x0` is the standardised state at `t_min`, like `LogProb.x0`.

        **Returns:** [`Samples`][] with states and densities in the units of the data. Outside `jit` the states are
            NumPy arrays in double precision if the model's dtype cannot resolve them beside their offset.

        **Raises:** as [`flowrax.sample`][], and `ValueError` before `fit`.
        """
        answer = sample(self.model, key, num_samples, condition=self._condition(condition), **options)
        return dataclasses.replace(
            answer,
            x=self._events(answer.x, answer, 1),
            trajectory=None if answer.trajectory is None else self._events(answer.trajectory, answer, 2),
            log_prob=None if answer.log_prob is None else answer.log_prob - self.standard.log_scale(self.model.prior),
        )

    def _events(self, z: Array, answer: Samples, leading: int) -> Array | np.ndarray:
        if self.standard.needs_double(z):
            return self.standard.backward_on_host(z)
        return on_successful(lambda z: self.standard.backward(z, leading), answer.result, z)

    @checked
    def log_prob(self, x: BatchLike, *, condition: Condition | Batched = None, **options: Any) -> LogProb:
        """The log-density of each row of `x`, in nats per unit volume of the data.

        **Arguments:**

        - `x`: `(n, *event)`.
        - `condition`: one condition for all rows, or `Batched(c)` with a leading axis `n` on every leaf.
        - `options`: further arguments of [`flowrax.log_prob`][], such as `key` and `divergence`.

        **Returns:** [`LogProb`][], whose `latent` is in standardised units.

        **Raises:** as [`flowrax.log_prob`][], and `ValueError` before `fit`.
        """
        condition = self._condition(condition)
        rows = widened("x", x, self.model.dtype)
        check_batch("x", rows, self.model.shape)
        answer = log_prob(self.model, self.standard.forward(rows), condition=condition, **options)
        return dataclasses.replace(answer, value=answer.value - self.standard.log_scale(self.model.prior))

    @checked
    def posterior(
        self, observation: Observation, key: KeyLike, num_samples: int, *, condition: Condition = None, **options: Any
    ) -> PosteriorSamples:
        """Draws given a measurement of an event, in the units of the data.

        Arguments, result and errors are those of [`flowrax.posterior`][]; `ValueError` before `fit`.
        """
        given = self._condition(condition)
        return posterior_of(self.model, self.standard, observation, key, num_samples, condition=given, **options)

    @checked
    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes network, shifts and scales to one file, atomically and without pickle.

        **Arguments:**

        - `path`: the path of the file; its folder is created if necessary.

        **Raises:** `OSError` if the file cannot be written, which leaves an earlier file unchanged.
        """
        save(path, self)

    @checked
    def load(self, path: str | os.PathLike[str]) -> "DensityEstimator":
        """Reads a saved estimator into the structure of this one.

        **Arguments:**

        - `path`: the path of the file. This estimator must have been made like the saved one, with any key.

        **Returns:** a new estimator, fitted if the saved one was.

        **Raises:** `ValueError` for a file that is not a checkpoint, is damaged, or was saved by an estimator made in
            another way; the message names the first differences.
        """
        return read(path).restore(self, "this estimator")

    def _condition(self, condition: Condition | Batched) -> Condition | Batched:
        """The standardised condition; raises `ValueError` before `fit`."""
        if not is_traced(self.fitted) and not bool(self.fitted):
            raise ValueError("This estimator has no density yet; call fit(data, key) and use the estimator it returns.")
        standard = self.condition_standard
        if isinstance(condition, Batched):
            rows = cast_like(standard.shift, condition.value, "condition=Batched(...)", ("n",))
            return Batched(self._encoded("condition", rows, tuple(leaf.shape[0] for leaf in jax.tree.leaves(rows)[:1])))
        return self._encoded("condition", cast_like(standard.shift, condition, "condition", ()), ())

    def _encoded(self, name: str, condition: Condition, rows: tuple[int, ...]) -> Condition:
        """The standardised and encoded condition, as the model takes it."""
        standard = self.condition_standard.forward(condition)
        return standard if self.encoder is None else self.encoder(name, condition, standard, rows)

    def _dropping(self, loss: Any) -> Any:
        """The loss with a null condition in the units of the model."""
        dropout = getattr(loss, "condition_dropout", None)
        if dropout is None or callable(dropout.null):
            return loss
        if self.encoder is not None:
            null = None
        elif dropout.null is None:
            raise ValueError(
                "ConditionDropout without null would replace conditions by their mean; pass null= in the units of the "
                "data, a condition that does not occur."
            )
        else:
            null = self.condition_standard.forward(cast_like(self.condition_standard.shift, dropout.null, "null", ()))
        return eqx.tree_at(lambda own: own.condition_dropout.null, loss, null, is_leaf=lambda node: node is None)

    def _rows(self, name: str, condition_name: str, data: Any, condition: Condition) -> tuple[Any, PyTree]:
        """The rows and their conditions for `fit`, as arrays; raises `ValueError` for wrong shapes and NaN."""
        if is_iterable(data):
            raise ValueError(
                f"{name} is an iterator, but the rows are read for their means before training: pass an array or a "
                "memory-mapped one, or train a Model with flowrax.fit."
            )
        rows = data if is_stored(data) and name == "data" else widened(name, data, self.model.dtype)
        check_batch(name, rows, self.model.shape)
        check_some(name, len(rows))
        check_finite_rows(name, rows, data)
        condition = row_arrays(condition_name, condition)
        check_rows(condition_name, condition, len(rows), name)
        own = cast_like(self.condition_standard.shift, condition, condition_name, (len(rows),))
        check_finite_leaves(condition_name, own)
        return rows, own

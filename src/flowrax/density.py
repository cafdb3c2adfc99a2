r"""The density estimator a scientist uses: standardise, fit, sample, evaluate, with or without a condition.

The model lives in standardised units $z = (x - m) / s$, so $\log p(x) = \log p_z(z) - \sum_i \log s_i$.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._checks import check_batch, check_finite, is_traced
from ._condition import Batched
from ._result import LogProb, Samples
from ._typing import Array, BatchLike, Condition, DType, KeyArray, Numbers, PyTree, Shape
from .likelihood import log_prob
from .model import Model
from .nn import MLP
from .sample import sample
from .schedule import Linear
from .train import FitResult, fit, load, save


class Standardiser(eqx.Module):
    r"""$z = (x - m) / s$, elementwise on the floating leaves of a PyTree; integer leaves (labels) pass as they are."""

    shift: PyTree[Array]
    """$m$, of the structure and shapes of one `x`."""
    scale: PyTree[Array]
    """$s$, positive."""
    learns_shift: bool = eqx.field(static=True)
    learns_scale: bool = eqx.field(static=True)

    def learned(self, name: str, rows: PyTree) -> "Standardiser":
        """With the means and standard deviations of the `rows`, where they were not given."""
        shift, scale = self.shift, self.scale
        if self.learns_shift:
            shift = jax.tree.map(lambda m, leaf: _moment(np.mean, m, leaf), shift, rows)
        if self.learns_scale:
            jax.tree.map(lambda s, leaf: _check_varies(name, s, leaf), scale, rows)
            scale = jax.tree.map(lambda s, leaf: _moment(np.std, s, leaf), scale, rows)
        return dataclasses.replace(self, shift=shift, scale=scale)

    def forward(self, x: PyTree) -> PyTree[Array]:
        """`z` of one `x`."""
        return jax.tree.map(lambda x, m, s: (x - m) / s if _is_number(m) else x, x, self.shift, self.scale)

    def over_rows(self, x: PyTree) -> PyTree[Array]:
        """`z` of each row."""
        return jax.vmap(self.forward)(x) if jax.tree.leaves(x) else x

    def log_scale(self) -> Array:
        r"""$\sum_i \log s_i$ over all numbers of one `x`."""
        leaves = [leaf for leaf in jax.tree.leaves(self.scale) if _is_number(leaf)]
        return jnp.sum(jnp.stack([jnp.sum(jnp.log(leaf)) for leaf in leaves]))


class DensityFit(eqx.Module):
    """What `DensityEstimator.fit` returns."""

    estimator: "DensityEstimator"
    """Ready to sample and to evaluate."""
    result: FitResult
    """Of the training: `history`, `best_step`, `stopped`; its models are in standardised units."""


class DensityEstimator(eqx.Module):
    """A density of events given conditions, learned from draws; everything in and out is in the units of the data.

    It is a [`Model`][] with the shift and scale of the data and of the conditions, and immutable as all modules are:
    [`fit`][] gives a new one. `jit`, `vmap` and gradients go through `sample` and `log_prob` as through the verbs.

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
    """In standardised units."""
    standard: Standardiser
    """Of the data."""
    condition_standard: Standardiser
    """Of the conditions."""
    fitted: Array
    """Whether there is a density to ask for: a bool."""

    def __init__(
        self,
        model: Model | Shape,
        *,
        key: KeyArray | None = None,
        condition: Condition = None,
        shift: Numbers | None = None,
        scale: Numbers | None = None,
        condition_shift: Condition = None,
        condition_scale: Condition = None,
    ) -> None:
        """**Arguments:**

        - `model`: any [`Model`][] of standardised events; or the shape of one event for a perceptron
            ([`nn.MLP`][]) that predicts the velocity along straight lines.
        - `key`: draws the weights of that perceptron.
        - `condition`: one condition as an example: its structure and shapes, and which leaves are numbers to
            standardise (floating) or labels (integer). None for a density without conditions.
        - `shift`, `scale`: of the data, scalars or arrays of its shape; means and standard deviations of what `fit`
            sees without.
        - `condition_shift`, `condition_scale`: of the conditions, of their structure.

        A model whose shifts and scales are all given needs no `fit`. Raises `ValueError` for a scale that is not
        positive and for a shape without a key.
        """
        trained = isinstance(model, Model)
        example = jax.tree.map(jnp.asarray, condition)
        if not isinstance(model, Model):
            if key is None:
                raise ValueError("DensityEstimator(shape) draws a network's weights; pass key=jax.random.key(...).")
            size = sum(leaf.size for leaf in jax.tree.leaves(example))
            model = Model(MLP(tuple(model), key=key, condition_size=size), Linear(), shape=tuple(model))
        self.model = model
        event = jax.ShapeDtypeStruct(model.shape, model.dtype)
        self.standard = _standardiser("", event, shift, scale, model.dtype)
        self.condition_standard = _standardiser("condition_", example, condition_shift, condition_scale, model.dtype)
        parts = [self.standard, self.condition_standard] if jax.tree.leaves(example) else [self.standard]
        self.fitted = jnp.asarray(trained and not any(part.learns_shift or part.learns_scale for part in parts))

    def fit(
        self,
        data: BatchLike,
        key: KeyArray,
        *,
        condition: Condition = None,
        validation: BatchLike | None = None,
        validation_condition: Condition = None,
        **options: Any,
    ) -> DensityFit:
        """Learns shift and scale where they were not given, then trains the network.

        **Arguments:**

        - `data`: `(n, *event)`.
        - `key`: as of [`flowrax.fit`][].
        - `condition`: of the estimator's structure, with a leading axis `n` on every leaf.
        - `validation`, `validation_condition`: held-out rows; their loss picks the weights.
        - `options`: what else [`flowrax.fit`][] takes, such as `loss`, `num_steps`, `patience`, `augment` (whose rows
            and events are in the units of the data) and `checkpoint`.

        **Returns:** [`DensityFit`][].

        **Raises:** `ValueError` for NaN, wrong shapes, and columns that are constant and so have no scale.
        """
        rows, own = self._rows("data", "condition", data, condition)
        standard = self.standard.learned("data", rows)
        condition_standard = self.condition_standard.learned("condition", own)
        held_out, held_out_condition = None, None
        if validation is not None:
            checked = self._rows("validation", "validation_condition", validation, validation_condition)
            held_out, held_out_condition = checked[0], condition_standard.over_rows(checked[1])
        if (augment := options.pop("augment", None)) is None:
            rows = standard.over_rows(rows)
            held_out = None if held_out is None else standard.over_rows(held_out)
        else:
            options["augment"] = lambda key, row: standard.forward(augment(key, row))
        result = fit(
            self.model,
            rows,
            key,
            condition=condition_standard.over_rows(own),
            validation=held_out,
            validation_condition=held_out_condition,
            **options,
        )
        parts = result.model, standard, condition_standard, jnp.asarray(True)
        estimator = eqx.tree_at(lambda e: (e.model, e.standard, e.condition_standard, e.fitted), self, parts)
        return DensityFit(estimator, result)

    def sample(
        self, key: KeyArray, num_samples: int, *, condition: Condition | Batched = None, **options: Any
    ) -> Samples:
        """Draws of the density, by the probability flow or by any other dynamics and solver.

        **Arguments:**

        - `key`, `num_samples`: as of [`flowrax.sample`][].
        - `condition`: one for all draws, or `Batched(c)` with a leading axis `n` on every leaf.
        - `options`: what else [`flowrax.sample`][] takes: `dynamics=ReverseSDE(), grid=100` takes 100 steps of the
            reverse SDE. A start `x0` is the standardised state at `t_min`, as `LogProb.latent`.

        **Returns:** [`Samples`][] in the units of the data, their densities too.

        **Raises:** as [`flowrax.sample`][], and `ValueError` before `fit`.
        """
        answer = sample(self.model, key, num_samples, condition=self._condition(condition), **options)
        return dataclasses.replace(
            answer,
            x=self._in_units(answer.x, 1),
            trajectory=None if answer.trajectory is None else self._in_units(answer.trajectory, 2),
            log_prob=None if answer.log_prob is None else answer.log_prob - self.standard.log_scale(),
        )

    def log_prob(self, x: BatchLike, *, condition: Condition | Batched = None, **options: Any) -> LogProb:
        """Log-density of each row of `x`, per unit volume of the data.

        **Arguments:**

        - `x`: `(n, *event)`.
        - `condition`: one for all rows, or `Batched(c)` with a leading axis `n` on every leaf.
        - `options`: what else [`flowrax.log_prob`][] takes, such as `key` and `divergence`.

        **Returns:** [`LogProb`][]; `latent` is standardised.

        **Raises:** as [`flowrax.log_prob`][], and `ValueError` before `fit`.
        """
        condition = self._condition(condition)
        rows = jnp.asarray(x, self.model.dtype)
        check_batch("x", rows, self.model.shape)
        answer = log_prob(self.model, self.standard.over_rows(rows), condition=condition, **options)
        return dataclasses.replace(answer, value=answer.value - self.standard.log_scale())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all arrays to one file, without pickle: network, shifts and scales.

        **Arguments:**

        - `path`: of the file; its folder is made.
        """
        save(path, self)

    def load(self, path: str | os.PathLike[str]) -> "DensityEstimator":
        """The estimator that was saved, read into the structure of this one.

        **Arguments:**

        - `path`: of the file. This estimator must be made as the saved one was, with the same key.

        **Returns:** a new estimator, fitted if the saved one was.

        **Raises:** `ValueError` for a file of another kind or structure.
        """
        return load(path, self)[0]

    def _condition(self, condition: Condition | Batched) -> Condition | Batched:
        """Standardised; raises `ValueError` before `fit`."""
        if not is_traced(self.fitted) and not bool(self.fitted):
            raise ValueError("This estimator has no density yet; call fit(data, key) and use the estimator it returns.")
        standard = self.condition_standard
        if isinstance(condition, Batched):
            rows = _cast_like(standard.shift, condition.value, "condition=Batched(...)", ("n",))
            return Batched(standard.over_rows(rows))
        return standard.forward(_cast_like(standard.shift, condition, "condition", ()))

    def _in_units(self, z: Array, leading: int) -> Array:
        """Events in standardised units with so many leading axes, in the units of the data."""
        axes = tuple(range(leading))
        return jnp.expand_dims(self.standard.shift, axes) + jnp.expand_dims(self.standard.scale, axes) * z

    def _rows(self, name: str, condition_name: str, data: BatchLike, condition: Condition) -> tuple[Array, PyTree]:
        """Rows for `fit`, checked."""
        rows = jnp.asarray(data, self.model.dtype)
        check_batch(name, rows, self.model.shape)
        check_finite(name, rows)
        own = _cast_like(self.condition_standard.shift, condition, condition_name, (rows.shape[0],))
        for leaf in jax.tree.leaves(own):
            check_finite(condition_name, leaf)
        return rows, own


def _is_number(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _standardiser(name: str, example: PyTree, shift: PyTree, scale: PyTree, dtype: DType) -> Standardiser:
    """Of what is like `example`; a shift or a scale of None is for the data to teach."""
    scales = _given(f"{name}scale", example, scale, 1, dtype)
    for leaf in jax.tree.leaves(scales):
        if not is_traced(leaf) and not bool(jnp.all(leaf > 0)):
            raise ValueError(f"{name}scale must be positive; its smallest element is {leaf.min()}.")
    shifts = _given(f"{name}shift", example, shift, 0, dtype)
    return Standardiser(shifts, scales, learns_shift=shift is None, learns_scale=scale is None)


def _given(name: str, example: PyTree, value: PyTree, default: int, dtype: DType) -> PyTree[Array]:
    """`value` in the structure and shapes of the example: of that structure, a scalar for all leaves, or None."""
    structure = jax.tree.structure(example)
    if value is None or structure.num_leaves == 0:
        values = [default] * structure.num_leaves
    elif structure == jax.tree.structure(0):
        values = [value]
    elif np.ndim(value) == 0 and jax.tree.structure(value) == jax.tree.structure(0):
        values = [value] * structure.num_leaves
    elif jax.tree.structure(value) == structure:
        values = jax.tree.leaves(value)
    else:
        raise ValueError(f"{name} is {jax.tree.structure(value)} but {structure} is expected.")

    def one(leaf: Any, value: Any) -> Array:
        if not _is_number(leaf):
            return jnp.full(leaf.shape, default, leaf.dtype)
        array = jnp.asarray(value, dtype)
        if array.shape not in ((), tuple(leaf.shape)):
            raise ValueError(f"{name} has shape {array.shape} but {tuple(leaf.shape)} or a scalar is expected.")
        return jnp.broadcast_to(array, leaf.shape)

    return jax.tree.unflatten(structure, [one(*pair) for pair in zip(jax.tree.leaves(example), values, strict=True)])


def _cast_like(example: PyTree, condition: Condition, name: str, leading: tuple[int | str, ...]) -> PyTree[Array]:
    """The condition as arrays of the example's dtypes; raises `ValueError` for another structure or other shapes."""
    found, expected = jax.tree.structure(condition), jax.tree.structure(example)
    if found != expected:
        raise ValueError(
            f"{name} has the structure {found} but this estimator takes {expected}; what it takes is said by "
            "DensityEstimator(..., condition=one condition as an example)."
        )
    arrays = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), condition, example)
    for leaf, like in zip(jax.tree.leaves(arrays), jax.tree.leaves(example), strict=True):
        rows = leaf.shape[:1] if leading == ("n",) else leading
        if leaf.shape != (*rows, *like.shape) or len(rows) != len(leading):
            wanted = ", ".join(map(str, (*leading, *like.shape)))
            raise ValueError(f"{name} has a leaf of shape {leaf.shape} but ({wanted}) is expected.")
    return arrays


def _moment(function: Callable[..., Any], like: Array, rows: Array) -> Array:
    """Over the rows, in double precision; labels keep what they have."""
    return jnp.asarray(function(np.asarray(rows, np.float64), axis=0), like.dtype) if _is_number(like) else like


def _check_varies(name: str, like: Array, rows: Array) -> None:
    values = np.asarray(rows)
    constant = np.argwhere(np.atleast_1d(values.min(0) == values.max(0)))
    if _is_number(like) and len(constant):
        where = ", ".join(str(tuple(map(int, i)) if len(i) > 1 else int(i[0])) for i in constant[:5])
        more = "" if len(constant) <= 5 else f" and {len(constant) - 5} more"
        raise ValueError(
            f"{name} is constant in column {where}{more} of {values.shape[0]} rows, so it has no scale; "
            "drop that column, or give the scale when you make the estimator."
        )

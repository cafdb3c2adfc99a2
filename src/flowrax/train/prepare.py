"""Checks and prepares the arguments of `fit`: the data, the pairs, and the default loss of each kind of model."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arrays import as_leaf, as_numbers
from .._base.checks import check_function, check_instance, check_names, check_shape, is_traced
from .._base.condition import Batched
from .._base.rows import check_finite_leaves, check_rows, check_some, columns_of, row_arrays
from .._base.typing import Batch, BatchLike, Condition, KeyArray
from ..coupling import AbstractCoupling, AbstractDataCoupling, Semidiscrete
from ..discrete import AbstractTransitions, CrossEntropy
from ..discrete.categorical_model import CategoricalModel
from ..joint import IndependentTimes, JointMatching
from ..joint.model import JointModel
from ..loss import AbstractLoss, AntitheticMatching, Matching
from ..model.target import Velocity
from ..model.trained import Model
from ..prior import check_range
from ..schedule import AbstractSchedule
from ..times import Stratified
from .step import Augment

Trainable = TypeVar("Trainable", Model, CategoricalModel, JointModel)


def check_data(
    model: Trainable,
    data: Any,
    validation: Any,
    augment: Augment | None,
    key: KeyArray,
    conditions: tuple[Batched, Batched],
) -> tuple[Any, Any]:
    """The rows and the held-out rows as arrays; raises `ValueError` for data that the model cannot be trained on."""
    if not jax.tree.leaves(eqx.filter((model.network, model.interpolant), eqx.is_inexact_array)):
        raise ValueError(
            "The network has no arrays to train. A function that closes over a network hides them: make it an "
            "eqx.Module that holds the network."
        )
    if isinstance(model, JointModel) or (isinstance(model, CategoricalModel) and augment is None):
        return _events(model, "data", data), None if validation is None else _events(model, "validation", validation)
    dtype = None if isinstance(model, CategoricalModel) else model.dtype
    rows = row_arrays("data", data)
    rows = as_leaf("data", rows, float) if dtype is None else as_numbers("data", rows, dtype)
    held_out = None if validation is None else row_arrays("validation", validation)
    if held_out is not None:
        held_out = (
            as_leaf("validation", held_out, float) if dtype is None else as_numbers("validation", held_out, dtype)
        )
    event = row = jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype)
    if augment is not None:
        event = jax.eval_shape(augment, key, row)
    check_shape("One row of data" if augment is None else "augment(key, row)", event.shape, model.shape)
    if isinstance(model, CategoricalModel):
        if event.dtype != model.prior.dtype:
            raise ValueError(f"augment(key, row) is {event.dtype}; events are {model.prior.dtype}.")
        return rows, held_out
    for name, x, condition in (("data", rows, conditions[0]), ("validation", held_out, conditions[1])):
        if x is not None:
            check_finite_leaves(name, x, columns_of(data if name == "data" else validation))
            check_shape(f"One row of {name}", x.shape[1:], rows.shape[1:])
            if augment is None:
                check_range(name, model.prior, x, condition)
    _check_data_coupling(model, rows, augment)
    return rows, held_out


def check_conditions(
    model: Any, data: Any, condition: Condition, validation: Any, validation_condition: Condition
) -> tuple[Condition, Condition]:
    """The conditions as arrays; raises `ValueError` where they do not belong to the rows of data or held-out data."""
    if is_traced(data, condition, validation, validation_condition):
        raise ValueError("fit loops on the host and cannot be called inside jit, vmap or grad; call it outside.")
    condition = _conditions(model, "data", data, "condition", condition)
    if validation is None:
        return condition, validation_condition
    validation_condition = _conditions(model, "validation", validation, "validation_condition", validation_condition)
    found, wanted = jax.tree.structure(validation_condition), jax.tree.structure(condition)
    if found != wanted:
        raise ValueError(
            f"validation_condition has the structure {found} but condition has {wanted}; held-out rows need the "
            "conditions of data."
        )
    return condition, validation_condition


def _conditions(model: Any, name: str, rows: Any, condition_name: str, condition: Condition) -> Condition:
    """The condition as arrays; raises `ValueError` for no rows, another number of them than of data, and NaN."""
    shape = jax.tree.leaves(row_arrays(name, rows))[0].shape
    if not shape:
        raise ValueError(f"{name} is one value but an array of rows is expected.")
    n = shape[0]
    check_some(name, n)
    condition = row_arrays(condition_name, condition)
    condition = jax.tree.map(lambda leaf: as_leaf(condition_name, leaf, model.dtype), condition)
    check_rows(condition_name, condition, n, name)
    check_finite_leaves(condition_name, condition)
    return condition


def check_pairing(model: Any, augment: Augment | None, coupling: AbstractCoupling | None, x0: Any) -> None:
    """Raises `ValueError` for an augmentation, a coupling or pairs that the model does not support."""
    if not isinstance(model, Model | CategoricalModel | JointModel):
        inner = getattr(model, "model", None)
        if isinstance(inner, Model) and hasattr(model, "fit"):
            raise ValueError(f"fit takes a model, not a {type(model).__name__}: call the method fit of this object.")
        check_instance("model", model, Model | CategoricalModel | JointModel)
    if coupling is not None:
        check_instance("coupling", coupling, AbstractCoupling)
    if augment is not None:
        check_function("augment", augment)
    if isinstance(model, JointModel) and (augment is not None or coupling is not None or x0 is not None):
        raise ValueError(
            "A JointModel is trained on independent pairs of noise and data; leave out augment, coupling and x0."
        )
    if isinstance(model, CategoricalModel):
        if coupling is not None:
            raise ValueError("Classes have no distance by which a coupling could pair them; leave coupling out.")
        if x0 is not None and model.prior.mask is not None:
            raise ValueError("Under a mask prior all noise is masks; leave x0 out, or use another prior.")


def _events(model: Any, name: str, x: Any) -> Any:
    rows = model.events(name, x)
    for part, of_part in model.parts.items() if isinstance(model, JointModel) else [(None, model)]:
        mask = getattr(of_part.prior, "mask", None)
        if mask is not None and bool(jnp.any((rows if part is None else rows[part]) == mask)):
            raise ValueError(f"{name} holds class {mask}, the prior's mask, which must not occur in data.")
    return rows


def without_priors(trained: Any) -> Any:
    """Excludes priors, transition matrices of the noise and the potentials of a coupling from training."""
    if isinstance(trained, JointModel):
        return eqx.tree_at(lambda m: m.parts, trained, {name: without_priors(p) for name, p in trained.parts.items()})
    if isinstance(trained.interpolant, AbstractTransitions):
        trained = eqx.tree_at(lambda m: m.interpolant, trained, replace=False)
    if isinstance(trained.coupling, AbstractDataCoupling):
        trained = eqx.tree_at(lambda m: m.coupling, trained, replace=False)
    return eqx.tree_at(lambda m: m.prior, trained, replace=False)


def coupled(model: Trainable, coupling: AbstractCoupling) -> Trainable:
    """The model with another coupling."""
    model = eqx.tree_at(lambda m: m.coupling, model, coupling)
    if isinstance(model, Model):
        model.check_score()
    return model


def default_loss(model: Trainable) -> AbstractLoss:
    """The loss that `fit` minimises by default."""
    if isinstance(model, CategoricalModel):
        return CrossEntropy()
    if isinstance(model, JointModel):
        return JointMatching(times=IndependentTimes(len(model.parts)) if model.separate_times else Stratified())
    is_bridge = model.interpolant.gamma is not None and isinstance(model.target, Velocity)
    return AntitheticMatching() if is_bridge else Matching()


def paired(name: str, x0: BatchLike | None, rows: Batch) -> Batch:
    """Pairs of noise and data, `(n, 2, *event)`; raises `ValueError` unless both have the same shape."""
    if x0 is None:
        raise ValueError(f"{name} is missing: with x0, held-out rows must be pairs too.")
    start = as_numbers(name, row_arrays(name, x0), rows.dtype)
    check_finite_leaves(name, start)
    check_shape(name, start.shape, rows.shape)
    return jnp.stack([start, rows], axis=1)


def check_schedules(loss: AbstractLoss, model: Trainable) -> None:
    """Raises `ValueError` where the loss draws times by the log-SNR of a schedule other than the model's."""
    check_instance("loss", loss, AbstractLoss)
    if isinstance(model, JointModel):
        if isinstance(loss, JointMatching):
            check_names("losses", loss.losses, model.parts)
            check_names("weights", loss.weights, model.parts)
        return
    for leaf in jax.tree.leaves(loss.times, is_leaf=_is_schedule):
        if _is_schedule(leaf) and not eqx.tree_equal(leaf, model.interpolant.schedule):
            raise ValueError(
                f"loss.times has the schedule {leaf} but the model has {model.interpolant.schedule}; "
                "give loss.times the model's schedule."
            )


def _is_schedule(leaf: Any) -> bool:
    return isinstance(leaf, AbstractSchedule)


def _check_data_coupling(model: Any, rows: Any, augment: Augment | None) -> None:
    """Raises `ValueError` for a coupling that was fitted to other data, or for another prior."""
    coupling = model.coupling
    if not isinstance(coupling, Semidiscrete):
        return
    if coupling.num_rows != rows.shape[0]:
        raise ValueError(f"The coupling was fitted to {coupling.num_rows} rows but data has {rows.shape[0]}.")
    if not eqx.tree_equal(coupling.prior, model.prior):
        raise ValueError(
            f"The coupling was fitted for the prior {coupling.prior} but the model has {model.prior}; fit it for the "
            "prior of the model."
        )
    if augment is None:
        difference = jnp.max(jnp.abs(coupling.points + coupling.centre - rows))
        if difference > 1e-5 * (1 + jnp.max(jnp.abs(rows))):
            raise ValueError("The coupling was fitted to other data, or to the same rows in another order.")

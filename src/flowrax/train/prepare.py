"""Checks and prepares the arguments of `fit`: the data, the pairs, and the default loss of each kind of model."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arrays import as_leaf, as_numbers
from .._base.checks import check_finite, check_function, check_instance, check_names, check_shape
from .._base.condition import Batched
from .._base.typing import Batch, BatchLike, KeyArray
from ..coupling import AbstractCoupling
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
    rows = as_leaf("data", data, float) if dtype is None else as_numbers("data", data, dtype)
    held_out = None
    if validation is not None:
        held_out = (
            as_leaf("validation", validation, float) if dtype is None else as_numbers("validation", validation, dtype)
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
            check_finite(name, x)
            check_shape(f"One row of {name}", x.shape[1:], rows.shape[1:])
            if augment is None:
                check_range(name, model.prior, x, condition)
    return rows, held_out


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
    """Excludes priors and transition matrices of the noise from training."""
    if isinstance(trained, JointModel):
        return eqx.tree_at(lambda m: m.parts, trained, {name: without_priors(p) for name, p in trained.parts.items()})
    if isinstance(trained.interpolant, AbstractTransitions):
        trained = eqx.tree_at(lambda m: m.interpolant, trained, replace=False)
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
    start = as_numbers(name, x0, rows.dtype)
    check_finite(name, start)
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

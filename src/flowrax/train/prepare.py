"""Checks and prepares the arguments of `fit`: the data, the pairs, and the default loss of each kind of model."""

from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from .._base.arrays import as_leaf, as_numbers
from .._base.checks import check_function, check_instance, check_names, check_shape, is_traced
from .._base.condition import Batched
from .._base.rows import check_finite_leaves, check_rows, check_some, columns_of, leaf_name, row_arrays
from .._base.typing import Batch, Condition, KeyArray
from ..coupling import AbstractCoupling, AbstractDataCoupling, Semidiscrete
from ..discrete import AbstractTransitions, CategoricalBound, CrossEntropy, GeneralisedKL, Hybrid
from ..discrete.categorical_model import CategoricalModel
from ..joint import IndependentTimes, JointMatching
from ..joint.model import JointModel
from ..loss import (
    AbstractLoss,
    AntitheticMatching,
    EquilibriumMatching,
    Matching,
    MeanFlowMatching,
    RepresentationAlignment,
)
from ..model.target import Velocity
from ..model.trained import Model
from ..prior import check_range
from ..schedule import AbstractSchedule
from ..times import Stratified
from .step import Augment

Trainable = TypeVar("Trainable", Model, CategoricalModel, JointModel)


class Given(NamedTuple):
    """Rows as they are passed to `fit`, or a batch of them, with their conditions and partners; also their names."""

    rows: Any
    condition: Condition = None
    x0: Any = None


DATA = Given("data", "condition", "x0")
VALIDATION = Given("validation", "validation_condition", "validation_x0")


def prepare_rows(
    model: Trainable, augment: Augment | None, given: Given, names: Given, numbers: np.ndarray | None = None
) -> tuple[Any, Condition]:
    """The rows, paired with `x0` if it is given, and their conditions as arrays.

    Raises `ValueError` for rows that the model cannot be trained on. Messages use `names` and, if these are some of the
    user's rows, their `numbers`.
    """
    if is_traced(given):
        raise ValueError("fit loops on the host and cannot be called inside jit, vmap or grad; call it outside.")
    given = by_compiler(given)
    raw = row_arrays(names.rows, given.rows)
    condition = _conditions(model, raw, given.condition, names, numbers)
    if isinstance(model, JointModel) or (isinstance(model, CategoricalModel) and augment is None):
        rows = _events(model, names.rows, given.rows)
    elif isinstance(model, CategoricalModel):
        rows = as_leaf(names.rows, raw, float)
    else:
        check_finite_leaves(names.rows, raw, columns_of(given.rows), numbers)
        rows = as_numbers(names.rows, raw, model.dtype)
        if augment is None:
            check_shape(f"One row of {names.rows}", rows.shape[1:], model.shape)
            check_range(names.rows, model.prior, rows, Batched(condition))
    return (rows if given.x0 is None else _paired(given.x0, rows, names, numbers)), condition


def by_compiler(tree: Any) -> Any:
    """Arrays on several devices, whose layout the compiler may choose, because a batch has rows of every device."""

    def one(leaf: Any) -> Any:
        sharding = getattr(leaf, "sharding", None)
        if not isinstance(sharding, NamedSharding):
            return leaf
        mesh = Mesh(np.asarray(sharding.mesh.devices), sharding.mesh.axis_names)
        return jax.device_put(leaf, NamedSharding(mesh, sharding.spec))

    return jax.tree.map(one, tree)


def check_trainable(model: Trainable) -> None:
    """Raises `ValueError` for a network without parameters."""
    if not jax.tree.leaves(eqx.filter((model.network, model.interpolant), eqx.is_inexact_array)):
        raise ValueError(
            "The network has no arrays to train. A function that closes over a network hides them: make it an "
            "eqx.Module that holds the network."
        )


def check_augment(model: Trainable, augment: Augment | None, rows: Any, key: KeyArray) -> None:
    """Raises `ValueError` for an augmentation whose results are not events of the model."""
    if augment is None:
        return
    event = jax.eval_shape(augment, key, jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype))
    assert not isinstance(model, JointModel)
    check_shape("augment(key, row)", event.shape, model.shape)
    if isinstance(model, CategoricalModel) and event.dtype != model.prior.dtype:
        raise ValueError(f"augment(key, row) is {event.dtype}; events are {model.prior.dtype}.")


def check_alike(names: Given, got: tuple[Any, Condition], of: Given, wanted: tuple[Any, Condition]) -> None:
    """Raises `ValueError` unless rows and conditions have the same structure, shapes and dtypes as in `of`.

    The numbers of rows may differ.
    """
    for name, one, other_name, other in zip(names, got, of, wanted, strict=False):
        found, expected = jax.tree.structure(one), jax.tree.structure(other)
        if found != expected:
            raise ValueError(f"{name} has the structure {found} but {other_name} has {expected}; both must agree.")
        for (path, leaf), like in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
            if leaf.shape[1:] != like.shape[1:] or leaf.dtype != like.dtype:
                kind, wanted_kind = (f"{x.dtype} of shape {tuple(x.shape[1:])}" for x in (leaf, like))
                raise ValueError(
                    f"One row of {leaf_name(name, path)} is {kind} but one of {other_name} is {wanted_kind}."
                )


def _conditions(model: Any, rows: Any, condition: Condition, names: Given, numbers: np.ndarray | None) -> Condition:
    """The condition as arrays; raises `ValueError` for data without rows, a different number of conditions, and NaN."""
    leaves = jax.tree.leaves(rows)
    if not leaves or not leaves[0].shape:
        raise ValueError(f"{names.rows} is one value but an array of rows is expected.")
    n = leaves[0].shape[0]
    check_some(names.rows, n)
    condition = row_arrays(names.condition, condition)
    condition = jax.tree.map(lambda leaf: as_leaf(names.condition, leaf, model.dtype), condition)
    check_rows(names.condition, condition, n, names.rows)
    check_finite_leaves(names.condition, condition, numbers=numbers)
    return condition


def check_pairing(model: Any, augment: Augment | None, coupling: AbstractCoupling | None, x0: Any) -> None:
    """Raises `ValueError` for an augmentation, coupling or pairs that are incompatible with each other or the model."""
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
    if x0 is not None and (augment is not None or coupling is not None):
        raise ValueError("x0 already pairs noise and data; leave out coupling and augment.")


def check_held_out(given: Given, held_out: Given) -> None:
    """Raises `ValueError` if held-out rows are missing, or if data or held-out rows are pairs but not both."""
    if held_out.rows is None:
        for name, value in zip(VALIDATION[1:], held_out[1:], strict=True):
            if value is not None:
                raise ValueError(f"{name} is given without validation, the held-out rows to which it belongs.")
    elif given.x0 is not None and held_out.x0 is None:
        raise ValueError("validation_x0 is missing: with x0, held-out rows must be pairs too.")
    elif given.x0 is None and held_out.x0 is not None:
        raise ValueError("validation_x0 is given without x0; the rows of data must be pairs too.")


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


_LOSSES = {
    Model: (Matching, AntitheticMatching, EquilibriumMatching, MeanFlowMatching, RepresentationAlignment),
    CategoricalModel: (CrossEntropy, CategoricalBound, GeneralisedKL, Hybrid),
    JointModel: JointMatching,
}
"""The losses of each kind of model."""


def default_loss(model: Trainable) -> AbstractLoss:
    """The loss that `fit` minimises by default."""
    if isinstance(model, CategoricalModel):
        return CrossEntropy()
    if isinstance(model, JointModel):
        return JointMatching(times=IndependentTimes(len(model.parts)) if model.separate_times else Stratified())
    is_bridge = model.interpolant.gamma is not None and isinstance(model.target, Velocity)
    return AntitheticMatching() if is_bridge else Matching()


def _paired(x0: Any, rows: Batch, names: Given, numbers: np.ndarray | None) -> Batch:
    """Pairs of noise and data, `(n, 2, *event)`; raises `ValueError` unless both have the same shape."""
    start = as_numbers(names.x0, row_arrays(names.x0, x0), rows.dtype)
    check_finite_leaves(names.x0, start, numbers=numbers)
    check_shape(names.x0, start.shape, rows.shape)
    return jnp.stack([start, rows], axis=1)


def check_schedules(loss: AbstractLoss, model: Trainable) -> None:
    """Raises `ValueError` if the loss draws times by the log-SNR of a schedule other than the model's."""
    check_instance("loss", loss, AbstractLoss)
    for kind, losses in _LOSSES.items():
        if isinstance(loss, losses) and not isinstance(model, kind):
            raise ValueError(
                f"{type(loss).__name__} is not a loss of a {type(model).__name__}; leave loss out, or use for example "
                f"{type(default_loss(model)).__name__}()."
            )
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


def check_data_coupling(model: Any, rows: Any, augment: Augment | None, *, in_memory: bool) -> None:
    """Raises `ValueError` for a coupling that was fitted to other data or for another prior."""
    coupling = model.coupling
    if not isinstance(coupling, Semidiscrete):
        return
    if not in_memory:
        raise ValueError("A Semidiscrete coupling chooses among all rows; pass the data as an array in memory.")
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

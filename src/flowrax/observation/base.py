"""What a measurement of an event has to provide."""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.arguments import Checked
from .._base.arrays import as_floats
from .._base.checks import check_finite, check_positive, check_shape, is_traced
from .._base.condition import Batched
from .._base.typing import Array, Event, Integer, Numbers, Shape

Observation = Any
"""An observation, or any object that has the methods which are needed of it."""
T = TypeVar("T")

if TYPE_CHECKING:
    Measured = Numbers | Batched
    Values = Array
else:
    Measured = Values = Any
"""`Measured`: measured values as users pass them, those of one measurement or `Batched` rows of several. `Values`: the
same as an array, or as `Batched` arrays."""


class AbstractObservation(eqx.Module, metaclass=Checked):
    """The measured values, with their likelihood given the event.

    Observations of your own may derive from this class, or be any object with a method `log_likelihood`.

    `y=frx.Batched(rows)` makes one object of several measurements that differ in their values only.
    [`num_rows`][flowrax.observation.num_rows] counts them, and
    [`observation_of_row`][flowrax.observation.observation_of_row] is one of them.
    """

    @abc.abstractmethod
    def check_event(self, shape: Shape) -> None:
        """Raises `ValueError` unless events of shape `shape` can be measured in this way."""

    @abc.abstractmethod
    def log_likelihood(self, x: Event) -> Array:
        """The log-density (or log-probability) of the measured values given the event `x`, a scalar in nats."""


class AbstractFunctionOfEvent(AbstractObservation):
    r"""Values $y = f(x) + s\,\varepsilon$ with independent noise $\varepsilon$."""

    function: eqx.AbstractVar[Callable[[Event], Array]]
    y: eqx.AbstractVar[Values]
    scale: eqx.AbstractVar[Values]
    """$s$, of the shape of `y`."""

    def check_event(self, shape: Shape) -> None:
        """Raises `ValueError` unless `function` maps events of shape `shape` to the shape of `y`."""
        check_one(self)
        check_prediction("function", self.function, shape, self.y.shape)

    def residual(self, x: Event) -> Array:
        """The residual `(y - function(x)) / scale` of one event, in units of the noise."""
        check_one(self)
        value = self.function(x)
        return (self.y.astype(value.dtype) - value) / self.scale.astype(value.dtype)


def check_prediction(name: str, function: Callable[[Event], Array], shape: Shape, expected: Shape) -> None:
    """Raises `ValueError` unless `function` maps events of shape `shape` to real numbers of shape `expected`."""
    event = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    try:
        answer = jax.eval_shape(function, event)
    except Exception as error:
        cause = " ".join(str(error).split())[:120]
        raise ValueError(f"{name} cannot be applied to the model's events, of shape {tuple(shape)}: {cause}") from None
    if getattr(answer, "shape", None) != expected:
        raise ValueError(
            f"{name} maps the model's events to shape {getattr(answer, 'shape', None)}, but y has shape {expected}."
        )


def values_and_scale(y: Measured, scale: Measured, name: str) -> tuple[Values, Values]:
    """The measured values, and their positive scale as an array of the same shape; each `Batched` if it was given so.

    **Raises:** `ValueError` for NaN, shapes that disagree and scales that are not positive.
    """
    values, given = as_floats(**{"y": plain(y), name: plain(scale)})
    shape = row_shape("y", y, values)
    if isinstance(scale, Batched):
        if not isinstance(y, Batched):
            raise ValueError(f"{name} is Batched but y is not; pass y=Batched(...) with one row for each of them.")
        check_shape(name, given.shape, values.shape)
    elif given.ndim:
        check_shape(name, given.shape, shape)
    for label, value in (("y", values), (name, given)):
        check_finite(label, value)
    check_positive(name, given)
    full = given if isinstance(scale, Batched) else jnp.broadcast_to(given, shape)
    return batched_like(y, values), batched_like(scale, full)


def plain(values: Measured) -> Numbers:
    """The numbers of `values`, without their `Batched`."""
    return values.value if isinstance(values, Batched) else values


def batched_like(given: Measured, values: Array) -> Any:
    """The array `values` as `Batched` rows if `given` are."""
    return Batched(values) if isinstance(given, Batched) else values


def row_shape(name: str, given: Measured, values: Array) -> Shape:
    """The shape of one measurement; raises `ValueError` for `Batched` values without rows."""
    if not isinstance(given, Batched):
        return values.shape
    if values.ndim == 0 or values.shape[0] == 0:
        raise ValueError(f"{name}=Batched(...) has shape {values.shape}, but at least one row is expected.")
    return values.shape[1:]


def check_one(observation: Observation) -> None:
    """Raises `ValueError` for the rows of several measurements, where one is needed."""
    n = num_rows(observation)
    if n is not None:
        raise ValueError(
            f"{type(observation).__name__} holds Batched values of {n} measurements where one is needed; pass one row, "
            "by flowrax.observation.observation_of_row(observation, i)."
        )


def num_rows(observation: Observation) -> int | None:
    """The number of measurements in an observation with `Batched` values, or None for a single measurement.

    **Raises:** `ValueError` for `Batched` values of different numbers of rows.
    """
    rows = [node.value for node in jax.tree.leaves(observation, is_leaf=_is_batched) if _is_batched(node)]
    numbers = {np.shape(leaf)[0] for leaf in jax.tree.leaves(rows)}
    if len(numbers) > 1:
        raise ValueError(f"{type(observation).__name__} holds Batched values of {sorted(numbers)} rows; pass as many.")
    return numbers.pop() if numbers else None


def observation_of_row(observation: T, i: Integer | Array) -> T:
    """The single measurement `i` of an observation with `Batched` values; `i` may be traced.

    **Raises:** `ValueError` for an observation without rows, and for a row that does not exist.
    """
    n = num_rows(observation)
    if n is None:
        raise ValueError(f"{type(observation).__name__} holds no Batched values, so it has no rows.")
    if not is_traced(i) and not 0 <= int(i) < n:
        raise ValueError(f"There is no row {int(i)}; the {type(observation).__name__} has {n}, counted from 0.")

    def one(node: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[i], node.value) if _is_batched(node) else node

    return jax.tree.map(one, observation, is_leaf=_is_batched)


def _is_batched(node: Any) -> bool:
    return isinstance(node, Batched)

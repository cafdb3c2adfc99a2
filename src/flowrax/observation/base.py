"""What a measurement of an event has to provide."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.arrays import as_floats
from .._base.checks import check_finite, check_positive, check_shape
from .._base.typing import Array, Event, Numbers, Shape

Observation = Any
"""An observation, or any object that has the methods which are needed of it."""


class AbstractObservation(eqx.Module, metaclass=Checked):
    """The measured values, with their likelihood given the event.

    Observations of your own may derive from this class, or be any object with a method `log_likelihood`.
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
    y: eqx.AbstractVar[Array]
    scale: eqx.AbstractVar[Array]
    """$s$, of the shape of `y`."""

    def check_event(self, shape: Shape) -> None:
        """Raises `ValueError` unless `function` maps events of shape `shape` to the shape of `y`."""
        check_prediction("function", self.function, shape, self.y.shape)

    def residual(self, x: Event) -> Array:
        """The residual `(y - function(x)) / scale` of one event, in units of the noise."""
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


def values_and_scale(y: Numbers, scale: Numbers, name: str) -> tuple[Array, Array]:
    """The measured values, and their positive scale as an array of the same shape.

    **Raises:** `ValueError` for NaN, shapes that disagree and scales that are not positive.
    """
    values, given = as_floats(**{"y": y, name: scale})
    if given.ndim:
        check_shape(name, given.shape, values.shape)
    for label, value in (("y", values), (name, given)):
        check_finite(label, value)
    check_positive(name, given)
    return values, jnp.broadcast_to(given, values.shape)

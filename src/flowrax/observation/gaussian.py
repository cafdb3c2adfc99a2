r"""Measurements $y = f(x) + \varepsilon$ with noise $\varepsilon \sim \mathcal{N}(0, \operatorname{diag}(s^2))$."""

import math
from collections.abc import Callable

import jax.numpy as jnp

from .._base.arrays import as_floats
from .._base.checks import check_finite, check_positive, check_shape
from .._base.typing import Array, Event, Numbers, Shape
from .base import AbstractFunctionOfEvent, AbstractObservation, values_and_scale


class LinearGaussian(AbstractObservation):
    """A linear measurement of an event with independent Gaussian noise."""

    operator: Array
    y: Array
    noise_std: Array

    def __init__(self, operator: Numbers, y: Numbers, noise_std: Numbers) -> None:
        """**Arguments:**

        - `operator`: the matrix `A`, `(m, d)`, acting on the event flattened to `(d,)`.
        - `y`: the measured values, `(m,)`, in units of the measurement.
        - `noise_std`: the standard deviation of the noise, a positive scalar or `(m,)`, in units of `y`.

        Raises `ValueError` for shapes that disagree, for NaN or infinite values, and unless `noise_std` is positive.
        """
        self.operator, self.y, noise_std = as_floats(operator=operator, y=y, noise_std=noise_std)
        if self.operator.ndim != 2:
            raise ValueError(f"operator has shape {self.operator.shape} but (m, d) is expected.")
        check_shape("y", self.y.shape, self.operator.shape[:1])
        if noise_std.ndim:
            check_shape("noise_std", noise_std.shape, self.y.shape)
        self.noise_std = jnp.broadcast_to(noise_std, self.y.shape)
        for name, value in (("operator", self.operator), ("y", self.y), ("noise_std", self.noise_std)):
            check_finite(name, value)
        check_positive("noise_std", noise_std)

    def check_event(self, shape: Shape) -> None:
        """Raises `ValueError` unless events of shape `shape` have as many elements as `A` has columns."""
        if math.prod(shape) != self.operator.shape[1]:
            raise ValueError(
                f"operator has {self.operator.shape[1]} columns but the model's events, of shape {tuple(shape)}, "
                f"have {math.prod(shape)} elements."
            )

    def residual(self, x: Event) -> Array:
        """The residual `(y - A x) / noise_std` of one event, `(m,)`, in units of the noise."""
        return (self.y - self.operator @ x.reshape(-1)) / self.noise_std

    def log_likelihood(self, x: Event) -> Array:
        """The log-density of `y` given the event `x`, a scalar in nats."""
        constant = jnp.sum(jnp.log(self.noise_std)) + 0.5 * self.y.shape[0] * math.log(2 * math.pi)
        return -0.5 * jnp.sum(self.residual(x) ** 2) - constant


class NonlinearGaussian(AbstractFunctionOfEvent):
    """A measurement by any function of an event, with independent Gaussian noise."""

    function: Callable[[Event], Array]
    y: Array
    noise_std: Array

    def __init__(self, function: Callable[[Event], Array], y: Numbers, noise_std: Numbers) -> None:
        """**Arguments:**

        - `function`: maps one event to the noiseless values, of the shape of `y`.
        - `y`: the measured values, of any shape.
        - `noise_std`: the standard deviation of the noise, a positive scalar or an array of the shape of `y`.
        """
        self.function = function
        self.y, self.noise_std = values_and_scale(y, noise_std, "noise_std")

    @property
    def scale(self) -> Array:
        """The standard deviation of the noise."""
        return self.noise_std

    def log_likelihood(self, x: Event) -> Array:
        """The log-density of `y` given the event `x`, a scalar in nats."""
        residual = self.residual(x)
        scale = self.noise_std.astype(residual.dtype)
        return -0.5 * jnp.sum(residual**2 + math.log(2 * math.pi)) - jnp.sum(jnp.log(scale))

r"""Measurements with heavy-tailed noise, $y = f(x) + s\,\varepsilon$, which outliers influence less."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from .._base.arrays import as_floats
from .._base.checks import check_positive, check_shape
from .._base.typing import Array, Event, Numbers
from .base import AbstractFunctionOfEvent, Measured, Values, values_and_scale


class Laplace(AbstractFunctionOfEvent):
    r"""Independent noise of density $\exp(-|\varepsilon|) / 2$."""

    function: Callable[[Event], Array]
    y: Values
    scale: Values

    def __init__(self, function: Callable[[Event], Array], y: Measured, scale: Measured) -> None:
        """**Arguments:**

        - `function`: maps one event to the noiseless values, of the shape of `y`.
        - `y`: the measured values, of any shape, or `Batched` rows of them.
        - `scale`: the scale of the noise, its mean absolute value, in units of `y`; a positive scalar or an array of
            the shape of `y`.
        """
        self.function = function
        self.y, self.scale = values_and_scale(y, scale, "scale")

    def log_likelihood(self, x: Event) -> Array:
        """The log-density of `y` given the event `x`, a scalar in nats."""
        residual = self.residual(x)
        return -jnp.sum(jnp.abs(residual) + jnp.log(2 * self.scale.astype(residual.dtype)))


class StudentT(AbstractFunctionOfEvent):
    """Independent noise from Student's t distribution."""

    function: Callable[[Event], Array]
    y: Values
    scale: Values
    df: Array

    def __init__(self, function: Callable[[Event], Array], y: Measured, scale: Measured, df: Numbers) -> None:
        """**Arguments:**

        - `function`: maps one event to the noiseless values, of the shape of `y`.
        - `y`: the measured values, of any shape, or `Batched` rows of them.
        - `scale`: the scale of the noise in units of `y`, a positive scalar or an array of the shape of `y`.
        - `df`: the degrees of freedom, a positive scalar; 1 is the Cauchy distribution.
        """
        self.function = function
        self.y, self.scale = values_and_scale(y, scale, "scale")
        (self.df,) = as_floats(df=df)
        check_shape("df", self.df.shape, ())
        check_positive("df", self.df)

    def log_likelihood(self, x: Event) -> Array:
        """The log-density of `y` given the event `x`, a scalar in nats."""
        residual = self.residual(x)
        df, scale = self.df.astype(residual.dtype), self.scale.astype(residual.dtype)
        constant = jax.lax.lgamma((df + 1) / 2) - jax.lax.lgamma(df / 2) - 0.5 * jnp.log(df) - 0.5 * math.log(math.pi)
        return jnp.sum(constant - jnp.log(scale) - (df + 1) / 2 * jnp.log1p(residual**2 / df))

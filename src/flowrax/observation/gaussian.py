r"""Measurements $y = f(x) + \varepsilon$ with noise $\varepsilon \sim \mathcal{N}(0, C)$.

Correlated noise is made independent: with $C = U \operatorname{diag}(s^2)\, U^\top$ and $U$ unit triangular,
$U^{-1} y = U^{-1} f(x) + s\, \xi$ with $\xi \sim \mathcal{N}(0, I)$. Since $\det U = 1$, densities stay the same.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from .._base.arrays import as_floats
from .._base.checks import check_finite, check_shape, is_traced
from .._base.condition import Batched
from .._base.typing import Array, Event, Numbers, Shape
from .base import (
    AbstractFunctionOfEvent,
    AbstractObservation,
    Measured,
    Values,
    batched_like,
    check_one,
    plain,
    row_shape,
    values_and_scale,
)
from .operators import AbstractOperator

# The most elements of a matrix that is formed of an operator given as a function.
MOST_ELEMENTS = 2**26


class LinearGaussian(AbstractObservation):
    r"""A linear measurement of an event with Gaussian noise.

    Noise of covariance $C = U \operatorname{diag}(s^2)\, U^\top$, with $U$ unit triangular, is made independent:
    `operator`, `y` and `noise_std` are then $U^{-1} A$, $U^{-1} y$ and $s$. As $\det U = 1$, densities stay the same.
    """

    linear: lx.AbstractLinearOperator
    """The operator, on events of its own shape, or on flattened ones, `(d,)`."""
    y: Values
    """The measured values, `(m,)`."""
    noise_std: Values
    """The standard deviations of their independent noise, `(m,)`."""

    def __init__(
        self,
        operator: Numbers | lx.AbstractLinearOperator,
        y: Measured,
        noise_std: Measured | None = None,
        *,
        noise_covariance: Numbers | None = None,
    ) -> None:
        """**Arguments:**

        - `operator`: the matrix `A`, `(m, d)`, acting on the event flattened to `(d,)`; or an operator on events, such
            as those of `flowrax.observation` ([`Mask`][flowrax.observation.Mask],
            [`Blur`][flowrax.observation.Blur], [`linear_function`][flowrax.observation.linear_function], ...) or any
            operator of lineax from one array to another.
        - `y`: the measured values, of the shape `(m,)` that a matrix or the shape that an operator maps events to, in
            units of the measurement. `Batched` rows hold the values of several measurements.
        - `noise_std`: the standard deviation of the noise, a positive scalar or an array of the shape of `y`, in units
            of `y`; `Batched` if each measurement has its own.
        - `noise_covariance`: instead, the covariance of the noise, `(m, m)`, of the values in flattened order, in units
            of `y` squared; positive definite.

        Raises `ValueError` for shapes that disagree, for NaN or infinite values, and for noise that is not positive.
        """
        if isinstance(operator, lx.AbstractLinearOperator):
            self.linear = _checked(operator)
        else:
            (matrix,) = as_floats(operator=operator)
            if matrix.ndim != 2:
                raise ValueError(f"operator has shape {matrix.shape} but (m, d) is expected.")
            check_finite("operator", matrix)
            self.linear = lx.MatrixLinearOperator(matrix)
        values, scale, decorrelation = _measured(y, noise_std, noise_covariance, self.linear.out_structure().shape)
        self.y, self.noise_std = _flat(values), _flat(scale)
        if isinstance(self.linear, lx.MatrixLinearOperator) and decorrelation is not None:
            self.linear = lx.MatrixLinearOperator(jax.vmap(decorrelation, in_axes=1, out_axes=1)(self.linear.matrix))
        elif decorrelation is not None:
            shape = self.linear.in_structure().shape
            self.linear = _Decorrelated(decorrelation=decorrelation, inner=self.linear, shape=shape)

    @property
    def operator(self) -> Array:
        """The matrix `A`, `(m, d)`, on flattened events; formed of an operator anew each time.

        **Raises:** `ValueError` for an operator whose matrix would have more than $2^{26}$ elements.
        """
        rows, columns = self.linear.out_size(), self.linear.in_size()
        if not isinstance(self.linear, lx.MatrixLinearOperator) and rows * columns > MOST_ELEMENTS:
            raise ValueError(
                f"operator would be a matrix of {rows} x {columns} elements, more than {MOST_ELEMENTS}; use a method "
                "that applies it, such as frx.TemperedSMC()."
            )
        return self.linear.as_matrix()

    def apply(self, x: Event) -> Array:
        """The noiseless values `A x` of one event, `(m,)`."""
        event = self.linear.in_structure()
        return self.linear.mv(x.reshape(event.shape).astype(event.dtype)).reshape(-1)

    def apply_transpose(self, v: Array) -> Event:
        """The transpose applied to values `(m,)`: an event of the operator's shape, or `(d,)` for a matrix."""
        values = self.linear.out_structure()
        return self.linear.transpose().mv(v.reshape(values.shape).astype(values.dtype))

    def check_event(self, shape: Shape) -> None:
        """Raises `ValueError` unless the operator acts on events of shape `shape`, or on as many elements."""
        check_one(self)
        expected = self.linear.in_structure().shape
        if len(expected) > 1 and tuple(shape) != expected:
            raise ValueError(f"operator acts on events of shape {expected}, but the model's have shape {tuple(shape)}.")
        if math.prod(shape) != math.prod(expected):
            raise ValueError(
                f"operator has {math.prod(expected)} columns but the model's events, of shape {tuple(shape)}, "
                f"have {math.prod(shape)} elements."
            )

    def residual(self, x: Event) -> Array:
        """The residual `(y - A x) / noise_std` of one event, `(m,)`, standard normal noise at the true event."""
        check_one(self)
        value, y, scale = as_floats(value=self.apply(x).astype(_wider(x, self.y)), y=self.y, noise_std=self.noise_std)
        return (y - value) / scale

    def log_likelihood(self, x: Event) -> Array:
        """The log-density of `y` given the event `x`, a scalar in nats."""
        residual = self.residual(x)
        constant = jnp.sum(jnp.log(self.noise_std)) + 0.5 * residual.shape[0] * math.log(2 * math.pi)
        return -0.5 * jnp.sum(residual**2) - constant.astype(residual.dtype)


class NonlinearGaussian(AbstractFunctionOfEvent):
    r"""A measurement by any function of an event, with Gaussian noise.

    Noise of covariance $C = U \operatorname{diag}(s^2)\, U^\top$, with $U$ unit triangular, is made independent:
    `function`, `y` and `noise_std` are then $U^{-1} f$, $U^{-1} y$ and $s$. As $\det U = 1$, densities stay the same.
    """

    function: Callable[[Event], Array]
    y: Values
    noise_std: Values

    def __init__(
        self,
        function: Callable[[Event], Array],
        y: Measured,
        noise_std: Measured | None = None,
        *,
        noise_covariance: Numbers | None = None,
    ) -> None:
        """**Arguments:**

        - `function`: maps one event to the noiseless values, of the shape of `y`.
        - `y`: the measured values, of any shape, or `Batched` rows of them.
        - `noise_std`: the standard deviation of the noise, a positive scalar or an array of the shape of `y`, in units
            of `y`.
        - `noise_covariance`: instead, the covariance of the noise, `(m, m)`, of the values in flattened order, in units
            of `y` squared; positive definite.

        Raises `ValueError` for shapes that disagree, for NaN or infinite values, and for noise that is not positive.
        """
        self.y, self.noise_std, decorrelation = _measured(y, noise_std, noise_covariance, None)
        self.function = function if decorrelation is None else _Composed(decorrelation, function)

    @property
    def scale(self) -> Values:
        """The standard deviation of the noise."""
        return self.noise_std

    def log_likelihood(self, x: Event) -> Array:
        """The log-density of `y` given the event `x`, a scalar in nats."""
        residual = self.residual(x)
        scale = self.noise_std.astype(residual.dtype)
        return -0.5 * jnp.sum(residual**2 + math.log(2 * math.pi)) - jnp.sum(jnp.log(scale))


class _Decorrelation(eqx.Module):
    """Coordinates of the measured values in which their noise is independent, $U^{-1} y$."""

    unit: Array
    shape: Shape = eqx.field(static=True)

    def __call__(self, values: Array) -> Array:
        check_shape("the measured value", values.shape, self.shape)
        unit, flat = self.unit.astype(values.dtype), values.reshape(-1)
        return jax.scipy.linalg.solve_triangular(unit, flat, lower=True, unit_diagonal=True).reshape(self.shape)


class _Decorrelated(AbstractOperator):
    """An operator in coordinates of independent noise."""

    decorrelation: _Decorrelation
    inner: lx.AbstractLinearOperator
    shape: Shape = eqx.field(static=True)

    def mv(self, vector: Event) -> Array:
        return self.decorrelation(self.inner.mv(vector.astype(self.inner.in_structure().dtype)))


class _Composed(eqx.Module):
    """A function of the event in coordinates of independent noise."""

    decorrelation: _Decorrelation
    function: Callable[[Event], Array]

    def __call__(self, x: Event) -> Array:
        return self.decorrelation(jnp.asarray(self.function(x)))


def _measured(
    y: Measured, noise_std: Measured | None, noise_covariance: Numbers | None, shape: Shape | None
) -> tuple[Values, Values, _Decorrelation | None]:
    """The values and the standard deviations of their independent noise, and the coordinates that make it so."""
    values = as_floats(y=plain(y))[0]
    size = row_shape("y", y, values)
    if shape is not None:
        check_shape("y" if not isinstance(y, Batched) else "a row of y", size, shape)
    if (noise_std is None) == (noise_covariance is None):
        raise ValueError("Pass either noise_std= or noise_covariance=, the noise of the measured values y.")
    if noise_std is not None:
        _check_not_zero(noise_std)
        return *values_and_scale(y, noise_std, "noise_std"), None
    assert noise_covariance is not None
    values, covariance = as_floats(y=plain(y), noise_covariance=noise_covariance)
    check_shape("noise_covariance", covariance.shape, (math.prod(size), math.prod(size)))
    check_finite("y", values)
    check_finite("noise_covariance", covariance)
    root = _cholesky(covariance)
    std = jnp.diagonal(root)
    decorrelation = _Decorrelation(root / std[None, :], size)
    values = jax.vmap(decorrelation)(values) if isinstance(y, Batched) else decorrelation(values)
    return batched_like(y, values), std.reshape(size), decorrelation


def _cholesky(covariance: Array) -> Array:
    """The Cholesky factor; raises `ValueError` for a concrete matrix that is not symmetric positive definite."""
    if is_traced(covariance):
        return jnp.linalg.cholesky(covariance)
    matrix = np.asarray(covariance, np.float64)
    asymmetry = np.max(np.abs(matrix - matrix.T), initial=0.0)
    # Numbers of any precision may have been computed in single precision.
    if asymmetry > 1e-5 * np.max(np.abs(matrix), initial=0.0):
        raise ValueError(f"noise_covariance must be symmetric; it differs from its transpose by up to {asymmetry:.3g}.")
    try:
        return jnp.asarray(np.linalg.cholesky((matrix + matrix.T) / 2), covariance.dtype)
    except np.linalg.LinAlgError:
        smallest = np.min(np.linalg.eigvalsh(matrix), initial=np.inf)
        raise ValueError(
            f"noise_covariance must be positive definite; its smallest eigenvalue is {smallest:.3g}. Add the variance "
            "of independent noise to its diagonal."
        ) from None


def _check_not_zero(noise_std: Measured) -> None:
    """Raises `ValueError` for noise of zero, which would be an exact equality."""
    (std,) = as_floats(noise_std=plain(noise_std))
    if not is_traced(std) and np.any(np.asarray(std) == 0):
        raise ValueError(
            "noise_std must be positive; got 0. No method conditions on exact equalities: pass a small noise_std, or a "
            "log_likelihood that is minus infinity where a constraint is broken, with frx.TemperedSMC()."
        )


def _checked(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    """Raises `ValueError` for an operator that does not map one array of real numbers to another."""
    for name, structure in (("takes", operator.in_structure()), ("gives", operator.out_structure())):
        if not isinstance(structure, jax.ShapeDtypeStruct) or not jnp.issubdtype(structure.dtype, jnp.floating):
            raise ValueError(f"operator must map one array of real numbers to another; this one {name} {structure}.")
    return operator


def _flat(values: Values) -> Any:
    if isinstance(values, Batched):
        return Batched(values.value.reshape(values.value.shape[0], -1))
    return values.reshape(-1)


def _wider(x: Array, y: Array) -> jnp.dtype:
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(x, y)

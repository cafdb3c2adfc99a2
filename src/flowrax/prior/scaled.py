"""The law of a scaled draw, for the source of a model that starts where the noise has a scale."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_shape, is_traced
from .._typing import Array, Batch, DType, Event, KeyArray, Scalar, Shape
from .base import AbstractGaussianPrior, AbstractPrior
from .gaussian import Gaussian


class Scaled(AbstractPrior):
    """`factor * x0` for any prior that knows no more of its own scale."""

    prior: AbstractPrior
    factor: Array
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)

    def __init__(self, prior: AbstractPrior, factor: Scalar):
        """**Arguments:**

        - `prior`: the law of `x0`.
        - `factor`: positive.
        """
        self.prior, self.factor = prior, jnp.asarray(factor, prior.dtype)
        self.shape, self.dtype = prior.shape, prior.dtype

    @property
    def rank(self) -> int | Array:
        return self.prior.rank

    def draw(self, key: KeyArray) -> Event:
        return self.factor * self.prior.draw(key)

    def log_density(self, x: Event) -> Array:
        return self.prior.log_density(x / self.factor) - self.rank * jnp.log(self.factor)


class Blurred(AbstractPrior):
    """`x0` with independent normal noise added."""

    prior: AbstractPrior
    std: Array
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)

    def __init__(self, prior: AbstractPrior, std: Scalar):
        """**Arguments:**

        - `prior`: the law of `x0`.
        - `std`: of the noise.
        """
        self.prior, self.std = prior, jnp.asarray(std, prior.dtype)
        self.shape, self.dtype = prior.shape, prior.dtype

    @property
    def rank(self) -> int:
        return math.prod(self.shape)

    def draw(self, key: KeyArray) -> Event:
        own, noise = jax.random.split(key)
        return self.prior.draw(own) + self.std * jax.random.normal(noise, self.shape, self.dtype)

    def log_density(self, x: Event) -> Array:
        raise ValueError("A source with a latent has a density only where it is prior.Gaussian.")


def blurred(prior: AbstractPrior, std: Scalar) -> AbstractPrior:
    """**Arguments:**

    - `prior`: the law of `x0`.
    - `std`: of normal noise.

    **Returns:** the law of `x0 + std * z`.
    """
    if isinstance(prior, Gaussian):
        total = jnp.hypot(prior.std, jnp.asarray(std, prior.dtype))
        return Gaussian(prior.shape, mean=prior.mean, std=total, dtype=prior.dtype)
    return Blurred(prior, std)


def rescaled(prior: AbstractPrior, factor: Scalar) -> AbstractPrior:
    """**Arguments:**

    - `prior`: the law of `x0`.
    - `factor`: positive.

    **Returns:** the law of `factor * x0`.
    """
    return prior.rescaled(factor) if isinstance(prior, AbstractGaussianPrior) else Scaled(prior, factor)


def project(prior: AbstractPrior, x: Event) -> Event:
    """**Arguments:**

    - `prior`: the law of `x0`.
    - `x`: an event.

    **Returns:** the part of `x` in the range of a Gaussian prior's covariance; for any other prior, `x`.
    """
    return prior.project(x) if isinstance(prior, AbstractGaussianPrior) and not prior.is_standard else x


def check_range(name: str, prior: AbstractPrior, x: Batch) -> None:
    """Raises `ValueError` for concrete events that leave the range of a singular prior by more than rounding.

    A model of it never reaches them, and its density does not count what is outside.

    **Arguments:**

    - `name`: of the events, for the message.
    - `prior`: the law of `x0`.
    - `x`: `(n, *event)`.
    """
    if is_traced(prior, x) or not isinstance(prior, AbstractGaussianPrior) or prior.is_standard:
        return
    outside = jnp.max(jnp.abs(x - jax.vmap(prior.project)(x)), initial=0)
    if outside > jnp.finfo(x.dtype).eps ** 0.5 * jnp.max(jnp.abs(x), initial=0):
        raise ValueError(
            f"{name} leaves the range of the singular prior {type(prior).__name__} by up to {float(outside):.3g}; "
            "centre it with prior.remove_centre, or use another prior."
        )


def check_prior(prior: AbstractPrior, shape: Shape, dtype: DType) -> None:
    """Raises `ValueError` unless the prior's events have that shape and dtype.

    **Arguments:**

    - `prior`: the law of `x0`.
    - `shape`, `dtype`: of the model's events.
    """
    check_shape("A draw of prior", prior.shape, shape)
    if prior.dtype != jnp.dtype(dtype):
        raise ValueError(
            f"prior has dtype {prior.dtype} but the model has {jnp.dtype(dtype)}; pass dtype= to one of them."
        )

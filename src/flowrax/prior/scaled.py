"""The law of a scaled draw, for the source of a model that starts where the noise has a scale."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_shape
from .._typing import Array, DType, Event, KeyArray, Scalar, Shape
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

"""Distributions of scaled and blurred draws: the state of a model at its start time is `sigma(t_min) * x0`."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.arguments import checked
from .._base.checks import check_not_negative, check_shape
from .._base.typing import Array, DType, Event, KeyArray, Scalar, Shape
from .base import AbstractGaussianPrior, AbstractPrior
from .gaussian import Gaussian


class ScaledPrior(AbstractPrior):
    """The distribution of `factor * x0` for a prior without a `rescaled` method."""

    prior: AbstractPrior
    factor: Array
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)

    def __init__(self, prior: AbstractPrior, factor: Scalar):
        """**Arguments:**

        - `prior`: the distribution of `x0`.
        - `factor`: a positive scalar.
        """
        check_not_negative("factor", factor)
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
    """The distribution of `x0 + std * z` with independent standard normal `z`. Its density is not available."""

    prior: AbstractPrior
    std: Array
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)

    def __init__(self, prior: AbstractPrior, std: Scalar):
        """**Arguments:**

        - `prior`: the distribution of `x0`.
        - `std`: the standard deviation of the noise.
        """
        check_not_negative("std", std)
        self.prior, self.std = prior, jnp.asarray(std, prior.dtype)
        self.shape, self.dtype = prior.shape, prior.dtype

    @property
    def rank(self) -> int:
        return math.prod(self.shape)

    def draw(self, key: KeyArray) -> Event:
        own, noise = jax.random.split(random.as_threefry(key))
        return self.prior.draw(own) + self.std * random.normal(noise, self.shape, self.dtype)

    def log_density(self, x: Event) -> Array:
        raise ValueError("The start of a path with a latent has a known density only for prior.Gaussian; use that.")


@checked
def blurred(prior: AbstractPrior, std: Scalar) -> AbstractPrior:
    """The distribution of a draw with independent normal noise added.

    **Arguments:**

    - `prior`: the distribution of `x0`.
    - `std`: the standard deviation of the noise.

    **Returns:** the distribution of `x0 + std * z`: a `Gaussian` if the prior is one, otherwise a `Blurred`.
    """
    check_not_negative("std", std)
    if isinstance(prior, Gaussian):
        total = jnp.hypot(prior.std, jnp.asarray(std, prior.dtype))
        return Gaussian(prior.shape, mean=prior.mean, std=total, dtype=prior.dtype)
    return Blurred(prior, std)


@checked
def rescaled(prior: AbstractPrior, factor: Scalar) -> AbstractPrior:
    """The distribution of a scaled draw.

    **Arguments:**

    - `prior`: the distribution of `x0`.
    - `factor`: a positive scalar.

    **Returns:** the distribution of `factor * x0`.
    """
    return prior.rescaled(factor) if isinstance(prior, AbstractGaussianPrior) else ScaledPrior(prior, factor)


def project(prior: AbstractPrior, x: Event) -> Event:
    """Projects an event onto the support of a prior.

    **Arguments:**

    - `prior`: the distribution of `x0`.
    - `x`: an event.

    **Returns:** the projection of `x` onto the range of a Gaussian prior's covariance; for any other prior, `x`.
    """
    return prior.project(x) if isinstance(prior, AbstractGaussianPrior) and not prior.is_standard else x


def check_prior(prior: AbstractPrior, shape: Shape, dtype: DType) -> None:
    """Raises `ValueError` unless the prior's events have that shape and dtype.

    **Arguments:**

    - `prior`: the distribution of `x0`.
    - `shape`, `dtype`: the shape and dtype of the model's events.
    """
    check_shape("A draw of prior", prior.shape, shape)
    if prior.dtype != jnp.dtype(dtype):
        raise ValueError(
            f"prior has dtype {prior.dtype} but the model has {jnp.dtype(dtype)}; pass dtype= to one of them."
        )

r"""What a prior is: a law one can sample and, where it is known, evaluate.

A Gaussian $\mathcal{N}(m, C)$ may have a singular $C$, as that of centred points has. It then lives on $m + S$, $S$ the
range of $C$ and $m \in S$: its density is with respect to $S$ and $C^{-1}$ stands for the pseudo-inverse.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._typing import Array, DType, Event, KeyArray, Scalar, Shape


class AbstractPrior(eqx.Module):
    """The law of one event of a fixed shape and dtype."""

    shape: eqx.AbstractVar[Shape]
    dtype: eqx.AbstractVar[DType]

    @property
    @abc.abstractmethod
    def rank(self) -> int | Array:
        """The dimension of the set on which it has its density: that of `C` for a Gaussian."""

    @abc.abstractmethod
    def draw(self, key: KeyArray) -> Any:
        """One event of shape `shape`."""

    @abc.abstractmethod
    def log_density(self, x: Any) -> Array:
        """Log-density of one event, a scalar in nats."""


class AbstractGaussianPrior(AbstractPrior):
    r"""$\mathcal{N}(m, C)$; all that scores and samplers ask of $C$, none of it a matrix."""

    mean: eqx.AbstractVar[Array]
    """Of the shape of an event, in the range of `C`."""
    is_standard: eqx.AbstractVar[bool]
    """Whether it is known, before anything is computed, to be standard normal."""

    @property
    @abc.abstractmethod
    def log_determinant(self) -> Array:
        """The sum of the logarithms of the eigenvalues of `C` that are not zero."""

    @abc.abstractmethod
    def root(self, z: Event) -> Event:
        r"""$C^{1/2} z$ for some square root: covariance `C` from standard normal `z`."""

    @abc.abstractmethod
    def covariance_product(self, x: Event) -> Event:
        """$C x$."""

    @abc.abstractmethod
    def precision_product(self, x: Event) -> Event:
        """$C^{-1} x$, zero for the part of `x` outside the range of `C`."""

    @abc.abstractmethod
    def project(self, x: Event) -> Event:
        """The part of `x` in the range of `C`."""

    @abc.abstractmethod
    def rescaled(self, factor: Scalar) -> "AbstractGaussianPrior":
        """The law of `factor * x0`, for a positive factor."""

    def transform(self, z: Event) -> Event:
        """A standard normal event made a draw."""
        return self.mean.astype(z.dtype) + self.root(z)

    def draw(self, key: KeyArray) -> Event:
        return self.transform(jax.random.normal(key, self.shape, self.dtype))

    def log_density(self, x: Event) -> Array:
        """With respect to the range of `C`; the part of `x` outside of it does not count."""
        offset = x - self.mean.astype(x.dtype)
        squared = jnp.sum(offset * self.precision_product(offset))
        return -0.5 * (squared + self.log_determinant.astype(x.dtype) + self.rank * math.log(2 * math.pi))

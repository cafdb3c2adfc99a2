r"""The prior interface: a distribution that can be sampled and, where its density is known, evaluated.

A Gaussian prior $\mathcal{N}(m, C)$ may have a singular covariance $C$, as for centred points. Its support is then the
range $S$ of $C$, with $m \in S$: densities are taken with respect to the Lebesgue measure on $S$, and $C^{-1}$ denotes
the pseudo-inverse.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._base import random
from .._base.arguments import Checked
from .._base.typing import Array, DType, Event, KeyArray, Scalar, Shape


class AbstractPrior(eqx.Module, metaclass=Checked):
    """The distribution of one event of a fixed shape and dtype."""

    shape: eqx.AbstractVar[Shape]
    dtype: eqx.AbstractVar[DType]

    @property
    @abc.abstractmethod
    def rank(self) -> int | Array:
        """The dimension of the support. For a Gaussian it is the rank of the covariance `C`."""

    @abc.abstractmethod
    def draw(self, key: KeyArray) -> Any:
        """A random event of shape `shape`."""

    @abc.abstractmethod
    def log_density(self, x: Any) -> Array:
        """The log-density of one event, a scalar in nats."""


class AbstractGaussianPrior(AbstractPrior):
    r"""A Gaussian $\mathcal{N}(m, C)$. Scores and samplers use $C$ only through products; no matrix is needed."""

    mean: eqx.AbstractVar[Array]
    """The mean $m$, with the shape of an event. It lies in the range of `C`."""
    is_standard: eqx.AbstractVar[bool]
    """Whether the prior is statically known to be standard normal."""

    @property
    @abc.abstractmethod
    def log_determinant(self) -> Array:
        """The sum of the logarithms of the nonzero eigenvalues of `C`."""

    @abc.abstractmethod
    def root(self, z: Event) -> Event:
        r"""$C^{1/2} z$ for some square root of $C$: it has covariance `C` if `z` is standard normal."""

    @abc.abstractmethod
    def covariance_product(self, x: Event) -> Event:
        """$C x$."""

    @abc.abstractmethod
    def precision_product(self, x: Event) -> Event:
        """$C^{-1} x$ with the pseudo-inverse: the component of `x` outside the range of `C` contributes zero."""

    @abc.abstractmethod
    def project(self, x: Event) -> Event:
        """The orthogonal projection of `x` onto the range of `C`."""

    @abc.abstractmethod
    def rescaled(self, factor: Scalar) -> "AbstractGaussianPrior":
        """The distribution of `factor * x0`, for a positive factor."""

    def transform(self, z: Event) -> Event:
        """Transforms a standard normal event `z` into a draw from the prior, $m + C^{1/2} z$."""
        return self.mean.astype(z.dtype) + self.root(z)

    def draw(self, key: KeyArray) -> Event:
        return self.transform(random.normal(key, self.shape, self.dtype))

    def log_density(self, x: Event) -> Array:
        """The log-density of one event on the range of `C`, in nats. The component of `x` outside it is ignored."""
        # The projection discards what stands at masked nodes, which may be NaN.
        offset = self.project(x - self.mean.astype(x.dtype))
        squared = jnp.sum(offset * self.precision_product(offset))
        return -0.5 * (squared + self.log_determinant.astype(x.dtype) + self.rank * math.log(2 * math.pi))

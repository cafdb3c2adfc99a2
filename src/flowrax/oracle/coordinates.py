r"""Coordinates $y = C^{-1/2} x$ in which the noise of a Gaussian prior is standard normal.

If $C$ has rank $r < d$, these are $r$ coordinates of its range: with $C = U \operatorname{diag}(e) U^\top$ over the
nonzero eigenvalues, $y = e^{-1/2} U^\top x$ and $x = U e^{1/2} y$.
"""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.checks import is_traced
from .._base.typing import Array, DType, Event, KeyArray, Shape
from ..prior import AbstractGaussianPrior, AbstractPrior

if TYPE_CHECKING:
    from .base import AbstractOracle


class Coordinates(eqx.Module):
    """The map between events and their coordinates `(r,)`."""

    eigenvalues: Array
    eigenvectors: Array
    shape: Shape = eqx.field(static=True)

    def inward(self, x: Event) -> Array:
        """The coordinates `(r,)` of an event in the range of the covariance."""
        return (self.eigenvectors.T @ x.reshape(-1)) / jnp.sqrt(self.eigenvalues)

    def outward(self, y: Array) -> Event:
        """The event with coordinates `y`."""
        return (self.eigenvectors @ (jnp.sqrt(self.eigenvalues) * y)).reshape(self.shape)

    def pull_back(self, gradient: Array) -> Event:
        """Converts a gradient with respect to the coordinates to a gradient with respect to the event."""
        return (self.eigenvectors @ (gradient / jnp.sqrt(self.eigenvalues))).reshape(self.shape)

    def log_volume(self) -> Array:
        """The log-volume of the image of the unit cube of coordinates."""
        return jnp.sum(jnp.log(self.eigenvalues)) / 2

    def whiten(self, oracle: "AbstractOracle") -> "AbstractOracle":
        """The oracle in these coordinates. Raises `ValueError` if it does not lie in the range of the covariance."""
        vectors = self.eigenvectors
        if vectors.shape[0] != oracle.shape[0]:
            raise ValueError(
                f"The events of the prior have {vectors.shape[0]} elements, but the oracle's have {oracle.shape[0]}; "
                "pass a prior of events with as many elements as the oracle's."
            )
        outside = jnp.eye(vectors.shape[0], dtype=vectors.dtype) - vectors @ vectors.T
        rest = oracle.mapped(outside, jnp.zeros_like(vectors[:, 0]))
        draws = rest.sample(jax.random.key(0), (64,))
        size = jnp.max(jnp.abs(oracle.sample(jax.random.key(0), (64,))))
        if not is_traced(draws) and float(jnp.max(jnp.abs(draws))) > 1e-3 * float(size):
            raise ValueError("The oracle leaves the range of the singular prior; centre its means and covariances.")
        return oracle.mapped(vectors.T / jnp.sqrt(self.eigenvalues)[:, None], jnp.zeros_like(self.eigenvalues))


class Mapped(AbstractPrior):
    """The distribution of events whose coordinates have a given distribution."""

    distribution: AbstractPrior
    coordinates: Coordinates
    offset: Array
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)

    def __init__(self, distribution: AbstractPrior, coordinates: Coordinates, offset: Array) -> None:
        """**Arguments:**

        - `distribution`: the distribution of the coordinates `(r,)`.
        - `coordinates`: the map from coordinates to events.
        - `offset`: added to the event, of the shape of an event.
        """
        self.distribution, self.coordinates, self.offset = distribution, coordinates, offset
        self.shape, self.dtype = coordinates.shape, distribution.dtype

    @property
    def rank(self) -> int | Array:
        return self.distribution.rank

    def draw(self, key: KeyArray) -> Event:
        return self.coordinates.outward(self.distribution.draw(key)) + self.offset

    def log_density(self, x: Event) -> Array:
        return self.distribution.log_density(self.coordinates.inward(x - self.offset)) - self.coordinates.log_volume()


def whitening(prior: AbstractGaussianPrior) -> Coordinates:
    """The coordinates in which a prior is standard normal, from the eigendecomposition of its covariance."""
    size = int(np.prod(prior.shape, dtype=int))
    basis = jnp.eye(size, dtype=prior.dtype).reshape(size, *prior.shape)
    covariance = jax.vmap(prior.covariance_product)(basis).reshape(size, size)
    values, vectors = jnp.linalg.eigh((covariance + covariance.T) / 2)
    rank = int(prior.rank)
    return Coordinates(values[size - rank :], vectors[:, size - rank :], prior.shape)

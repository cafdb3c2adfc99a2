r"""$C = U \operatorname{diag}(e) U^\top$, a covariance that acts on the leading axis of an event."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp

from .._base.typing import Array, Event, Scalar


class Spectrum(eqx.Module):
    """The eigendecomposition of a `(k, k)` covariance, which acts on each column of an event reshaped to `(k, m)`.

    A zero eigenvalue marks a direction with no variance.
    """

    eigenvalues: Array
    eigenvectors: Array

    def apply(self, x: Event, function: Callable[[Array], Array], *, left: bool = True) -> Event:
        r"""$U f(e) U^\top x$, or $U f(e) x$ if `left` is false, with $f(0)$ replaced by 0."""
        size = self.eigenvalues.shape[0]
        values, vectors = self.eigenvalues.astype(x.dtype), self.eigenvectors.astype(x.dtype)
        rows = x.reshape(size, -1)
        rows = vectors.T @ rows if left else rows
        factors = jnp.where(values > 0, function(jnp.where(values > 0, values, 1)), 0)
        return (vectors @ (factors[:, None] * rows)).reshape(x.shape)

    def root(self, z: Event) -> Event:
        """$U e^{1/2} z$."""
        return self.apply(z, jnp.sqrt, left=False)

    def log_determinant(self) -> Array:
        """The sum of the logarithms of the nonzero eigenvalues, for one column of the event."""
        return jnp.sum(jnp.log(jnp.where(self.eigenvalues > 0, self.eigenvalues, 1)))

    def rank(self) -> Array:
        """The number of nonzero eigenvalues, for one column of the event."""
        return jnp.sum(self.eigenvalues > 0).astype(self.eigenvalues.dtype)

    def rescaled(self, factor: Scalar) -> "Spectrum":
        """The covariance of `factor * x`."""
        return Spectrum(jnp.asarray(factor, self.eigenvalues.dtype) ** 2 * self.eigenvalues, self.eigenvectors)

r"""$C = U \operatorname{diag}(e) U^\top$ on the leading axis of an event, the same for whatever follows it."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp

from .._typing import Array, Event, Scalar


class Spectrum(eqx.Module):
    """A covariance `(k, k)` of the rows of an event seen as `(k, m)`; an eigenvalue of zero is a direction without."""

    eigenvalues: Array
    eigenvectors: Array

    def apply(self, x: Event, function: Callable[[Array], Array], *, left: bool = True) -> Event:
        r"""$U f(e) U^\top x$, or without `left` $U f(e) x$, with `f` zero where `e` is."""
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
        """Of the part that is not zero, for one column."""
        return jnp.sum(jnp.log(jnp.where(self.eigenvalues > 0, self.eigenvalues, 1)))

    def rank(self) -> Array:
        """Of the part that is not zero, for one column."""
        return jnp.sum(self.eigenvalues > 0).astype(self.eigenvalues.dtype)

    def rescaled(self, factor: Scalar) -> "Spectrum":
        """That of `factor * x`."""
        return Spectrum(jnp.asarray(factor, self.eigenvalues.dtype) ** 2 * self.eigenvalues, self.eigenvectors)

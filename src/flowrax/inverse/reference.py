r"""Moves that leave the tempered posterior invariant, each reversible with respect to a reference Gaussian.

With the reference $\mathcal{N}(m, S)$ and a scale $s$, the preconditioned Crank-Nicolson proposal

$$z' = m + \sqrt{1 - s^2}\,(z - m) + s\, S^{1/2} \xi, \qquad \xi \sim \mathcal{N}(0, I),$$

is reversible with respect to the reference. For the target $\pi(z) \propto \mathcal{N}(z; 0, I)\, L(z)^\beta$ it is
accepted with probability $\min(1, r)$, where
$r = \pi(z')\, \mathcal{N}(z; m, S) / (\pi(z)\, \mathcal{N}(z'; m, S))$. For $m = 0$ and $S = I$ this is the likelihood
ratio $(L(z') / L(z))^\beta$.
"""

import equinox as eqx
import jax.numpy as jnp

from .._base.typing import Array, DType


class Reference(eqx.Module):
    r"""The Gaussian $\mathcal{N}(m, U \operatorname{diag}(\lambda) U^\top)$, given by the eigenvectors $U$."""

    mean: Array
    """`(d,)`."""
    vectors: Array
    """`(d, d)`, the columns of $U$."""
    values: Array
    """`(d,)`, the eigenvalues."""

    def propose(self, z: Array, scale: Array, noise: Array) -> Array:
        """The proposals from `z`, `(n, d)`, with scales `(n,)` and standard normal noise `(n, d)`."""
        mean, root = self.mean[None], jnp.sqrt(self.values)[None]
        step = (noise * root) @ self.vectors.T
        return mean + jnp.sqrt(1 - scale**2)[:, None] * (z - mean) + scale[:, None] * step

    def log_correction(self, z: Array) -> Array:
        """The logarithm of the standard normal density of each row over that of the reference, up to a constant."""
        offset = (z - self.mean[None]) @ self.vectors
        return 0.5 * jnp.sum(offset**2 / self.values[None], axis=1) - 0.5 * jnp.sum(z**2, axis=1)


def standard_reference(size: int, dtype: DType) -> Reference:
    """The standard normal distribution in `size` dimensions."""
    return Reference(jnp.zeros(size, dtype), jnp.eye(size, dtype=dtype), jnp.ones(size, dtype))


def fitted_reference(mean: Array, covariance: Array, num_particles: Array) -> Reference:
    r"""A Gaussian that departs from the standard normal only where the particles show that it must.

    The sample covariance of $N$ standard normal particles in $d$ dimensions has its eigenvalues within the
    Marchenko-Pastur edges $(1 \pm \sqrt\gamma)^2$, $\gamma = d / N$. Eigenvectors whose eigenvalue $\ell$ lies outside
    keep their mean, and the eigenvalue $\lambda$ of the population that gives
    $\ell = \lambda\,(1 + \gamma / (\lambda - 1))$; all others get mean 0 and eigenvalue 1.

    **References:** [@marchenko1967distribution], [@donoho2018optimal].
    """
    values, vectors = jnp.linalg.eigh((covariance + covariance.T) / 2)
    gamma = (mean.shape[0] / num_particles).astype(values.dtype)
    root = jnp.sqrt(gamma)
    spiked = (values > (1 + root) ** 2) | (values < (1 - root) ** 2) & (gamma < 1)
    b = values + 1 - gamma
    gap = jnp.sqrt(jnp.maximum(b**2 - 4 * values, 0))
    population = jnp.where(values > 1, (b + gap) / 2, 2 * values / (b + gap))
    kept = jnp.where(spiked, vectors.T @ mean, 0)
    return Reference(vectors @ kept, vectors, jnp.where(spiked, jnp.maximum(population, 1e-6), 1))

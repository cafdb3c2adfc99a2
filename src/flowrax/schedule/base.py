r"""What a schedule is: $x_t = \alpha(t)\, x_1 + \sigma(t)\, x_0$ with noise at $t = 0$, data at $t = 1$.

With $\lambda = \log(\alpha^2 / \sigma^2)$ every schedule implies the forward (noising) SDE, written in diffusion time
$s = 1 - t$, $\mathrm{d}x = f x\, \mathrm{d}s + g\, \mathrm{d}W$, where (Song et al. 2021; Kingma et al. 2021, eq. 9)

$$f = \frac{\mathrm{d} \log \alpha}{\mathrm{d}s} = -\frac{\dot\alpha}{\alpha}, \qquad
g^2 = \frac{\mathrm{d} \sigma^2}{\mathrm{d}s} - 2 f \sigma^2
    = 2 \frac{\dot\alpha}{\alpha} \sigma^2 - \frac{\mathrm{d} \sigma^2}{\mathrm{d}t}.$$
"""

import abc
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp

from .._typing import Array, DType, Times


class Scales(eqx.Module):
    """All that a conversion asks of a schedule at one time, every field of the shape of `t`."""

    alpha: Array
    sigma: Array
    alpha_rate: Array
    sigma_rate: Array
    variance_rate: Array


class AbstractSchedule(eqx.Module):
    r"""Maps time to the scales $\alpha$ of the data and $\sigma$ of the noise.

    Every method is elementwise in `t`, which lies in $[0, 1]$; rates are derivatives with respect to `t`.
    """

    singularities: eqx.AbstractClassVar[Mapping[str, tuple[float, ...]]]
    r"""Where a method of that name is infinite; a name that is missing is finite on all of $[0, 1]$.

    `"determinant"` is where $\alpha \dot\sigma - \dot\alpha \sigma$ vanishes, so that a velocity does not tell
    the data from the noise.
    """

    @abc.abstractmethod
    def alpha(self, t: Times) -> Array:
        """Scale of the data."""

    @abc.abstractmethod
    def sigma(self, t: Times) -> Array:
        """Scale of the noise."""

    @abc.abstractmethod
    def alpha_rate(self, t: Times) -> Array:
        r"""$\dot\alpha$."""

    @abc.abstractmethod
    def sigma_rate(self, t: Times) -> Array:
        r"""$\dot\sigma$."""

    @abc.abstractmethod
    def variance_rate(self, t: Times) -> Array:
        r"""$\mathrm{d}\sigma^2 / \mathrm{d}t$, finite where $\dot\sigma$ need not be."""

    @abc.abstractmethod
    def log_snr(self, t: Times) -> Array:
        r"""$\lambda(t) = \log(\alpha^2 / \sigma^2)$, increasing in `t`."""

    @abc.abstractmethod
    def time_at(self, log_snr: Times) -> Array:
        r"""The time at which `log_snr` is reached, the inverse of [`log_snr`][]."""

    def drift(self, t: Times) -> Array:
        """The coefficient $f$ of the forward SDE, in diffusion time."""
        return -self.alpha_rate(t) / self.alpha(t)

    def diffusion_squared(self, t: Times) -> Array:
        """$g^2$ of the forward SDE, in diffusion time (a sum of terms of one sign: nothing cancels)."""
        variance = self.sigma(t) ** 2
        return 2 * variance * self.alpha_rate(t) / self.alpha(t) - self.variance_rate(t)

    def diffusion(self, t: Times) -> Array:
        """The coefficient $g$ of the forward SDE, in diffusion time."""
        return jnp.sqrt(self.diffusion_squared(t))

    def scales(self, t: Times, dtype: DType | None = None) -> Scales:
        """All scales and rates at `t` in one record, computed in the dtype of `t` and cast to `dtype`."""
        record = Scales(
            alpha=self.alpha(t),
            sigma=self.sigma(t),
            alpha_rate=self.alpha_rate(t),
            sigma_rate=self.sigma_rate(t),
            variance_rate=self.variance_rate(t),
        )
        return record if dtype is None else jax.tree.map(lambda leaf: leaf.astype(dtype), record)

    def is_singular(self, name: str, t: float) -> bool:
        """Whether the method called `name` is infinite at the end `t` (0 or 1)."""
        return t in self.singularities.get(name, ())

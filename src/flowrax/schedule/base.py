r"""The schedule interface: $x_t = \alpha(t)\, x_1 + \sigma(t)\, x_0$ with noise at $t = 0$ and data at $t = 1$.

The log-SNR is $\lambda = \log(\alpha^2 / \sigma^2)$. Every schedule implies a forward (noising) SDE,
$\mathrm{d}x = f x\, \mathrm{d}s + g\, \mathrm{d}W$ in diffusion time $s = 1 - t$, where (Song et al. 2021; Kingma et
al. 2021, eq. 9)

$$f = \frac{\mathrm{d} \log \alpha}{\mathrm{d}s} = -\frac{\dot\alpha}{\alpha}, \qquad
g^2 = \frac{\mathrm{d} \sigma^2}{\mathrm{d}s} - 2 f \sigma^2
    = 2 \frac{\dot\alpha}{\alpha} \sigma^2 - \frac{\mathrm{d} \sigma^2}{\mathrm{d}t}.$$
"""

import abc
import operator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.typing import Array, DType, Times


class Scales(eqx.Module):
    r"""The scales and rates of a schedule that conversions use. Every field has the shape of `t`.

    **Attributes:**

    - `alpha`: the scale $\alpha$ of the data.
    - `sigma`: the scale $\sigma$ of the noise.
    - `alpha_rate`: $\dot\alpha$.
    - `sigma_rate`: $\dot\sigma$.
    - `variance_rate`: $\mathrm{d}\sigma^2 / \mathrm{d}t$.
    """

    alpha: Array
    sigma: Array
    alpha_rate: Array
    sigma_rate: Array
    variance_rate: Array


class Singularities(NamedTuple):
    r"""The end points of time, 0 and 1, at which quantities of a schedule are infinite; empty for a finite quantity."""

    log_snr: tuple[float, ...] = ()
    forward_sde: tuple[float, ...] = ()
    """The end points for `drift`, `diffusion` and `diffusion_squared`."""
    alpha_rate: tuple[float, ...] = ()
    sigma_rate: tuple[float, ...] = ()
    variance_rate: tuple[float, ...] = ()
    determinant: tuple[float, ...] = ()
    r"""The end points at which $\alpha \dot\sigma - \dot\alpha \sigma$ vanishes, where a velocity does not determine
    the data and the noise."""


class AbstractSchedule(eqx.Module, metaclass=Checked):
    r"""Maps time to the scales $\alpha$ of the data and $\sigma$ of the noise.

    Every method is elementwise in `t`, which lies in $[0, 1]$; rates are derivatives with respect to `t`.
    """

    singularities: eqx.AbstractClassVar[Singularities]
    """Where the schedule's quantities are infinite; all else is finite on $[0, 1]$."""

    @abc.abstractmethod
    def alpha(self, t: Times) -> Array:
        r"""$\alpha$, the scale of the data."""

    @abc.abstractmethod
    def sigma(self, t: Times) -> Array:
        r"""$\sigma$, the scale of the noise."""

    @abc.abstractmethod
    def alpha_rate(self, t: Times) -> Array:
        r"""$\dot\alpha$."""

    @abc.abstractmethod
    def sigma_rate(self, t: Times) -> Array:
        r"""$\dot\sigma$."""

    @abc.abstractmethod
    def variance_rate(self, t: Times) -> Array:
        r"""$\mathrm{d}\sigma^2 / \mathrm{d}t$, which can be finite where $\dot\sigma$ is not."""

    @abc.abstractmethod
    def log_snr(self, t: Times) -> Array:
        r"""$\lambda(t) = \log(\alpha^2 / \sigma^2)$, increasing in `t`."""

    @abc.abstractmethod
    def time_at(self, log_snr: Times) -> Array:
        r"""The time at which the log-SNR equals `log_snr`: the inverse of [`log_snr`][].

        A log-SNR outside the range of the schedule has no time in [0, 1] and gives the nearest end.
        """

    def drift(self, t: Times) -> Array:
        """The coefficient $f$ of the forward SDE, in diffusion time."""
        return -self.alpha_rate(t) / self.alpha(t)

    def diffusion_squared(self, t: Times) -> Array:
        """$g^2$ of the forward SDE, in diffusion time. Both terms have the same sign, so nothing cancels."""
        variance = self.sigma(t) ** 2
        return 2 * variance * self.alpha_rate(t) / self.alpha(t) - self.variance_rate(t)

    def diffusion(self, t: Times) -> Array:
        """The coefficient $g$ of the forward SDE, in diffusion time."""
        return jnp.sqrt(self.diffusion_squared(t))

    def scales(self, t: Times, dtype: DType | None = None) -> Scales:
        """All scales and rates at `t` in one record, computed in the dtype of `t` and then cast to `dtype`."""
        record = Scales(
            alpha=self.alpha(t),
            sigma=self.sigma(t),
            alpha_rate=self.alpha_rate(t),
            sigma_rate=self.sigma_rate(t),
            variance_rate=self.variance_rate(t),
        )
        return record if dtype is None else jax.tree.map(operator.methodcaller("astype", dtype), record)


class AbstractSigmaSchedule(AbstractSchedule):
    r"""A schedule whose variance rate follows from $\sigma$ and $\dot\sigma$.

    Where $\dot\sigma$ is infinite and $\mathrm{d}\sigma^2 / \mathrm{d}t$ is not, derive from [`AbstractSchedule`][].
    """

    def variance_rate(self, t: Times) -> Array:
        return 2 * self.sigma(t) * self.sigma_rate(t)


def within_unit(t: Array) -> Array:
    """`t`, or the nearest of 0 and 1 outside [0, 1]; unlike that of `jnp.clip`, the derivative at 0 and 1 is one."""
    return jnp.where(t < 0, 0, jnp.where(t > 1, 1, t))

r"""One step of a Gaussian chain: $x_t = k\, x_s + (\alpha_t - k\, \alpha_s)\, D + \varsigma\, \xi$ (Song et al. 2021).

With the data prediction $D$ at the start $s$, $h = \lambda_t - \lambda_s$ and $\lambda = \log(\alpha / \sigma)$

$$k = \frac{\sigma_t}{\sigma_s} \sqrt{1 - \eta^2 \rho}, \qquad \varsigma = \sigma_t\, \eta \sqrt{\rho}, \qquad
\rho = 1 - e^{-2 h}.$$

$\eta = 0$ is DDIM. $\eta = 1$ is ancestral sampling, a draw of $q(x_t | x_s, x_1 = D)$: its variance
$\varsigma^2 = \sigma_t^2 (1 - e^{-2 h})$ is DDPM's $\tilde\beta$.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_shape, is_traced
from .._typing import Array, ArrayLike, Event, KeyArray, Scalar
from ..model import Converted
from ..prior import Gaussian, remove_centre
from ..schedule import Scales
from ..target import AbstractTarget


class Kernel(eqx.Module):
    """The coefficients of one step, all scalars."""

    keep: Array
    r"""$k$."""
    data: Array
    r"""$\alpha_t - k \alpha_s$."""
    std: Array
    r"""$\varsigma$."""

    def mean(self, x: Event, data: Event) -> Event:
        """The step without its noise."""
        return _times(self.keep, x) + _times(self.data, data)

    def mean_of_noise(self, x: Event, noise: Event, alpha: Array, sigma: Array) -> Event:
        """The same by a noise prediction; `alpha`, not zero, and `sigma` are the scales at the start."""
        ratio = self.data / alpha
        return _times(self.keep + ratio, x) - _times(sigma * ratio, noise)


def converted(output: Event, x: Event, scales: Scales, target: AbstractTarget) -> Converted:
    """A network's output as a prediction, for independent standard normal noise.

    **Arguments:**

    - `output`, `x`: an event each.
    - `scales`: at the time of `x`.
    - `target`: what the output is.

    **Returns:** a `Converted`.
    """
    return Converted(output, x, scales, target, Gaussian(x.shape, dtype=x.dtype), True)


def kernel(
    start: tuple[Array, Array], end: tuple[Array, Array], gap: Array, share: float | Array | None = None
) -> Kernel:
    r"""The coefficients of a step.

    **Arguments:**

    - `start`, `end`: $\alpha$ and $\sigma$ at the two times.
    - `gap`: $h$; infinite where the step starts at $\alpha = 0$ or ends at $\sigma = 0$.
    - `share`: $\eta^2$; None is zero, and has no noise to compute.

    **Returns:** [`Kernel`][].
    """
    (alpha0, sigma0), (alpha1, sigma1) = start, end
    keep, std = sigma1 / sigma0, jnp.zeros_like(sigma1)
    if share is not None:
        fresh = -jnp.asarray(share, keep.dtype) * jnp.expm1(-2 * gap)
        keep, std = keep * jnp.sqrt(1 - fresh), sigma1 * jnp.sqrt(fresh)
    return Kernel(keep, alpha1 - keep * alpha0, std)


def add_noise(
    mean: Event, std: Array, key: KeyArray | None, noise: Event | None, temperature: float | Array = 1.0
) -> Event:
    """The mean and noise of a standard deviation, from a key or given as standard normal numbers.

    **Arguments:**

    - `mean`: an event.
    - `std`: a scalar.
    - `key`, `noise`: one of the two, or `ValueError`; neither where `std` is seen to be zero.
    - `temperature`: a factor on the noise.

    **Returns:** an event.
    """
    if key is None and noise is None and not is_traced(std) and std == 0:
        return mean
    if (key is None) == (noise is None):
        raise ValueError("This step draws noise: pass key=, or noise= of standard normals like the event.")
    if noise is None:
        assert key is not None
        noise = jax.random.normal(key, mean.shape, mean.dtype)
    check_shape("noise", noise.shape, mean.shape)
    return mean + _times(std * temperature, noise.astype(mean.dtype))


def tidy(x: Event, mask: ArrayLike | None, centre: bool) -> Event:
    """Padding set to zero and, where asked for, the mean over the nodes that count removed.

    **Arguments:**

    - `x`: `(..., nodes, features)` where `mask` or `centre` is given.
    - `mask`: `(..., nodes)`, true or one for the nodes that count; all without.
    - `centre`: whether to remove the mean.

    **Returns:** an event. Where no node counts it is zero.
    """
    if mask is not None:
        check_shape("mask", jnp.shape(mask), x.shape[:-1])
    if centre:
        return remove_centre(x, mask)
    return x if mask is None else jnp.where(jnp.asarray(mask).astype(bool)[..., None], x, 0)


def check_positive_dt(dt: Scalar) -> None:
    """Raises `ValueError` for a concrete `dt` that is not positive."""
    if not is_traced(dt) and not float(dt) > 0:
        raise ValueError(f"dt must be positive: steps go from noise at t=0 to data at t=1; got dt={float(dt):g}.")


def move(x: Event, drift: Event, dt: Scalar) -> Event:
    """An Euler step.

    **Arguments:**

    - `x`, `drift`: events.
    - `dt`: a scalar.

    **Returns:** an event.
    """
    check_positive_dt(dt)
    return x + _times(jnp.asarray(dt), drift)


def diffuse(mean: Event, scale: Array, dt: Scalar, key: KeyArray | None, noise: Event | None) -> Event:
    """The mean and the noise of a Brownian increment over `dt` times a scale.

    **Arguments:**

    - `mean`: an event.
    - `scale`: a scalar.
    - `dt`: a scalar.
    - `key`, `noise`: one of the two, or `ValueError`.

    **Returns:** an event.
    """
    check_positive_dt(dt)
    return add_noise(mean, scale * jnp.sqrt(jnp.asarray(dt, scale.dtype)), key, noise)


def _times(coefficient: Array, x: Event) -> Event:
    """A scalar of the dtype of time on a state of its own dtype."""
    return coefficient.astype(x.dtype) * x

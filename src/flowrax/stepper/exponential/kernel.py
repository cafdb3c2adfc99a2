r"""One step of a Gaussian chain: $x_t = k\, x_s + (\alpha_t - k\, \alpha_s)\, D + \varsigma\, \xi$ (Song et al. 2021).

With the data prediction $D$ at the start $s$, $h = \lambda_t - \lambda_s$ and $\lambda = \log(\alpha / \sigma)$

$$k = \frac{\sigma_t}{\sigma_s} \sqrt{1 - \eta^2 \rho}, \qquad \varsigma = \sigma_t\, \eta \sqrt{\rho}, \qquad
\rho = 1 - e^{-2 h}.$$

$\eta = 0$ is DDIM. $\eta = 1$ is ancestral sampling, a draw of $q(x_t | x_s, x_1 = D)$: its variance
$\varsigma^2 = \sigma_t^2 (1 - e^{-2 h})$ is DDPM's $\tilde\beta$.
"""

import equinox as eqx
import jax.numpy as jnp

from ..._base import random
from ..._base.checks import check_shape, is_traced
from ..._base.typing import Array, ArrayLike, Event, KeyArray, Scalar
from ...model.prediction import AffinePrediction
from ...model.target import AbstractTarget
from ...prior import Gaussian, remove_centre
from ...schedule import Scales


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
        """The same from a noise prediction; `alpha` (not zero) and `sigma` are the scales at the start."""
        ratio = self.data / alpha
        return _times(self.keep + ratio, x) - _times(sigma * ratio, noise)


def converted(output: Event, x: Event, scales: Scales, target: AbstractTarget) -> AffinePrediction:
    """A network's output as a prediction, for independent standard normal noise.

    **Arguments:**

    - `output`, `x`: events of the same shape.
    - `scales`: the scales at the time of `x`.
    - `target`: the quantity that `output` represents.

    **Returns:** a `AffinePrediction`.
    """
    return AffinePrediction(output, x, scales, target, Gaussian(x.shape, dtype=x.dtype), True)


def kernel(
    start: tuple[Array, Array], end: tuple[Array, Array], gap: Array, share: float | Array | None = None
) -> Kernel:
    r"""The coefficients of a step.

    **Arguments:**

    - `start`, `end`: $\alpha$ and $\sigma$ at the two times.
    - `gap`: $h$; infinite where the step starts at $\alpha = 0$ or ends at $\sigma = 0$.
    - `share`: $\eta^2$. Default: None, for a step without noise.

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
    """The mean plus noise of a given standard deviation.

    **Arguments:**

    - `mean`: an event.
    - `std`: the standard deviation, a scalar.
    - `key`, `noise`: either a key or standard normal numbers of the shape of `mean`. Raises `ValueError` for both and
        for neither; where `std` is a concrete zero neither is needed.
    - `temperature`: a factor on the noise. Default: 1.

    **Returns:** an event.
    """
    if key is None and noise is None and not is_traced(std) and std == 0:
        return mean
    if (key is None) == (noise is None):
        raise ValueError(
            "This step draws noise: pass either key=, or noise= with standard normal numbers of the event's shape."
        )
    if noise is None:
        assert key is not None
        noise = random.normal(key, mean.shape, mean.dtype)
    check_shape("noise", noise.shape, mean.shape)
    return mean + _times(std * temperature, noise.astype(mean.dtype))


def tidy(x: Event, mask: ArrayLike | None, centre: bool) -> Event:
    """Sets padding to zero and, with `centre`, removes the mean over the nodes that count.

    **Arguments:**

    - `x`: an event; `(..., nodes, features)` if `mask` or `centre` is used.
    - `mask`: `(..., nodes)`, true or one for the nodes that count. Default: all nodes.
    - `centre`: whether to remove the mean.

    **Returns:** an event, zero where no node counts.
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
    """An Euler step, `x + drift * dt`.

    **Arguments:**

    - `x`, `drift`: events.
    - `dt`: a positive scalar. Raises `ValueError` for a concrete value that is not positive.

    **Returns:** an event.
    """
    check_positive_dt(dt)
    return x + _times(jnp.asarray(dt), drift)


def diffuse(mean: Event, scale: Array, dt: Scalar, key: KeyArray | None, noise: Event | None) -> Event:
    """The mean plus a scaled Brownian increment over `dt`.

    **Arguments:**

    - `mean`: an event.
    - `scale`: the factor on the increment, a scalar.
    - `dt`: a positive scalar.
    - `key`, `noise`: either a key or standard normal numbers of the shape of `mean`. Raises `ValueError` for both and
        for neither.

    **Returns:** an event.
    """
    check_positive_dt(dt)
    return add_noise(mean, scale * jnp.sqrt(jnp.asarray(dt, scale.dtype)), key, noise)


def _times(coefficient: Array, x: Event) -> Event:
    """A scalar coefficient, cast to the state's dtype, times the state."""
    return coefficient.astype(x.dtype) * x

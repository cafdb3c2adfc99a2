r"""The velocity of a path with a latent variable, learned from antithetic pairs (Albergo et al. 2023, section 6.1).

With $x^\pm = \alpha x_1 + \sigma x_0 \pm \gamma z$, $v = \dot\alpha x_1 + \dot\sigma x_0$ and $e^\pm = b(x^\pm) - v$

$$\tfrac12 \big(|e^+|^2 + |e^-|^2\big) - \dot\gamma\, z \cdot (e^+ - e^-)$$

is the mean squared error of the pair without the term $\dot\gamma^2 |z|^2$, which has no gradient and diverges where
$\dot\gamma$ does. The remaining terms are bounded, because $e^+ - e^-$ vanishes with $\gamma$.
"""

import jax
import jax.numpy as jnp

from .._base.checks import in_single
from .._base.typing import Array, Condition, Event, KeyArray, Scalar
from ..interpolant import Latent
from ..model.target import Velocity
from ..model.trained import Model
from ..times import AbstractTimes, Stratified
from .matching import AbstractLoss


class AntitheticMatching(AbstractLoss):
    """The velocity loss of a `Model(network, interpolant.Latent(...))`; it can be negative.

    Raises `ValueError` for another interpolant or target.

    **Reference:** [@albergo2023stochastic].
    """

    times: AbstractTimes = Stratified()

    def __call__(
        self, model: Model, t: Scalar, x0: Event, x1: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        path = model.interpolant
        if not isinstance(path, Latent) or not isinstance(model.target, Velocity):
            raise ValueError("Antithetic is for Velocity() models of interpolant.Latent; use Matching for others.")
        # Closer to an end than machine epsilon, the difference of the two errors would be rounding error alone.
        eps = float(jnp.finfo(x1.dtype).eps)
        t = jnp.clip(jnp.asarray(t), eps, 1 - eps)
        (start, z), scales = x0, model.schedule.scales(t, x1.dtype)
        conditional = scales.alpha_rate * x1 + scales.sigma_rate * start
        signs = jnp.asarray([1.0, -1.0], x1.dtype)

        def error(sign: Array) -> Event:
            x = path.interpolate(t, *in_single((jnp.stack([start, sign * z]), x1))).astype(x1.dtype)
            return model.output(t, x, condition, key=key) - conditional

        errors, z = in_single((jax.vmap(error)(signs), z))
        cross = path.gamma.rate(t).astype(z.dtype) * z * (errors[0] - errors[1])
        return jnp.mean(jnp.mean(errors**2, axis=0) - cross)

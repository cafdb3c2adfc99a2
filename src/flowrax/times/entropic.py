r"""Grids of time steps over which the entropy of the marginal changes by equal amounts.

Along a flow the entropy of the marginal changes at the rate $\dot H = \mathbb{E}[\nabla \cdot v(t, x_t)]$, which
follows from the continuity equation by integration by parts.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .._base import random
from .._base.typing import Array, Batch, Event, KeyArray, Scalar
from ..schedule import AbstractSchedule, Linear
from .plain_grids import rate_grid


def entropy_rate(
    velocity: Callable[[Scalar, Event], Event],
    x0: Batch,
    x1: Batch,
    key: KeyArray,
    schedule: AbstractSchedule | None = None,
) -> Callable[[Scalar], Array]:
    """A Monte Carlo estimate of the rate of change of the marginal entropy, as a function of time.

    **Arguments:**

    - `velocity`: `velocity(t, x)` for one event, for example `lambda t, x: model.predict(t, x).velocity`.
    - `x0`, `x1`: draws of noise and of data, `(n, *event)`, from which events on the path are computed.
    - `key`: random key for the Hutchinson estimator, which uses one Rademacher probe per draw, the same at all times.
    - `schedule`: the schedule of the path. Default: `Linear()`.

    **Returns:** a function from a scalar time to the rate in nats per unit of time.
    """
    path = Linear() if schedule is None else schedule
    probes = random.rademacher(key, x0.shape, x0.dtype)

    def rate(t: Scalar) -> Array:
        alpha, sigma = path.alpha(t).astype(x0.dtype), path.sigma(t).astype(x0.dtype)

        def divergence(x0: Event, x1: Event, probe: Event) -> Array:
            _, change = jax.jvp(lambda x: velocity(t, x), (alpha * x1 + sigma * x0,), (probe,))
            return jnp.sum(probe * change)

        return jnp.mean(jax.vmap(divergence)(x0, x1, probes))

    return rate


def entropic_grid(
    velocity: Callable[[Scalar, Event], Event],
    x0: Batch,
    x1: Batch,
    key: KeyArray,
    num_steps: int,
    *,
    schedule: AbstractSchedule | None = None,
    t_min: float = 0.0,
    t_max: float = 1.0,
    num_points: int = 129,
) -> Array:
    """A grid of times between which the entropy changes by equal amounts, up or down.

    The steps are short where the flow compresses or expands most.

    **Arguments:**

    - `velocity`, `x0`, `x1`, `key`, `schedule`: as in [`entropy_rate`][].
    - `num_steps`, `t_min`, `t_max`, `num_points`: as in [`rate_grid`][].

    **Returns:** times `(num_steps + 1,)`, from `t_min` to `t_max`.

    **Raises:** `ValueError` as in [`rate_grid`][].
    """
    return rate_grid(entropy_rate(velocity, x0, x1, key, schedule), num_steps, t_min, t_max, num_points)

r"""Steps over which the entropy of the samples changes by the same amount.

Along a flow the entropy of the marginal changes at the rate $\dot H = \mathbb{E}[\nabla \cdot v(t, x_t)]$: the
continuity equation, integrated by parts.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .._typing import Array, Batch, Event, KeyArray, Scalar
from ..schedule import AbstractSchedule, Linear
from .even import rate_grid


def entropy_rate(
    velocity: Callable[[Scalar, Event], Event],
    x0: Batch,
    x1: Batch,
    key: KeyArray,
    schedule: AbstractSchedule | None = None,
) -> Callable[[Scalar], Array]:
    """The rate at which the entropy of the marginals changes, as a function of time.

    **Arguments:**

    - `velocity`: `velocity(t, x)` of one event, as `lambda t, x: model.predict(t, x).velocity`.
    - `x0`, `x1`: draws of noise and of data, `(n, *event)`, that are joined to events on the path.
    - `key`: of one Rademacher probe per draw (Hutchinson), the same at all times.
    - `schedule`: of the path, [`Linear`][] without.

    **Returns:** a function of a scalar time to nats per unit of time.
    """
    path = Linear() if schedule is None else schedule
    probes = jax.random.rademacher(key, x0.shape, x0.dtype)

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
    """Times between which the entropy changes by the same amount, up or down: most steps where the flow does most.

    **Arguments:**

    - `velocity`, `x0`, `x1`, `key`, `schedule`: as of [`entropy_rate`][].
    - `num_steps`, `t_min`, `t_max`, `num_points`: as of [`rate_grid`][].

    **Returns:** `(num_steps + 1,)`, from `t_min` to `t_max`.
    """
    return rate_grid(entropy_rate(velocity, x0, x1, key, schedule), num_steps, t_min, t_max, num_points)

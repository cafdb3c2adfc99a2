r"""Mean flow: regress the average velocity $u(t, r, x_t)$ on a target computed from its own derivative.

Along the flow $(r - t)\, u = \int_t^r v\, \mathrm{d}s$. Differentiating with respect to $t$ at fixed $r$ gives

$$u = v + (r - t)\, \frac{\mathrm{d} u}{\mathrm{d} t}, \qquad
\frac{\mathrm{d} u}{\mathrm{d} t} = \partial_t u + v \cdot \nabla_x u.$$

The paper, whose time runs from data to noise so that $r \le t$, writes the factor as $-(t - r)$ (Geng et al. 2025,
eq. 6). The right-hand side, with the conditional velocity for $v$ and gradients stopped, is the regression target for
the left-hand side.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.arguments import Checked
from .._base.checks import check_interval, check_not_negative, check_number, check_positive, in_single
from .._base.typing import Array, Condition, Event, KeyArray, Scalar, Times
from ..model import average_velocity
from ..model.network import as_output
from ..model.trained import Model
from ..prior import project
from ..times import AbstractTimes, TimePairs
from .matching import AbstractLoss, ConditionDropout
from .reductions import AbstractReduction, Sum


class MeanFlowGuidance(eqx.Module, metaclass=Checked):
    r"""Trains the guided flow of classifier-free guidance directly, so that sampling needs one evaluation per step.

    The target uses $\omega\, v + \kappa\, u(t, t, x, c) + (1 - \omega - \kappa)\, u(t, t, x, \varnothing)$ in place of
    $v$ (Geng et al. 2025, eq. 20); the effective guidance scale is $\omega / (1 - \kappa)$.
    """

    scale: float
    mixture: float
    t_min: float
    t_max: float

    def __init__(self, scale: float, mixture: float = 0.0, *, t_min: float = 0.0, t_max: float = 1.0) -> None:
        r"""**Arguments:**

        - `scale`: the weight $\omega$ of the velocity $v$ of the interpolant.
        - `mixture`: the weight $\kappa$ of the network's conditional velocity.
        - `t_min`, `t_max`: the closed time interval with guidance. An interval $[a, b]$ of a time that runs from data
            to noise is $[1 - b, 1 - a]$ here.

        **Raises:** `ValueError` unless `0 <= t_min < t_max <= 1`.
        """
        check_interval(t_min, t_max)
        self.scale, self.mixture, self.t_min, self.t_max = float(scale), float(mixture), float(t_min), float(t_max)

    def __check_init__(self) -> None:
        check_number("scale", self.scale)
        check_number("mixture", self.mixture)

    def __call__(self, t: Scalar, velocity: Event, conditional: Event, unconditional: Event) -> Event:
        """The guided velocity if `t` is in the interval, otherwise `velocity`; all have the shape of an event."""
        rest = 1 - self.scale - self.mixture
        guided = self.scale * velocity + self.mixture * conditional + rest * unconditional
        return jnp.where((t >= self.t_min) & (t <= self.t_max), guided, velocity)


class MeanFlowMatching(AbstractLoss):
    r"""The mean-flow loss, for a [`Model`][] whose network is an average velocity (`AbstractAverageVelocity`).

    With $\Delta$ the error and $\ell = \lVert \Delta \rVert^2$ its reduction, the loss is $\ell\, \operatorname{sg}
    \big((\ell + \epsilon)^{-p}\big)$. For $p = 0$ it is the plain squared error; for $p = 1$ its value is always below
    one and is a poor measure of progress.

    For a sample whose condition is dropped, the target uses the plain velocity, without guidance.

    **Reference:** [@geng2025mean].
    """

    times: AbstractTimes
    condition_dropout: ConditionDropout | None
    guidance: MeanFlowGuidance | None
    reduction: AbstractReduction
    power: float
    epsilon: float

    def __init__(
        self,
        times: AbstractTimes | None = None,
        *,
        condition_dropout: ConditionDropout | None = None,
        guidance: MeanFlowGuidance | None = None,
        reduction: AbstractReduction | None = None,
        power: float = 1.0,
        epsilon: float = 1e-3,
    ) -> None:
        r"""**Arguments:**

        - `times`: the distribution of pairs $(t, r)$. Default: `TimePairs()`.
        - `condition_dropout`: drops the condition of each sample independently of its times. Default: no dropout.
        - `guidance`: replaces the velocity in the target by the guided velocity, with the null condition of
            `condition_dropout`. Default: no guidance.
        - `reduction`: the reduction of the squared error. Default: `Sum()`.
        - `power`, `epsilon`: $p$ and $\epsilon$ of the adaptive weight.

        **Raises:** `ValueError` for `guidance` without `condition_dropout`.
        """
        if guidance is not None and condition_dropout is None:
            raise ValueError(
                "guidance needs an unconditional velocity; pass condition_dropout=ConditionDropout(probability, null)."
            )
        self.times = TimePairs() if times is None else times
        self.condition_dropout, self.guidance = condition_dropout, guidance
        self.reduction = Sum() if reduction is None else reduction
        self.power, self.epsilon = power, epsilon

    def __check_init__(self) -> None:
        check_not_negative("power", self.power)
        check_positive("epsilon", self.epsilon)

    def __call__(
        self, model: Model, t: Times, x0: Event, x1: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        """The loss at `t`, `(2,)`: the time of the state and the time at which the average ends."""
        if jnp.shape(t) != (2,):
            raise ValueError(f"Mean flow needs a pair of times (t, r), got shape {jnp.shape(t)}; use times=Pairs().")
        now, end = jnp.asarray(t)
        output, target = self.output_and_target(model, now, end, x0, x1, condition, key=key)
        loss = self.reduction(output - target, condition)
        return loss * jax.lax.stop_gradient((loss + self.epsilon) ** -self.power)

    def output_and_target(
        self,
        model: Model,
        t: Scalar,
        r: Scalar,
        x0: Event,
        x1: Event,
        condition: Condition = None,
        *,
        key: KeyArray | None = None,
    ) -> tuple[Event, Event]:
        """The average velocity of the network and its target, without gradients, both of the shape of `x1`."""
        network = average_velocity(model)
        x = model.interpolant.interpolate(t, *in_single((x0, x1))).astype(x1.dtype)
        velocity = model.interpolant.velocity(t, *in_single((x0, x1))).astype(x1.dtype)
        dropped = jnp.zeros((), bool)
        if key is not None and self.condition_dropout is not None:
            key, dropout_key = jax.random.split(key)
            dropped = random.bernoulli(dropout_key, self.condition_dropout.probability)
        if self.guidance is not None and self.condition_dropout is not None:
            null = self.condition_dropout.null_of(condition)
            outputs = [as_output(network(t, x, c), x.dtype) for c in (condition, null)]
            guided = self.guidance(t, velocity, *outputs)
            velocity = jnp.where(dropped, velocity, guided)
        if self.condition_dropout is not None:
            condition = self.condition_dropout.dropped(condition, dropped)

        def average(t: Scalar, x: Event) -> Event:
            return project(model.prior, as_output(network.average(t, r, x, condition, key=key), x.dtype))

        velocity = jax.lax.stop_gradient(velocity)
        output, rate = jax.jvp(average, (t, x), (jnp.ones_like(t), velocity))
        return output, jax.lax.stop_gradient(velocity + jnp.asarray(r - t, x.dtype) * rate)

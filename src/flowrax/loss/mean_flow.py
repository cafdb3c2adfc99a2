r"""Mean flow: regress the average velocity $u(t, r, x_t)$ on what its own derivative says it is.

Along the flow $(r - t)\, u = \int_t^r v\, \mathrm{d}s$. The derivative in $t$, with $r$ held, gives for any time that
runs from noise to data

$$u = v + (r - t)\, \frac{\mathrm{d} u}{\mathrm{d} t}, \qquad
\frac{\mathrm{d} u}{\mathrm{d} t} = \partial_t u + v \cdot \nabla_x u,$$

where the paper, whose time runs from data to noise, has a minus (Geng et al. 2025, eq. 6). The right-hand side, with
the conditional velocity for $v$ and no gradient, is the target of the left.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import check_interval
from .._typing import Array, Condition, Event, KeyArray, Scalar, Times
from ..abstract import AbstractAverageVelocity
from ..model import Model
from ..preconditioner import Unscaled
from ..prior import project
from ..target import Velocity
from ..times import AbstractTimes, Pairs
from .matching import AbstractLoss, ConditionDropout
from .reductions import AbstractReduction, Sum


class MeanFlowGuidance(eqx.Module):
    r"""Trains the flow of classifier-free guidance itself, so that sampling needs one evaluation.

    In the target, $\omega\, v + \kappa\, u(t, t, x, c) + (1 - \omega - \kappa)\, u(t, t, x, \varnothing)$ stands for
    $v$ (Geng et al. 2025, eq. 20); the guidance in effect is $\omega / (1 - \kappa)$.
    """

    scale: float
    mixture: float
    t_min: float
    t_max: float

    def __init__(self, scale: float, mixture: float = 0.0, *, t_min: float = 0.0, t_max: float = 1.0) -> None:
        r"""**Arguments:**

        - `scale`: $\omega$.
        - `mixture`: $\kappa$, the part of the network's own conditional velocity.
        - `t_min`, `t_max`: where in time there is guidance, ends included. For a time that runs from data to noise
            these are one minus its ends, in the other order. Raises `ValueError` outside [0, 1].
        """
        check_interval(t_min, t_max)
        self.scale, self.mixture, self.t_min, self.t_max = float(scale), float(mixture), float(t_min), float(t_max)

    def __call__(self, t: Scalar, velocity: Event, conditional: Event, unconditional: Event) -> Event:
        """What stands for `velocity` at time `t`."""
        rest = 1 - self.scale - self.mixture
        guided = self.scale * velocity + self.mixture * conditional + rest * unconditional
        return jnp.where((t >= self.t_min) & (t <= self.t_max), guided, velocity)


class MeanFlowMatching(AbstractLoss):
    r"""The mean-flow loss, for a [`Model`][] whose network is an average velocity (`AbstractAverageVelocity`).

    With $\Delta$ the error and $\ell = \lVert \Delta \rVert^2$ its reduction, the loss is $\ell\, \operatorname{sg}
    \big((\ell + \epsilon)^{-p}\big)$. For $p = 0$ it is the plain square; for $p = 1$ its value is always below one and
    says little of progress.

    Where a condition was dropped, the target is the plain velocity, without guidance.

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

        - `times`: a law of pairs $(t, r)$, [`Pairs`][] without.
        - `condition_dropout`: drops the condition of each sample, whatever its times.
        - `guidance`: what stands for the velocity in the target; its unconditional part asks for the null condition of
            `condition_dropout`, without which it raises `ValueError`.
        - `reduction`: of the squared error, [`Sum`][] without.
        - `power`, `epsilon`: $p$ and $\epsilon$ of the adaptive weight.
        """
        if guidance is not None and condition_dropout is None:
            raise ValueError(
                "guidance needs an unconditional velocity; pass condition_dropout=ConditionDropout(probability, null)."
            )
        self.times = Pairs() if times is None else times
        self.condition_dropout, self.guidance = condition_dropout, guidance
        self.reduction = Sum() if reduction is None else reduction
        self.power, self.epsilon = power, epsilon

    def __call__(
        self, model: Model, t: Times, x0: Event, x1: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        """`t` is `(2,)`: where the event is, and where the average ends."""
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
        """The average velocity of the network and what it should be, both of the shape of `x1`; the latter constant."""
        network = average_velocity(model)
        x = model.interpolant.interpolate(t, x0, x1).astype(x1.dtype)
        velocity = model.interpolant.velocity(t, x0, x1).astype(x1.dtype)
        dropped = jnp.zeros((), bool)
        if key is not None and self.condition_dropout is not None:
            key, dropout_key = jax.random.split(key)
            dropped = jax.random.bernoulli(dropout_key, self.condition_dropout.probability)
        if self.guidance is not None and self.condition_dropout is not None:
            null = self.condition_dropout.null_of(condition)
            guided = self.guidance(t, velocity, network(t, x, condition), network(t, x, null))
            velocity = jnp.where(dropped, velocity, guided)
        if self.condition_dropout is not None:
            condition = self.condition_dropout.dropped(condition, dropped)

        def average(t: Scalar, x: Event) -> Event:
            return project(model.prior, network.average(t, r, x, condition, key=key))

        velocity = jax.lax.stop_gradient(velocity)
        output, rate = jax.jvp(average, (t, x), (jnp.ones_like(t), velocity))
        return output, jax.lax.stop_gradient(velocity + jnp.asarray(r - t, x.dtype) * rate)


def average_velocity(model: Model) -> AbstractAverageVelocity:
    """The network of a model of average velocity; raises `ValueError` for another model."""
    plain = isinstance(model.preconditioner, Unscaled) and isinstance(model.target, Velocity)
    if not isinstance(model.network, AbstractAverageVelocity) or not plain:
        raise ValueError(
            "The model has no average velocity; build it as Model(nn.AverageVelocity(network), schedule), with the "
            "target Velocity() and no preconditioner."
        )
    return model.network

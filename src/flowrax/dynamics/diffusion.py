r"""The named diffusion coefficients $w(t) \ge 0$ of $\mathrm{d}X = (v + w s)\, \mathrm{d}t + \sqrt{2 w}\, \mathrm{d}W$.

Every choice of $w$ gives the same marginals; it sets how much noise is added and how much drift balances it
(Ma et al. 2024, section 2.4).
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import check_instance, check_not_negative, check_number, check_positive
from .._base.typing import Array, Scalar, Times
from ..schedule import AbstractSchedule


class AbstractDiffusion(eqx.Module, metaclass=Checked):
    """A diffusion coefficient $w(t)$, which may depend on the schedule."""

    @abc.abstractmethod
    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        """`w(t)`, of the shape of `t`, in units of the data squared over time."""

    @abc.abstractmethod
    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        """Whether `w` is infinite at `t = 0`."""


class AbstractFiniteDiffusion(AbstractDiffusion):
    """A coefficient that is finite on all of $[0, 1]$."""

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return False


class SBDM(AbstractDiffusion):
    r"""$w = c\, g^2 / 2$; $c = 1$ is Anderson's reversal of the forward SDE (Song et al. 2021, eq. 6)."""

    scale: float = 1.0

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale / 2 * schedule.diffusion_squared(t)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return 0.0 in schedule.singularities.forward_sde


class Constant(AbstractFiniteDiffusion):
    """$w = c$."""

    scale: float = 1.0

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return jnp.full_like(t, self.scale)


class Sigma(AbstractFiniteDiffusion):
    r"""$w = c\, \sigma(t)$."""

    scale: float = 1.0

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale * schedule.sigma(t)


class LinearDecay(AbstractFiniteDiffusion):
    """$w = c (1 - t)$."""

    scale: float = 1.0

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale * (1 - jnp.asarray(t))


class QuadraticDecay(AbstractFiniteDiffusion):
    """$w = c (1 - t)^2$."""

    scale: float = 1.0

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale * (1 - jnp.asarray(t)) ** 2


class CosineDecay(AbstractFiniteDiffusion):
    r"""$w = \tfrac14 (c \cos \pi t + 1)^2$ ("decreasing" in SiT)."""

    scale: float = 1.0

    def __check_init__(self) -> None:
        check_number("scale", self.scale)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return 0.25 * (self.scale * jnp.cos(jnp.pi * jnp.asarray(t)) + 1) ** 2


class Parabola(AbstractFiniteDiffusion):
    r"""$w = 4 c\, t (1 - t)$."""

    scale: float = 1.0

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        t = jnp.asarray(t)
        return 4 * self.scale * t * (1 - t)


class SinePulse(AbstractFiniteDiffusion):
    r"""$w = c \sin^2 \pi t$ ("increasing-decreasing" in SiT)."""

    scale: float = 1.0

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale * jnp.sin(jnp.pi * jnp.asarray(t)) ** 2


class LinearGrowth(AbstractFiniteDiffusion):
    """$w = c t$."""

    scale: float = 1.0

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale * jnp.asarray(t)


class RaisedSine(AbstractFiniteDiffusion):
    r"""$w = \tfrac14 (c \sin \pi t + 1)^2$: 1/4 at both ends, largest at $t = 1/2$ for $c > 0$."""

    scale: float = 1.0

    def __check_init__(self) -> None:
        check_number("scale", self.scale)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return 0.25 * (self.scale * jnp.sin(jnp.pi * jnp.asarray(t)) + 1) ** 2


class Odds(AbstractDiffusion):
    r"""$w = c \frac{1 - t}{t + \epsilon}$.

    With offset $\epsilon = 0$ it equals [`SBDM`][] on the [`Linear`][] schedule.
    """

    scale: float = 1.0
    offset: float = 0.01

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)
        check_not_negative("offset", self.offset)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        t = jnp.asarray(t)
        return self.scale * (1 - t) / (t + self.offset)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.offset == 0


class Cotangent(AbstractDiffusion):
    r"""$w = c\, \frac{\pi}{2} \frac{\cos (\pi t / 2)}{\sin (\pi t / 2) + \epsilon}$.

    With offset $\epsilon = 0$ it equals [`SBDM`][] on the [`Cosine`][] schedule.
    """

    scale: float = 1.0
    offset: float = 0.01

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)
        check_not_negative("offset", self.offset)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        quarter, t = jnp.pi / 2, jnp.asarray(t)
        return self.scale * quarter * jnp.sin(quarter * (1 - t)) / (jnp.sin(quarter * t) + self.offset)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.offset == 0


class InversePower(AbstractDiffusion):
    r"""$w = c / (t^p + \epsilon)$."""

    power: float = 1.0
    scale: float = 1.0
    offset: float = 0.01

    def __check_init__(self) -> None:
        check_not_negative("power", self.power)
        check_not_negative("scale", self.scale)
        check_not_negative("offset", self.offset)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale / (jnp.asarray(t) ** self.power + self.offset)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.offset == 0


class Scaled(AbstractDiffusion):
    """Another coefficient, multiplied by a constant factor."""

    diffusion: AbstractDiffusion
    factor: float

    def __check_init__(self) -> None:
        check_not_negative("factor", self.factor)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.factor * self.diffusion(schedule, t)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.diffusion.is_singular_at_start(schedule)


class Capped(AbstractFiniteDiffusion):
    """Another coefficient, clipped at a maximum."""

    diffusion: AbstractDiffusion
    maximum: float

    def __check_init__(self) -> None:
        check_not_negative("maximum", self.maximum, infinite=True)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return jnp.minimum(self.diffusion(schedule, t), self.maximum)


class SigmoidPower(AbstractDiffusion):
    r"""$\log w' = m + \operatorname{logit}\big(\operatorname{sigmoid}(\log w - m)^p\big)$ for another coefficient $w$.

    For $p > 1$, values far below $e^m$ fall off as $w^p$, and values far above it are divided by $p$ (Geffner et al.
    2025, appendix on $g(t)$). A natural choice of the level $m$ is the mean of $\log w$ over the times of a run.
    """

    diffusion: AbstractDiffusion
    power: float
    centre: float | None = None
    r"""The level $m$. None sets $m = \log w(t)$ at each time, which divides $w$ by $2^p - 1$."""

    def __check_init__(self) -> None:
        check_positive("power", self.power)
        check_number("centre", self.centre)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        w = self.diffusion(schedule, t)
        if self.centre is None:
            return w / (2.0**self.power - 1)
        log_sigmoid = -self.power * jnp.logaddexp(0.0, self.centre - jnp.log(w))
        return jnp.exp(self.centre + log_sigmoid - jnp.log(-jnp.expm1(log_sigmoid)))

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.diffusion.is_singular_at_start(schedule)


class Custom(AbstractDiffusion):
    """Any function $w(t)$ of the time, in units of the data squared over time."""

    function: Callable[[Scalar], Array]
    singular_at_start: bool = eqx.field(static=True, default=False)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return jnp.asarray(self.function(jnp.asarray(t)))

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.singular_at_start


def as_diffusion(diffusion: AbstractDiffusion | Callable[[Scalar], Array]) -> AbstractDiffusion:
    """Wraps a function of the time in [`Custom`][]; returns a coefficient unchanged.

    **Arguments:**

    - `diffusion`: a coefficient, or a function of the time.

    **Returns:** an [`AbstractDiffusion`][].
    """
    if isinstance(diffusion, type) or not callable(diffusion):
        check_instance("diffusion", diffusion, AbstractDiffusion)
    return diffusion if isinstance(diffusion, AbstractDiffusion) else Custom(diffusion)

r"""The named diffusion coefficients $w(t) \ge 0$ of $\mathrm{d}X = (v + w s)\, \mathrm{d}t + \sqrt{2 w}\, \mathrm{d}W$.

Every one of them keeps the marginals; they trade noise against drift (Ma et al. 2024, section 2.4).
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp

from .._checks import check_not_negative
from .._typing import Array, Scalar, Times
from ..schedule import AbstractSchedule


class AbstractDiffusion(eqx.Module):
    """A diffusion coefficient."""

    @abc.abstractmethod
    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        """`w(t)`, in units of the data squared over time."""

    @abc.abstractmethod
    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        """Whether it is infinite at `t = 0`."""


class SBDM(AbstractDiffusion):
    r"""$w = c\\, g^2 / 2$: with $c = 1$ Anderson's reverse of the forward SDE (Song et al. 2021, eq. 6)."""

    scale: float = 1.0

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale / 2 * schedule.diffusion_squared(t)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return schedule.is_singular("diffusion", 0.0)


class Constant(AbstractDiffusion):
    """$w = c$."""

    scale: float = 1.0

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return jnp.full_like(t, self.scale)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return False


class Sigma(AbstractDiffusion):
    r"""$w = c\, \sigma(t)$."""

    scale: float = 1.0

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale * schedule.sigma(t)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return False


class LinearDecay(AbstractDiffusion):
    """$w = c (1 - t)$."""

    scale: float = 1.0

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale * (1 - jnp.asarray(t))

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return False


class QuadraticDecay(AbstractDiffusion):
    """$w = c (1 - t)^2$."""

    scale: float = 1.0

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale * (1 - jnp.asarray(t)) ** 2

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return False


class CosineDecay(AbstractDiffusion):
    r"""$w = \tfrac14 (c \cos \pi t + 1)^2$ (SiT's "decreasing")."""

    scale: float = 1.0

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return 0.25 * (self.scale * jnp.cos(jnp.pi * jnp.asarray(t)) + 1) ** 2

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return False


class Parabola(AbstractDiffusion):
    r"""$w = 4 c\\, t (1 - t)$."""

    scale: float = 1.0

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        t = jnp.asarray(t)
        return 4 * self.scale * t * (1 - t)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return False


class SineBump(AbstractDiffusion):
    r"""$w = c \sin^2 \pi t$ (SiT's "increasing-decreasing")."""

    scale: float = 1.0

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale * jnp.sin(jnp.pi * jnp.asarray(t)) ** 2

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return False


class LinearGrowth(AbstractDiffusion):
    """$w = c t$."""

    scale: float = 1.0

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale * jnp.asarray(t)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return False


class SineHump(AbstractDiffusion):
    r"""$w = \tfrac14 (c \sin \pi t + 1)^2$: at least 1/4, most in the middle."""

    scale: float = 1.0

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return 0.25 * (self.scale * jnp.sin(jnp.pi * jnp.asarray(t)) + 1) ** 2

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return False


class Odds(AbstractDiffusion):
    r"""$w = c \frac{1 - t}{t + \epsilon}$: without the offset $\epsilon$ that of [`SBDM`][] for [`Linear`][]."""

    scale: float = 1.0
    offset: float = 0.01

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        t = jnp.asarray(t)
        return self.scale * (1 - t) / (t + self.offset)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.offset == 0


class Cotangent(AbstractDiffusion):
    r"""$w = c\, \frac{\pi}{2} \frac{\cos (\pi t / 2)}{\sin (\pi t / 2) + \epsilon}$.

    Without the offset $\epsilon$ that of [`SBDM`][] for [`Cosine`][].
    """

    scale: float = 1.0
    offset: float = 0.01

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

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.scale / (jnp.asarray(t) ** self.power + self.offset)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.offset == 0


class Scaled(AbstractDiffusion):
    """A factor times another coefficient."""

    diffusion: AbstractDiffusion
    factor: float

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return self.factor * self.diffusion(schedule, t)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.diffusion.is_singular_at_start(schedule)


class Capped(AbstractDiffusion):
    """Another coefficient, no larger than a maximum."""

    diffusion: AbstractDiffusion
    maximum: float

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return jnp.minimum(self.diffusion(schedule, t), self.maximum)

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return False


class SigmoidPower(AbstractDiffusion):
    r"""$\log w' = m + \operatorname{logit}\big(\operatorname{sigmoid}(\log w - m)^p\big)$ of another coefficient $w$.

    For $p > 1$ small values fall faster, as $w^p$, and large ones by the factor $1 / p$ (Geffner et al. 2025, appendix
    on $g(t)$). $m$ is the level about which it turns: the mean of $\log w$ over the times of a run, say.
    """

    diffusion: AbstractDiffusion
    power: float
    centre: float | None = None
    """$m$; None takes it at each time from $w$ itself, which divides $w$ by $2^p - 1$."""

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        w = self.diffusion(schedule, t)
        if self.centre is None:
            return w / (2.0**self.power - 1)
        log_sigmoid = -self.power * jnp.logaddexp(0.0, self.centre - jnp.log(w))
        return jnp.exp(self.centre + log_sigmoid - jnp.log(-jnp.expm1(log_sigmoid)))

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.diffusion.is_singular_at_start(schedule)


class Custom(AbstractDiffusion):
    """Any function of the time, in units of the data squared over time."""

    function: Callable[[Scalar], Array]
    singular_at_start: bool = eqx.field(static=True, default=False)

    def __call__(self, schedule: AbstractSchedule, t: Times) -> Array:
        return jnp.asarray(self.function(jnp.asarray(t)))

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.singular_at_start


def as_diffusion(diffusion: AbstractDiffusion | Callable[[Scalar], Array]) -> AbstractDiffusion:
    """A coefficient as it is, and a function of the time as [`Custom`][].

    **Arguments:**

    - `diffusion`: either.

    **Returns:** an [`AbstractDiffusion`][].
    """
    return diffusion if isinstance(diffusion, AbstractDiffusion) else Custom(diffusion)

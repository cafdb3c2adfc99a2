r"""The named diffusion coefficients $w(t) \ge 0$ of $\mathrm{d}X = (v + w s)\, \mathrm{d}t + \sqrt{2 w}\, \mathrm{d}W$.

Every one of them keeps the marginals; they trade noise against drift (Ma et al. 2024, section 2.4).
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from .._typing import Array, Times
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

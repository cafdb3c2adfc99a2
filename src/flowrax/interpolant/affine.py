r"""$x_t = \alpha(t)\, x_1 + \sigma(t)\, x_0$, with the conditional velocity $\dot\alpha\, x_1 + \dot\sigma\, x_0$."""

from typing import ClassVar

from .._base.typing import Event, KeyArray, Times
from ..schedule import AbstractSchedule
from .base import AbstractInterpolant


class Affine(AbstractInterpolant):
    """The affine path between noise and data that a schedule defines."""

    schedule: AbstractSchedule
    gamma: ClassVar[None] = None

    def noise(self, key: KeyArray, x0: Event) -> Event:
        return x0

    def interpolate(self, t: Times, x0: Event, x1: Event) -> Event:
        alpha, sigma = (scale.astype(x1.dtype) for scale in (self.schedule.alpha(t), self.schedule.sigma(t)))
        return alpha * x1 + sigma * x0

    def velocity(self, t: Times, x0: Event, x1: Event) -> Event:
        alpha_rate, sigma_rate = self.schedule.alpha_rate(t), self.schedule.sigma_rate(t)
        return alpha_rate.astype(x1.dtype) * x1 + sigma_rate.astype(x1.dtype) * x0

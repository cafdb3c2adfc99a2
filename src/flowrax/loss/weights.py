r"""Weights of a matching loss, each a factor on the squared error of the model's own target.

A weight $\omega$ that the literature puts on the error $e'$ of another prediction is carried over by the gains of the
two targets, $\omega\, \lVert e' \rVert^2 = \omega\, (\gamma' / \gamma)^2 \lVert e \rVert^2$: one objective for all.
"""

import abc

import equinox as eqx
import jax.numpy as jnp

from .._typing import Array, Scalar
from ..schedule import AbstractSchedule, Scales
from ..target import AbstractTarget, Score


class AbstractWeight(eqx.Module):
    """A weight of the loss at time `t`."""

    @abc.abstractmethod
    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Scalar, s: Scales) -> Array:
        """The factor on the squared error of `target` at time `t`, where the scales are `s`."""


class Uniform(AbstractWeight):
    """One, on the error of the model's target, whatever that is."""

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Scalar, s: Scales) -> Array:
        return jnp.ones_like(s.alpha)


class SNR(AbstractWeight):
    r"""$\alpha^2 / \sigma^2$ on the data error, which is one on the noise error (Ho et al. 2020, eq. 14)."""

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Scalar, s: Scales) -> Array:
        return (s.alpha / (s.sigma * target.gain(s))) ** 2


class MinSNR(AbstractWeight):
    r"""$\min(\alpha^2 / \sigma^2, \gamma)$ on the data error (Hang et al. 2023, section 3.4)."""

    gamma: float = 5.0

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Scalar, s: Scales) -> Array:
        return jnp.minimum((s.alpha / s.sigma) ** 2, self.gamma) / target.gain(s) ** 2


class EDM(AbstractWeight):
    r"""$(\tilde\sigma^2 + \sigma_d^2) / (\tilde\sigma \sigma_d)^2$ on the data error, $\tilde\sigma = \sigma / \alpha$
    (Karras et al. 2022, table 1).
    """

    sigma_data: float = 0.5

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Scalar, s: Scales) -> Array:
        precision = (s.alpha / s.sigma) ** 2 + 1 / self.sigma_data**2
        return precision / target.gain(s) ** 2


class Likelihood(AbstractWeight):
    """$g^2$ on the score error: half its mean bounds the divergence from the data (Song et al. 2021b, theorem 1)."""

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Scalar, s: Scales) -> Array:
        ratio = Score().gain(s) / target.gain(s)
        return schedule.diffusion_squared(t).astype(ratio.dtype) * ratio**2

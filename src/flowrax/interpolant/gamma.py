r"""The scale $\gamma(t) \ge 0$ of the latent of a two-sided path (Albergo et al. 2023, section 2 and table 2)."""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import check_positive
from .._base.typing import Array, Times


class AbstractGamma(eqx.Module, metaclass=Checked):
    r"""The scale $\gamma$ of the latent, a function of time."""

    vanishes: eqx.AbstractClassVar[bool]
    r"""Whether $\gamma$ is zero at both ends, so that the path connects the two data sets without blurring them."""

    @abc.abstractmethod
    def __call__(self, t: Times) -> Array:
        r"""$\gamma(t)$, elementwise."""

    @abc.abstractmethod
    def rate(self, t: Times) -> Array:
        r"""$\dot\gamma(t)$, which may be infinite at the ends."""


class Brownian(AbstractGamma):
    r"""$\gamma = s \sqrt{t (1 - t)}$, as in a Brownian bridge with diffusion $s$. The rate is infinite at both ends."""

    scale: float = 1.0
    vanishes: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_positive("scale", self.scale)

    def __call__(self, t: Times) -> Array:
        t = jnp.asarray(t)
        return self.scale * jnp.sqrt(t * (1 - t))

    def rate(self, t: Times) -> Array:
        t = jnp.asarray(t)
        return self.scale * (1 - 2 * t) / (2 * jnp.sqrt(t * (1 - t)))


class Quadratic(AbstractGamma):
    r"""$\gamma = s\, t (1 - t)$."""

    scale: float = 1.0
    vanishes: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_positive("scale", self.scale)

    def __call__(self, t: Times) -> Array:
        t = jnp.asarray(t)
        return self.scale * t * (1 - t)

    def rate(self, t: Times) -> Array:
        return self.scale * (1 - 2 * jnp.asarray(t))


class SineSquared(AbstractGamma):
    r"""$\gamma = s \sin^2 \pi t$."""

    scale: float = 1.0
    vanishes: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_positive("scale", self.scale)

    def __call__(self, t: Times) -> Array:
        return self.scale * jnp.sin(jnp.pi * jnp.asarray(t)) ** 2

    def rate(self, t: Times) -> Array:
        return self.scale * jnp.pi * jnp.sin(2 * jnp.pi * jnp.asarray(t))


class ConstantGamma(AbstractGamma):
    r"""$\gamma = s$: both ends are blurred, as in the conditional flow matching of torchcfm (Tong et al. 2024)."""

    scale: float = 1.0
    vanishes: ClassVar[bool] = False

    def __check_init__(self) -> None:
        check_positive("scale", self.scale)

    def __call__(self, t: Times) -> Array:
        return jnp.full_like(t, self.scale)

    def rate(self, t: Times) -> Array:
        return jnp.zeros_like(t)

r"""Masking schedules: $\alpha(t)$ is the probability that a token is not masked. At $t = 0$ (almost) all are masked.

In diffusion time $s = 1 - t$ tokens are masked at the rate $\dot\sigma(s)$, so $\alpha = e^{-\sigma}$ with the total
noise $\sigma(s)$ (Sahoo et al. 2024, section 3.1). In the reverse process a mask is removed at the rate

$$\frac{\dot\alpha}{1 - \alpha} = \frac{\dot\sigma(s)}{e^{\sigma} - 1},$$

which is also the weight of the cross-entropy in the continuous-time bound (their eq. 10).
"""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.arguments import Checked
from .._base.checks import check_positive
from .._base.typing import Array, Times
from ..schedule import DiscreteSchedule, Tabulated
from ..schedule.base import within_unit
from ..schedule.straight import lost_power, power


class AbstractMasking(eqx.Module, metaclass=Checked):
    """Maps time to the probability that a token is masked. Every method is elementwise in `t`."""

    eps: eqx.AbstractVar[float]
    """The probability that a token is not masked at `t = 0`."""

    @abc.abstractmethod
    def alpha(self, t: Times) -> Array:
        """The probability that a token is not masked, increasing from `eps` to 1."""

    @abc.abstractmethod
    def alpha_rate(self, t: Times) -> Array:
        r"""$\dot\alpha$, with respect to `t`."""

    @abc.abstractmethod
    def mask_probability(self, t: Times) -> Array:
        r"""$1 - \alpha$, computed without cancellation near $t = 1$."""

    @abc.abstractmethod
    def time_at(self, alpha: Times) -> Array:
        """The time at which a token is unmasked with probability `alpha`: the inverse of `alpha`.

        A probability that the schedule does not reach gives the nearest end of [0, 1].
        """

    def total_noise(self, t: Times) -> Array:
        r"""The total noise $\sigma = -\log \alpha$; infinite at `t = 0` if `eps` is zero."""
        return -jnp.log1p(-self.mask_probability(t))

    def noise_rate(self, t: Times) -> Array:
        r"""The masking rate in diffusion time, $\mathrm{d}\sigma / \mathrm{d}s = \dot\alpha / \alpha$."""
        return self.alpha_rate(t) / self.alpha(t)

    def unmask_rate(self, t: Times) -> Array:
        r"""The rate at which masks are removed, $\dot\alpha / (1 - \alpha)$: the loss weight; infinite at `t = 1`."""
        return self.alpha_rate(t) / self.mask_probability(t)


def _check_eps(eps: float) -> float:
    if not 0 <= eps < 1:
        raise ValueError(f"eps must lie in [0, 1); got {eps}.")
    return float(eps)


class LogLinearMasking(AbstractMasking):
    r"""$\alpha = \epsilon + (1 - \epsilon)\, t$: the total noise is $-\log (1 - (1 - \epsilon) s)$.

    **Reference:** [@sahoo2024simple].
    """

    eps: float = eqx.field(default=1e-3, converter=_check_eps)
    """The probability that a token is not masked at `t = 0`. Raises `ValueError` outside [0, 1)."""

    def alpha(self, t: Times) -> Array:
        return self.eps + (1 - self.eps) * jnp.asarray(t)

    def alpha_rate(self, t: Times) -> Array:
        return jnp.full_like(t, 1 - self.eps)

    def mask_probability(self, t: Times) -> Array:
        return (1 - self.eps) * (1 - jnp.asarray(t))

    def time_at(self, alpha: Times) -> Array:
        return within_unit((jnp.asarray(alpha) - self.eps) / (1 - self.eps))


class CosineMasking(AbstractMasking):
    r"""$\alpha = \epsilon + (1 - \epsilon) \sin(\pi t / 2)$, the cosine in diffusion time.

    **Reference:** [@chang2022maskgit].
    """

    eps: float = eqx.field(default=1e-3, converter=_check_eps)
    """The probability that a token is not masked at `t = 0`. Raises `ValueError` outside [0, 1)."""

    def alpha(self, t: Times) -> Array:
        return self.eps + (1 - self.eps) * jnp.sin(_QUARTER * jnp.asarray(t))

    def alpha_rate(self, t: Times) -> Array:
        return _QUARTER * (1 - self.eps) * jnp.sin(_QUARTER * (1 - jnp.asarray(t)))

    def mask_probability(self, t: Times) -> Array:
        return 2 * (1 - self.eps) * jnp.sin(_QUARTER / 2 * (1 - jnp.asarray(t))) ** 2

    def time_at(self, alpha: Times) -> Array:
        # Through the mask probability and the sine of half the angle, which is accurate at both ends.
        masked = (1 - jnp.asarray(alpha)) / (2 * (1 - self.eps))
        return within_unit(1 - 2 / _QUARTER * jnp.arcsin(jnp.sqrt(within_unit(masked))))


_QUARTER = math.pi / 2


class PolynomialMasking(AbstractMasking):
    r"""$\alpha = t^n$: discrete flow matching with the scheduler $\kappa = t^n$ (Gat et al. 2024, section 3).

    **Reference:** [@gat2024discrete].
    """

    exponent: float
    eps: float = eqx.field(static=True, default=0.0)

    def __init__(self, exponent: float = 2.0):
        """**Arguments:**

        - `exponent`: $n$. Raises `ValueError` below 1, where the rate would be infinite at `t = 0`.
        """
        if not exponent >= 1:
            raise ValueError(f"exponent must be at least 1; got {exponent}.")
        self.exponent = float(exponent)

    def __check_init__(self) -> None:
        check_positive("exponent", self.exponent)

    def alpha(self, t: Times) -> Array:
        return power(jnp.asarray(t), self.exponent)

    def alpha_rate(self, t: Times) -> Array:
        return self.exponent * power(jnp.asarray(t), self.exponent - 1)

    def mask_probability(self, t: Times) -> Array:
        return lost_power(1 - jnp.asarray(t), self.exponent)

    def time_at(self, alpha: Times) -> Array:
        return within_unit(jnp.asarray(alpha)) ** (1 / self.exponent)


class TabulatedMasking(AbstractMasking):
    r"""$\alpha = \bar\alpha_i$ at the time of index `i` of a chain, as in D3PM with absorbing or uniform noise.

    As in [`Tabulated`][], the rate is constant within each step. A time that agrees with the time of an index up to
    rounding gives that index's $\bar\alpha$ exactly, in any precision. `sample(grid=table.num_steps)` takes the steps
    of the chain.
    """

    table: DiscreteSchedule = eqx.field(static=True)

    def __init__(self, table: DiscreteSchedule):
        """**Arguments:**

        - `table`: the rates of the chain.
        """
        self.table = table

    @property
    def eps(self) -> float:
        return float(np.exp(self._logs()[-1]))

    def _logs(self) -> np.ndarray:
        r"""$\log \bar\alpha$, from clean data to the last index."""
        return np.concatenate([[0.0], np.cumsum(np.log1p(-np.asarray(self.table.rates)))])

    def _place(self, t: Times) -> tuple[Array, Array]:
        """The number of completed steps at `t`, and the integrated rate within the current step."""
        u = (1 - jnp.asarray(t)) * self.table.num_steps
        near = jnp.round(u)
        close = jnp.abs(u - near) <= 4 * self.table.num_steps * jnp.finfo(u.dtype).eps
        # The correction is a constant, so it does not change the derivative.
        u = u + jax.lax.stop_gradient(jnp.where(close, near - u, 0))
        passed = jnp.clip(jnp.floor(u), 0, self.table.num_steps)
        steps = passed.astype(jnp.int32)
        rates = np.append(-np.diff(self._logs()), 0.0)
        return steps, jnp.asarray(rates, u.dtype)[steps] * (u - passed)

    def alpha(self, t: Times) -> Array:
        steps, begun = self._place(t)
        return jnp.asarray(np.exp(self._logs()), begun.dtype)[steps] * jnp.exp(-begun)

    def alpha_rate(self, t: Times) -> Array:
        return Tabulated(self.table).rate(t) * self.alpha(t)

    def mask_probability(self, t: Times) -> Array:
        steps, begun = self._place(t)
        kept, lost = (jnp.asarray(v, begun.dtype)[steps] for v in (np.exp(self._logs()), -np.expm1(self._logs())))
        return lost - kept * jnp.expm1(-begun)

    def time_at(self, alpha: Times) -> Array:
        return Tabulated(self.table).time_at_integral(-jnp.log(jnp.asarray(alpha)))

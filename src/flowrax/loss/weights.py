r"""Weights of a matching loss, each a factor on the squared error of the model's own target; `a * b` is a product.

A weight $\omega$ that the literature applies to the error $e'$ of another prediction is converted with the gains
$\gamma$ and $\gamma'$ of the two targets, $\omega\, \lVert e' \rVert^2 = \omega\, (\gamma' / \gamma)^2 \lVert e
\rVert^2$, so the objective is the same for every target.

The gains assume white noise. With a prior of covariance $C$ the score error is $C^{-1}$ times the error that the gains
imply. A weight that converts from a score error (`Likelihood`, `MeasuredIn(Score())`), or any converted weight on a
score target (such as `SNR`), therefore weights all directions as if $C = I$.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import check_not_negative, check_positive, check_time
from .._base.typing import Array, Times
from ..model.target import AbstractTarget, Noise, Score
from ..schedule import AbstractSchedule, Scales


class AbstractWeight(eqx.Module, metaclass=Checked):
    """A weight of the loss at time `t`."""

    @abc.abstractmethod
    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Times, s: Scales) -> Array:
        """The factor on the squared error of `target`, elementwise in `t`; `s` are the scales at `t`."""

    def __mul__(self, other: "AbstractWeight") -> "Product":
        return Product(self, other)


class Product(AbstractWeight):
    """The product of two weights. At most one of them should be defined on the error of another target."""

    first: AbstractWeight
    second: AbstractWeight

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Times, s: Scales) -> Array:
        return self.first(target, schedule, t, s) * self.second(target, schedule, t, s)


class UniformWeight(AbstractWeight):
    """Weight one on the error of the model's own target."""

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Times, s: Scales) -> Array:
        return jnp.ones_like(s.alpha)


class MeasuredIn(AbstractWeight):
    r"""Weight one on the error of another target: the network predicts one quantity and the loss measures another.

    The weight is $(\gamma' / \gamma)^2$, with the gain $\gamma'$ of the measured target and $\gamma$ of the model's
    target. A data prediction with `MeasuredIn(Velocity())` is trained as a flow: for the linear schedule, the squared
    data error is divided by $(1 - t)^2$. On a noise prediction, `MeasuredIn(Data())` is the weight 1/SNR; on a data
    prediction, `MeasuredIn(Noise())` is the SNR.
    """

    measured: AbstractTarget

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Times, s: Scales) -> Array:
        if type(self.measured) is type(target):
            # Return one even where both gains are infinite.
            return jnp.ones_like(s.alpha)
        return (self.measured.gain(s) / target.gain(s)) ** 2


class TimeWeight(AbstractWeight):
    """Any function of time, as a weight on the error of the model's own target."""

    function: Callable[[Times], Array]

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Times, s: Scales) -> Array:
        return jnp.asarray(self.function(t)).astype(s.alpha.dtype)


class Decay(eqx.Module, metaclass=Checked):
    r"""$c(t) = m \min(1, (1 - t) / (1 - t_c))$: constant up to the cutoff, then linear to zero.

    With `cutoff=0` it is linear throughout. Any other function of time can be used in its place.
    """

    cutoff: float
    multiplier: float

    def __init__(self, cutoff: float = 0.8, multiplier: float = 4.0) -> None:
        """**Arguments:**

        - `cutoff`: the time $t_c$, in [0, 1).
        - `multiplier`: the factor $m$.

        **Raises:** `ValueError` for a `cutoff` outside [0, 1).
        """
        if check_time("cutoff", cutoff) == 1:
            raise ValueError("cutoff=1 never decays; use a constant, which is weight=Uniform() or decay=lambda t: m.")
        self.cutoff, self.multiplier = float(cutoff), float(multiplier)

    def __check_init__(self) -> None:
        check_not_negative("multiplier", self.multiplier)

    def __call__(self, t: Times) -> Array:
        return self.multiplier * jnp.minimum(1, (1 - jnp.asarray(t)) / (1 - self.cutoff))


class Truncated(AbstractWeight):
    r"""$\min(1, (1 - t) / (1 - t_c))$ on the error of the model's own target: one up to the cutoff, zero at the data.

    The weight used in energy matching and equilibrium matching (Balcerak et al. 2025; Wang & Du 2025).
    """

    cutoff: float

    def __init__(self, cutoff: float = 0.8) -> None:
        """**Arguments:**

        - `cutoff`: the time $t_c$ from which the weight falls, in [0, 1).

        **Raises:** `ValueError` for a `cutoff` outside [0, 1).
        """
        self.cutoff = Decay(cutoff).cutoff

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Times, s: Scales) -> Array:
        return Decay(self.cutoff, 1.0)(t).astype(s.alpha.dtype)


class SNR(AbstractWeight):
    r"""$\alpha^2 / \sigma^2$ on the data error, equal to weight one on the noise error (Ho et al. 2020, eq. 14)."""

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Times, s: Scales) -> Array:
        return MeasuredIn(Noise())(target, schedule, t, s)


class MinSNR(AbstractWeight):
    r"""$\min(\alpha^2 / \sigma^2, \gamma)$ on the data error (Hang et al. 2023, section 3.4)."""

    gamma: float = 5.0

    def __check_init__(self) -> None:
        check_positive("gamma", self.gamma, infinite=True)

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Times, s: Scales) -> Array:
        return jnp.minimum((s.alpha / s.sigma) ** 2, self.gamma) / target.gain(s) ** 2


class EDMWeight(AbstractWeight):
    r"""$(\tilde\sigma^2 + \sigma_d^2) / (\tilde\sigma \sigma_d)^2$ on the data error, $\tilde\sigma = \sigma / \alpha$
    (Karras et al. 2022, table 1).
    """

    sigma_data: float = 0.5

    def __check_init__(self) -> None:
        check_positive("sigma_data", self.sigma_data)

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Times, s: Scales) -> Array:
        precision = (s.alpha / s.sigma) ** 2 + 1 / self.sigma_data**2
        return precision / target.gain(s) ** 2


class Likelihood(AbstractWeight):
    """$g^2$ on the score error; half the mean loss bounds the Kullback-Leibler divergence of the model from the data
    (Song et al. 2021b, theorem 1).
    """

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Times, s: Scales) -> Array:
        ratio = Score().gain(s) / target.gain(s)
        return schedule.diffusion_squared(t).astype(ratio.dtype) * ratio**2


class Variational(AbstractWeight):
    r"""The weight of the error in the variational bound (Kingma et al. 2021, eq. 13 and 17), with no dimension factor.

    In continuous time it is $\tfrac12 \dot\lambda$ on the noise error, which equals $\tfrac12 \mathrm{d}\,\text{SNR} /
    \mathrm{d}t$ on the data error and half of [`Likelihood`][]. With a step $h$ towards the data, `step`, it is
    $\text{SNR}(t + h) - \text{SNR}(t)$ on the data error, which equals $\text{SNR}(t + h) / \text{SNR}(t) - 1$ on the
    noise error; divided by $2 h$ it tends to the continuous-time weight. A step that would pass $t = 1$ ends there.

    The bound sums squared errors: use `reduction=Sum()` to obtain nats. [`variational_bound`][] computes the whole
    bound.

    **Reference:** [@kingma2021variational].
    """

    step: float | None = None

    def __check_init__(self) -> None:
        check_positive("step", self.step)

    def __call__(self, target: AbstractTarget, schedule: AbstractSchedule, t: Times, s: Scales) -> Array:
        if self.step is None:
            return Likelihood()(target, schedule, t, s) / 2
        noise_gain = Noise().gain(s) / target.gain(s)
        t = jnp.asarray(t)
        climb = schedule.log_snr(jnp.minimum(t + self.step, 1)) - schedule.log_snr(t)
        return jnp.expm1(climb).astype(noise_gain.dtype) * noise_gain**2

r"""Discrete time: $q(x_i | x_{i-1}) = \mathcal{N}(\sqrt{1 - \beta_i}\, x_{i-1}, \beta_i I)$ for $i = 0 \dots T - 1$.

With $\bar\alpha_i = \prod_{j \le i} (1 - \beta_j)$ and $\bar\alpha_{-1} = 1$ (clean data), the state of index $i$ is
$x_i = \sqrt{\bar\alpha_i}\, x_1 + \sqrt{1 - \bar\alpha_i}\, x_0$ (Ho et al. 2020, eq. 4), and (eq. 6 and 7)

$$q(x_{i-1} | x_i, x_1) = \mathcal{N}\Big(
\frac{\sqrt{\bar\alpha_{i-1}}\, \beta_i}{1 - \bar\alpha_i} x_1 +
\frac{\sqrt{1 - \beta_i}\, (1 - \bar\alpha_{i-1})}{1 - \bar\alpha_i} x_i,\;
\frac{1 - \bar\alpha_{i-1}}{1 - \bar\alpha_i} \beta_i I\Big).$$

[`Tabulated`][] interpolates such a chain in continuous time.
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._base.arguments import Checked, checked
from .._base.arrays import as_real
from .._base.checks import check_count, check_fraction, check_not_negative, check_positive
from .._base.typing import Array, ArrayLike, Numbers, Times
from .base import Singularities
from .variance_preserving import AbstractVariancePreserving


class DiscreteSchedule(eqx.Module, metaclass=Checked):
    r"""The rates $\beta_0 \dots \beta_{T-1}$ of a chain of `T` steps and the tables derived from them.

    The index follows the usual code of the literature: 0 is the least noisy state and `T - 1` the noisiest. Index `i`
    corresponds to the time $t = 1 - (i + 1) / T$, so `T - 1` is $t = 0$, and clean data, $t = 1$, would be index -1.

    Every table has shape `(T,)`, is computed in double precision and is rounded once. The rates are not trained.

    **Reference:** [@ho2020denoising].
    """

    rates: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, rates: Numbers):
        r"""**Arguments:**

        - `rates`: $\beta_i$, `(T,)`, in order of the index. Raises `ValueError` unless each lies strictly between 0
            and 1.
        """
        rates = np.asarray(as_real("rates", rates), np.float64)
        if rates.ndim != 1 or not rates.size or not np.all((0 < rates) & (rates < 1)):
            raise ValueError(
                f"rates must be a list of numbers between 0 and 1; got shape {rates.shape}"
                + (f" and values from {rates.min()} to {rates.max()}." if rates.size else ".")
            )
        self.rates = tuple(rates.tolist())

    @classmethod
    def from_alpha_bar(cls, alpha_bar: Numbers, beta_min: float = 0.0, beta_max: float = 1.0) -> "DiscreteSchedule":
        r"""The chain with the given $\bar\alpha_i$, for example every second $\bar\alpha_i$ of another chain.

        **Arguments:**

        - `alpha_bar`: $\bar\alpha_i$, `(T,)`, below 1 and decreasing.
        - `beta_min`, `beta_max`: bounds to which each rate is clipped.

        **Returns:** a [`DiscreteSchedule`][]. Raises `ValueError` unless each rate lies strictly between 0 and 1.
        """
        alpha_bar = np.asarray(alpha_bar, np.float64)
        return cls(np.clip(1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]]), beta_min, beta_max))

    @property
    def num_steps(self) -> int:
        """The number of steps `T`."""
        return len(self.rates)

    def _log_alpha_bar(self) -> np.ndarray:
        r"""$\log \bar\alpha$, `(T + 1,)`, from clean data to the last index."""
        return np.concatenate([[0.0], np.cumsum(np.log1p(-np.asarray(self.rates)))])

    def _noise_variance(self) -> np.ndarray:
        return -np.expm1(self._log_alpha_bar())

    @property
    def beta(self) -> Array:
        r"""$\beta_i$, the variance that step `i` adds."""
        return _table(np.asarray(self.rates))

    @property
    def alpha(self) -> Array:
        r"""$1 - \beta_i$."""
        return _table(1 - np.asarray(self.rates))

    @property
    def alpha_bar(self) -> Array:
        r"""$\bar\alpha_i$."""
        return _table(np.exp(self._log_alpha_bar()[1:]))

    @property
    def alpha_bar_before(self) -> Array:
        r"""$\bar\alpha_{i-1}$ of the state that the denoising step from index `i` reaches; 1 at index 0."""
        return _table(np.exp(self._log_alpha_bar()[:-1]))

    @property
    def data_scale(self) -> Array:
        r"""$\sqrt{\bar\alpha_i}$."""
        return _table(np.exp(self._log_alpha_bar()[1:] / 2))

    @property
    def noise_scale(self) -> Array:
        r"""$\sqrt{1 - \bar\alpha_i}$."""
        return _table(np.sqrt(self._noise_variance()[1:]))

    @property
    def log_snr(self) -> Array:
        r"""$\log \bar\alpha_i - \log (1 - \bar\alpha_i)$."""
        return _table(self._log_alpha_bar()[1:] - np.log(self._noise_variance()[1:]))

    @property
    def posterior_data(self) -> Array:
        r"""The coefficient of the data $x_1$ in the mean of $q(x_{i-1} | x_i, x_1)$; 1 at index 0."""
        return _table(np.exp(self._log_alpha_bar()[:-1] / 2) * self.rates / self._noise_variance()[1:])

    @property
    def posterior_state(self) -> Array:
        r"""The coefficient of $x_i$ in the mean of $q(x_{i-1} | x_i, x_1)$; 0 at index 0."""
        variance = self._noise_variance()
        return _table(np.sqrt(1 - np.asarray(self.rates)) * variance[:-1] / variance[1:])

    @property
    def posterior_variance(self) -> Array:
        r"""The variance of $q(x_{i-1} | x_i, x_1)$ for the denoising step from index `i`; 0 at index 0."""
        variance = self._noise_variance()
        return _table(variance[:-1] / variance[1:] * self.rates)

    def time(self, index: ArrayLike) -> Array:
        """The time `t` of the state with index `index` (-1 for clean data)."""
        index = jnp.asarray(index)
        return 1 - (index + 1).astype(jnp.result_type(float)) / self.num_steps

    def index(self, t: Times) -> Array:
        """The index nearest to time `t`, an integer between -1 (clean data) and `T - 1`."""
        return jnp.round((1 - jnp.asarray(t)) * self.num_steps).astype(jnp.int32) - 1


def _table(values: np.ndarray) -> Array:
    return jnp.asarray(values, float)


@checked
def ddpm_linear(num_steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> DiscreteSchedule:
    r"""Rates that grow linearly with the index (Ho et al. 2020, section 4).

    The defaults are the paper's rates for 1000 steps. For another number of steps `T`, multiply both by `1000 / T` to
    reach about the same final noise level. In the limit of many steps this is [`VariancePreserving`][] with rates
    `T beta_min` and `T beta_max`.

    **Arguments:**

    - `num_steps`: the number of steps `T`.
    - `beta_min`, `beta_max`: rates at the first and the last index.

    **Returns:** a [`DiscreteSchedule`][].
    """
    return DiscreteSchedule(np.linspace(beta_min, beta_max, check_count("num_steps", num_steps)))


@checked
def ddpm_cosine(
    num_steps: int = 1000, nu: float = 1.0, s: float = 0.008, beta_min: float = 0.0, beta_max: float = 0.999
) -> DiscreteSchedule:
    r"""$\bar\alpha_i \propto \cos^2\big(\tfrac{\pi}{2} \frac{u^\nu + s}{1 + s}\big)$ with $u = (i + 1) / T$.

    This is equation 17 of Nichol & Dhariwal 2021, with the additional exponent $\nu$.

    **Reference:** [@nichol2021improved].

    **Arguments:**

    - `num_steps`: the number of steps `T`.
    - `nu`: the exponent $\nu$ of the time; 1 in the paper.
    - `s`: the offset $s$, which keeps the first rates from vanishing.
    - `beta_min`, `beta_max`: bounds to which each rate is clipped; the paper has only the upper bound.

    **Returns:** a [`DiscreteSchedule`][].
    """
    num_steps = check_count("num_steps", num_steps)
    check_positive("nu", nu)
    check_not_negative("s", s)
    check_fraction("beta_min", beta_min)
    check_fraction("beta_max", beta_max)
    angle = (np.linspace(0, 1, num_steps + 1) ** nu + s) / (1 + s) * (np.pi / 2)
    scale = np.cos(angle) ** 2
    return DiscreteSchedule(np.clip(1 - scale[1:] / scale[:-1], beta_min, beta_max))


class Tabulated(AbstractVariancePreserving):
    r"""The VP process with a constant rate within each step of a chain: it passes through every $\bar\alpha_i$.

    Step $i$ lasts from $s = i / T$ to $(i + 1) / T$ in diffusion time $s = 1 - t$ and has the rate
    $\beta = -T \log (1 - \beta_i)$. A network that was trained on the chain is therefore a network of this schedule at
    the times [`DiscreteSchedule.time`][] of its indices, and all continuous-time methods apply to it. The rate is
    discontinuous between steps, which costs adaptive solvers extra steps if `T` is small.
    """

    table: DiscreteSchedule = eqx.field(static=True)
    singularities: ClassVar[Singularities] = Singularities(log_snr=(1.0,), sigma_rate=(1.0,))

    def __init__(self, table: DiscreteSchedule):
        """**Arguments:**

        - `table`: the rates of the chain.
        """
        self.table = table

    def _knots(self) -> tuple[np.ndarray, np.ndarray]:
        """The diffusion time and the integrated rate $B$ at the ends of all steps, each `(T + 1,)`."""
        steps = -np.log1p(-np.asarray(self.table.rates))
        return np.linspace(0, 1, len(steps) + 1), np.concatenate([[0.0], np.cumsum(steps)])

    def rate(self, t: Times) -> Array:
        s = 1 - jnp.asarray(t)
        size = self.table.num_steps
        step = jnp.clip(jnp.ceil(s * size).astype(jnp.int32) - 1, 0, size - 1)
        return jnp.asarray(np.diff(self._knots()[1]) * size, s.dtype)[step]

    def integral(self, t: Times) -> Array:
        s = 1 - jnp.asarray(t)
        times, values = self._knots()
        return jnp.interp(s, jnp.asarray(times, s.dtype), jnp.asarray(values, s.dtype))

    def time_at_integral(self, integral: Array) -> Array:
        times, values = (jnp.asarray(v, integral.dtype) for v in self._knots())
        return 1 - jnp.interp(integral, values, times)

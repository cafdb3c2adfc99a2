r"""Discrete time: $q(x_i | x_{i-1}) = \mathcal{N}(\sqrt{1 - \beta_i}\, x_{i-1}, \beta_i I)$ for $i = 0 \dots T - 1$.

With $\bar\alpha_i = \prod_{j \le i} (1 - \beta_j)$ and $\bar\alpha_{-1} = 1$ (clean data), the state of index $i$ is
$x_i = \sqrt{\bar\alpha_i}\, x_1 + \sqrt{1 - \bar\alpha_i}\, x_0$ (Ho et al. 2020, eq. 4), and (eq. 6 and 7)

$$q(x_{i-1} | x_i, x_1) = \mathcal{N}\Big(
\frac{\sqrt{\bar\alpha_{i-1}}\, \beta_i}{1 - \bar\alpha_i} x_1 +
\frac{\sqrt{1 - \beta_i}\, (1 - \bar\alpha_{i-1})}{1 - \bar\alpha_i} x_i,\;
\frac{1 - \bar\alpha_{i-1}}{1 - \bar\alpha_i} \beta_i I\Big).$$
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._typing import Array, ArrayLike, Numbers, Times


class DiscreteSchedule(eqx.Module):
    r"""The rates $\beta_0 \dots \beta_{T-1}$ of a chain of `T` steps and all that follows from them.

    The index is that of the literature's code: 0 is the least noisy state, `T - 1` the noisiest. Index `i` is the time
    $t = 1 - (i + 1) / T$ of this library, so `T - 1` is $t = 0$ and the clean data, $t = 1$, would be index -1.

    Every table is `(T,)`, computed in double precision and rounded once; nothing in it is trained.

    **Reference:** [@ho2020denoising].
    """

    rates: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, rates: Numbers):
        r"""**Arguments:**

        - `rates`: $\beta_i$, `(T,)`, by index. Raises `ValueError` unless each lies between 0 and 1.
        """
        rates = np.asarray(rates, np.float64)
        if rates.ndim != 1 or not rates.size or not np.all((0 < rates) & (rates < 1)):
            raise ValueError(
                f"rates must be a list of numbers between 0 and 1; got shape {rates.shape}"
                + (f" and values from {rates.min()} to {rates.max()}." if rates.size else ".")
            )
        self.rates = tuple(rates.tolist())

    @classmethod
    def from_alpha_bar(cls, alpha_bar: Numbers, beta_min: float = 0.0, beta_max: float = 1.0) -> "DiscreteSchedule":
        r"""The chain that passes through given $\bar\alpha_i$: every second index of another chain, say.

        **Arguments:**

        - `alpha_bar`: `(T,)`, decreasing from below 1.
        - `beta_min`, `beta_max`: bounds that each rate is clipped to.

        **Returns:** [`DiscreteSchedule`][].
        """
        alpha_bar = np.asarray(alpha_bar, np.float64)
        return cls(np.clip(1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]]), beta_min, beta_max))

    @property
    def num_steps(self) -> int:
        """`T`."""
        return len(self.rates)

    def _log_alpha_bar(self) -> np.ndarray:
        """`(T + 1,)`, from clean data to the last index."""
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
        r"""$\bar\alpha_{i-1}$: that of the state to which the step from `i` goes; 1 at index 0."""
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
        r"""The factor on the data in the mean of $q(x_{i-1} | x_i, x_1)$; 1 at index 0."""
        return _table(np.exp(self._log_alpha_bar()[:-1] / 2) * self.rates / self._noise_variance()[1:])

    @property
    def posterior_state(self) -> Array:
        r"""The factor on $x_i$ in the mean of $q(x_{i-1} | x_i, x_1)$; 0 at index 0."""
        variance = self._noise_variance()
        return _table(np.sqrt(1 - np.asarray(self.rates)) * variance[:-1] / variance[1:])

    @property
    def posterior_variance(self) -> Array:
        r"""The variance of $q(x_{i-1} | x_i, x_1)$ for the step that leaves index `i`; 0 at index 0."""
        variance = self._noise_variance()
        return _table(variance[:-1] / variance[1:] * self.rates)

    def time(self, index: ArrayLike) -> Array:
        """The time of this library at which the state of index `index` stands (-1 for clean data)."""
        index = jnp.asarray(index)
        return 1 - (index + 1).astype(jnp.result_type(float)) / self.num_steps

    def index(self, t: Times) -> Array:
        """The index nearest to time `t`, an integer between -1 (clean data) and `T - 1`."""
        return jnp.round((1 - jnp.asarray(t)) * self.num_steps).astype(jnp.int32) - 1


def _table(values: np.ndarray) -> Array:
    return jnp.asarray(values, float)


def ddpm_linear(num_steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> DiscreteSchedule:
    r"""Rates that grow linearly with the index (Ho et al. 2020, section 4).

    The paper's ends are for 1000 steps; for `T` multiply both by `1000 / T` to end at the same noise. In the limit of
    many steps this is [`VariancePreserving`][] with `T beta_min` and `T beta_max`.

    **Arguments:**

    - `num_steps`: `T`.
    - `beta_min`, `beta_max`: rates of the first and the last index.

    **Returns:** [`DiscreteSchedule`][].
    """
    return DiscreteSchedule(np.linspace(beta_min, beta_max, num_steps))


def ddpm_cosine(
    num_steps: int = 1000, nu: float = 1.0, s: float = 0.008, beta_min: float = 0.0, beta_max: float = 0.999
) -> DiscreteSchedule:
    r"""$\bar\alpha_i \propto \cos^2\big(\tfrac{\pi}{2} \frac{u^\nu + s}{1 + s}\big)$ with $u = (i + 1) / T$.

    Equation 17 of Nichol & Dhariwal 2021.

    **Reference:** [@nichol2021improved].

    **Arguments:**

    - `num_steps`: `T`.
    - `nu`: exponent of the time; 1 in the paper.
    - `s`: offset that keeps the first rates from vanishing.
    - `beta_min`, `beta_max`: bounds of every rate; the paper has the upper one alone.

    **Returns:** [`DiscreteSchedule`][].
    """
    angle = (np.linspace(0, 1, num_steps + 1) ** nu + s) / (1 + s) * (np.pi / 2)
    scale = np.cos(angle) ** 2
    return DiscreteSchedule(np.clip(1 - scale[1:] / scale[:-1], beta_min, beta_max))

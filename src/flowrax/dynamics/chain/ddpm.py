r"""Denoising diffusion by index: a chain of `T` steps from index `T - 1`, noise, to index 0 and from there to the data.

Ho et al. 2020. Index $i$ corresponds to the time $t = 1 - (i + 1) / T$ of this library.
"""

import equinox as eqx
import jax.numpy as jnp

from ..._base.arguments import Checked
from ..._base.checks import check_count, is_traced, plain_int
from ..._base.typing import Array, ArrayLike, Event, Int, KeyArray
from ...model.base import AbstractPrediction
from ...model.prediction import AffinePrediction
from ...model.target import AbstractTarget, Data
from ...schedule import DiscreteSchedule, Scales
from ...stepper.exponential.kernel import Kernel, add_noise, converted, kernel, tidy


class DDPM(eqx.Module, metaclass=Checked):
    r"""The steps of a diffusion chain with tabulated rates, applied to one event; [`VDM`][] lists common arguments.

    A step goes from index `i` to `i - 1`, or to any lower index `to`, as with the subset of indices that
    `times.index_grid` selects. [`step`][] draws from the posterior $q(x_{i-1} | x_i, x_1)$ at the data prediction, with
    its variance $\tilde\beta_i$; the step from the last index, like any step to `last_index - 1`, ends at the data
    prediction.

    `sample` takes the same steps for a model on the schedule `Tabulated(table)` whose network is called with
    `table.index(t)`: with $T$ = `table.num_steps`, `frx.sample(model, key, n, dynamics=ReverseSDE(t_max=1 - 1 / T),
    solver=DDIM(), grid=T - 1, last_step=Tweedie())`. Up to `t_max` a step ends at each index; the last step goes to the
    data.

    **Reference:** [@ho2020denoising].
    """

    table: DiscreteSchedule
    target: AbstractTarget
    last_index: int = eqx.field(static=True, converter=plain_int)

    def __init__(self, table: DiscreteSchedule, target: AbstractTarget | None = None, *, last_index: int = 0):
        """**Arguments:**

        - `table`: the rates of the chain.
        - `target`: the quantity that the outputs passed to [`predict`][] represent. Default: `Data()`.
        - `last_index`: the index of the last step: 0 where indices run from T - 1 to 0, 1 where they run from T to 1.
            Default: 0.
        """
        self.table, self.target = table, Data() if target is None else target
        self.last_index = last_index

    def __check_init__(self) -> None:
        check_count("last_index", self.last_index, 0)

    def _row(self, index: Int[ArrayLike, ""]) -> Array:
        row = jnp.asarray(index) - self.last_index
        if not is_traced(row) and not 0 <= int(row) < self.table.num_steps:
            last = self.last_index + self.table.num_steps - 1
            raise ValueError(f"index={int(row) + self.last_index} is not one of {self.last_index}, ..., {last}.")
        return row

    def interpolate(self, index: Int[ArrayLike, ""], x0: Event, x1: Event) -> Event:
        """The state at an index, from noise `x0` and data `x1`."""
        scales = self.scales(index, x1)
        return scales.alpha * x1 + scales.sigma * x0

    def scales(self, index: Int[ArrayLike, ""], like: Event) -> Scales:
        """The scales at an index, in the dtype of `like`; their time derivatives use the rate of the step from it."""
        row = self._row(index)
        alpha, sigma = self.table.data_scale[row], self.table.noise_scale[row]
        rate = -self.table.num_steps * jnp.log1p(-self.table.beta[row])
        variance_rate = -rate * alpha**2
        found = alpha, sigma, rate / 2 * alpha, variance_rate / (2 * sigma), variance_rate
        return Scales(*(value.astype(like.dtype) for value in found))

    def predict(self, output: Event, index: Int[ArrayLike, ""], x: Event) -> AffinePrediction:
        """Data, noise, velocity and score from a network's output for `x` at an index."""
        return converted(output, x, self.scales(index, x), self.target)

    def _kernel(
        self, index: Int[ArrayLike, ""], to: Int[ArrayLike, ""] | None, share: float | Array | None
    ) -> tuple[Kernel, Array, Array]:
        row = self._row(index)
        next_row = row - 1 if to is None else jnp.asarray(to) - self.last_index
        if not is_traced(row, next_row) and not -1 <= int(next_row) < int(row):
            raise ValueError(f"to={to} must be below index={index}, and at least {self.last_index - 1}, the data.")
        table, after, inside = self.table, jnp.maximum(next_row, 0), next_row >= 0
        start = table.data_scale[row], table.noise_scale[row]
        end = jnp.where(inside, table.data_scale[after], 1), jnp.where(inside, table.noise_scale[after], 0)
        gap = jnp.where(inside, (table.log_snr[after] - table.log_snr[row]) / 2, jnp.inf)
        return kernel(start, end, gap, share), *start

    def step(
        self,
        prediction: AbstractPrediction,
        index: Int[ArrayLike, ""],
        x: Event,
        *,
        to: Int[ArrayLike, ""] | None = None,
        key: KeyArray | None = None,
        noise: Event | None = None,
        temperature: float | Array = 1.0,
        mask: ArrayLike | None = None,
        centre: bool = False,
    ) -> Event:
        """The ancestral step: a draw from the posterior at the data prediction; `temperature` scales its noise."""
        coefficients, _, _ = self._kernel(index, to, 1.0)
        mean = coefficients.mean(x, prediction.data)
        return tidy(add_noise(mean, coefficients.std, key, noise, temperature), mask, centre)

    def step_noise(
        self,
        prediction: AbstractPrediction,
        index: Int[ArrayLike, ""],
        x: Event,
        *,
        to: Int[ArrayLike, ""] | None = None,
        key: KeyArray | None = None,
        noise: Event | None = None,
        temperature: float | Array = 1.0,
        mask: ArrayLike | None = None,
        centre: bool = False,
    ) -> Event:
        """The ancestral step in terms of the noise prediction (Ho et al. 2020, algorithm 2); equal to [`step`][]."""
        coefficients, alpha, sigma = self._kernel(index, to, 1.0)
        mean = coefficients.mean_of_noise(x, prediction.noise, alpha, sigma)
        return tidy(add_noise(mean, coefficients.std, key, noise, temperature), mask, centre)

    def step_ddim(
        self,
        prediction: AbstractPrediction,
        index: Int[ArrayLike, ""],
        x: Event,
        *,
        eta: float = 0.0,
        to: Int[ArrayLike, ""] | None = None,
        key: KeyArray | None = None,
        noise: Event | None = None,
        mask: ArrayLike | None = None,
        centre: bool = False,
    ) -> Event:
        """DDIM (Song et al. 2021, eq. 12): `eta=0` is deterministic and takes no noise; `eta=1` equals [`step`][]."""
        coefficients, _, _ = self._kernel(index, to, eta**2 if eta else None)
        x = coefficients.mean(x, prediction.data)
        return tidy(add_noise(x, coefficients.std, key, noise) if eta else x, mask, centre)

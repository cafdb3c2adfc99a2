r"""Pseudo-inverse guidance: with $p(x_1 | x_t) \approx \mathcal{N}(\hat x_1, r^2 I)$ and $y = A x_1 + \varepsilon$,

$$g = \Big(\frac{\partial \hat x_1}{\partial x}\Big)^{\!\top} A^\top
\big(r^2 A A^\top + \operatorname{diag}(s^2)\big)^{-1} (y - A \hat x_1), \qquad
r^2 = \frac{\sigma^2 s_d^2}{\alpha^2 s_d^2 + \sigma^2}.$$

$r^2$ is the exact posterior variance for data from $\mathcal{N}(0, s_d^2 I)$, for which the method is exact.
"""

import jax
import jax.numpy as jnp

from .._base.checks import check_instance, check_positive
from .._base.typing import Condition, Event, Scalar
from ..model.base import AbstractContinuousModel, AbstractPrediction
from ..observation import LinearGaussian
from ..prior import AbstractGaussianPrior
from .base import AbstractGuidance


class PiGDM(AbstractGuidance):
    """Pseudo-inverse guidance for linear-Gaussian observations.

    Exact for data from an isotropic Gaussian. For correlated data its posterior is too wide: its standard deviations
    were up to 1.4 times the exact ones for a smooth Gaussian process of 16 points.

    Raises `ValueError` for a model whose prior is not standard normal.

    **Reference:** [@song2023pseudoinverse].
    """

    data_std: float = 1.0
    """The standard deviation $s_d$ of the elements of the data."""

    def __check_init__(self) -> None:
        check_positive("data_std", self.data_std)

    def __call__(
        self,
        model: AbstractContinuousModel,
        observation: LinearGaussian,
        t: Scalar,
        x: Event,
        condition: Condition,
    ) -> tuple[AbstractPrediction, Event]:
        check_instance("observation", observation, LinearGaussian)
        if not (isinstance(model.prior, AbstractGaussianPrior) and model.prior.is_standard):
            raise ValueError(
                f"PiGDM needs a model with a standard normal prior, but the prior is {type(model.prior).__name__}."
            )

        def denoise(x: Event) -> tuple[Event, AbstractPrediction]:
            prediction = model.predict(t, x, condition)
            return prediction.data, prediction

        data, pull_back, prediction = jax.vjp(denoise, x, has_aux=True)
        scales = model.schedule.scales(t, x.dtype)
        noise_to_total = scales.sigma**2 / ((scales.alpha * self.data_std) ** 2 + scales.sigma**2)
        operator = observation.operator.astype(x.dtype)
        noise = observation.noise_std.astype(x.dtype)
        covariance = self.data_std**2 * noise_to_total * operator @ operator.T + jnp.diag(noise**2)
        residual = observation.y.astype(x.dtype) - operator @ data.reshape(-1)
        weighted = jax.scipy.linalg.solve(covariance, residual, assume_a="pos")
        (likelihood_score,) = pull_back((operator.T @ weighted).reshape(x.shape))
        return prediction, likelihood_score

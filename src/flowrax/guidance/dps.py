r"""Diffusion posterior sampling: $p(y | x_t) \approx p(y | \hat x_1)$, so that the data given $x_t$ have no spread,

$$g = \zeta\, \nabla_x \log \mathcal{N}(y; A \hat x_1, \operatorname{diag}(s^2))
= \zeta\, \Big(\frac{\partial \hat x_1}{\partial x}\Big)^{\!\top} A^\top \operatorname{diag}(s^{-2}) (y - A \hat x_1).$$
"""

from .._base.checks import check_not_negative
from .._base.typing import Array, Condition, Event, Scalar
from ..model.base import AbstractContinuousModel, AbstractPrediction
from ..observation import LinearGaussian
from .base import AbstractGuidance
from .gaussian import denoised


class DPS(AbstractGuidance):
    """Diffusion posterior sampling (equation 16 of the paper), a baseline.

    It is exact for no prior. The spread of the data given $x_t$ is missing from the likelihood, so that at early times
    the score is too large, by the ratio of that spread to the noise of the measurement in variance: the draws are drawn
    together, and small noise makes the equation stiff.

    **Reference:** [@chung2023diffusion].
    """

    scale: float | Array = 1.0
    r"""The factor $\zeta$; 1 is the gradient of the log-likelihood."""

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)

    def __call__(
        self,
        model: AbstractContinuousModel,
        observation: LinearGaussian,
        t: Scalar,
        x: Event,
        condition: Condition,
    ) -> tuple[AbstractPrediction, Event]:
        seen = denoised(model, observation, t, x, condition)
        return seen.prediction, self.scale * seen.pull_back(seen.residual)

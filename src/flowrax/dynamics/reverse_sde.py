r"""$\mathrm{d}X = (v + w(t)\, s)\, \mathrm{d}t + \sqrt{2 w(t)}\, \mathrm{d}W$ from noise to data, for any $w \ge 0$.

With a prior of covariance $C$ it is $(v + w\, C s)\, \mathrm{d}t + \sqrt{2 w}\, C^{1/2} \mathrm{d}W$. It has the same
Fokker-Planck equation as the probability flow, hence the same marginals (Albergo et al. 2023, theorem 2.8).
"""

from collections.abc import Callable

import equinox as eqx

from .._base.checks import check_interval
from .._base.typing import Array, Scalar
from ..schedule import AbstractSchedule
from .diffusion import SBDM, AbstractDiffusion, as_diffusion
from .score_sde import AbstractScoreSDE


class ReverseSDE(AbstractScoreSDE):
    """The reverse-time SDE with a free choice of the diffusion coefficient.

    The noise is additive, so the Ito and Stratonovich interpretations agree and every diffrax SDE solver is valid.
    The interval is narrowed to where the score and `w` are finite.

    **Reference:** [@albergo2023stochastic].
    """

    coefficient: AbstractDiffusion
    t_min: float | None = eqx.field(static=True)
    t_max: float | None = eqx.field(static=True)

    def __init__(
        self,
        diffusion: AbstractDiffusion | Callable[[Scalar], Array] | None = None,
        *,
        t_min: float | None = None,
        t_max: float | None = None,
    ):
        """**Arguments:**

        - `diffusion`: the coefficient `w`, or a function of the time that is finite on [0, 1], which is wrapped in
            [`Custom`][]. Default: Anderson's `SBDM()`.
        - `t_min`, `t_max`: a narrower interval. Default: as wide as the model and `w` allow. Raises `ValueError` where
            they lie outside [0, 1].
        """
        self.coefficient = as_diffusion(SBDM() if diffusion is None else diffusion)
        check_interval(0.0 if t_min is None else t_min, 1.0 if t_max is None else t_max)
        self.t_min, self.t_max = t_min, t_max

    def coefficients(self, schedule: AbstractSchedule, t: Scalar) -> tuple[Array, Array]:
        w = self.coefficient(schedule, t)
        return w, w

    def is_singular_at_start(self, schedule: AbstractSchedule) -> bool:
        return self.coefficient.is_singular_at_start(schedule)

    @property
    def linear_scale(self) -> float | Array | None:
        return self.coefficient.scale if isinstance(self.coefficient, SBDM) else None

    @property
    def score_until(self) -> float:
        return 1.0

r"""$\mathrm{d}X = (v + w(t)\, s)\, \mathrm{d}t + \sqrt{2 w(t)}\, \mathrm{d}W$ from noise to data, for any $w \ge 0$.

With a prior of covariance $C$ it is $(v + w\, C s)\, \mathrm{d}t + \sqrt{2 w}\, C^{1/2} \mathrm{d}W$. Its Fokker-Planck
equation is that of the probability flow, so it has the same marginals (Albergo et al. 2023, theorem 2.8).
"""

from typing import ClassVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import lineax as lx

from .._checks import check_interval, check_steps_of_noise
from .._typing import Array, Condition, Event, KeyArray, PyTree, Scalar
from ..abstract import TIME_MARGIN, AbstractContinuousModel, AbstractDynamics, NoiseMaker
from ..prior import AbstractPrior
from .diffusion import SBDM, AbstractDiffusion
from .noise import scaled_score, shaped
from .semilinear import SemilinearTerm


class ReverseSDE(AbstractDynamics):
    """The stochastic sampler with a diffusion coefficient of one's choice.

    The noise is additive, so the Ito and Stratonovich readings agree and every diffrax SDE solver is right.
    The interval is narrowed to where the score and `w` are finite.

    ??? cite "Reference"

        ```bibtex
        @article{albergo2023stochastic,
            author={Albergo, Michael S. and Boffi, Nicholas M. and Vanden-Eijnden, Eric},
            title={Stochastic Interpolants: A Unifying Framework for Flows and Diffusions},
            journal={arXiv:2303.08797},
            year={2023},
        }
        ```
    """

    coefficient: AbstractDiffusion
    t_min: float | None = eqx.field(static=True)
    t_max: float | None = eqx.field(static=True)
    calculus: ClassVar[type | None] = None
    keeps_density: ClassVar[bool] = False
    default_tolerance: ClassVar[float] = 1e-2

    def __init__(
        self,
        diffusion: AbstractDiffusion | None = None,
        *,
        t_min: float | None = None,
        t_max: float | None = None,
    ):
        """**Arguments:**

        - `diffusion`: the coefficient `w`; Anderson's `SBDM()` without.
        - `t_min`, `t_max`: a narrower interval. Raises `ValueError` outside [0, 1].
        """
        self.coefficient = SBDM() if diffusion is None else diffusion
        check_interval(0.0 if t_min is None else t_min, 1.0 if t_max is None else t_max)
        self.t_min, self.t_max = t_min, t_max

    def drift(self, t: Scalar, x: Event, args: tuple[AbstractContinuousModel, Condition]) -> Event:
        """$v + w C s$ at `(t, x)`; `args` is `(model, condition)`."""
        model, condition = args
        prediction = model.predict(t, x, condition)
        score = scaled_score(model, prediction.score)
        return prediction.velocity + self.coefficient(model.schedule, t).astype(x.dtype) * score

    def diffusion(
        self, t: Scalar, x: Event, args: tuple[AbstractContinuousModel, Condition]
    ) -> lx.AbstractLinearOperator:
        r"""$\sqrt{2 w}$ times the identity: the path has the covariance of the prior."""
        scale = jnp.sqrt(2 * self.coefficient(args[0].schedule, t))
        return lx.DiagonalLinearOperator(jnp.broadcast_to(scale, x.shape).astype(x.dtype))

    def interval(self, model: AbstractContinuousModel) -> tuple[float, float]:
        low, high = model.score_interval
        low, high = max(low, model.t_min), min(high, model.t_max)
        if self.coefficient.is_singular_at_start(model.schedule):
            low = max(low, TIME_MARGIN)
        if self.t_min is not None:
            low = max(low, self.t_min)
        if self.t_max is not None:
            high = min(high, self.t_max)
        check_interval(low, high)
        return low, high

    def source(self, model: AbstractContinuousModel) -> AbstractPrior:
        return model.source_at(self.interval(model)[0])

    def initial(self, x: Event, key: KeyArray) -> Event:
        return x

    def terms(self, model: AbstractContinuousModel, condition: Condition, make_noise: NoiseMaker) -> dfx.MultiTerm:
        scale = self.coefficient.scale if isinstance(self.coefficient, SBDM) else None
        drift = SemilinearTerm(self.drift, scale)
        return dfx.MultiTerm(drift, dfx.ControlTerm(self.diffusion, shaped(model, make_noise(model.shape, 0))))

    def readout(self, state: PyTree[Array]) -> Event:
        return state

    def stepper(self, solver: dfx.AbstractSolver | None) -> dfx.AbstractSolver:
        check_steps_of_noise("ReverseSDE", solver)
        return dfx.ShARK() if solver is None else solver

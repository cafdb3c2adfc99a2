r"""The probability flow, $\mathrm{d}x / \mathrm{d}t = v(t, x) = \mathbb{E}[\dot x_t | x_t = x]$."""

from typing import ClassVar

import diffrax as dfx

from .._base.typing import Condition, Event, PyTree, Scalar
from ..model.base import AbstractContinuousModel
from ..prior import AbstractPrior
from ..stepper import SemilinearTerm
from ..stepper.fitting import check_flow_solver
from .base import AbstractPathDynamics, NoiseMaker


class ProbabilityFlow(AbstractPathDynamics):
    """The ODE whose solutions have the marginals of the interpolant.

    It is the only dynamics along which a log-density can be computed.
    """

    calculus: ClassVar[type | None] = None
    keeps_density: ClassVar[bool] = True
    has_noise: ClassVar[bool] = False
    default_tolerance: ClassVar[float] = 1e-5

    def drift(self, t: Scalar, x: Event, args: tuple[AbstractContinuousModel, Condition]) -> Event:
        """The velocity at `(t, x)`; `args` is `(model, condition)`."""
        model, condition = args
        return model.predict(t, x, condition).velocity

    def interval(self, model: AbstractContinuousModel) -> tuple[float, float]:
        return model.t_min, model.t_max

    def source(self, model: AbstractContinuousModel) -> AbstractPrior:
        return model.source

    def terms(
        self, model: AbstractContinuousModel, condition: Condition, make_noise: NoiseMaker
    ) -> tuple[SemilinearTerm, PyTree]:
        return SemilinearTerm(self.drift), (model, condition)

    def stepper(self, solver: dfx.AbstractSolver | None) -> dfx.AbstractSolver:
        return dfx.Dopri5() if solver is None else check_flow_solver(type(self).__name__, solver)

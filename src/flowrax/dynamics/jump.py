r"""Jumps along the flow by its average velocity, $x_r = x_t + (r - t)\, u(t, r, x_t)$ (Geng et al. 2025, eq. 12)."""

from collections.abc import Callable
from typing import ClassVar

import diffrax as dfx
import jax.numpy as jnp

from .._base.typing import Condition, Event, PyTree, Scalar
from ..model import average_velocity
from ..model.base import AbstractContinuousModel
from ..model.network import as_output
from ..model.trained import Model
from ..prior import AbstractPrior, project
from .base import AbstractPathDynamics, NoiseMaker


class JumpTerm(dfx.AbstractTerm):
    """A term whose increment over a step is the step's length times the average velocity over the step."""

    average: Callable[..., Event]

    def vf(self, t: Scalar, y: Event, args: PyTree) -> Event:
        return self.average(t, t, y, args)

    def contr(self, t0: Scalar, t1: Scalar, **kwargs: object) -> tuple[Scalar, Scalar]:
        return t0, t1

    def prod(self, vf: Event, control: tuple[Scalar, Scalar]) -> Event:
        return jnp.asarray(control[1] - control[0], vf.dtype) * vf

    def vf_prod(self, t: Scalar, y: Event, args: PyTree, control: tuple[Scalar, Scalar]) -> Event:
        return self.prod(self.average(*control, y, args), control)


class Jump(AbstractPathDynamics):
    """Samples a model of the average velocity with one network evaluation per grid step: `sample(..., grid=1)`.

    With the exact average velocity it is exact for any number of steps. It has no error estimate, so it needs a grid.
    Any other dynamics uses such a model through its instantaneous velocity.

    **Reference:** [@geng2025mean].
    """

    calculus: ClassVar[type | None] = None
    keeps_density: ClassVar[bool] = False
    has_noise: ClassVar[bool] = False
    default_tolerance: ClassVar[float] = 1e-5

    def interval(self, model: AbstractContinuousModel) -> tuple[float, float]:
        if not isinstance(model, Model):
            raise ValueError(f"Jump needs a Model of the average velocity; {type(model).__name__} has none.")
        average_velocity(model)
        return model.t_min, model.t_max

    def source(self, model: AbstractContinuousModel) -> AbstractPrior:
        return model.source

    def terms(
        self, model: AbstractContinuousModel, condition: Condition, make_noise: NoiseMaker
    ) -> tuple[JumpTerm, PyTree]:
        return JumpTerm(_average), (model, condition)

    def stepper(self, solver: dfx.AbstractSolver | None) -> dfx.AbstractSolver:
        if solver is not None and type(solver) is not dfx.Euler:
            raise ValueError(f"Jump makes one jump per step; leave out solver={type(solver).__name__}().")
        return dfx.Euler()


def _average(t: Scalar, r: Scalar, x: Event, args: tuple[Model, Condition]) -> Event:
    model, condition = args
    average = average_velocity(model).average(t, r, project(model.prior, x), condition)
    return project(model.prior, as_output(average, x.dtype))

r"""One-step DPM-Solver-2 and -3 (Lu et al. 2022, algorithms 1 and 2), in noise prediction.

The noise prediction is $\varepsilon = (x - \alpha D) / \sigma$, and the stages lie at fractions $r$ of the step in
$\lambda$. With $h$ and $\psi$ as in the rest of this package, the paper's $e^h - 1$ is $-\psi_1(-h)$ and its
$(e^h - 1) / h - 1$ is $-\psi_2(-h)$.
"""

from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp

from ..._base.checks import plain_int
from ..._base.typing import Array, Event, PyTree, Scalar
from .base import AbstractExponentialSolver, Problem, psi, scaled


class DPMSolver(AbstractExponentialSolver, dfx.AbstractAdaptiveSolver):
    r"""DPM-Solver-2 or -3, with an embedded method of one order less for an error estimate.

    With tolerances it is therefore the paper's adaptive DPM-Solver-12 or -23. It is for the probability flow and needs
    `order` evaluations per step. A step of infinite $h$ (from $\alpha = 0$ or to $\sigma = 0$) consists of `order` DDIM
    steps of equal length in time.

    **Reference:** [@lu2022dpmsolver].
    """

    num_evaluations_per_step: int = eqx.field(static=True, converter=plain_int)
    takes_noise: ClassVar[bool] = False
    predicts_at_end: ClassVar[bool] = False

    def __init__(self, order: int = 2):
        """**Arguments:**

        - `order`: 2 or 3. Default: 2. Raises `ValueError` otherwise.
        """
        if order not in (2, 3):
            raise ValueError(f"DPMSolver has order 2 or 3; got {order}.")
        self.num_evaluations_per_step = order

    def order(self, terms: PyTree[dfx.AbstractTerm]) -> int:
        return self.num_evaluations_per_step

    def init(self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree) -> None:
        self.problem(terms, args)

    def step(
        self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree, solver_state: None, made_jump: Any
    ) -> tuple[Any, ...]:
        stages = _Stages(self.problem(terms, args), t0, t1, y0)
        if self.num_evaluations_per_step == 2:
            middle = stages.at(stages.time(1 / 2), stages.first(stages.time(1 / 2)))
            lower, y1 = stages.first(t1), stages.through(t1, middle, 1, 1.0)
        else:
            early, late = stages.time(1 / 3), stages.time(2 / 3)
            first = stages.at(early, stages.first(early))
            second = stages.at(late, stages.through(late, first, 2, 1 / 2))
            lower, y1 = stages.through(t1, first, 1, 2 / 3), stages.through(t1, second, 2, 2 / 3)
        return y1, y1 - lower, {"y0": y0, "y1": y1}, None, dfx.RESULTS.successful


class _Stage(eqx.Module):
    time: Array
    y: Event
    data: Event


class _Stages:
    """The stages of one step from `(t0, y0)`; the constructor evaluates the first."""

    def __init__(self, problem: Problem, t0: Scalar, t1: Scalar, y0: Event):
        self.problem, self.t0, self.t1, self.y0 = problem, t0, t1, y0
        self.data = problem.denoise(t0, y0)
        self.finite = jnp.isfinite(problem.step(t0, t1).gap)

    def time(self, fraction: float) -> Array:
        return self.problem.between(self.t0, self.t1, fraction)

    def at(self, time: Array, y: Event) -> _Stage:
        return _Stage(time, y, self.problem.denoise(time, y))

    def first(self, t: Scalar) -> Event:
        """The first-order step to `t`."""
        return self.problem.step(self.t0, t)(self.y0, self.data)

    def through(self, t: Scalar, stage: _Stage, order: int, divisor: float) -> Event:
        r"""The first-order step to `t`, corrected by the change of the noise prediction between the start and a stage.

        The correction is $\sigma_t\, \psi_k(-h)$ with $k$ = `order`, times that change, over `divisor`. Where $h$ is
        infinite, this is the DDIM step from the stage to `t` instead.
        """
        problem, step = self.problem, self.problem.step(self.t0, t)
        weight = step.sigma * psi(-jnp.where(self.finite, step.gap, 1), order)[-1] / divisor
        change = problem.noise_of(stage.time, stage.y, stage.data) - problem.noise_of(self.t0, self.y0, self.data)
        rest = problem.step(stage.time, t)(stage.y, stage.data)
        return jnp.where(self.finite, step(self.y0, self.data) + scaled(weight, change), rest)

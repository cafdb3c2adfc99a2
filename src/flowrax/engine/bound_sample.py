r"""One sample's solve, one attempted step at a time: what every way of solving many samples shares.

A sample is `start = (state, data)`: where it starts, and whatever belongs to this sample alone (its keys, probes,
condition). An equation binds it to its diffrax terms and their arguments, and the [`BoundSample`][] takes the steps. A
sample is bound anew in each traced step, so that no sample carries a copy of what all of them share.

Time runs forward here: a solve towards smaller times is solved in $\tau = -t$.
"""

import abc
from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.result import RESULTS
from .._base.typing import Array, PyTree, Scalar
from ..stepper.init_solver import init_solver
from .stages import has_few_stages, step_by_stages
from .stepping import FIRST_STEP, Stepping


class AbstractEquation(eqx.Module):
    """The differential equation of all samples. Its arrays are differentiable."""

    @abc.abstractmethod
    def bind(self, start: tuple[PyTree, PyTree], solver: dfx.AbstractSolver, stepping: Stepping) -> tuple[Any, PyTree]:
        """The diffrax terms of the sample `start = (state, data)`, and their arguments."""


class Reversed(dfx.AbstractTerm):
    r"""A term in $\tau = -t$."""

    term: dfx.AbstractTerm
    direction: ClassVar[int] = -1
    """The factor by which exponential solvers multiply their time."""

    def vf(self, t: Scalar, y: PyTree, args: PyTree) -> PyTree:
        return self.term.vf(-t, y, args)

    def contr(self, t0: Scalar, t1: Scalar, **kwargs: Any) -> PyTree:
        return jax.tree.map(jnp.negative, self.term.contr(-t1, -t0, **kwargs))

    def prod(self, vf: PyTree, control: PyTree) -> PyTree:
        return self.term.prod(vf, control)


class Interval(eqx.Module):
    """One step, from `t0` to `t1`, and whether the vector field jumps at its start."""

    t0: Array
    t1: Array
    made_jump: Array


class Point(eqx.Module):
    """Everything that a step starts from."""

    y: PyTree
    solver_state: PyTree


class Progress(eqx.Module):
    """How far the solve of one sample has come: the next step to attempt, and the work so far."""

    interval: Interval
    point: Point
    controller_state: PyTree
    num_steps: Array
    num_accepted: Array
    result: RESULTS

    def ending(self, stepping: Stepping) -> tuple[Array, RESULTS]:
        """Whether the sample has arrived, failed or used up its steps, and the code of its solve if so."""
        arrived = self.interval.t0 >= stepping.span[1]
        going = ~arrived & (self.result == RESULTS.successful)
        over = ~going | (self.num_steps >= stepping.max_steps)
        return over, RESULTS.where(going, RESULTS.max_steps_reached, self.result)


class BoundSample(eqx.Module):
    """One sample with its terms and arguments in forward time, ready to be stepped."""

    terms: Any
    args: PyTree
    y0: PyTree
    solver: dfx.AbstractSolver
    stepping: Stepping

    def __init__(
        self,
        equation: AbstractEquation,
        start: tuple[PyTree, PyTree],
        solver: dfx.AbstractSolver,
        stepping: Stepping,
    ) -> None:
        terms, self.args = equation.bind(start, solver, stepping)
        self.terms = _reversed(terms) if stepping.backward else terms
        self.y0, self.solver, self.stepping = start[0], solver, stepping

    def begin(self, interval: Interval) -> Point:
        """The start of the first step."""
        return Point(self.y0, init_solver(self.solver, self.terms, interval.t0, interval.t1, self.y0, self.args))

    def step(self, interval: Interval, point: Point) -> tuple[Point, PyTree, dict[str, PyTree], RESULTS]:
        """One step: where it ends, its error estimate, its interpolation data, and its code."""
        solver, may_jump = self.solver, self.stepping.may_jump
        arguments = self.terms, interval.t0, interval.t1, point.y, self.args, point.solver_state
        if not may_jump and has_few_stages(solver, point.solver_state):
            assert isinstance(solver, dfx.AbstractERK)
            y, error, dense, solver_state, result = step_by_stages(solver, *arguments)
        else:
            # Some solvers need to know before compilation that there is no jump.
            made_jump = interval.made_jump if may_jump else False
            y, error, dense, solver_state, result = solver.step(*arguments, made_jump)
        return Point(y, solver_state), error, dense, result

    def first(self) -> Progress:
        """The progress before the first attempt of an adaptive solve."""
        stepping, solver = self.stepping, self.solver
        t0, t1 = stepping.span
        step, order = jnp.asarray(FIRST_STEP, t0.dtype), solver.error_order(self.terms)
        first, controller_state = stepping.directed_controller.init(
            self.terms, t0, t1, self.y0, step, self.args, solver.func, order
        )
        t_next, zero = jnp.minimum(first, t1), jnp.zeros((), jnp.int32)
        point = Point(self.y0, init_solver(solver, self.terms, t0, t_next, self.y0, self.args))
        controller_state = jax.tree.map(jnp.asarray, controller_state)
        interval = Interval(t0, t_next, jnp.asarray(False))
        return Progress(interval, point, controller_state, zero, zero, RESULTS.successful)


def _reversed(terms: Any) -> Any:
    if isinstance(terms, dfx.MultiTerm):
        return dfx.MultiTerm(*map(_reversed, terms.terms))
    return Reversed(terms) if _is_term(terms) else jax.tree.map(_reversed, terms, is_leaf=_is_term)


def _is_term(leaf: Any) -> bool:
    return isinstance(leaf, dfx.AbstractTerm)

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
import optimistix as optx

from .._result import RESULTS
from .._typing import Array, PyTree, Scalar
from ..stepper.init_solver import init_solver
from .stages import has_few_stages, step_by_stages
from .stepping import Stepping
from .trees import select

_NONFINITE: Any = RESULTS.nonfinite


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
        first, controller_state = stepping.directed_controller.init(
            self.terms, t0, t1, self.y0, stepping.first_step, self.args, solver.func, solver.error_order(self.terms)
        )
        t_next, zero = jnp.minimum(first, t1), jnp.zeros((), jnp.int32)
        point = Point(self.y0, init_solver(solver, self.terms, t0, t_next, self.y0, self.args))
        controller_state = jax.tree.map(jnp.asarray, controller_state)
        interval = Interval(t0, t_next, jnp.asarray(False))
        return Progress(interval, point, controller_state, zero, zero, RESULTS.successful)

    def attempt(self, now: Progress) -> tuple[Progress, Array, dict[str, PyTree]]:
        """One step under error control: the progress after it, whether it was accepted, its interpolation data."""
        interval, (t0, t1) = now.interval, self.stepping.span
        point, error, dense, solver_result = self.step(interval, now.point)
        error = jax.tree.map(lambda leaf: jnp.where(jnp.isnan(leaf), jnp.inf, leaf), error)
        # A controller may come with an order of its own.
        order: Any = self.solver.error_order(self.terms)
        keep, t_prev, t_next, made_jump, controller_state, controller_result = (
            self.stepping.directed_controller.adapt_step_size(
                interval.t0,
                interval.t1,
                now.point.y,
                point.y,
                self.args,
                error,
                order,
                now.controller_state,
            )
        )
        keep, t_prev = jnp.asarray(keep), jnp.minimum(t_prev, t1)
        # The last step must not be so short that its interpolation is rounding error only.
        resolution = jnp.finfo(t1.dtype).eps * jnp.maximum(jnp.abs(t0), jnp.abs(t1))
        t_end = jnp.where(keep, t1, t_prev + (t1 - t_prev) / 2)
        t_next = jnp.where(t_next > t1 - 100 * resolution, t_end, t_next)
        result = RESULTS.where(keep, solver_result, RESULTS.successful)
        result = RESULTS.where(result == RESULTS.successful, controller_result, result)
        # A rejected step that time cannot resolve ends the solve, as does a step size that is not a number.
        stuck = ~keep & ~(t_next - t_prev > 2 * resolution) & (result == RESULTS.successful)
        infinite = jnp.isinf(optx.max_norm(error))
        result = RESULTS.where(stuck, RESULTS.where(infinite, _NONFINITE, RESULTS.dt_min_reached), result)
        after = Progress(
            interval=Interval(t_prev, t_next, jnp.where(keep, made_jump, interval.made_jump)),
            point=select(keep, point, now.point),
            controller_state=controller_state,
            num_steps=now.num_steps + 1,
            num_accepted=now.num_accepted + keep.astype(jnp.int32),
            result=result,
        )
        return after, keep, dense


def _reversed(terms: Any) -> Any:
    if isinstance(terms, dfx.MultiTerm):
        return dfx.MultiTerm(*map(_reversed, terms.terms))
    return Reversed(terms) if _is_term(terms) else jax.tree.map(_reversed, terms, is_leaf=_is_term)


def _is_term(leaf: Any) -> bool:
    return isinstance(leaf, dfx.AbstractTerm)

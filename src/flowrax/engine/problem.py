r"""One sample's solve, one attempted step at a time: what every way of solving many of them shares.

A sample is `start = (state, data)`. `field(shared, start)` gives its diffrax terms and their arguments: `shared`
(model, condition, ...) is the same for all samples, `data` (keys, probes, its own condition) is the sample's. Terms are
made anew at every step, so no sample carries a copy of what is shared.

Time runs forward here: a solve towards smaller times is solved in $\tau = -t$.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._result import RESULTS
from .._typing import Array, PyTree, Scalar
from ..stepper.seeding import begin
from .stages import has_few_stages, step_by_stages
from .stepping import Stepping

_NONFINITE: Any = RESULTS.nonfinite

Field = Callable[[PyTree, PyTree], tuple[Any, PyTree]]


class Reversed(dfx.AbstractTerm):
    r"""A term in $\tau = -t$."""

    term: dfx.AbstractTerm
    direction: ClassVar[int] = -1
    """What exponential solvers multiply their time with."""

    def vf(self, t: Scalar, y: PyTree, args: PyTree) -> PyTree:
        return self.term.vf(-t, y, args)

    def contr(self, t0: Scalar, t1: Scalar, **kwargs: Any) -> PyTree:
        return jax.tree.map(jnp.negative, self.term.contr(-t1, -t0, **kwargs))

    def prod(self, vf: PyTree, control: PyTree) -> PyTree:
        return self.term.prod(vf, control)


class Interval(eqx.Module):
    """One step: from `t0` to `t1`, after a jump of the vector field or not."""

    t0: Array
    t1: Array
    made_jump: Array


class Point(eqx.Module):
    """All that a step starts from."""

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


class Problem(eqx.Module):
    """How samples move: everything but the samples and what they share."""

    field: Field
    solver: dfx.AbstractSolver
    stepping: Stepping

    def terms(self, shared: PyTree, start: PyTree) -> tuple[Any, PyTree]:
        """The terms of one sample in forward time, and their arguments."""
        terms, args = self.field(shared, start)
        return (_reversed(terms) if self.stepping.backward else terms), args

    def begin(self, shared: PyTree, start: tuple[PyTree, PyTree], interval: Interval) -> Point:
        """The state of the solver before its first step."""
        terms, args = self.terms(shared, start)
        solver_state = begin(self.solver, terms, interval.t0, interval.t1, start[0], args)
        return Point(start[0], jax.tree.map(jnp.asarray, solver_state))

    def step(
        self, shared: PyTree, start: tuple[PyTree, PyTree], interval: Interval, point: Point
    ) -> tuple[Point, PyTree, dict[str, PyTree], RESULTS]:
        """One step: where it ends, its error estimate, what interpolates it, and its code."""
        terms, args = self.terms(shared, start)
        if not self.stepping.may_jump and has_few_stages(self.solver, point.solver_state):
            assert isinstance(self.solver, dfx.AbstractERK)
            y, error, dense, solver_state, result = step_by_stages(
                self.solver, terms, interval.t0, interval.t1, point.y, args, point.solver_state
            )
            return Point(y, solver_state), error, dense, result
        # Some solvers can only be told that there is no jump before they are compiled.
        made_jump = interval.made_jump if self.stepping.may_jump else False
        y, error, dense, solver_state, result = self.solver.step(
            terms, interval.t0, interval.t1, point.y, args, point.solver_state, made_jump
        )
        return Point(y, solver_state), error, dense, result

    def first(self, shared: PyTree, start: tuple[PyTree, PyTree]) -> Progress:
        """Before the first attempt of an adaptive solve."""
        stepping, solver = self.stepping, self.solver
        terms, args = self.terms(shared, start)
        t0, t1 = stepping.span
        first, controller_state = stepping.directed_controller.init(
            terms, t0, t1, start[0], stepping.first_step, args, solver.func, solver.error_order(terms)
        )
        interval = Interval(t0, jnp.minimum(first, t1), jnp.asarray(False))
        return Progress(
            interval=interval,
            point=self.begin(shared, start, interval),
            controller_state=jax.tree.map(jnp.asarray, controller_state),
            num_steps=jnp.zeros((), jnp.int32),
            num_accepted=jnp.zeros((), jnp.int32),
            result=RESULTS.successful,
        )

    def attempt(
        self, shared: PyTree, start: tuple[PyTree, PyTree], now: Progress
    ) -> tuple[Progress, Array, dict[str, PyTree]]:
        """One step under error control: the progress after it, whether it was accepted, what interpolates it."""
        interval, (t0, t1) = now.interval, self.stepping.span
        point, error, dense, solver_result = self.step(shared, start, interval, now.point)
        error = jax.tree.map(lambda leaf: jnp.where(jnp.isnan(leaf), jnp.inf, leaf), error)
        terms, args = self.terms(shared, start)
        # A controller may bring the order of its own.
        order: Any = self.solver.error_order(terms)
        keep, t_prev, t_next, made_jump, controller_state, controller_result = (
            self.stepping.directed_controller.adapt_step_size(
                interval.t0,
                interval.t1,
                now.point.y,
                point.y,
                args,
                error,
                order,
                now.controller_state,
            )
        )
        keep, t_prev = jnp.asarray(keep), jnp.minimum(t_prev, t1)
        # No step so short at the end that its interpolation is all rounding.
        resolution = jnp.finfo(t1.dtype).eps * jnp.maximum(jnp.abs(t0), jnp.abs(t1))
        t_end = jnp.where(keep, t1, t_prev + (t1 - t_prev) / 2)
        t_next = jnp.where(t_next > t1 - 100 * resolution, t_end, t_next)
        result = RESULTS.where(keep, solver_result, RESULTS.successful)
        result = RESULTS.where(result == RESULTS.successful, controller_result, result)
        # Nor any that time cannot resolve; a step size that is not a number is one of these.
        stuck = ~keep & ~(t_next - t_prev > 2 * resolution) & (result == RESULTS.successful)
        infinite = jax.tree.reduce(jnp.logical_or, jax.tree.map(lambda leaf: jnp.any(jnp.isinf(leaf)), error))
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

    def is_over(self, progress: Progress) -> Array:
        """Whether a sample has arrived, failed, or used up its steps."""
        arrived = progress.interval.t0 >= self.stepping.span[1]
        failed = ~(progress.result == RESULTS.successful)
        return arrived | failed | (progress.num_steps >= self.stepping.max_steps)

    def final_result(self, progress: Progress) -> RESULTS:
        """The code of a solve that is over."""
        arrived = progress.interval.t0 >= self.stepping.span[1]
        exhausted = ~arrived & (progress.result == RESULTS.successful)
        return RESULTS.where(exhausted, RESULTS.max_steps_reached, progress.result)


def select(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """`yes` where the condition holds, leaf by leaf; the condition may have fewer axes than a leaf, from the front."""

    def one(yes: Any, no: Array) -> Array:
        yes = jnp.asarray(yes)
        return jnp.where(condition.reshape(condition.shape + (1,) * (yes.ndim - condition.ndim)), yes, no)

    return jax.tree.map(one, yes, no)


def put(tree: PyTree, index: Any, rows: PyTree) -> PyTree:
    """Writes rows; an index out of range writes nothing."""
    return jax.tree.map(lambda leaf, row: leaf.at[index].set(row, mode="drop"), tree, rows)


def take(tree: PyTree, rows: Array) -> PyTree:
    """Those rows of every leaf."""
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _reversed(terms: Any) -> Any:
    if isinstance(terms, dfx.MultiTerm):
        return dfx.MultiTerm(*map(_reversed, terms.terms))
    return Reversed(terms) if _is_term(terms) else jax.tree.map(_reversed, terms, is_leaf=_is_term)


def _is_term(leaf: Any) -> bool:
    return isinstance(leaf, dfx.AbstractTerm)

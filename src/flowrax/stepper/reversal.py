r"""Reverses a step of each reversible solver: reconstructs the earlier state and propagates the cotangents to it.

A solver's step is arithmetic around increments $G(x)$, which contain all its evaluations of the vector field. In
reverse each increment is evaluated once, by `pull`: its value serves to reconstruct the state, its transpose to
propagate the cotangents.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.typing import Array, PyTree, Scalar
from .reversible import Reversible


class Times(NamedTuple):
    """The times around a step from `start` to `end`.

    `before` and `after` are the neighbouring step times; at the ends of the solve they equal `start` and `end`.
    """

    before: Scalar
    start: Scalar
    end: Scalar
    after: Scalar


State = PyTree[Array]
Increment = Callable[[Times, State, Any, Any], State]
"""`increment(times, x, terms, args)`."""
Transpose = Callable[[State], tuple[State, PyTree]]
"""Maps the cotangent of an increment to the cotangents of its `x` and of the parameters."""
Pull = Callable[[Increment, State], tuple[State, Transpose]]
"""Evaluates an increment at a state; returns its value and its transpose."""


def add(*trees: PyTree[Array]) -> PyTree[Array]:
    """The sum of trees, leaf by leaf."""
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *trees)


def scale(factor: float, tree: PyTree[Array]) -> PyTree[Array]:
    """A factor times a tree, leaf by leaf."""
    return jax.tree.map(lambda leaf: factor * leaf, tree)


def subtract(a: PyTree[Array], b: PyTree[Array]) -> PyTree[Array]:
    """The difference `a - b`, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


class AbstractReversal(eqx.Module):
    """Reverses the steps of one solver.

    Between steps it keeps a `point`, which determines the state, the cotangent `of_y` of the state, and `others`, the
    cotangents of the rest of the point.
    """

    @abc.abstractmethod
    def start(self, y: State, solver_state: PyTree) -> tuple[PyTree, PyTree]:
        """The point at the end of the solve, and the other cotangents there, which are zero."""

    @abc.abstractmethod
    def back(self, pull: Pull, point: PyTree, of_y: State, others: PyTree) -> tuple[PyTree, State, PyTree, PyTree]:
        """One step back: the point, `of_y` and `others` at its start, and its share of the parameters' cotangents."""

    @abc.abstractmethod
    def finish(
        self, times: Times, point: PyTree, others: PyTree, solver_state: PyTree, terms: PyTree
    ) -> tuple[State, PyTree, PyTree]:
        """The reconstructed initial state, and the cotangents of the initial `solver_state` and of `terms`."""


class SemiImplicitEulerReversal(AbstractReversal):
    """$p' = p + f(q)$, $q' = q + g(p')$."""

    def start(self, y: State, solver_state: PyTree) -> tuple[PyTree, PyTree]:
        return y, None

    def back(self, pull: Pull, point: PyTree, of_y: State, others: PyTree) -> tuple[PyTree, State, PyTree, PyTree]:
        (p, q), (of_p, of_q) = point, of_y
        change, transpose = pull(_second, p)
        q = subtract(q, change)
        more, one = transpose(of_q)
        of_p = add(of_p, more)
        change, transpose = pull(_first, q)
        p = subtract(p, change)
        more, other = transpose(of_p)
        return (p, q), (of_p, add(of_q, more)), others, add(one, other)

    def finish(
        self, times: Times, point: PyTree, others: PyTree, solver_state: PyTree, terms: PyTree
    ) -> tuple[State, PyTree, PyTree]:
        return point, None, None


def _first(times: Times, q: State, terms: PyTree, args: PyTree) -> State:
    return terms[0].vf_prod(times.start, q, args, terms[0].contr(times.start, times.end))


def _second(times: Times, p: State, terms: PyTree, args: PyTree) -> State:
    return terms[1].vf_prod(times.start, p, args, terms[1].contr(times.start, times.end))


class LeapfrogMidpointReversal(AbstractReversal):
    r"""$y_{n+1} = y_{n-1} + f(t_n, y_n) (t_{n+1} - t_{n-1})$; the point is $(y_n, y_{n-1})$."""

    def start(self, y: State, solver_state: PyTree) -> tuple[PyTree, PyTree]:
        return (y, solver_state[1]), scale(0.0, y)

    def back(self, pull: Pull, point: PyTree, of_y: State, others: PyTree) -> tuple[PyTree, State, PyTree, PyTree]:
        y, previous = point
        change, transpose = pull(_leap, previous)
        more, share = transpose(of_y)
        return (previous, subtract(y, change)), add(others, more), of_y, share

    def finish(
        self, times: Times, point: PyTree, others: PyTree, solver_state: PyTree, terms: PyTree
    ) -> tuple[State, PyTree, PyTree]:
        return point[0], (None, others), None


def _leap(times: Times, y: State, terms: PyTree, args: PyTree) -> State:
    return terms.vf_prod(times.start, y, args, terms.contr(times.before, times.end))


class RungeKuttaReversal(AbstractReversal):
    """The two copies of [`Reversible`][]."""

    solver: Reversible

    def start(self, y: State, solver_state: PyTree) -> tuple[PyTree, PyTree]:
        return (y, solver_state), scale(0.0, y)

    def back(self, pull: Pull, point: PyTree, of_y: State, others: PyTree) -> tuple[PyTree, State, PyTree, PyTree]:
        (y, z), coupling = point, self.solver.coupling
        change, transpose = pull(self._return, y)
        z = add(z, change)
        more, one = transpose(scale(-1.0, others))
        of_y = add(of_y, more)
        change, transpose = pull(self._advance, z)
        y = jax.tree.map(lambda y, z, d: z + (y - z - d) / coupling, y, z, change)
        more, other = transpose(of_y)
        others = add(others, scale(1 - coupling, of_y), more)
        return (y, z), scale(coupling, of_y), others, add(one, other)

    def finish(
        self, times: Times, point: PyTree, others: PyTree, solver_state: PyTree, terms: PyTree
    ) -> tuple[State, PyTree, PyTree]:
        return point[0], others, None

    def _advance(self, times: Times, z: State, terms: PyTree, args: PyTree) -> State:
        return self.solver.increment(terms, times.start, times.end, z, args)[0]

    def _return(self, times: Times, y: State, terms: PyTree, args: PyTree) -> State:
        return self.solver.increment(terms, times.start, times.end, y, args, backward=True)[0]


class ReversibleHeunReversal(AbstractReversal):
    r"""$u' = 2 y - u + f h$, $y' = y + (f + f') h / 2$ with $f = f(t, u)$ and $f' = f(t', u')$.

    The point is $(u', y' + f' h' / 2)$, where $h'$ is the next step. $y'$ follows from it once $f'$ is known, so $f'$
    is evaluated once for the two steps that contain it. `others` holds the cotangents of $u'$ and of $f' h'$.

    Kidger et al. 2021, "Efficient and Accurate Gradients for Neural SDEs", algorithms 1 and 2.
    """

    def start(self, y: State, solver_state: PyTree) -> tuple[PyTree, PyTree]:
        zeros = scale(0.0, y)
        return (solver_state[0], y), (zeros, zeros)

    def back(self, pull: Pull, point: PyTree, of_y: State, others: PyTree) -> tuple[PyTree, State, PyTree, PyTree]:
        (u, half), (of_u, of_right) = point, others
        (left, right), transpose = pull(_both_sides, u)
        y = subtract(half, scale(0.5, right))
        more, share = transpose((scale(0.5, of_y), of_right))
        of_u = add(of_u, more)
        point = jax.tree.map(lambda y, u, d: 2 * y - u - d, y, u, left), subtract(y, scale(0.5, left))
        return point, add(of_y, scale(2.0, of_u)), (scale(-1.0, of_u), add(of_u, scale(0.5, of_y))), share

    def finish(
        self, times: Times, point: PyTree, others: PyTree, solver_state: PyTree, terms: PyTree
    ) -> tuple[State, PyTree, PyTree]:
        (_, half), (of_u, of_right) = point, others

        def right(field: PyTree, terms: PyTree) -> State:
            return terms.prod(field, terms.contr(times.start, times.after))

        change, transpose = eqx.filter_vjp(right, solver_state[1], terms)
        of_field, of_terms = transpose(of_right)
        return subtract(half, scale(0.5, change)), (of_u, of_field), of_terms


def _both_sides(times: Times, u: State, terms: PyTree, args: PyTree) -> tuple[State, State]:
    """The field at the end of a step, times the control of this step and of the next (zero after the last step)."""
    field = terms.vf(times.end, u, args)
    last = times.after == times.end
    right = terms.contr(jnp.where(last, times.start, times.end), times.after)
    left = terms.prod(field, terms.contr(times.start, times.end))
    return left, jax.tree.map(lambda d: jnp.where(last, jnp.zeros_like(d), d), terms.prod(field, right))


def reversal_of(solver: dfx.AbstractSolver) -> AbstractReversal:
    """The reversal of a solver; raises `ValueError` for a solver that has none."""
    # Types are compared because diffrax counts a wrapper as an instance of the solver it wraps.
    if type(solver) is Reversible:
        return RungeKuttaReversal(solver)
    reversals = {
        dfx.ReversibleHeun: ReversibleHeunReversal,
        dfx.SemiImplicitEuler: SemiImplicitEulerReversal,
        dfx.LeapfrogMidpoint: LeapfrogMidpointReversal,
    }
    if type(solver) not in reversals:
        raise ValueError(
            f"ReversibleAdjoint cannot reverse {type(solver).__name__}; use diffrax's ReversibleHeun, "
            "SemiImplicitEuler or LeapfrogMidpoint, or make an explicit Runge-Kutta method reversible: "
            "flowrax.Reversible(diffrax.Tsit5())."
        )
    return reversals[type(solver)]()

"""Integrates a second term by quadrature, from its values at the ends of each step."""

from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp

from .._base.arguments import CheckedSolver
from .._base.typing import PyTree
from .init_solver import init_solver


class Trapezoidal(dfx.AbstractWrappedSolver, metaclass=CheckedSolver):
    r"""Integrates the first of two terms with `solver` and the second with the trapezoidal rule.

    For $\dot y = f(t, y) + g(t, y)$ where $f$ does not depend on the components that $g$ changes. The second term then
    costs one evaluation per step, whatever the number of stages of `solver`. Step size control and interpolation use
    the first term only.
    """

    solver: dfx.AbstractSolver

    @property
    def term_structure(self) -> Any:
        return dfx.MultiTerm[tuple[self.solver.term_structure, dfx.AbstractTerm]]

    @property
    def interpolation_cls(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.solver.interpolation_cls

    @property
    def term_compatible_contr_kwargs(self) -> Any:
        return self.solver.term_compatible_contr_kwargs, {}

    def order(self, terms: Any) -> int | None:
        return self.solver.order(_first(terms))

    def strong_order(self, terms: Any) -> Any:
        return self.solver.strong_order(_first(terms))

    def error_order(self, terms: Any) -> Any:
        return self.solver.error_order(_first(terms))

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        first, second = terms.terms
        return init_solver(self.solver, first, t0, t1, y0, args), second.vf(t0, y0, args)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, Any, Any, Any, Any]:
        first, second = terms.terms
        state, start = solver_state
        y1, error, dense, state, result = self.solver.step(first, t0, t1, y0, args, state, made_jump)
        if made_jump is not False:
            start = jax.lax.cond(made_jump, lambda: second.vf(t0, y0, args), lambda: start)
        end = second.vf(t1, y1, args)
        mean: PyTree = jax.tree.map(lambda a, b: (a + b) / 2, start, end)
        change = second.prod(mean, second.contr(t0, t1))
        return jax.tree.map(jnp.add, y1, change), error, dense, (state, end), result

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        return self.solver.func(_first(terms), t0, y0, args)


def _first(terms: Any) -> Any:
    return None if terms is None else terms.terms[0]

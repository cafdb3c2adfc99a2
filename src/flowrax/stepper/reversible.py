r"""Any explicit Runge-Kutta method, made algebraically reversible by a second copy of the state.

With $\Psi_h(t, x)$ the increment of the method over a step $h$ and $0 < \lambda \le 1$ (McCallum and Foster 2024),

$$y_{n+1} = \lambda y_n + (1 - \lambda) z_n + \Psi_h(t_n, z_n), \qquad z_{n+1} = z_n - \Psi_{-h}(t_{n+1}, y_{n+1}).$$

The step is inverted by solving the second line for $z_n$, then the first for $y_n$.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.arguments import CheckedSolver
from .._base.typing import Array, PyTree, Scalar

# The largest number of stages that are unrolled. Differentiated as a loop they used 2 to 3 times as much memory and
# took 6 to 13% longer; unrolling this many less than doubles the compile time.
_UNROLLED = 6


class Reversible(dfx.AbstractAdaptiveSolver, dfx.AbstractWrappedSolver, metaclass=CheckedSolver):
    r"""Makes an explicit Runge-Kutta method reversible, for [`ReversibleAdjoint`][], with the same order.

    A step costs two steps of the method. Between steps the solution is interpolated linearly: to have it at full
    accuracy at given times, let steps end there, with a grid or `diffrax.ClipStepSizeController(step_ts=...)`.

    **Reference:** [@mccallum2024efficient].
    """

    solver: dfx.AbstractERK
    coupling: float = eqx.field(static=True)
    interpolation_cls: ClassVar[Callable[..., dfx.LocalLinearInterpolation]] = dfx.LocalLinearInterpolation

    def __init__(self, solver: dfx.AbstractSolver, coupling: float = 0.999):
        r"""**Arguments:**

        - `solver`: a diffrax solver: `diffrax.Tsit5()`, `Dopri5()`, `Bosh3()`, `Heun()`, `Midpoint()`, ...
        - `coupling`: $\lambda$, in (0, 1]. Each step multiplies the difference between the two copies by $\lambda$,
            which stabilises the solve; in reverse, rounding errors grow by $1 / \lambda$ per step. Default: 0.999.

        Raises `ValueError` for a solver that is no explicit Runge-Kutta method or a coupling out of range.
        """
        if not isinstance(solver, dfx.AbstractERK) or isinstance(solver, dfx.AbstractWrappedSolver):
            raise ValueError(
                f"Reversible(solver) needs an explicit Runge-Kutta method of diffrax, such as Tsit5(); "
                f"got {type(solver).__name__}."
            )
        if not 0 < coupling <= 1:
            raise ValueError(f"coupling={coupling} is outside (0, 1].")
        self.solver, self.coupling = solver, float(coupling)

    @property
    def term_structure(self) -> Any:
        return dfx.AbstractTerm

    @property
    def scan_kind(self) -> Any:
        """The method's `scan_kind`, which diffrax's forward-mode adjoints set on Runge-Kutta methods, even wrapped."""
        return self.solver.scan_kind

    @property
    def num_evaluations_per_step(self) -> int:
        """Evaluations of the vector field: a step of each copy, and one more for the error estimate if FSAL."""
        tableau = self.solver.tableau
        assert isinstance(tableau, dfx.ButcherTableau)
        return 2 * (tableau.num_stages - int(tableau.fsal)) + int(tableau.fsal)

    def order(self, terms: PyTree) -> int | None:
        return self.solver.order(terms)

    def strong_order(self, terms: PyTree) -> Any:
        return self.solver.strong_order(terms)

    def init(self, terms: PyTree, t0: Scalar, t1: Scalar, y0: PyTree[Array], args: PyTree) -> PyTree[Array]:
        return y0

    def step(
        self,
        terms: PyTree,
        t0: Scalar,
        t1: Scalar,
        y0: PyTree[Array],
        args: PyTree,
        solver_state: PyTree[Array],
        made_jump: Any,
    ) -> tuple[PyTree[Array], PyTree[Array], dict[str, PyTree[Array]], PyTree[Array], dfx.RESULTS]:
        z0 = solver_state
        there, error = self.increment(terms, t0, t1, z0, args)
        y1 = jax.tree.map(lambda y, z, d: z + self.coupling * (y - z) + d, y0, z0, there)
        back, _ = self.increment(terms, t0, t1, y1, args, backward=True)
        z1 = jax.tree.map(jnp.subtract, z0, back)
        return y1, error, {"y0": y0, "y1": y1}, z1, dfx.RESULTS.successful

    def func(self, terms: PyTree, t0: Scalar, y0: PyTree[Array], args: PyTree) -> Any:
        return terms.vf(t0, y0, args)

    def increment(
        self, terms: PyTree, t0: Scalar, t1: Scalar, x: PyTree[Array], args: PyTree, *, backward: bool = False
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        r"""$\Psi$ from `x` at `t0` to `t1` (with `backward`, from `x` at `t1` to `t0`), and its error estimate."""
        control = terms.contr(t0, t1)
        if backward:
            t0, t1, control = t1, t0, jax.tree.map(jnp.negative, control)
        tableau = self.solver.tableau
        assert isinstance(tableau, dfx.ButcherTableau)
        count = tableau.num_stages - int(tableau.fsal)
        weights = np.zeros((count, count))
        for row, coefficients in enumerate(tableau.a_lower[: count - 1], 1):
            weights[row, :row] = coefficients
        nodes = np.concatenate([[tableau.c1], tableau.c])

        def slope(node: Any, at: PyTree[Array]) -> PyTree[Array]:
            return terms.vf_prod(t0 + jnp.asarray(node, jnp.result_type(t0)) * (t1 - t0), at, args, control)

        def stage(slopes: PyTree[Array], row: tuple[Array, Array, Array]) -> tuple[PyTree[Array], None]:
            index, weight, node = row
            at = jax.tree.map(jnp.add, x, _combine(weight, slopes))
            return jax.tree.map(lambda ks, k: ks.at[index].set(k), slopes, slope(node, at)), None

        slopes = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), x)
        rows = (jnp.arange(count), jnp.asarray(weights), jnp.asarray(nodes[:count]))
        slopes, _ = jax.lax.scan(stage, slopes, rows, unroll=count <= _UNROLLED)
        change = _combine(tableau.b_sol[:count], slopes)
        error = _combine(tableau.b_error[:count], slopes)
        if tableau.fsal:
            # The last stage is the first of the next step; here only the error estimate uses it.
            ahead = slope(1.0, jax.tree.map(jnp.add, x, change))
            error = jax.tree.map(lambda e, k: e + tableau.b_error[-1].item() * k, error, ahead)
        return change, error


def _combine(weights: Any, slopes: PyTree[Array]) -> PyTree[Array]:
    def one(leaf: Array) -> Array:
        return jnp.tensordot(jnp.asarray(weights).astype(leaf.dtype), leaf, 1, precision=jax.lax.Precision.HIGHEST)

    return jax.tree.map(one, slopes)

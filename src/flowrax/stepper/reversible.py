r"""Any explicit Runge-Kutta method, made algebraically reversible by a second copy of the state.

With $\Psi_h(t, x)$ the increment of the method over a step $h$ and $0 < \lambda \le 1$ (McCallum and Foster 2024),

$$y_{n+1} = \lambda y_n + (1 - \lambda) z_n + \Psi_h(t_n, z_n), \qquad z_{n+1} = z_n - \Psi_{-h}(t_{n+1}, y_{n+1}).$$

Both lines can be solved for what stands at $n$: first $z_n$, then $y_n$.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._typing import Array, PyTree, Scalar

# Stages that are compiled one by one. Transposed as a loop they kept 2 to 3 times as much memory and took 6 to 13%
# longer; so many stages compile in less than twice the time.
_UNROLLED = 6


class Reversible(dfx.AbstractAdaptiveSolver, dfx.AbstractWrappedSolver):
    r"""Makes an explicit Runge-Kutta method reversible, for [`ReversibleAdjoint`][]; the order is kept.

    A step costs two of the method's. Between the steps the solution is interpolated linearly: let the steps end at the
    times that matter, by a grid or by `diffrax.ClipStepSizeController(step_ts=...)`.

    **Reference:** [@mccallum2024efficient].
    """

    solver: dfx.AbstractERK
    coupling: float = eqx.field(static=True)
    interpolation_cls: ClassVar[Callable[..., dfx.LocalLinearInterpolation]] = dfx.LocalLinearInterpolation

    def __init__(self, solver: dfx.AbstractSolver, coupling: float = 0.999):
        r"""**Arguments:**

        - `solver`: `diffrax.Tsit5()`, `Dopri5()`, `Bosh3()`, `Heun()`, `Midpoint()`, ...
        - `coupling`: $\lambda$, in (0, 1]. It damps the difference of the two copies by $\lambda$ a step, which makes
            the solve stable, and on the way back rounding grows by $1 / \lambda$ a step.

        Raises `ValueError` for another kind of solver or a coupling out of range.
        """
        if not isinstance(solver, dfx.AbstractERK) or isinstance(solver, dfx.AbstractWrappedSolver):
            raise ValueError(
                f"Reversible(solver) takes an explicit Runge-Kutta method of diffrax, such as Tsit5(); "
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
        """Of the method: diffrax's forward-mode adjoints set it on every Runge-Kutta method, wrapped ones too."""
        return self.solver.scan_kind

    @property
    def num_evaluations_per_step(self) -> int:
        """Both of the coupled states take a step; an error estimate may need one stage more."""
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
        r"""$\Psi$ from `x` at `t0` to `t1`, or at `t1` backward to `t0`, and the method's estimate of its error."""
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
            # The last stage is the first of the next step, wanted for the error alone.
            ahead = slope(1.0, jax.tree.map(jnp.add, x, change))
            error = jax.tree.map(lambda e, k: e + tableau.b_error[-1].item() * k, error, ahead)
        return change, error


def _combine(weights: Any, slopes: PyTree[Array]) -> PyTree[Array]:
    def one(leaf: Array) -> Array:
        return jnp.tensordot(jnp.asarray(weights).astype(leaf.dtype), leaf, 1, precision=jax.lax.Precision.HIGHEST)

    return jax.tree.map(one, slopes)

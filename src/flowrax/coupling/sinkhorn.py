r"""Entropic transport plans $\pi = e^{(f \oplus g - c) / \varepsilon}$, with $c$ optionally divided by its maximum.

$$\pi = \arg\min \langle c, \pi \rangle + \varepsilon \operatorname{KL}(\pi | 1)
+ \rho \operatorname{KL}(\pi \mathbf 1 | 1 / n) + \rho \operatorname{KL}(\pi^\top \mathbf 1 | 1 / n),$$

with $\rho = \infty$ where the marginals are fixed. ott-jax finds the potentials $f$ and $g$.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp

from .._base.checks import check_count, check_positive, plain_int, time_dtype
from .._base.typing import Array, Batch, Condition
from .acceleration import AbstractAcceleration, Annealing
from .chunked import by_chunks, chunked_point_cloud
from .cost import Cost, SquaredDistance, centred, in_units
from .ott_jax import ott_jax
from .pair_draw import AbstractDraw, PerData
from .plan import AbstractPlan
from .transport import AbstractTransport, DensePlan, PotentialPlan, squared_distances, with_convergence

# The largest number of rows whose costs are held in memory, and the rows computed at once for larger batches.
_MOST_ROWS, _CHUNK = 8192, 1024


class AbstractSinkhorn(AbstractPlan):
    """An entropic plan by ott-jax."""

    reg: eqx.AbstractVar[float]
    reg_marginal: eqx.AbstractVar[float]
    absolute: eqx.AbstractVar[bool]
    tolerance: eqx.AbstractVar[float]
    max_iterations: eqx.AbstractVar[int]
    annealing: eqx.AbstractVar[Annealing | None]
    acceleration: eqx.AbstractVar[AbstractAcceleration | None]
    chunk_size: eqx.AbstractVar[int | None]

    def __check_init__(self) -> None:
        check_positive("reg", self.reg)
        check_positive("tolerance", self.tolerance)
        check_count("max_iterations", self.max_iterations)
        if self.chunk_size is not None:
            check_count("chunk_size", self.chunk_size)
            if not _is_plain(self.cost):
                raise ValueError("chunk_size is for squared distances without a mask; leave out cost, or chunk_size.")

    @eqx.filter_jit
    def transport(self, x0: Batch, x1: Batch, condition: Condition = None) -> AbstractTransport:
        if self.chunk_size is not None or (x1.shape[0] > _MOST_ROWS and _is_plain(self.cost)):
            return self._in_chunks(x0, x1)
        costs = self.cost(x1, x0, condition) if self.absolute else in_units(self.cost, x1, x0, condition)
        costs = costs.astype(time_dtype(costs.dtype))
        with ott_jax():
            from ott.geometry.geometry import Geometry

            out = self._solve(Geometry(cost_matrix=costs, epsilon=self._epsilon()))
        f, g = out.potentials
        return self._judge_solution(DensePlan(log_plan=(f[:, None] + g[None] - costs) / self.reg), out)

    def _in_chunks(self, x0: Batch, x1: Batch) -> AbstractTransport:
        """The plan of many rows, whose costs are computed anew in every iteration."""
        size = min(self.chunk_size or _CHUNK, x1.shape[0])
        x, y = (z.reshape(z.shape[0], -1).astype(time_dtype(z.dtype)) for z in centred(x1, x0))
        if not self.absolute:
            largest = jnp.max(by_chunks(lambda rows: jnp.max(squared_distances(rows, y), axis=1), x, size))
            unit = jnp.sqrt(jnp.where(largest > 0, largest, 1))
            x, y = x / unit, y / unit
        with ott_jax():
            out = self._solve(chunked_point_cloud(size)(x, y, epsilon=self._epsilon()))
        f, g = out.potentials
        return self._judge_solution(PotentialPlan(x=x, y=y, f=f, g=g, reg=self.reg, chunk_size=size), out)

    def _epsilon(self) -> Any:
        from ott.geometry.epsilon_scheduler import Epsilon

        if self.annealing is None:
            return Epsilon(self.reg)
        return Epsilon(self.reg, self.annealing.start, self.annealing.decay)

    def _solve(self, geometry: Any) -> Any:
        from ott.problems.linear.linear_problem import LinearProblem
        from ott.solvers.linear.sinkhorn import Sinkhorn as Solver

        accelerated = {} if self.acceleration is None else self.acceleration.options()
        solver = Solver(
            threshold=self.tolerance,
            max_iterations=self.max_iterations,
            inner_iterations=min(10, self.max_iterations),
            **accelerated,
        )
        tau = 1.0 if self.reg_marginal == float("inf") else self.reg_marginal / (self.reg_marginal + self.reg)
        return solver(LinearProblem(geometry, tau_a=tau, tau_b=tau))

    def _judge_solution(self, plan: AbstractTransport, out: Any) -> AbstractTransport:
        is_balanced = self.reg_marginal == float("inf")
        return with_convergence(
            plan,
            log_decrease=None if is_balanced else (-out.f / self.reg_marginal, -out.g / self.reg_marginal),
            tolerance=self.tolerance,
            solver_converged=jnp.asarray(out.converged),
            num_iterations=jnp.asarray(out.n_iters),
        )

    def log_plan(self, x0: Batch, x1: Batch, condition: Condition = None) -> Array:
        """The logarithm of the plan between data (rows) and noise (columns), `(n, n)`; its mass need not be one."""
        plan = self.transport(x0, x1, condition)
        if isinstance(plan, PotentialPlan):
            return plan.log_rows(jnp.arange(plan.num_rows, dtype=jnp.int32))
        assert isinstance(plan, DensePlan)
        return plan.log_plan


def _is_plain(cost: Cost) -> bool:
    return isinstance(cost, SquaredDistance) and cost.mask is None


class Sinkhorn(AbstractSinkhorn):
    """Draws pairs from the entropic transport plan of a batch, on the device.

    `Pairs.convergence` records the marginal error of the plan. If the plan did not converge, a call outside of compiled
    code warns, and `fit` warns and counts such plans in its history.

    **Reference:** [@cuturi2013sinkhorn].
    """

    reg: float = eqx.field(static=True)
    absolute: bool = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True, converter=plain_int)
    annealing: Annealing | None
    acceleration: AbstractAcceleration | None
    strict: bool = eqx.field(static=True)
    chunk_size: int | None = eqx.field(static=True, converter=plain_int)
    cost: Cost
    draw: AbstractDraw
    reg_marginal: ClassVar[float] = float("inf")

    def __init__(
        self,
        reg: float = 0.05,
        *,
        absolute: bool = False,
        tolerance: float = 1e-3,
        max_iterations: int = 2000,
        annealing: Annealing | None = None,
        acceleration: AbstractAcceleration | None = None,
        strict: bool = False,
        chunk_size: int | None = None,
        cost: Cost | None = None,
        draw: AbstractDraw | None = None,
    ) -> None:
        r"""**Arguments:**

        - `reg`: the regularisation $\varepsilon$, in units of the largest cost of the batch, not counting the cost of
            conditions.
        - `absolute`: whether `reg` is in units of the cost itself instead; for squared distances, the square of the
            unit of the data.
        - `tolerance`: the iterations end when the absolute errors of the marginal of the noise sum to less than this.
            They are measured every ten iterations.
        - `max_iterations`: the largest number of iterations.
        - `annealing`: [`Annealing`][] of the regularisation. Default: none.
        - `acceleration`: [`Momentum`][] or [`Anderson`][]. Default: none.
        - `strict`: whether a plan that did not converge raises an error.
        - `chunk_size`: the number of rows whose costs are computed at once, anew in every iteration, so that no
            `(n, n)` matrix is held in memory; for squared distances without a mask. Default: all costs are held up to
            8,192 rows, and chunks have 1,024 rows beyond.
        - `cost`: as in [`ExactOT`][].
        - `draw`: how pairs are drawn from the plan. Default: `PerData()`.

        **Raises:** `ValueError` if `reg`, `tolerance` or `max_iterations` is not positive, and, with `strict`, for a
        plan that did not converge.
        """
        self.reg, self.absolute, self.strict = reg, absolute, strict
        self.tolerance, self.max_iterations, self.chunk_size = tolerance, max_iterations, chunk_size
        self.annealing, self.acceleration = annealing, acceleration
        self.cost = SquaredDistance() if cost is None else cost
        self.draw = PerData() if draw is None else draw


class UnbalancedSinkhorn(AbstractSinkhorn):
    r"""Draws pairs from an unbalanced entropic plan, which transports less mass of rows that are far from all others.

    The pairs of such rows count less in the loss: `Pairs.weights` is the mass of the row for which the pair was drawn,
    divided by the mean mass. [`JointDraw`][] already draws rows in proportion to their mass, so all its pairs have
    equal weight. A plan that did not converge is reported as in [`Sinkhorn`][].

    **References:** [@chizat2018scaling], [@eyring2024unbalancedness].
    """

    reg: float = eqx.field(static=True)
    reg_marginal: float = eqx.field(static=True)
    absolute: bool = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True, converter=plain_int)
    annealing: Annealing | None
    acceleration: AbstractAcceleration | None
    strict: bool = eqx.field(static=True)
    chunk_size: int | None = eqx.field(static=True, converter=plain_int)
    cost: Cost
    draw: AbstractDraw

    def __init__(
        self,
        reg: float = 0.05,
        reg_marginal: float = 1.0,
        *,
        absolute: bool = False,
        tolerance: float = 1e-3,
        max_iterations: int = 2000,
        annealing: Annealing | None = None,
        acceleration: AbstractAcceleration | None = None,
        strict: bool = False,
        chunk_size: int | None = None,
        cost: Cost | None = None,
        draw: AbstractDraw | None = None,
    ) -> None:
        r"""**Arguments:**

        - `reg_marginal`: the penalty $\rho$ on the marginals, in the units of `reg`; a large value preserves them.
        - `tolerance`: as in [`Sinkhorn`][], for the gradient of the dual objective with respect to the potentials.
        - `reg`, `absolute`, `max_iterations`, `annealing`, `acceleration`, `strict`, `chunk_size`, `cost`, `draw`: as
            in [`Sinkhorn`][].

        **Raises:** `ValueError` if `reg`, `reg_marginal`, `tolerance` or `max_iterations` is not positive.
        """
        check_positive("reg_marginal", reg_marginal)
        self.reg, self.reg_marginal, self.absolute, self.strict = reg, reg_marginal, absolute, strict
        self.tolerance, self.max_iterations, self.chunk_size = tolerance, max_iterations, chunk_size
        self.annealing, self.acceleration = annealing, acceleration
        self.cost = SquaredDistance() if cost is None else cost
        self.draw = PerData() if draw is None else draw

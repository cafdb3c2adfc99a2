r"""Entropic transport plans $\pi = e^{u \oplus v - c / \varepsilon}$, with $c$ divided by its largest entry or not.

$$\pi = \arg\min \langle c, \pi \rangle + \varepsilon \operatorname{KL}(\pi | 1)
+ \rho \operatorname{KL}(\pi \mathbf 1 | 1 / n) + \rho \operatorname{KL}(\pi^\top \mathbf 1 | 1 / n),$$

with $\rho = \infty$ where the marginals are fixed. The iterations work on logarithms, so that nothing under- or
overflows:

$$v \leftarrow \phi\, \big(\!-\log n - \operatorname{lse}_i (u_i - c_{ij} / \varepsilon)\big), \quad
u \leftarrow \phi\, \big(\!-\log n - \operatorname{lse}_j (v_j - c_{ij} / \varepsilon)\big), \quad
\phi = \frac{\rho}{\rho + \varepsilon}.$$
"""

import abc
import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_number, check_shape, plain_int
from .._base.typing import Array, Batch, Condition, KeyArray
from .base import AbstractCoupling, Pairs, check_paired_rows
from .cost import Cost, SquaredDistance, in_units
from .pair_draw import AbstractDraw, PerData


class AbstractPlan(AbstractCoupling):
    """Draws pairs from a transport plan of a batch. The pair of a row with zero mass has weight zero."""

    cost: eqx.AbstractVar[Cost]
    draw: eqx.AbstractVar[AbstractDraw]
    independent: ClassVar[bool] = False

    @abc.abstractmethod
    def log_plan(self, x0: Batch, x1: Batch, condition: Condition = None) -> Array:
        """The logarithm of the plan between data (rows) and noise (columns), `(n, n)`; its mass need not be one."""

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        check_paired_rows(x0, x1, condition)
        log_plan = jax.lax.stop_gradient(self.log_plan(x0, x1, condition))
        noise, data = self.draw.of_plan(key, log_plan)
        log_mass = self.draw.log_mass(log_plan)
        weights = None if log_mass is None else log_mass.shape[0] * jax.nn.softmax(log_mass)
        return Pairs(x0[noise], x1[data], noise, data, weights)


class AbstractSinkhorn(AbstractPlan):
    """An entropic plan, computed by a fixed number of iterations."""

    reg: eqx.AbstractVar[float]
    absolute: eqx.AbstractVar[bool]
    num_iterations: eqx.AbstractVar[int]
    damping: eqx.AbstractVar[float]
    r"""$\phi$, which is one where the marginals are fixed."""

    def log_plan(self, x0: Batch, x1: Batch, condition: Condition = None) -> Array:
        costs = self.cost(x1, x0, condition) if self.absolute else in_units(self.cost, x1, x0, condition)
        scaled = -costs / self.reg
        log_marginal = -math.log(costs.shape[0])

        def update(_: Array, potentials: tuple[Array, Array]) -> tuple[Array, Array]:
            u, _ = potentials
            v = self.damping * (log_marginal - jax.nn.logsumexp(scaled + u[:, None], axis=0))
            return self.damping * (log_marginal - jax.nn.logsumexp(scaled + v[None], axis=1)), v

        zeros = jnp.zeros(costs.shape[:1], costs.dtype)
        u, v = jax.lax.fori_loop(0, self.num_iterations, update, (zeros, zeros))
        return scaled + u[:, None] + v[None]


def _check(**positive: float | int) -> None:
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name}={value} is not positive.")


class Sinkhorn(AbstractSinkhorn):
    """Draws pairs from the entropic transport plan of a batch, on the device.

    **Reference:** [@cuturi2013sinkhorn].
    """

    reg: float = eqx.field(static=True)
    absolute: bool = eqx.field(static=True)
    num_iterations: int = eqx.field(static=True, converter=plain_int)
    cost: Cost
    draw: AbstractDraw
    damping: ClassVar[float] = 1.0

    def __init__(
        self,
        reg: float = 0.05,
        *,
        absolute: bool = False,
        num_iterations: int = 100,
        cost: Cost | None = None,
        draw: AbstractDraw | None = None,
    ) -> None:
        r"""**Arguments:**

        - `reg`: the regularisation $\varepsilon$, in units of the largest cost of the batch, not counting the cost of
            conditions.
        - `absolute`: whether `reg` is in units of the cost itself instead; for squared distances, the square of the
            unit of the data.
        - `num_iterations`: the number of iterations. The marginal of the data is exact after each of them; the marginal
            of the noise is exact in the limit.
        - `cost`: as in [`ExactOT`][].
        - `draw`: how pairs are drawn from the plan. Default: `PerData()`.

        **Raises:** `ValueError` if `reg` or `num_iterations` is not positive.
        """
        _check(reg=reg, num_iterations=num_iterations)
        self.reg, self.absolute, self.num_iterations = reg, absolute, num_iterations
        self.cost = SquaredDistance() if cost is None else cost
        self.draw = PerData() if draw is None else draw

    def __check_init__(self) -> None:
        check_number("reg", self.reg)


class UnbalancedSinkhorn(AbstractSinkhorn):
    r"""Draws pairs from an unbalanced entropic plan, which transports less mass of rows that are far from all others.

    The pairs of such rows count less in the loss: `Pairs.weights` is the mass of the row for which the pair was drawn,
    divided by the mean mass. [`JointDraw`][] already draws rows in proportion to their mass, so all its pairs have
    equal weight.

    **References:** [@chizat2018scaling], [@eyring2024unbalancedness].
    """

    reg: float = eqx.field(static=True)
    reg_marginal: float = eqx.field(static=True)
    absolute: bool = eqx.field(static=True)
    num_iterations: int = eqx.field(static=True, converter=plain_int)
    cost: Cost
    draw: AbstractDraw

    def __init__(
        self,
        reg: float = 0.05,
        reg_marginal: float = 1.0,
        *,
        absolute: bool = False,
        num_iterations: int = 100,
        cost: Cost | None = None,
        draw: AbstractDraw | None = None,
    ) -> None:
        r"""**Arguments:**

        - `reg_marginal`: the penalty $\rho$ on the marginals, in the units of `reg`; a large value preserves them.
        - `reg`, `absolute`, `num_iterations`, `cost`, `draw`: as in [`Sinkhorn`][].

        **Raises:** `ValueError` if `reg`, `reg_marginal` or `num_iterations` is not positive.
        """
        _check(reg=reg, reg_marginal=reg_marginal, num_iterations=num_iterations)
        self.reg, self.reg_marginal, self.absolute, self.num_iterations = reg, reg_marginal, absolute, num_iterations
        self.cost = SquaredDistance() if cost is None else cost
        self.draw = PerData() if draw is None else draw

    def __check_init__(self) -> None:
        check_number("reg", self.reg)
        check_number("reg_marginal", self.reg_marginal)

    @property
    def damping(self) -> float:
        return self.reg_marginal / (self.reg_marginal + self.reg)


class Plan(AbstractPlan):
    """Draws pairs from a plan that any function computes from the costs, such as a solver of ott-jax (extra `ot`).

    ```python
    def plan(costs):
        geometry = ott.geometry.geometry.Geometry(cost_matrix=costs, epsilon=0.5)
        problem = ott.problems.linear.linear_problem.LinearProblem(geometry)
        return ott.solvers.linear.sinkhorn.Sinkhorn()(problem).matrix
    ```
    """

    plan: Callable[[Array], Array] = eqx.field(static=True)
    cost: Cost
    draw: AbstractDraw

    def __init__(
        self, plan: Callable[[Array], Array], *, cost: Cost | None = None, draw: AbstractDraw | None = None
    ) -> None:
        """**Arguments:**

        - `plan`: maps the `(n, n)` costs of data (rows) and noise (columns) to a plan of the same shape, which need not
            be normalised. The function may mix dtypes and ranks. The weights of the pairs are proportional to the mass
            of their rows.
        - `cost`, `draw`: as in [`Sinkhorn`][].
        """
        self.plan, self.cost = plan, SquaredDistance() if cost is None else cost
        self.draw = PerData() if draw is None else draw

    def log_plan(self, x0: Batch, x1: Batch, condition: Condition = None) -> Array:
        costs = self.cost(x1, x0, condition)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            plan = self.plan(costs)
        check_shape("plan(costs)", plan.shape, costs.shape)
        return jnp.log(plan)

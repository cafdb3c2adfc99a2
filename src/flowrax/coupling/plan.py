"""Couplings that draw pairs from a transport plan of the batch."""

import abc
import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_shape, is_traced
from .._base.typing import Array, Batch, Condition, KeyArray
from .base import AbstractCoupling, Pairs, check_paired_rows
from .cost import Cost, SquaredDistance
from .ott_jax import ott_jax
from .pair_draw import AbstractDraw, PerData
from .transport import AbstractRowsPlan, AbstractTransport, DensePlan

UNCONVERGED = (
    "The noise of pairs drawn from such a plan does not have the distribution of the prior, from which sampling "
    "starts. Use a larger reg, more max_iterations, Annealing, an acceleration, or ExactOT."
)


class AbstractPlan(AbstractCoupling):
    """Draws pairs from a transport plan of a batch. The pair of a row with zero mass has weight zero.

    Rows that are split over devices are treated as one batch with one plan.
    """

    cost: eqx.AbstractVar[Cost]
    draw: eqx.AbstractVar[AbstractDraw]
    strict: eqx.AbstractVar[bool]
    """Whether a plan that did not converge raises an error."""
    independent: ClassVar[bool] = False

    @abc.abstractmethod
    def transport(self, x0: Batch, x1: Batch, condition: Condition = None) -> AbstractTransport:
        """The plan between data and noise."""

    def __call__(self, key: KeyArray, x0: Batch, x1: Batch, condition: Condition = None) -> Pairs:
        check_paired_rows(x0, x1, condition)
        # Nothing is differentiated: the rows of the pairs are piecewise constant.
        frozen, *rows = jax.tree.map(
            lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, (self, x0, x1, condition)
        )
        plan = self._judged(frozen.transport(*rows))
        if isinstance(plan, AbstractRowsPlan):
            (noise, data), log_mass = self.draw.of_rows(key, plan), self.draw.log_mass_of_rows(plan)
        else:
            noise, data = self.draw.of_plan(key, plan.log_plan)
            log_mass = self.draw.log_mass(plan.log_plan)
        weights = None if log_mass is None else log_mass.shape[0] * jax.nn.softmax(log_mass)
        return Pairs(x0[noise], x1[data], noise, data, weights, plan.convergence)

    def _judged(self, plan: Any) -> Any:
        """The plan. If it did not converge, warns, or raises with `strict`; outside of compiled code only."""
        record, name = plan.convergence, type(self).__name__
        if record is None:
            return plan
        if is_traced(record):
            message = f"The plan of {name} did not converge. {UNCONVERGED}"
            return eqx.error_if(plan, ~record.converged, message) if self.strict else plan
        if not record.converged:
            error, number = float(record.marginal_error), int(record.num_iterations)
            message = f"The plan of {name} did not converge in {number:,} iterations: its marginal error is {error:.3g}"
            message += ", because some rows are NaN or infinite." if math.isnan(error) else f". {UNCONVERGED}"
            if self.strict:
                raise ValueError(message)
            warnings.warn(message, stacklevel=3)
        return plan


class Plan(AbstractPlan):
    """Draws pairs from a plan that any function computes from the costs, such as a solver of ott-jax.

    ```python
    def plan(costs):
        geometry = ott.geometry.geometry.Geometry(cost_matrix=costs, epsilon=0.5)
        problem = ott.problems.linear.linear_problem.LinearProblem(geometry)
        return ott.solvers.linear.sinkhorn.Sinkhorn()(problem).matrix
    ```

    The plan is used as it is, without a check of its convergence or its marginals.
    """

    plan: Callable[[Array], Array] = eqx.field(static=True)
    cost: Cost
    draw: AbstractDraw
    strict: ClassVar[bool] = False

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

    def transport(self, x0: Batch, x1: Batch, condition: Condition = None) -> DensePlan:
        costs = self.cost(x1, x0, condition)
        with ott_jax():
            plan = self.plan(costs)
        check_shape("plan(costs)", plan.shape, costs.shape)
        return DensePlan(log_plan=jnp.log(plan))

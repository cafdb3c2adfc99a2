r"""Transport plans of low rank, $\pi = Q \operatorname{diag}(1 / g)\, R^\top$: time and memory linear in the rows."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp

from .._base.checks import check_count, check_not_negative, check_positive, plain_int, time_dtype
from .._base.typing import Batch, Condition
from .cost import Cost, SquaredDistance, centred
from .ott_jax import ott_jax
from .pair_draw import AbstractDraw, PerData
from .plan import AbstractPlan
from .transport import AbstractTransport, LowRankPlan, with_convergence


class LowRankSinkhorn(AbstractPlan):
    """Draws pairs from the plan with the least squared distance among plans of a given rank, found by ott-jax.

    The problem is not convex, so the plan is a local minimum. `Pairs.convergence` records the error of its marginals.

    **Reference:** [@scetbon2021lowrank].
    """

    rank: int = eqx.field(static=True, converter=plain_int)
    reg: float = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True, converter=plain_int)
    strict: bool = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True, converter=plain_int)
    draw: AbstractDraw
    cost: ClassVar[Cost] = SquaredDistance()

    def __init__(
        self,
        rank: int = 10,
        *,
        reg: float = 0.0,
        tolerance: float = 1e-3,
        max_iterations: int = 2000,
        strict: bool = False,
        chunk_size: int = 1024,
        draw: AbstractDraw | None = None,
    ) -> None:
        """**Arguments:**

        - `rank`: the rank of the plan.
        - `reg`: the weight of an entropy of the factors, in units of the mean cost of the batch.
        - `tolerance`: the iterations end when the factors change by less than this.
        - `max_iterations`, `strict`, `draw`: as in [`Sinkhorn`][].
        - `chunk_size`: the number of rows for which partners are drawn at once.

        **Raises:** `ValueError` if `rank`, `tolerance` or `max_iterations` is not positive, and, with `strict`, for a
        plan that did not converge.
        """
        self.rank, self.reg, self.tolerance = rank, reg, tolerance
        self.max_iterations, self.strict, self.chunk_size = max_iterations, strict, chunk_size
        self.draw = PerData() if draw is None else draw

    def __check_init__(self) -> None:
        check_count("rank", self.rank)
        check_not_negative("reg", self.reg)
        check_positive("tolerance", self.tolerance)
        check_count("max_iterations", self.max_iterations)
        check_count("chunk_size", self.chunk_size)

    @eqx.filter_jit
    def transport(self, x0: Batch, x1: Batch, condition: Condition = None) -> AbstractTransport:
        x, y = (z.reshape(z.shape[0], -1).astype(time_dtype(z.dtype)) for z in centred(x1, x0))
        mean = jnp.sum(jnp.mean(x**2, axis=0) + jnp.mean(y**2, axis=0) - 2 * jnp.mean(x, axis=0) * jnp.mean(y, axis=0))
        unit = jnp.sqrt(jnp.where(mean > 0, mean, 1))
        with ott_jax():
            from ott.geometry.pointcloud import PointCloud
            from ott.initializers.linear.initializers_lr import RandomInitializer
            from ott.problems.linear.linear_problem import LinearProblem
            from ott.solvers.linear.sinkhorn_lr import LRSinkhorn

            rank = min(self.rank, x.shape[0])
            solver = LRSinkhorn(
                rank,
                epsilon=self.reg,
                threshold=self.tolerance,
                max_iterations=self.max_iterations,
                inner_iterations=min(10, self.max_iterations),
                initializer=RandomInitializer(rank),
            )
            out = solver(LinearProblem(PointCloud(x / unit, y / unit)))
        return with_convergence(
            LowRankPlan(q=out.q, r=out.r, g=out.g, chunk_size=min(self.chunk_size, x.shape[0])),
            tolerance=max(self.tolerance, 1e-3),
            solver_converged=jnp.asarray(out.converged),
            num_iterations=jnp.asarray(out.n_iters),
        )

r"""Multistep DPM-Solver++ (Lu et al. 2022, algorithm 2), deterministic and stochastic.

The polynomial in $\lambda$ through the last values of the data prediction extrapolates it over the step, and the linear
part is solved exactly. With two values (2M) the correction is the paper's midpoint rule,
$\tfrac12 (\alpha_t - k \alpha_s) (D_s - D_r) / r$ with $r = (\lambda_s - \lambda_r) / h$; with three (3M) it is the
exact integral.
"""

from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp

from ..._base.checks import plain_int
from ..._base.typing import Event, PyTree, Scalar
from .base import AbstractExponentialSolver, History, correction, empty_history, scaled


class DPMSolverPP(AbstractExponentialSolver):
    """DPM-Solver++ 1M, 2M or 3M; with `ReverseSDE(SBDM(c))` the stochastic variants, such as 2M-SDE, with exact noise.

    One evaluation per step. The first steps, and a step from or to an infinite log-SNR, are of lower order; a step to
    `sigma = 0` ends at the data prediction.

    **Reference:** [@lu2022dpmsolverpp].
    """

    max_order: int = eqx.field(static=True, converter=plain_int)
    num_evaluations_per_step: ClassVar[int] = 1
    takes_noise: ClassVar[bool] = True
    predicts_at_end: ClassVar[bool] = False

    def __init__(self, order: int = 2):
        """**Arguments:**

        - `order`: the number of predictions that a step uses: 1, 2 or 3. Default: 2. Raises `ValueError` otherwise.
        """
        if order not in (1, 2, 3):
            raise ValueError(f"DPMSolverPP has order 1, 2 or 3; got {order}.")
        self.max_order = order

    def order(self, terms: PyTree[dfx.AbstractTerm]) -> int:
        return self.max_order

    def init(self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree) -> History:
        self.problem(terms, args)
        return empty_history(self.max_order - 1, y0, jnp.result_type(t0))

    def step(
        self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree, solver_state: History, made_jump: Any
    ) -> tuple[Any, ...]:
        problem, history = self.problem(terms, args), solver_state.forget(made_jump)
        data, exact, start = problem.denoise(t0, y0), problem.step(t0, t1), problem.log_ratio(t0)
        nodes = history.nodes(start, exact.gap, self.max_order - 1)
        y1 = exact(y0, data) + correction(exact, data, nodes, history.datas)
        if problem.noise is not None:
            y1 = y1 + scaled(exact.std, problem.normal(t0, t1, y0))
        return y1, None, {"y0": y0, "y1": y1}, history.push(data, start), dfx.RESULTS.successful

r"""UniPC (Zhao et al. 2023, algorithms 2 and 3): a multistep predictor with a corrector that costs no evaluation.

The predictor steps to $t_i$, where $D_i$ is evaluated. The corrector repeats the step with $D_i$ as one more node of
the polynomial. The next step starts from the corrected state and reuses $D_i$. A diffrax step from $t_i$ thus first
corrects the step that led to $t_i$ and then predicts the next. As in the paper, the last step is not corrected.
"""

from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp

from ..._base.checks import plain_int
from ..._base.typing import Array, Event, PyTree, Scalar
from .base import AbstractExponentialSolver, History, correction, empty_history


class _UniPCState(eqx.Module):
    started: Any
    time: Array
    """The start of the last step; `y` is the corrected state there."""
    y: Event
    history: History


class UniPC(AbstractExponentialSolver):
    r"""UniPC-`order` in data prediction with the paper's $B_2(h) = e^h - 1$, for the probability flow.

    The predictor has order `order`, the corrected solution one more. $B$ matters only where the polynomial is a
    straight line: in the predictor of order 2, which is DPM-Solver++ 2M, and in the corrector of order 1; at higher
    orders it cancels. One evaluation per step. States saved at intermediate times are predicted, not corrected.

    **Reference:** [@zhao2023unipc].
    """

    predictor_order: int = eqx.field(static=True, converter=plain_int)
    num_evaluations_per_step: ClassVar[int] = 1
    takes_noise: ClassVar[bool] = False
    predicts_at_end: ClassVar[bool] = False

    def __init__(self, order: int = 2):
        """**Arguments:**

        - `order`: the order of the predictor: 1, 2 or 3. Default: 2. Raises `ValueError` otherwise.
        """
        if order not in (1, 2, 3):
            raise ValueError(f"UniPC has order 1, 2 or 3; got {order}.")
        self.predictor_order = order

    def order(self, terms: PyTree[dfx.AbstractTerm]) -> int:
        return self.predictor_order + 1

    def init(self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree) -> _UniPCState:
        self.problem(terms, args)
        time = jnp.asarray(t0)
        return _UniPCState(jnp.asarray(False), time, y0, empty_history(self.predictor_order, y0, time.dtype))

    def step(
        self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree, solver_state: _UniPCState, made_jump: Any
    ) -> tuple[Any, ...]:
        problem, order = self.problem(terms, args), self.predictor_order
        history, started = solver_state.history.forget(made_jump), solver_state.started & ~jnp.asarray(made_jump)
        data, start = problem.denoise(t0, y0), problem.log_ratio(t0)
        # In the first step there is nothing to correct: the next step stands in, and its result is discarded.
        before, after = jnp.where(started, solver_state.time, t0), jnp.where(started, t0, t1)
        last, last_start = problem.step(before, after), problem.log_ratio(before)
        nodes = [jnp.ones_like(last.gap), *history.nodes(last_start, last.gap, order)[1:]]
        corrected = last(solver_state.y, history.datas[0])
        corrected = corrected + correction(last, history.datas[0], nodes, [data, *history.datas[1:]])
        y = jnp.where(started, corrected, y0)
        exact = problem.step(t0, t1)
        nodes = history.nodes(start, exact.gap, order - 1)
        y1 = exact(y, data) + correction(exact, data, nodes, history.datas[: order - 1])
        state = _UniPCState(jnp.asarray(True), jnp.asarray(t0), y, history.push(data, start))
        return y1, None, {"y0": y0, "y1": y1}, state, dfx.RESULTS.successful

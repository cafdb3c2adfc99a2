r"""SEEDS (Gonzalez et al. 2023): exponential integrators of the reverse SDE in one or two stages, in data prediction.

SEEDS-1 is the exact step for a constant data prediction. SEEDS-2 takes such a step over half the interval in $\lambda$,
noise included, and then the whole step with the prediction found there. The noises of the two steps are correlated as
in the SDE:

$$y = k_1 x_s + (\alpha_m - k_1 \alpha_s) D(s, x_s) + \varsigma_1 \xi_1, \qquad
x_t = k\, x_s + (\alpha_t - k\, \alpha_s) D(m, y) + k_2\, \varsigma_1 \xi_1 + \varsigma_2 \xi_2$$
"""

from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp

from ..._base.checks import check_count, plain_int
from ..._base.typing import Event, PyTree, Scalar
from .base import AbstractExponentialSolver, Problem, scaled


class SEEDS(AbstractExponentialSolver):
    r"""SEEDS-1 or SEEDS-2, of weak order 1 or 2, for `ReverseSDE(SBDM(c))`; `order` evaluations per step.

    At $c = 0$, and with `ProbabilityFlow()`, SEEDS-2 is the exponential midpoint rule. A step from or to an infinite
    log-SNR is halved in time instead of in $\lambda$.

    **Reference:** [@gonzalez2023seeds].
    """

    num_evaluations_per_step: int = eqx.field(static=True, converter=plain_int)
    takes_noise: ClassVar[bool] = True
    predicts_at_end: ClassVar[bool] = False

    def __init__(self, order: int = 2):
        """**Arguments:**

        - `order`: 1 or 2. Default: 2. Raises `ValueError` otherwise.
        """
        order = check_count("order", order, None)
        if order not in (1, 2):
            raise ValueError(f"SEEDS has order 1 or 2; got {order}.")
        self.num_evaluations_per_step = order

    @property
    def minimal_levy_area(self) -> type[dfx.AbstractBrownianIncrement]:
        """SEEDS-2 makes its two independent normal draws from a step's increment and its space-time Levy area."""
        return dfx.AbstractSpaceTimeLevyArea if self.num_evaluations_per_step == 2 else dfx.AbstractBrownianIncrement

    def order(self, terms: PyTree[dfx.AbstractTerm]) -> int:
        return self.num_evaluations_per_step

    def init(self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree) -> None:
        self.problem(terms, args)

    def step(
        self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree, solver_state: None, made_jump: Any
    ) -> tuple[Any, ...]:
        problem = self.problem(terms, args)
        data, whole = problem.denoise(t0, y0), problem.step(t0, t1)
        if self.num_evaluations_per_step == 1:
            y1 = whole(y0, data) + scaled(whole.std, problem.normal(t0, t1, y0))
        else:
            middle = problem.between(t0, t1, 1 / 2)
            first, second = problem.step(t0, middle), problem.step(middle, t1)
            xi1, xi2 = _halves(problem, t0, t1, y0)
            noise = scaled(first.std, xi1)
            data = problem.denoise(middle, first(y0, data) + noise)
            y1 = whole(y0, data) + scaled(second.keep, noise) + scaled(second.std, xi2)
        return y1, None, {"y0": y0, "y1": y1}, None, dfx.RESULTS.successful


def _halves(problem: Problem, t0: Scalar, t1: Scalar, like: Event) -> tuple[Event, Event]:
    """Two independent normal draws, one for each half of a step, whose sum gives the step's increment."""
    if problem.noise is None:
        return jnp.zeros_like(like), jnp.zeros_like(like)
    record = problem.noise.contr(t0, t1, use_levy=True)
    root = jnp.sqrt(t1 - t0)
    whole = scaled(1 / root, record.W.astype(like.dtype))
    bend = scaled(12**0.5 / root, record.H.astype(like.dtype))
    return (whole + bend) / 2**0.5, (whole - bend) / 2**0.5

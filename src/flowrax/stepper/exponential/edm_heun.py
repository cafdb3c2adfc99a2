r"""EDM's Heun method (Karras et al. 2022, algorithm 1): the trapezoidal rule for $x / \alpha$ over $\sigma / \alpha$.

On the probability flow $\mathrm{d}(x / \alpha) = \varepsilon\, \mathrm{d}(\sigma / \alpha)$. With $\hat x_t$ the DDIM
step to $t$, this gives

$$x_t = \hat x_t + \tfrac12 \Big(\sigma_t - \frac{\alpha_t \sigma_s}{\alpha_s}\Big)
\big(\varepsilon(t, \hat x_t) - \varepsilon(s, x_s)\big).$$
"""

from typing import Any, ClassVar

import diffrax as dfx
import jax.numpy as jnp

from ..._base.typing import Event, PyTree, Scalar
from .base import AbstractExponentialSolver, scaled


class EDMHeun(AbstractExponentialSolver):
    r"""Second order with two evaluations per step; for $\alpha = 1$ it is the paper's method.

    [`Churn`][] makes it stochastic. A step to $\sigma = 0$ (as in the paper) or from $\alpha = 0$ is a DDIM step.

    **Reference:** [@karras2022elucidating].
    """

    num_evaluations_per_step: ClassVar[int] = 2
    takes_noise: ClassVar[bool] = False
    predicts_at_end: ClassVar[bool] = True

    def order(self, terms: PyTree[dfx.AbstractTerm]) -> int:
        return 2

    def init(self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree) -> None:
        self.problem(terms, args)

    def step(
        self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree, solver_state: None, made_jump: Any
    ) -> tuple[Any, ...]:
        problem = self.problem(terms, args)
        data, exact = problem.denoise(t0, y0), problem.step(t0, t1)
        (alpha, sigma), finite = problem.scales(t0), jnp.isfinite(exact.gap)
        euler = exact(y0, data)
        change = problem.noise_of(t1, euler, problem.denoise(t1, euler)) - problem.noise_of(t0, y0, data)
        weight = (exact.sigma - exact.alpha * sigma / jnp.where(finite, alpha, 1)) / 2
        y1 = euler + jnp.where(finite, scaled(weight, change), 0)
        return y1, None, {"y0": y0, "y1": y1}, None, dfx.RESULTS.successful

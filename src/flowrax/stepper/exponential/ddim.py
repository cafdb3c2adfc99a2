r"""DDIM and its stochastic form (Song et al. 2021, eq. 12 and 16), which contains ancestral sampling (Ho et al. 2020).

$$x_t = \alpha_t D + \sigma_t \big(\sqrt{1 - c\, \rho}\; \varepsilon + \sqrt{c\, \rho}\; \xi\big), \qquad
\rho = 1 - e^{-2 h}, \quad \varepsilon = (x_s - \alpha_s D) / \sigma_s$$
"""

from typing import Any, ClassVar

import diffrax as dfx

from ..._base.typing import Event, PyTree, Scalar
from .base import AbstractExponentialSolver, scaled
from .kernel import kernel


class DDIM(AbstractExponentialSolver):
    r"""First order: the data and noise predictions at the start of a step are held constant over it.

    With `ProbabilityFlow()` it is deterministic. With `ReverseSDE(SBDM(c))`, $0 \le c \le 1$, the paper's $\eta$ is
    $\sqrt c$. `ReverseSDE()` is ancestral sampling: every step draws from DDPM's posterior $q(x_t | x_s, x_1 = D)$,
    whose variance $\sigma_t^2 (1 - e^{-2 h})$ is $\tilde\beta$ in the DDPM paper. One evaluation per step; a step to
    $\sigma = 0$ ends at the data prediction.

    **Reference:** [@song2021denoising].
    """

    num_evaluations_per_step: ClassVar[int] = 1
    takes_noise: ClassVar[bool] = True
    predicts_at_end: ClassVar[bool] = False

    def order(self, terms: PyTree[dfx.AbstractTerm]) -> int:
        return 1

    def init(self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree) -> None:
        scale = self.problem(terms, args).scale
        if isinstance(scale, int | float) and not 0 <= scale <= 1:
            raise ValueError(f"DDIM needs ReverseSDE(SBDM(scale)) with a scale in [0, 1]; got {scale}.")

    def step(
        self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree, solver_state: Any, made_jump: Any
    ) -> tuple[Any, ...]:
        problem = self.problem(terms, args)
        data = problem.denoise(t0, y0)
        exact = problem.step(t0, t1)
        start = problem.scales(t0)
        coefficients = kernel(
            start,
            (exact.alpha, exact.sigma),
            exact.gap,
            None if problem.noise is None else problem.scale,
        )
        y1 = coefficients.mean(y0, data) + problem.shift(exact.sigma - coefficients.keep * start[1])
        if problem.noise is not None:
            y1 = y1 + scaled(coefficients.std, problem.normal(t0, t1, y0))
        return y1, None, {"y0": y0, "y1": y1}, None, dfx.RESULTS.successful

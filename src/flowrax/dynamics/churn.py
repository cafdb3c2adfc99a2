r"""EDM's stochastic sampler (Karras et al. 2022, algorithm 2): each step starts by adding a little noise.

The noise takes the state from $t$ back to the earlier time $r$ where $\sigma / \alpha$ is larger by the factor
$1 + \gamma$; the step then runs from $r$.
"""

from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp

from .._base.checks import check_not_negative
from .._base.typing import Array, Event, PyTree, Scalar
from ..model.base import AbstractContinuousModel
from ..stepper import AbstractExponentialSolver, DPMSolverPP, UniPC
from ..stepper.exponential.base import scaled
from .renoise import AbstractRenoised, inner_solver, renoise


class _Churned(dfx.AbstractItoSolver):
    """A one-step solver of the flow whose every step starts from a noisier state."""

    solver: AbstractExponentialSolver
    churn: "Churn"
    term_structure: ClassVar[Any] = dfx.AbstractTerm
    interpolation_cls: ClassVar[Any] = dfx.LocalLinearInterpolation

    @property
    def num_evaluations_per_step(self) -> int:
        return self.solver.num_evaluations_per_step

    def init(self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree) -> Any:
        return self.solver.init(terms.terms[0], t0, t1, y0, args)

    def step(
        self, terms: Any, t0: Scalar, t1: Scalar, y0: Event, args: PyTree, solver_state: Any, made_jump: Any
    ) -> tuple[Any, ...]:
        flow, noise = terms.terms
        xi = scaled(1 / jnp.sqrt(t1 - t0), noise.contr(t0, t1).astype(y0.dtype))[0]
        start, y = self.churn.back(args[0], jnp.asarray(t0), jnp.asarray(t1), y0, xi)
        y1, _, _, solver_state, result = self.solver.step(flow, start, t1, y, args, solver_state, jnp.asarray(True))
        return y1, None, {"y0": y0, "y1": y1}, solver_state, result

    def func(self, terms: Any, t0: Scalar, y0: Event, args: PyTree) -> PyTree:
        return terms.vf(t0, y0, args)


class Churn(AbstractRenoised):
    r"""The probability flow with churn: noise is added before each step.

    It needs a grid. The `solver` passed to `sample` is a one-step exponential solver. Default: [`EDMHeun`][].

    In the paper's notation `gamma` is $\min(S_{\text{churn}} / N, \sqrt2 - 1)$ for $N$ steps, and `sigma_min`,
    `sigma_max` and `noise` are $S_{\text{tmin}}$, $S_{\text{tmax}}$ and $S_{\text{noise}}$. No step goes back
    beyond the model's `t_min`. Raises `ValueError` for a coupling that is not independent and for a multistep solver.

    **Reference:** [@karras2022elucidating].
    """

    gamma: float = eqx.field(static=True)
    sigma_min: float = eqx.field(static=True)
    sigma_max: float = eqx.field(static=True)
    noise: float = eqx.field(static=True)

    def __init__(self, gamma: float, *, sigma_min: float = 0.0, sigma_max: float = float("inf"), noise: float = 1.0):
        r"""**Arguments:**

        - `gamma`: $\gamma \ge 0$, the fraction by which a step raises $\sigma / \alpha$ before it lowers it.
        - `sigma_min`, `sigma_max`: the range of $\sigma / \alpha$ in which noise is added. Default: everywhere.
        - `noise`: a factor on the noise, not negative; 1, the default, keeps the marginals.

        Raises `ValueError` where an argument is out of range.
        """
        if not (gamma >= 0 and noise >= 0):
            raise ValueError(f"gamma and noise must not be negative; got {gamma} and {noise}.")
        if not 0 <= sigma_min < sigma_max:
            raise ValueError(f"sigma needs 0 <= sigma_min < sigma_max; got {sigma_min} and {sigma_max}.")
        self.gamma, self.noise = float(gamma), float(noise)
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)

    def __check_init__(self) -> None:
        check_not_negative("gamma", self.gamma)
        check_not_negative("noise", self.noise)
        check_not_negative("sigma_min", self.sigma_min)

    def check(self, model: AbstractContinuousModel) -> None:
        """Accepts every model."""

    def num_draws(self) -> int:
        return 1

    def stepper(self, solver: dfx.AbstractSolver | None) -> _Churned:
        inner = inner_solver(solver, "Churn")
        if isinstance(inner, UniPC) or (isinstance(inner, DPMSolverPP) and inner.max_order > 1):
            raise ValueError(
                f"Churn adds noise before each step, so {type(inner).__name__} could not use the previous steps; use "
                "a one-step solver, such as EDMHeun() or DPMSolver(2)."
            )
        return _Churned(inner, self)

    def back(self, model: AbstractContinuousModel, t0: Array, t1: Array, y: Event, xi: Event) -> tuple[Array, Event]:
        """The time and the state from which the step to `t1` starts."""
        if self.gamma == 0:
            return t0, y
        schedule, start = model.schedule, model.schedule.log_snr(t0)
        inside = jnp.isfinite(start) & (t0 > model.t_min)
        safe = jnp.where(inside, t0, t1)
        log_snr = jnp.where(inside, start, 0)
        ratio = jnp.exp(-log_snr / 2)
        inside &= (self.sigma_min <= ratio) & (ratio <= self.sigma_max)
        raised = schedule.time_at(log_snr - 2 * jnp.log1p(jnp.asarray(self.gamma, log_snr.dtype)))
        earlier = jnp.where(inside, jnp.clip(raised.astype(t0.dtype), model.t_min, t0), t0)
        moved = renoise(model, safe, earlier, y, scaled(jnp.asarray(self.noise, t0.dtype), xi))
        return earlier, jnp.where(inside, moved, y)

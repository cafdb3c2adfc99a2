r"""A predictor in time, each of whose steps is followed by Langevin steps at the new time (Song et al. 2021, alg. 1).

One corrector step at time $t$ is $x \leftarrow x + h\, s(t, x) + \sqrt{2h}\, \xi$ with $h = 2 (r\, \sigma(t))^2$. This
is the paper's rule $h = 2 (r \lVert \xi \rVert / \lVert s \rVert)^2$ with the norms at their typical values, so that
the step size does not depend on the state and the step leaves $p_t$ invariant to first order.
"""

from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_positive, plain_int
from .._base.typing import Array, Condition, Event, KeyArray, PyTree, Scalar
from ..model import scaled_score
from ..model.base import AbstractContinuousModel
from ..prior import AbstractPrior
from ..stepper.fitting import check_noise_solver
from .base import AbstractDynamics, NoiseMaker, noise_term


class Corrected(dfx.AbstractWrappedSolver):
    """The predictor's diffrax solver, with Langevin corrector steps after each of its steps.

    The last two terms are the corrector's score and noise; all terms before them belong to the predictor.
    """

    solver: dfx.AbstractSolver
    snr: float
    term_structure: ClassVar[Any] = dfx.AbstractTerm
    interpolation_cls: ClassVar[Any] = dfx.LocalLinearInterpolation

    def order(self, terms: PyTree[dfx.AbstractTerm]) -> int | None:
        return None

    def strong_order(self, terms: PyTree[dfx.AbstractTerm]) -> float | None:
        return None

    def error_order(self, terms: PyTree[dfx.AbstractTerm]) -> Any:
        return self.solver.error_order(self._predictor(terms))

    def _predictor(self, terms: Any) -> dfx.AbstractTerm:
        inner = terms.terms[:-2]
        return inner[0] if len(inner) == 1 else dfx.MultiTerm(*inner)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        return self.solver.init(self._predictor(terms), t0, t1, y0, args)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Any, ...]:
        # The corrector changes the state after the predictor's last evaluation, so every step starts at a jump.
        y1, error, _, solver_state, result = self.solver.step(
            self._predictor(terms), t0, t1, y0, args, solver_state, jnp.asarray(True)
        )
        score, noise = terms.terms[-2:]
        sigma = args[0].schedule.sigma(t1)
        step = (2 * (self.snr * sigma) ** 2).astype(y1.dtype)
        xi = noise.contr(t0, t1) / jnp.sqrt(t1 - t0)

        def correct(y: Array, xi: Array) -> tuple[Array, None]:
            return y + step * score.vf(t1, y, args) + jnp.sqrt(2 * step) * xi, None

        y1, _ = jax.lax.scan(correct, y1, xi.astype(y1.dtype))
        return y1, error, {"y0": y0, "y1": y1}, solver_state, result

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        return self.solver.func(self._predictor(terms), t0, y0, args)


class PredictorCorrector(AbstractDynamics):
    """A predictor (the probability flow or a reverse SDE) combined with Langevin corrector steps.

    The `solver` passed to `sample` is the predictor's: any one-step diffrax solver. Default: `Euler()`.

    **Reference:** [@song2021score].
    """

    predictor: AbstractDynamics
    num_steps: int = eqx.field(static=True, converter=plain_int)
    snr: float = eqx.field(static=True)
    calculus: ClassVar[type | None] = None
    keeps_density: ClassVar[bool] = False
    has_noise: ClassVar[bool] = True
    default_tolerance: ClassVar[float] = 1e-2

    def __init__(self, predictor: AbstractDynamics, *, num_steps: int = 1, snr: float = 0.16):
        """**Arguments:**

        - `predictor`: the dynamics of the predictor, whose state is one array.
        - `num_steps`: number of corrector steps after each predictor step, at least 1.
        - `snr`: the signal-to-noise ratio $r$ of a corrector step, positive.

        Raises `ValueError` where `num_steps` or `snr` is not positive.
        """
        if num_steps < 1 or not snr > 0:
            raise ValueError(f"num_steps and snr must be positive; got {num_steps} and {snr}.")
        self.predictor, self.num_steps, self.snr = predictor, num_steps, float(snr)

    def __check_init__(self) -> None:
        check_positive("snr", self.snr)

    def corrector_drift(self, t: Scalar, x: Event, args: tuple[AbstractContinuousModel, Condition]) -> Event:
        """The score at `(t, x)`, times the prior's covariance; `args` is `(model, condition)`."""
        model, condition = args
        return scaled_score(model, model.predict(t, x, condition).score)

    def interval(self, model: AbstractContinuousModel) -> tuple[float, float]:
        low, high = self.predictor.interval(model)
        score_low, score_high = model.score_interval
        return max(low, score_low), min(high, score_high)

    def path_time(self, model: AbstractContinuousModel, t: Scalar) -> Scalar:
        return self.predictor.path_time(model, t)

    def source(self, model: AbstractContinuousModel) -> AbstractPrior:
        return model.source_at(self.interval(model)[0])

    def initial(self, x: Event, key: KeyArray) -> PyTree[Array]:
        return self.predictor.initial(x, key)

    def terms(
        self, model: AbstractContinuousModel, condition: Condition, make_noise: NoiseMaker
    ) -> tuple[dfx.MultiTerm, PyTree]:
        inner, args = self.predictor.terms(model, condition, make_noise)
        parts = inner.terms if isinstance(inner, dfx.MultiTerm) else (inner,)
        noise = noise_term(model, make_noise((self.num_steps, *model.shape), 1))
        return dfx.MultiTerm(*parts, dfx.ODETerm(self.corrector_drift), noise), args

    def readout(self, state: PyTree[Array]) -> Event:
        return self.predictor.readout(state)

    def stepper(self, solver: dfx.AbstractSolver | None) -> dfx.AbstractSolver:
        if solver is not None:
            check_noise_solver("PredictorCorrector", solver)
        return Corrected(dfx.Euler() if solver is None else self.predictor.stepper(solver), self.snr)

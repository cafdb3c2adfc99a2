r"""Moment matching: the likelihood score of [`TMPD`][] by Krylov iterations, without any matrix,

$$g = J^\top B^\top w, \qquad \Big(I + \frac{\sigma^2}{\alpha} B J \Sigma_0 B^\top\Big) w = \rho,$$

in the units of the noise of `gaussian`. Each iteration takes a product with the Jacobian and one with its transpose.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from .._base.checks import check_count, check_positive
from .._base.typing import Array, Condition, Event, Scalar
from ..model import scaled_score
from ..model.base import AbstractContinuousModel, AbstractPrediction
from ..observation import LinearGaussian
from .base import AbstractGuidance
from .gaussian import denoised


class MMPS(AbstractGuidance):
    solver: lx.AbstractLinearSolver = eqx.field(default_factory=lambda: lx.GMRES(rtol=1e-3, atol=1e-3))
    symmetric: bool = False

    def __call__(
        self,
        model: AbstractContinuousModel,
        observation: LinearGaussian,
        t: Scalar,
        x: Event,
        condition: Condition,
    ) -> tuple[AbstractPrediction, Event]:
        seen = denoised(model, observation, t, x, condition)
        scales = model.schedule.scales(t, x.dtype)
        factor = scales.sigma**2 / scales.alpha

        def product(v: Array) -> Array:
            back = seen.operator @ scaled_score(model, seen.pull_back(v)).reshape(-1)
            if self.symmetric:
                spread = scaled_score(model, (seen.operator.T @ v).reshape(x.shape))
                _, forth = jax.jvp(
                    lambda x: seen.operator @ model.predict(t, x, condition).data.reshape(-1), (x,), (spread,)
                )
                back = (back + forth) / 2
            return v + factor * back

        tags = lx.positive_semidefinite_tag if self.symmetric else ()
        operator = lx.FunctionLinearOperator(product, jax.eval_shape(lambda: seen.residual), tags)
        solution = lx.linear_solve(operator, seen.residual, self.solver, throw=False)
        good = solution.result == lx.RESULTS.successful
        return seen.prediction, jnp.where(good, seen.pull_back(solution.value), jnp.nan)

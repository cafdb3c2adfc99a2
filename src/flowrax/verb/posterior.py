r"""`posterior`: draws from $p(x | y)$ by a guided model, with importance weights on request.

The density $q$ of a guided flow only approximates the posterior. Since $q(x_i)$ is computed along with the samples, the
weights $w_i \propto p(x_i)\, p(y | x_i) / q(x_i)$ correct for it, and their mean estimates the evidence $p(y)$.
"""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_count, check_instance
from .._base.condition import Batched
from .._base.result import RESULTS, Stats, described
from .._base.typing import Array, Batch, BatchLike, Condition, Float, Integer, KeyArray, PerSample
from ..divergence import AbstractDivergence, Exact
from ..dynamics.base import AbstractDynamics
from ..engine import Grid, ProgressLike
from ..guidance import AbstractGuidance, GuidedModel, PiGDM
from ..model.contract import AbstractContinuousModel, AbstractModel
from ..observation import LinearGaussian
from .last_step import AbstractLastStep
from .log_prob import log_prob
from .options import check_model
from .sample import sample

_PIGDM = PiGDM()


class PosteriorSamples(eqx.Module):
    """What `posterior` returns.

    **Attributes:**

    - `x`: `(n, *event)`.
    - `residual`: $(y - A x) / s$ for each sample, in units of the noise: about standard normal where model and data
        agree.
    - `log_weights`: `(n,)`, normalised; equal unless `reweight=True`.
    - `log_evidence`: Log-density of `y` in nats, with `reweight=True`.
    - `stats`: the work done for each sample.
    - `result`: `(n,)`, one result code per sample.
    """

    x: Batch
    residual: Float[Array, "n m"]
    log_weights: PerSample
    log_evidence: Float[Array, ""] | None
    stats: Stats
    result: RESULTS

    def __repr__(self) -> str:
        return described(self, self.result)

    @property
    def ess(self) -> Array:
        """Effective sample size, between 1 and n."""
        return jnp.exp(-jax.nn.logsumexp(2 * self.log_weights))

    @property
    def weights(self) -> PerSample:
        """`(n,)`, summing to one."""
        return jnp.exp(self.log_weights)


def posterior(
    model: AbstractModel,
    observation: LinearGaussian,
    key: KeyArray,
    num_samples: Integer,
    *,
    method: AbstractGuidance = _PIGDM,
    condition: Condition | Batched = None,
    reweight: bool = False,
    divergence: AbstractDivergence | None = None,
    x0: BatchLike | None = None,
    dynamics: AbstractDynamics | None = None,
    solver: dfx.AbstractSolver | None = None,
    rtol: float | Array | None = None,
    atol: float | Array | None = None,
    grid: Grid | None = None,
    stepsize_controller: dfx.AbstractStepSizeController | None = None,
    adjoint: dfx.AbstractAdjoint | None = None,
    lanes: Integer | None = None,
    last_step: AbstractLastStep | None = None,
    max_steps: Integer | None = None,
    progress: ProgressLike = False,
    throw: bool = True,
) -> PosteriorSamples:
    """Draws from the distribution of `x` given the observation.

    **Arguments:**

    - `model`: the prior; a model with a score.
    - `observation`: the measurement.
    - `key`: sample `i` draws from `fold_in(key, i)` only.
    - `num_samples`: `n`.
    - `method`: the guidance rule, exact only for the prior that it assumes. Default: [`PiGDM`][].
    - `condition`: as in [`sample`][].
    - `reweight`: whether to solve for the densities too and return importance weights and the log-evidence. Needs the
        probability flow, and costs a likelihood solve of the guided model and one of the prior.
    - `divergence`: the estimator of the divergence for `reweight`; a random one makes the weights noisy. Default:
        [`Exact`][].
    - `x0`, `dynamics`, `solver`, `rtol`, `atol`, `grid`, `stepsize_controller`, `adjoint`, `lanes`, `last_step`,
        `max_steps`, `progress`, `throw`: as in [`sample`][]. For a prior that is far from Gaussian,
        `dynamics=ReverseSDE()` with a `grid` forgets early errors of the guidance and leaves smaller residuals than the
        flow. The prior's likelihood solve is adaptive, whatever the `grid`.

    **Returns:** [`PosteriorSamples`][].

    **Raises:** `ValueError` for a model without a score or an operator of the wrong width; [`SolveError`][].
    """
    check_model(model, "posterior")
    num_samples = check_count("num_samples", num_samples)
    if not isinstance(model, AbstractContinuousModel):
        raise ValueError(
            f"posterior is for continuous events; {type(model).__name__} has none. Known tokens are given by sample's "
            "x0=, readings of them by discrete.Euler(guide=)."
        )
    check_instance("method", method, AbstractGuidance)
    guided = GuidedModel(model, observation, method)
    chosen = (Exact() if divergence is None else divergence) if reweight else None
    # The options that the draws and the likelihood of the prior have in common.
    common: dict[str, Any] = {"condition": condition, "solver": solver, "rtol": rtol, "atol": atol, "adjoint": adjoint}
    common |= {"stepsize_controller": stepsize_controller, "lanes": lanes, "max_steps": max_steps}
    common |= {"progress": progress, "throw": throw}
    own: dict[str, Any] = {"x0": x0, "dynamics": dynamics, "grid": grid, "last_step": last_step}
    draws = sample(guided, key, num_samples, with_log_prob=reweight, divergence=chosen, **own, **common)
    log_weights, log_evidence = jnp.full(num_samples, -jnp.log(num_samples), model.dtype), None
    if chosen is not None:
        assert draws.log_prob is not None
        prior_key = jax.random.fold_in(key, num_samples)
        prior = log_prob(model, draws.x, key=prior_key, divergence=chosen, **common)
        raw = prior.value + jax.vmap(observation.log_likelihood)(draws.x) - draws.log_prob
        log_evidence = jax.nn.logsumexp(raw) - jnp.log(num_samples)
        log_weights = jax.nn.log_softmax(raw)
    return PosteriorSamples(
        x=draws.x,
        residual=jax.vmap(observation.residual)(draws.x),
        log_weights=log_weights,
        log_evidence=log_evidence,
        stats=draws.stats,
        result=draws.result,
    )

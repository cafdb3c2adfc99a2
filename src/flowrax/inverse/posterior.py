r"""`posterior`: draws from $p(x | y)$ by a guided model, with importance weights on request.

A guided flow has a density $q$ of its own, which is not quite the posterior. Since $q$ is known along with the samples,
$w_i \propto p(x_i)\, p(y | x_i) / q(x_i)$ corrects for it, and the mean weight estimates the evidence $p(y)$.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._condition import Batched
from .._result import RESULTS, Stats
from .._typing import Array, Batch, Condition, Float, KeyArray, PerSample
from ..abstract import AbstractContinuousModel, AbstractModel
from ..divergence import AbstractDivergence, Exact
from ..guidance import AbstractGuidance, GuidedModel, PiGDM
from ..likelihood import log_prob
from ..observation import LinearGaussian
from ..sample import sample

_PIGDM = PiGDM()


class PosteriorSamples(eqx.Module):
    """What `posterior` returns."""

    x: Batch
    """`(n, *event)`."""
    residual: Float[Array, "n m"]
    """What each sample leaves of `y`, in units of the noise: about standard normal where model and data agree."""
    log_weights: PerSample
    """`(n,)`, normalised; equal unless `reweight=True`."""
    log_evidence: Float[Array, ""] | None
    """Log-density of `y` in nats, with `reweight=True`."""
    stats: Stats
    result: RESULTS

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
    num_samples: int,
    *,
    method: AbstractGuidance = _PIGDM,
    condition: Condition | Batched = None,
    reweight: bool = False,
    divergence: AbstractDivergence | None = None,
    **options: Any,
) -> PosteriorSamples:
    """Draws from the law of `x` given the observation.

    **Arguments:**

    - `model`: the prior; a model with a score.
    - `observation`: what was measured.
    - `key`: sample `i` draws from `fold_in(key, i)` only.
    - `num_samples`: `n`.
    - `method`: the guidance rule, [`PiGDM`][] without; approximate but for the prior that it assumes.
    - `condition`: as in [`sample`][].
    - `reweight`: whether to solve for the densities too and return importance weights and the log-evidence. Needs the
        probability flow, and costs a likelihood solve of the guided model and one of the prior.
    - `divergence`: for that, [`Exact`][] without; a random one makes the weights noisy.
    - `options`: `dynamics`, `solver`, `rtol`, `atol`, `grid`, `lanes`, `max_steps`, `throw`, ... as in [`sample`][].
        For a prior that is far from Gaussian, `dynamics=ReverseSDE()` with a `grid` forgets what the guidance got wrong
        early on and leaves smaller residuals than the flow.

    **Returns:** [`PosteriorSamples`][].

    **Raises:** `ValueError` for a model without a score or an operator of the wrong width; [`SolveError`][].
    """
    if not isinstance(model, AbstractContinuousModel):
        raise ValueError(
            f"posterior is for continuous events; {type(model).__name__} has none. Known tokens are given by sample's "
            "x0=, readings of them by discrete.Euler(guide=)."
        )
    guided = GuidedModel(model, observation, method)
    chosen = (Exact() if divergence is None else divergence) if reweight else None
    draws = sample(guided, key, num_samples, condition=condition, with_log_prob=reweight, divergence=chosen, **options)
    log_weights = jnp.full(num_samples, -jnp.log(num_samples), model.dtype)
    log_evidence = None
    if chosen is not None:
        assert draws.log_prob is not None
        shared = {name: options[name] for name in _SHARED_OPTIONS if name in options}
        prior = log_prob(
            model,
            draws.x,
            condition=condition,
            key=jax.random.fold_in(key, num_samples),
            divergence=chosen,
            **shared,
        )
        joint = prior.value + jax.vmap(observation.log_likelihood)(draws.x)
        raw = joint - draws.log_prob
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


_SHARED_OPTIONS = ("solver", "rtol", "atol", "stepsize_controller", "adjoint", "lanes", "max_steps", "throw")

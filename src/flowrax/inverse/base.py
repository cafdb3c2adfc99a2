r"""The contracts of posterior methods, and what they work on and return.

Most methods work in the noise space of a flow, on $p(z | y) \propto \mathcal{N}(z; 0, I)\, p(y | x(z))$: the flow
$x(z)$ carries standard normal noise to events, so the density of the prior is known in closed form at $z$ and no
divergence is needed. Draws of $z$ from this posterior, carried along the flow, are draws of $p(x | y)$. Other methods
work on the model itself.
"""

import abc
from collections.abc import Callable

import equinox as eqx

from .._base.arguments import Checked
from .._base.typing import Array, Batch, Bool, Condition, DType, Event, Float, KeyArray, PerSample, Shape
from ..model.base import AbstractContinuousModel
from ..observation import Observation


class NoiseProblem(eqx.Module):
    """What a method in noise space works on.

    **Attributes:**

    - `flow`: maps a batch of standard normal noise `(n, *shape)` to events. A failed solve gives a row of NaN.
    - `log_likelihood`: the log-density of the measurement given one event, a scalar in nats.
    - `shape`, `dtype`: of the noise of one event, and of the event.
    - `observation`: the measurement, for methods that use more than its likelihood, or None.
    """

    flow: Callable[[Batch], Batch]
    log_likelihood: Callable[[Event], Array]
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    observation: Observation | None = None


class ModelProblem(eqx.Module):
    """What a method that moves events by the model works on.

    **Attributes:**

    - `model`: the prior.
    - `observation`: the measurement, checked against the events of the model.
    - `condition`: the condition that all draws share, or None.
    """

    model: AbstractContinuousModel
    observation: Observation
    condition: Condition = None


class PosteriorDraws(eqx.Module):
    r"""What a posterior method returns.

    **Attributes:**

    - `x`: `(n, *shape)`, the draws.
    - `log_weights`: `(n,)`, normalised.
    - `log_evidence`: the log-density of the measurement in nats, or None.
    - `log_evidence_error`: its standard error, or None.
    - `num_evaluations`: evaluations of the flow in noise space, otherwise of the model, for each draw that is returned.
    - `finished`: whether the method reached the posterior.
    - `z`: `(n, *shape)`, the noise from which the flow reaches `x`, or None.
    - `temperatures`: $\beta$ of each step, rising to 1, or None. Steps that were not needed are NaN.
    - `acceptance`: the mean acceptance probability of the moves at each of them, or None.
    - `effective_size`: the number of independent draws that these are worth, for draws that depend on each other; None
        if the weights tell.
    - `r_hat`: the largest split $\hat R$ over the elements of the noise, or None.
    - `warnings`: sentences about what casts doubt on the draws, known outside `jit` only.
    """

    x: Batch
    log_weights: PerSample
    log_evidence: Float[Array, ""] | None
    log_evidence_error: Float[Array, ""] | None
    num_evaluations: Array
    finished: Bool[Array, ""]
    z: Batch | None = None
    temperatures: Float[Array, " k"] | None = None
    acceptance: Float[Array, " k"] | None = None
    effective_size: Float[Array, ""] | None = None
    r_hat: Float[Array, ""] | None = None
    warnings: tuple[str, ...] = eqx.field(static=True, default=())


class AbstractPosteriorMethod(eqx.Module, metaclass=Checked):
    """A way to draw from a posterior. Derive from `AbstractNoiseMethod` or `AbstractModelMethod`."""

    @property
    @abc.abstractmethod
    def differentiable(self) -> bool:
        """Whether JAX differentiates the draws; otherwise `posterior` gives their weights the right derivatives."""


class AbstractNoiseMethod(AbstractPosteriorMethod):
    """A way to draw from the posterior in noise space."""

    @abc.abstractmethod
    def __call__(self, problem: NoiseProblem, key: KeyArray, num_samples: int) -> PosteriorDraws:
        """**Arguments:**

        - `problem`: the flow and the likelihood.
        - `key`: one key.
        - `num_samples`: the number of draws, `n`.

        **Returns:** [`PosteriorDraws`][] with `z`, whose `warnings` `posterior` also issues as Python warnings.
        """


class AbstractModelMethod(AbstractPosteriorMethod):
    """A way to draw from the posterior by moving events along the time of the model."""

    @abc.abstractmethod
    def __call__(self, problem: ModelProblem, key: KeyArray, num_samples: int) -> PosteriorDraws:
        """**Arguments:**

        - `problem`: the model, the measurement and the condition.
        - `key`: one key.
        - `num_samples`: the number of draws, `n`.

        **Returns:** [`PosteriorDraws`][], whose `warnings` `posterior` also issues as Python warnings.
        """

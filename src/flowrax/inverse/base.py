r"""The posterior in the noise space of a flow, $p(z | y) \propto \mathcal{N}(z; 0, I)\, p(y | x(z))$.

The flow $x(z)$ carries standard normal noise to events, so the density of the prior is known in closed form at $z$ and
no divergence is needed. Draws of $z$ from this posterior, carried along the flow, are draws of $p(x | y)$.
"""

import abc
from collections.abc import Callable

import equinox as eqx

from .._base.arguments import Checked
from .._base.typing import Array, Batch, Bool, DType, Event, Float, KeyArray, PerSample, Shape


class NoiseProblem(eqx.Module):
    """What a posterior method works on.

    **Attributes:**

    - `flow`: maps a batch of standard normal noise `(n, *shape)` to events. A failed solve gives a row of NaN.
    - `log_likelihood`: the log-density of the measurement given one event, a scalar in nats.
    - `shape`, `dtype`: of the noise of one event, and of the event.
    """

    flow: Callable[[Batch], Batch]
    log_likelihood: Callable[[Event], Array]
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)


class NoiseDraws(eqx.Module):
    r"""What a posterior method returns.

    **Attributes:**

    - `z`: `(n, *shape)`, draws in noise space.
    - `x`: `(n, *shape)`, the events that they flow to.
    - `log_weights`: `(n,)`, normalised.
    - `log_evidence`: the log-density of the measurement in nats, or None.
    - `log_evidence_error`: its standard error, or None.
    - `num_flows`: the number of evaluations of the flow per draw.
    - `finished`: whether the method reached the posterior.
    - `temperatures`: $\beta$ of each step, rising to 1, or None. Steps that were not needed are NaN.
    - `acceptance`: the mean acceptance probability of the moves at each of them, or None.
    """

    z: Batch
    x: Batch
    log_weights: PerSample
    log_evidence: Float[Array, ""] | None
    log_evidence_error: Float[Array, ""] | None
    num_flows: Array
    finished: Bool[Array, ""]
    temperatures: Float[Array, " k"] | None = None
    acceptance: Float[Array, " k"] | None = None


class AbstractPosteriorMethod(eqx.Module, metaclass=Checked):
    """A way to draw from the posterior in noise space."""

    @abc.abstractmethod
    def __call__(self, problem: NoiseProblem, key: KeyArray, num_samples: int) -> NoiseDraws:
        """**Arguments:**

        - `problem`: the flow and the likelihood.
        - `key`: one key.
        - `num_samples`: the number of draws, `n`.

        **Returns:** [`NoiseDraws`][]. Outside `jit`, a warning says what casts doubt on them.
        """

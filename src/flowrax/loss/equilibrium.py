r"""Equilibrium matching: one time-independent field that descends from noise to data.

$$\mathcal{L} = \mathbb{E}\; \lVert f(x_t) - c(t)\, \dot x_t \rVert^2$$

The decay $c$ falls to zero at the data, so that the field vanishes there. The paper (Wang & Du 2025) fits the gradient
of an energy to $-c\, \dot x_t$; here $f$ is minus that gradient, so that it points from noise to data as every velocity
does.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .._base.arrays import as_floats
from .._base.checks import check_positive, in_single
from .._base.typing import Array, Batch, Condition, Event, KeyArray, Scalar
from ..model.network import AbstractNetwork, AbstractTimelessNetwork
from ..model.target import Velocity
from ..model.trained import Model
from ..times import AbstractTimes, Stratified
from .matching import AbstractLoss, ConditionDropout, drop_condition
from .reductions import AbstractReduction, Mean
from .weights import Decay


class EquilibriumMatching(AbstractLoss):
    r"""The equilibrium-matching loss, for a model whose target is the velocity and whose network is time-independent.

    Build the model as `Model(nn.Timeless(network), Linear(), ...)`, or with `nn.Timeless(nn.EnergyGradient(network))`
    for a field that is the gradient of an energy. Its `ProbabilityFlow` integrates $f$ for unit time, as samplers of
    such models do. This is gradient descent, not the velocity of an interpolant: its marginals are not the marginals of
    $x_t$, and `log_prob` is the density of the end point of this flow.

    Raises `ValueError` for another target or a network that depends on time.

    **Reference:** [@wang2025equilibrium].
    """

    decay: Callable[[Scalar], Array] = Decay()
    times: AbstractTimes = Stratified()
    condition_dropout: ConditionDropout | None = None
    reduction: AbstractReduction = Mean()

    def __call__(
        self, model: Model, t: Scalar, x0: Event, x1: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        if not isinstance(model.target, Velocity):
            raise ValueError(
                f"EquilibriumMatching fits a velocity; the model's target is {type(model.target).__name__}."
            )
        # Whether a plain function depends on time cannot be checked.
        if isinstance(model.network, AbstractNetwork) and not isinstance(model.network, AbstractTimelessNetwork):
            raise ValueError(
                f"EquilibriumMatching fits one field for all times, but {type(model.network).__name__} depends on the "
                "time; wrap it: Model(nn.Timeless(network), ...)."
            )
        kept, key = drop_condition(self.condition_dropout, condition, key)
        x = model.interpolant.interpolate(t, *in_single((x0, x1))).astype(x1.dtype)
        decay = jnp.asarray(self.decay(t)).astype(x1.dtype)
        target = decay * model.interpolant.velocity(t, *in_single((x0, x1))).astype(x1.dtype)
        return self.reduction(model.output(t, x, kept, key=key) - target, condition)


def dispersion(features: Batch, temperature: float = 1.0) -> Array:
    r"""$\log \tfrac{1}{n^2} \sum_{ij} \exp(-\lVert z_i - z_j \rVert^2 / (D \tau))$.

    A regulariser that spreads the features of a batch apart, to be added to a loss (Wang & He 2025, table 2).

    **Arguments:**

    - `features`: `(n, ...)`, of $D$ elements each.
    - `temperature`: the temperature $\tau$.

    **Returns:** a scalar, at most zero, and zero if all features are equal.

    **Reference:** [@wang2025diffuse].
    """
    (features,) = as_floats(features=features)
    check_positive("temperature", temperature)
    if features.size == 0 or features.ndim == 0 or np.ndim(temperature):
        raise ValueError(
            f"features of shape (n, ...) and one temperature are expected; got {features.shape} and "
            f"{np.shape(temperature)}."
        )
    flat = in_single(features.reshape(features.shape[0], -1))
    # Take differences one row at a time: for similar features, expanding the square would lose digits to cancellation.
    squares = jax.lax.map(lambda row: jnp.sum((flat - row[None]) ** 2, axis=1), flat)
    exponents = -squares / (flat.shape[1] * temperature)
    return jax.nn.logsumexp(exponents) - 2 * jnp.log(jnp.asarray(flat.shape[0], flat.dtype))

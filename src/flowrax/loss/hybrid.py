r"""The loss of D3PM: cross-entropy of the data and a term of the variational bound, at one step of a chain.

$$\mathcal{L} = \frac1L \sum_i \Big[-\log p_\theta(x_1^i | x_s) + \lambda\,
D_{\text{KL}}\big(q(x_t^i | x_s^i, x_1^i) \,\|\, p_\theta(x_t^i | x_s)\big)\Big], \qquad t = s + 1 / T.$$
"""

import equinox as eqx
import jax.numpy as jnp

from .._checks import check_not_negative
from .._typing import Array, Condition, KeyArray, PyTree, Scalar, Tokens
from ..abstract import AbstractCategoricalModel
from ..interpolant import AbstractReverse, AveragedPosterior, mean_where, variational_term
from ..times import AbstractTimes, Stratified
from .matching import AbstractLoss
from .reductions import MaskOf


class Hybrid(AbstractLoss):
    r"""Cross-entropy and `scale` times a term of the bound (Austin et al. 2021, eq. 5, with the weight on the former).

    Times are moved down to those of the chain's states, $s = 0, 1 / T, \dots, 1 - 1 / T$, so that of uniform times each
    index is drawn equally often. The mean of the term over indices, times $T$, and the prior's
    term are the bound in nats per token.

    ??? cite "Reference"

        ```bibtex
        @inproceedings{austin2021structured,
            author={Austin, Jacob and Johnson, Daniel D. and Ho, Jonathan and Tarlow, Daniel and van den Berg, Rianne},
            title={Structured Denoising Diffusion Models in Discrete State-Spaces},
            booktitle={Advances in Neural Information Processing Systems},
            year={2021},
        }
        ```
    """

    num_steps: int = eqx.field(static=True)
    """`T`, of the chain; any path has one, a chain of a table its own."""
    scale: float | Array = 1.0
    r"""$\lambda$."""
    reverse: AbstractReverse = AveragedPosterior()
    """Of the sampler whose bound is meant."""
    times: AbstractTimes = Stratified()
    mask: MaskOf | None = None
    """`mask(condition)`, `(*shape)`, nonzero where a site counts, in both terms; an event without any has loss zero."""

    def __check_init__(self) -> None:
        check_not_negative("scale", self.scale)
        if not self.num_steps >= 1:
            raise ValueError(f"num_steps must be at least 1; got {self.num_steps}.")

    def __call__(
        self,
        model: AbstractCategoricalModel,
        t: Scalar,
        x0: PyTree,
        x1: Tokens,
        condition: Condition = None,
        *,
        key: KeyArray | None = None,
    ) -> Array:
        t = jnp.asarray(t)
        place = jnp.clip(jnp.floor(t * self.num_steps), 0, self.num_steps - 1)
        start, end = place / self.num_steps, (place + 1) / self.num_steps
        path, prior = model.interpolant, model.prior
        x = path.interpolate(start, x0, x1)
        log_p1 = model.log_probabilities(start, x, condition, key=key)
        error = -jnp.take_along_axis(log_p1, x1[..., None], axis=-1)[..., 0]
        term = variational_term(self.reverse, path, prior, start, end, x, x1, log_p1)
        error = error + self.scale * term
        if self.mask is None:
            return jnp.mean(error)
        return mean_where(self.mask(condition), error)

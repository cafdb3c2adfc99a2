"""The concrete score of masked diffusion."""

import jax.numpy as jnp

from .._typing import Array, Condition, Scalar, Tokens
from ..abstract import AbstractCategoricalModel
from .draw import data_probabilities


def score(model: AbstractCategoricalModel, t: Scalar, x: Tokens, condition: Condition = None) -> Array:
    r"""Ratios of probabilities at time `t` between events that differ in one site (Sahoo et al. 2024, eq. 76).

    With $y$ for $x$ with class $k$ in site $i$:

    | site | $k$ is the mask | $k$ is its token | other |
    |---|---|---|---|
    | masked | 1 | | $\frac{\alpha}{1 - \alpha}\, p(x_1^i = k \mid x)$ |
    | known | $\frac{1 - \alpha}{\alpha}$ | 1 | 0 |

    Those of a masked site are $p_t(y) / p_t(x)$ of the model's law (Lou et al. 2024); those of a known site are given
    its data, as is all that the reverse process uses.

    **Arguments:**

    - `model`: with a mask, or `ValueError`.
    - `t`: within (0, 1), where all is finite.
    - `x`: one event of integers.

    **Returns:** `(*shape, K)`, finite also where a probability is zero.
    """
    mask = model.prior.mask
    if mask is None:
        raise ValueError(f"score is that of masked diffusion, and {type(model.prior).__name__} has no mask.")
    p1 = data_probabilities(model, t, x, condition)
    schedule = model.interpolant.schedule
    known, lost = schedule.alpha(t).astype(p1.dtype), schedule.mask_probability(t).astype(p1.dtype)
    masked = x == mask
    # A known site has probability one at its token.
    ratios = jnp.where(masked[..., None], known / lost, 1) * p1
    return ratios.at[..., mask].set(jnp.where(masked, 1, lost / known))

"""The concrete score of masked diffusion."""

import jax.numpy as jnp

from ..._base.typing import Array, Condition, Scalar, Tokens
from ..base import AbstractCategoricalModel
from .draw import data_probabilities


def score(model: AbstractCategoricalModel, t: Scalar, x: Tokens, condition: Condition = None) -> Array:
    r"""Probability ratios at time `t` between events that differ in one site (Sahoo et al. 2024, eq. 76).

    Let $y$ be $x$ with class $k$ at site $i$. The entry of site $i$ and class $k$ is

    | site | $k$ is the mask | $k$ is the token of the site | other $k$ |
    |---|---|---|---|
    | masked | 1 | | $\frac{\alpha}{1 - \alpha}\, p(x_1^i = k \mid x)$ |
    | unmasked | $\frac{1 - \alpha}{\alpha}$ | 1 | 0 |

    At a masked site the entry is the ratio $p_t(y) / p_t(x)$ of the model's distribution (Lou et al. 2024). At an
    unmasked site it is the ratio given the clean token, which is all that the reverse process uses.

    **Arguments:**

    - `model`: a categorical model with a masking prior; raises `ValueError` if its prior has no mask.
    - `t`: the time, within (0, 1), where all ratios are finite.
    - `x`: one event of integers, `(*shape)`.
    - `condition`: one condition. Default: None.

    **Returns:** `(*shape, K)`, finite even where a probability is zero.
    """
    mask = model.prior.mask
    if mask is None:
        raise ValueError(f"score is for masked diffusion, and {type(model.prior).__name__} has no mask.")
    p1 = data_probabilities(model, t, x, condition)
    schedule = model.interpolant.schedule
    known, lost = schedule.alpha(t).astype(p1.dtype), schedule.mask_probability(t).astype(p1.dtype)
    masked = x == mask
    # At an unmasked site p1 is one at its token and zero elsewhere.
    ratios = jnp.where(masked[..., None], known / lost, 1) * p1
    return ratios.at[..., mask].set(jnp.where(masked, 1, lost / known))

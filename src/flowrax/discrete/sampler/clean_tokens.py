"""Clean-token probabilities of a model, their temperature, and the concrete score that follows from them."""

import jax
import jax.numpy as jnp

from ..._base.typing import Array, Condition, Scalar, Tokens
from ..base import AbstractCategoricalModel, AbstractLogitModel
from ..sites import spread


def log_tempered(log_probabilities: Array, temperature: float | Array) -> Array:
    r"""$\log p^{1/T}$, renormalised.

    **Arguments:**

    - `log_probabilities`: `(*shape, K)`.
    - `temperature`: `T`; 1 changes nothing, and 0 leaves only the most probable class.

    **Returns:** `(*shape, K)`.
    """
    if isinstance(temperature, int | float):
        if temperature == 1:
            return log_probabilities
        if temperature == 0:
            best = jnp.argmax(log_probabilities, axis=-1)
            chosen = jax.nn.one_hot(best, log_probabilities.shape[-1], dtype=bool)
            return jnp.where(chosen, 0, -jnp.inf).astype(log_probabilities.dtype)
    return jax.nn.log_softmax(log_probabilities / temperature, axis=-1)


def data_weights(
    model: AbstractCategoricalModel,
    t: Scalar,
    x: Tokens,
    condition: Condition = None,
    temperature: float | Array = 1.0,
) -> Array:
    r"""The unnormalised clean-token probabilities $p(x_1^i = k | x_t)^{1/T}$, up to a factor per site.

    Drawing a class needs no more. For a model with logits this avoids a logarithm followed by an exponential.

    **Arguments:**

    - `model`: a categorical model.
    - `t`, `x`, `condition`: one time, one event and its condition.
    - `temperature`: as in [`log_tempered`][]. Default: 1.

    **Returns:** `(*shape, K)`, not negative; the largest weight of a site is of order one.
    """
    if not isinstance(model, AbstractLogitModel) or (isinstance(temperature, int | float) and temperature == 0):
        return jnp.exp(log_tempered(model.log_probabilities(t, x, condition), temperature))
    logits, mask = model.logits(t, x, condition), model.prior.mask
    classes = spread(jnp.arange(logits.shape[-1], dtype=x.dtype), logits.ndim)
    if mask is not None:
        # XLA compiles this sum to less work than a selection.
        logits = logits + jnp.where(classes == mask, -jnp.inf, 0).astype(logits.dtype)
    gap = logits - jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(gap if isinstance(temperature, int | float) and temperature == 1 else gap / temperature)
    if mask is None:
        return weights
    # An unmasked site keeps its token (carry-over).
    return jnp.where((x == mask)[..., None], weights, (classes == x[..., None]).astype(weights.dtype))


def data_probabilities(
    model: AbstractCategoricalModel,
    t: Scalar,
    x: Tokens,
    condition: Condition = None,
    temperature: float | Array = 1.0,
) -> Array:
    """[`data_weights`][], normalised to sum to one at each site."""
    weights = data_weights(model, t, x, condition, temperature)
    # A matrix product: XLA would fuse a sum with the exponentials and compute them twice.
    ones = jnp.ones((weights.shape[-1], 1), weights.dtype)
    return weights / jnp.matmul(weights, ones, precision=jax.lax.Precision.HIGHEST)


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

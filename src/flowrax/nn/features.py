r"""Gaussian Fourier features of time, $[\sin 2\pi W t, \cos 2\pi W t]$ with frozen $W \sim \mathcal{N}(0, s^2)$."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.typing import Array, DType, KeyArray, Scalar


class FourierFeatures(eqx.Module):
    """Fourier features of a scalar time; the frequencies are constants that neither optimisers nor weight decay change.

    **Reference:** [@tancik2020fourier].
    """

    frequencies: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, num_frequencies: int, scale: float, *, key: KeyArray) -> None:
        """**Arguments:**

        - `num_frequencies`: the number of frequencies, half the number of features.
        - `scale`: the standard deviation of the frequencies. High frequencies make the field rough in time, and solving
            its ODE costly.
        - `key`: draws the frequencies.
        """
        self.frequencies = tuple(float(w) for w in scale * random.normal(key, (num_frequencies,)))

    def __call__(self, t: Scalar, dtype: DType) -> Array:
        """The features at time `t`, `(2 * num_frequencies,)`."""
        angle = 2 * jnp.pi * jnp.asarray(self.frequencies, dtype) * jnp.asarray(t, dtype)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)])


def flat_condition(condition: object, dtype: DType) -> Array:
    """All leaves of a condition concatenated to one vector, which is empty for None."""
    leaves = [jnp.asarray(leaf, dtype).reshape(-1) for leaf in jax.tree.leaves(condition)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0, dtype)

r"""The block of a transformer that is modulated by a context, adaLN-Zero.

It is $h \leftarrow h + a \odot F\big((1 + s) \odot \text{norm}(h) + b\big)$, first for attention and then for a
perceptron, with $a, b, s$ linear in the context and zero at first: the block starts as the identity (Peebles & Xie
2023, section 3.2).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._typing import Array, Bool, KeyArray
from .context import zeroed

Heads = Callable[[Array, Array, Array], tuple[Array, Array, Array]]
"""Queries, keys and values, `(length, num_heads, size)` each, before they meet."""


class Block(eqx.Module):
    """Attention and a perceptron on tokens `(length, width)`."""

    norm: eqx.nn.LayerNorm
    modulation: eqx.nn.Linear
    attention: eqx.nn.MultiheadAttention
    widen: eqx.nn.Linear
    contract: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(
        self, width: int, num_heads: int, ratio: int, dropout: float, *, key: KeyArray, context_size: int | None = None
    ) -> None:
        """**Arguments:**

        - `width`: of a token.
        - `num_heads`: of attention; divides `width`.
        - `ratio`: how much wider the perceptron is inside.
        - `dropout`: probability of dropping one of its hidden units in training.
        - `key`: draws the weights.
        - `context_size`: of the context; `width` without. With 0 the modulation is learned but the same for all.
        """
        keys = jax.random.split(key, 4)
        self.norm = eqx.nn.LayerNorm(width, use_weight=False, use_bias=False)
        size = width if context_size is None else context_size
        self.modulation = zeroed(eqx.nn.Linear(size, 6 * width, key=keys[0]))
        if size == 0:
            # Numbers that no context moves leave zero by one step of the optimiser a time: the gates start open.
            gates = jnp.asarray([0, 0, 1, 0, 0, 1], self.modulation.weight.dtype)
            self.modulation = eqx.tree_at(lambda m: m.bias, self.modulation, jnp.repeat(gates, width))
        self.attention = eqx.nn.MultiheadAttention(
            num_heads,
            width,
            use_query_bias=True,
            use_key_bias=True,
            use_value_bias=True,
            use_output_bias=True,
            key=keys[1],
        )
        self.widen = eqx.nn.Linear(width, ratio * width, key=keys[2])
        self.contract = eqx.nn.Linear(ratio * width, width, key=keys[3])
        self.dropout = eqx.nn.Dropout(dropout)

    def __call__(
        self,
        h: Array,
        context: Array,
        key: KeyArray | None,
        *,
        mask: Bool[Array, "length length"] | None = None,
        heads: Heads | None = None,
    ) -> Array:
        """**Arguments:**

        - `h`: the tokens.
        - `context`: a vector.
        - `key`: of dropout; nothing is dropped without.
        - `mask`: who (rows) may look at whom (columns); all at all without.
        - `heads`: turns queries and keys by their positions, say.

        **Returns:** tokens.
        """
        parts = self.modulation(context).reshape(6, 1, -1)
        inner = modulated(self.norm, h, parts[0], parts[1])
        h = h + parts[2] * self.attention(inner, inner, inner, mask, process_heads=heads)
        inner = jax.vmap(self.widen)(modulated(self.norm, h, parts[3], parts[4]))
        inner = self.dropout(jax.nn.gelu(inner), key=key, inference=key is None)
        return h + parts[5] * jax.vmap(self.contract)(inner)


def modulated(norm: eqx.nn.LayerNorm, h: Array, shift: Array, scale: Array) -> Array:
    """Tokens that are normalised, then scaled and shifted.

    **Arguments:**

    - `norm`: of one token.
    - `h`: tokens, `(length, width)`.
    - `shift`, `scale`: `(1, width)`; zeros change nothing.

    **Returns:** `(length, width)`.
    """
    return (1 + scale) * jax.vmap(norm)(h) + shift

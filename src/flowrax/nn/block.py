r"""A transformer block modulated by a context, adaLN-Zero (Peebles & Xie 2023, section 3.2).

$$h \leftarrow h + a \odot F\big((1 + s) \odot \text{norm}(h) + b\big),$$

first with attention for $F$ and then with a perceptron. The vectors $a, b, s$ are linear in the context and zero at
initialisation, so that the block starts as the identity.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.typing import Array, Bool, KeyArray
from .context import zeroed

Heads = Callable[[Array, Array, Array], tuple[Array, Array, Array]]
"""Maps queries, keys and values, `(length, num_heads, size)` each, before attention is computed."""


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

        - `width`: the number of features of a token.
        - `num_heads`: the number of attention heads; a divisor of `width`.
        - `ratio`: the width of the hidden layer of the perceptron, in units of `width`.
        - `dropout`: the probability of dropping a hidden unit of the perceptron in training.
        - `key`: draws the weights.
        - `context_size`: the size of the context. With 0 the modulation is learned but does not depend on the input.
            Default: `width`.
        """
        keys = jax.random.split(key, 4)
        self.norm = eqx.nn.LayerNorm(width, use_weight=False, use_bias=False)
        size = width if context_size is None else context_size
        self.modulation = zeroed(eqx.nn.Linear(size, 6 * width, key=keys[0]))
        if size == 0:
            # Without a context, zero-initialised gates would grow only slowly, so initialise them to one.
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

        - `h`: the tokens, `(length, width)`.
        - `context`: the context, `(context_size,)`.
        - `key`: for dropout; with None there is no dropout.
        - `mask`: `(length, length)`, true where a query (row) may attend to a key (column). Default: all pairs.
        - `heads`: a map of queries, keys and values, such as a rotary position embedding. Default: the identity.

        **Returns:** tokens, `(length, width)`.
        """
        parts = self.modulation(context).reshape(6, 1, -1)
        inner = modulated(self.norm, h, parts[0], parts[1])
        h = h + parts[2] * self.attention(inner, inner, inner, mask, process_heads=heads)
        inner = jax.vmap(self.widen)(modulated(self.norm, h, parts[3], parts[4]))
        inner = self.dropout(jax.nn.gelu(inner), key=key, inference=key is None)
        return h + parts[5] * jax.vmap(self.contract)(inner)


def modulated(norm: eqx.nn.LayerNorm, h: Array, shift: Array, scale: Array) -> Array:
    """Normalises tokens, then multiplies them by `1 + scale` and adds `shift`.

    **Arguments:**

    - `norm`: the layer norm of one token.
    - `h`: the tokens, `(length, width)`.
    - `shift`, `scale`: `(1, width)`.

    **Returns:** `(length, width)`.
    """
    return (1 + scale) * jax.vmap(norm)(h) + shift

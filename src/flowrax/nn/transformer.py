r"""A bidirectional transformer for tokens, modulated by time and condition: logits of every site's class.

Every site attends to all others, masked or not, as in the denoiser of masked diffusion (Sahoo et al. 2024, appendix
C.2). Positions enter as rotations of queries and keys (Su et al. 2021), so that attention depends on their differences
alone.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.checks import check_count, check_fraction, check_shape
from .._base.typing import Array, Bool, Condition, DType, KeyArray, MaskOf, Scalar, Shape, Tokens
from ..model.network import AbstractFeatureNetwork
from .block import Block, modulated
from .context import Context, zeroed


class Transformer(AbstractFeatureNetwork):
    """Maps tokens `(*shape)` to logits `(*shape, num_tokens)`. Its hidden features are the output of every block.

    Its condition may hold one integer, the class, and floating leaves, which are concatenated to one vector. The label
    `num_classes` stands for no class: `ConditionDropout(0.1, null=num_classes)`. With `mask`, the condition may also
    hold booleans.

    At initialisation all logits are zero, so that all classes have equal probability.

    !!! example

        ```python
        import flowrax as frx
        import jax

        network = frx.nn.Transformer((16,), 6, key=jax.random.key(0), width=32, depth=2)
        prior = frx.discrete.Masked.exclusive((16,), 5)
        model = frx.CategoricalModel(network, frx.discrete.LogLinearMasking(), prior=prior)
        ```

    **References:** [@su2021roformer], [@peebles2023scalable].
    """

    context: Context
    tokens: eqx.nn.Embedding
    positions: eqx.nn.Embedding | None
    blocks: tuple[Block, ...]
    norm: eqx.nn.LayerNorm
    modulation: eqx.nn.Linear
    read_out: eqx.nn.Linear
    mask: MaskOf | None = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)

    def __init__(
        self,
        shape: Shape,
        num_tokens: int,
        *,
        key: KeyArray,
        width: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        mlp_ratio: int = 4,
        rotary: bool = True,
        time: bool = True,
        mask: MaskOf | None = None,
        num_classes: int = 0,
        vector_size: int = 0,
        num_frequencies: int = 16,
        frequency_scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        """**Arguments:**

        - `shape`: the shape of one event; its sites form one sequence, row by row.
        - `num_tokens`: the number of classes of a site, including a mask: the prior's `num_classes`.
        - `key`: draws frequencies and weights.
        - `width`: the number of features of a token, divisible by `num_heads`, and by `2 * num_heads` with `rotary`.
        - `depth`: the number of blocks.
        - `num_heads`: the number of attention heads.
        - `mlp_ratio`: the width of the hidden layer of each perceptron, in units of `width`.
        - `rotary`: whether to use rotary position embeddings; otherwise a learned vector is added to the token of each
            site.
        - `time`: whether the network takes the time. Masked diffusion does not need it: the posterior of a masked site
            depends on the unmasked tokens alone.
        - `mask`: `mask(condition)`, `(*shape)`, nonzero where a site holds data. No site attends to the others, and
            their logits are meaningless. Pass the same function to `discrete.CrossEntropy`. Booleans of the condition
            reach this function only, not the embedding.
        - `num_classes`: the number of classes of an event, with labels from 0 to `num_classes - 1`; the label
            `num_classes` stands for no class. With 0 the network takes no label.
        - `vector_size`: the number of floating elements of a condition.
        - `num_frequencies`, `frequency_scale`: the number and scale of the time features; see [`FourierFeatures`][].
        - `dropout`: the probability of dropping a hidden unit of the perceptrons in training.

        **Raises:** `ValueError` if `width` is not divisible as required.
        """
        width, depth, num_heads = (
            check_count("width", width),
            check_count("depth", depth, 0),
            check_count("num_heads", num_heads),
        )
        num_tokens, mlp_ratio = check_count("num_tokens", num_tokens), check_count("mlp_ratio", mlp_ratio)
        check_fraction("dropout", dropout)
        heads = 2 * num_heads if rotary else num_heads
        if width % heads:
            twice = "twice " if rotary else ""
            raise ValueError(f"width={width} must be divisible by {twice}num_heads={num_heads}.")
        self.shape, self.mask = tuple(shape), mask
        keys = jax.random.split(key, depth + 5)
        self.context = Context(
            width,
            key=keys[0],
            time=time,
            num_classes=num_classes,
            vector_size=vector_size,
            num_frequencies=num_frequencies,
            frequency_scale=frequency_scale,
        )
        size = self.context.size
        self.tokens = eqx.nn.Embedding(num_tokens, width, key=keys[1])
        self.positions = None if rotary else eqx.nn.Embedding(math.prod(self.shape), width, key=keys[2])
        self.blocks = tuple(Block(width, num_heads, mlp_ratio, dropout, key=k, context_size=size) for k in keys[5:])
        self.norm = eqx.nn.LayerNorm(width, use_weight=False, use_bias=False)
        self.modulation = zeroed(eqx.nn.Linear(size, 2 * width, key=keys[3]))
        self.read_out = zeroed(eqx.nn.Linear(width, num_tokens, key=keys[4]))

    def hidden(
        self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        check_shape("The network's event", x.shape, self.shape)
        dtype = self.tokens.weight.dtype
        mask, rest = self._split(condition)
        context = jax.nn.silu(self.context(t, rest, dtype))
        h = self.tokens.weight[x.reshape(-1)]
        rotation = None
        if self.positions is None:
            rotation = _Rotation(h.shape[0], h.shape[1] // self.blocks[0].attention.num_heads, dtype)
        else:
            h = h + self.positions.weight
        states = []
        for index, block in enumerate(self.blocks):
            own = None if key is None else jax.random.fold_in(key, index)
            h = block(h, context, own, mask=mask, heads=rotation)
            states.append(h)
        shift, scale = self.modulation(context).reshape(2, 1, -1)
        out = jax.vmap(self.read_out)(modulated(self.norm, h, shift, scale))
        return out.reshape(*self.shape, -1), tuple(states)

    def _split(self, condition: Condition) -> tuple[Bool[Array, "length length"] | None, Condition]:
        """The attention mask, and the condition without booleans."""
        if self.mask is None:
            return None, condition
        real = jnp.asarray(self.mask(condition)).astype(bool)
        check_shape("The mask of the tokens", real.shape, self.shape)
        rest = [leaf for leaf in jax.tree.leaves(condition) if not jnp.issubdtype(jnp.result_type(leaf), bool)]
        return jnp.broadcast_to(real.reshape(1, -1), (real.size, real.size)), rest


class _Rotation:
    """Rotates pairs of features of queries and keys by angles proportional to the position (Su et al. 2021, eq. 34)."""

    def __init__(self, length: int, size: int, dtype: DType) -> None:
        frequencies = 10_000.0 ** -(np.arange(size // 2) / (size // 2))
        angles = np.arange(length)[:, None, None] * frequencies
        self.cosine, self.sine = jnp.asarray(np.cos(angles), dtype), jnp.asarray(np.sin(angles), dtype)

    def __call__(self, query: Array, key: Array, value: Array) -> tuple[Array, Array, Array]:
        return self.rotate(query), self.rotate(key), value

    def rotate(self, z: Array) -> Array:
        """`z`, `(length, num_heads, size)`, rotated; the two halves of its last axis are the pairs."""
        a, b = jnp.split(z, 2, axis=-1)
        return jnp.concatenate([a * self.cosine - b * self.sine, a * self.sine + b * self.cosine], axis=-1)

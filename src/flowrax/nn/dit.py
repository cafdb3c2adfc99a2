r"""The diffusion transformer: patches of an image as tokens, modulated by time and condition.

At initialisation its blocks are the identity and its output is zero (adaLN-Zero; Peebles & Xie 2023, section 3.2).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.checks import check_count, check_fraction, check_shape
from .._base.typing import Array, Condition, DType, Event, KeyArray, Scalar, Shape
from ..model.network import AbstractFeatureNetwork
from .block import Block, modulated
from .context import Context, check_image, zeroed


class DiT(AbstractFeatureNetwork):
    """A transformer for images `(channels, height, width)`. Its hidden features are the tokens after every block.

    Its condition may hold one integer, the class, and floating leaves, which are concatenated to one vector. The label
    `num_classes` stands for no class: `ConditionDropout(0.1, null=num_classes)`.

    **Reference:** [@peebles2023scalable].
    """

    context: Context
    read_in: eqx.nn.Linear
    blocks: tuple[Block, ...]
    norm: eqx.nn.LayerNorm
    modulation: eqx.nn.Linear
    read_out: eqx.nn.Linear
    shape: Shape = eqx.field(static=True)
    patch_size: int = eqx.field(static=True)

    def __init__(
        self,
        shape: Shape,
        *,
        key: KeyArray,
        patch_size: int = 2,
        width: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        mlp_ratio: int = 4,
        num_classes: int = 0,
        vector_size: int = 0,
        num_frequencies: int = 16,
        frequency_scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        """**Arguments:**

        - `shape`: the shape of one event, `(channels, height, width)`.
        - `key`: draws frequencies and weights.
        - `patch_size`: the side of the square that becomes one token; a divisor of height and width.
        - `width`: the number of features of a token, divisible by 4 and by `num_heads`.
        - `depth`: the number of blocks.
        - `num_heads`: the number of attention heads.
        - `mlp_ratio`: the width of the hidden layer of each perceptron, in units of `width`.
        - `num_classes`: the number of classes, with labels from 0 to `num_classes - 1`; the label `num_classes` stands
            for no class. With 0 the network takes no label.
        - `vector_size`: the number of floating elements of a condition.
        - `num_frequencies`, `frequency_scale`: the number and scale of the time features; see [`FourierFeatures`][].
        - `dropout`: the probability of dropping a hidden unit of the perceptrons in training.

        **Raises:** `ValueError` if `patch_size` or `num_heads` violates these divisibility conditions.
        """
        patch_size = check_count("patch_size", patch_size)
        width = check_count("width", width)
        num_heads = check_count("num_heads", num_heads)
        mlp_ratio = check_count("mlp_ratio", mlp_ratio)
        depth = check_count("depth", depth, 0)
        check_fraction("dropout", dropout)
        self.shape = check_image(shape, patch_size, "the side of a patch")
        if width % 4 or width % num_heads:
            raise ValueError(f"width={width} must be divisible by 4 and by num_heads={num_heads}.")
        self.patch_size = patch_size
        keys = jax.random.split(key, depth + 4)
        self.context = Context(
            width,
            key=keys[0],
            num_classes=num_classes,
            vector_size=vector_size,
            num_frequencies=num_frequencies,
            frequency_scale=frequency_scale,
        )
        size = self.shape[0] * patch_size**2
        self.read_in = eqx.nn.Linear(size, width, key=keys[1])
        self.blocks = tuple(Block(width, num_heads, mlp_ratio, dropout, key=k) for k in keys[4:])
        self.norm = eqx.nn.LayerNorm(width, use_weight=False, use_bias=False)
        self.modulation = zeroed(eqx.nn.Linear(width, 2 * width, key=keys[2]))
        self.read_out = zeroed(eqx.nn.Linear(width, size, key=keys[3]))

    def hidden(
        self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> tuple[Event, tuple[Array, ...]]:
        check_shape("The network's event", x.shape, self.shape)
        context = jax.nn.silu(self.context(t, condition, x.dtype))
        tokens = self.patches(x)
        h = jax.vmap(self.read_in)(tokens) + self.positions(x.dtype)
        states = []
        for index, block in enumerate(self.blocks):
            h = block(h, context, None if key is None else jax.random.fold_in(key, index))
            states.append(h)
        shift, scale = self.modulation(context).reshape(2, 1, -1)
        out = jax.vmap(self.read_out)(modulated(self.norm, h, shift, scale))
        return self.image(out), tuple(states)

    def patches(self, x: Event) -> Array:
        """The patches of an image, row by row, `(tokens, channels * patch_size**2)`."""
        channels, height, width = self.shape
        p = self.patch_size
        split = x.reshape(channels, height // p, p, width // p, p)
        return split.transpose(1, 3, 0, 2, 4).reshape(-1, channels * p * p)

    def image(self, patches: Array) -> Event:
        """The inverse of [`patches`][]."""
        channels, height, width = self.shape
        p = self.patch_size
        split = patches.reshape(height // p, width // p, channels, p, p)
        return split.transpose(2, 0, 3, 1, 4).reshape(self.shape)

    def positions(self, dtype: DType) -> Array:
        """Position embeddings `(tokens, width)`: sines and cosines of the row index, then of the column index."""
        rows, columns = (side // self.patch_size for side in self.shape[1:])
        quarter = self.read_in.weight.shape[0] // 4
        frequencies = 10_000.0 ** -(np.arange(quarter) / quarter)
        row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        angles = [place.reshape(-1, 1) * frequencies for place in (row, column)]
        waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
        return jnp.asarray(np.concatenate(waves, axis=1), dtype)

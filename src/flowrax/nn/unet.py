r"""The U-Net: residual blocks down and up a pyramid of resolutions, with skip connections (Ho et al. 2020)."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_count, check_fraction, check_shape
from .._base.typing import Array, Condition, Event, KeyArray, Scalar, Shape
from ..model.network import AbstractNetwork
from .context import Context, check_image, zeroed

_MOST_GROUPS = 8


def _norm(channels: int) -> eqx.nn.GroupNorm:
    groups = next(g for g in range(min(_MOST_GROUPS, channels), 0, -1) if channels % g == 0)
    return eqx.nn.GroupNorm(groups, channels)


class _Residual(eqx.Module):
    """A residual block of two convolutions; the context scales and shifts the features between them.

    At initialisation the second convolution is zero.
    """

    norms: tuple[eqx.nn.GroupNorm, eqx.nn.GroupNorm]
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    inject: eqx.nn.Linear
    skip: eqx.nn.Conv2d | None
    dropout: eqx.nn.Dropout

    def __init__(self, size: int, out_size: int, context: int, padding: str, dropout: float, *, key: KeyArray) -> None:
        keys = jax.random.split(key, 4)
        self.norms = _norm(size), _norm(out_size)
        self.first = eqx.nn.Conv2d(size, out_size, 3, padding=1, padding_mode=padding, key=keys[0])
        self.inject = eqx.nn.Linear(context, 2 * out_size, key=keys[1])
        self.second = zeroed(eqx.nn.Conv2d(out_size, out_size, 3, padding=1, padding_mode=padding, key=keys[2]))
        self.skip = None if size == out_size else eqx.nn.Conv2d(size, out_size, 1, key=keys[3])
        self.dropout = eqx.nn.Dropout(dropout)

    def __call__(self, h: Array, context: Array, key: KeyArray | None) -> Array:
        scale, shift = self.inject(context).reshape(2, -1, 1, 1)
        inner = self.first(jax.nn.silu(self.norms[0](h)))
        inner = jax.nn.silu((1 + scale) * self.norms[1](inner) + shift)
        inner = self.second(self.dropout(inner, key=key, inference=key is None))
        return inner + (h if self.skip is None else self.skip(h))


class _Attention(eqx.Module):
    """Residual self-attention over pixels, without position embeddings; its update is zero at initialisation."""

    norm: eqx.nn.GroupNorm
    attention: eqx.nn.MultiheadAttention

    def __init__(self, channels: int, num_heads: int, *, key: KeyArray) -> None:
        self.norm = _norm(channels)
        attention = eqx.nn.MultiheadAttention(num_heads, channels, use_output_bias=True, key=key)
        self.attention = eqx.tree_at(lambda a: a.output_proj, attention, replace_fn=zeroed)

    def __call__(self, h: Array) -> Array:
        tokens = self.norm(h).reshape(h.shape[0], -1).T
        return h + self.attention(tokens, tokens, tokens).T.reshape(h.shape)


class _Level(eqx.Module):
    """The layers at one resolution, on the way down or up."""

    residuals: tuple[_Residual, ...]
    attentions: tuple[_Attention, ...] | None
    resample: eqx.nn.Conv2d | None
    """Halves the sides on the way down, or smooths the upsampled features on the way up; None at the last level."""


class UNet(AbstractNetwork):
    """A convolutional network for images `(channels, height, width)`.

    Its condition may hold one integer, the class, and floating leaves, which are concatenated to one vector. The label
    `num_classes` stands for no class: `ConditionDropout(0.1, null=num_classes)`. With `periodic=True` the network is
    equivariant to shifts of the image by multiples of `2 ** (len(multipliers) - 1)` pixels.

    **Reference:** [@ho2020denoising].
    """

    context: Context
    read_in: eqx.nn.Conv2d
    down: tuple[_Level, ...]
    middle: _Level
    up: tuple[_Level, ...]
    norm: eqx.nn.GroupNorm
    read_out: eqx.nn.Conv2d
    shape: Shape = eqx.field(static=True)

    def __init__(
        self,
        shape: Shape,
        *,
        key: KeyArray,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2),
        num_blocks: int = 2,
        attention_levels: Sequence[int] = (-1,),
        num_heads: int = 4,
        num_classes: int = 0,
        vector_size: int = 0,
        num_frequencies: int = 16,
        frequency_scale: float = 1.0,
        dropout: float = 0.0,
        periodic: bool = False,
    ) -> None:
        """**Arguments:**

        - `shape`: the shape of one event, `(channels, height, width)`, with sides divisible by
            `2 ** (len(multipliers) - 1)`.
        - `key`: draws frequencies and weights.
        - `width`: the number of channels that `multipliers` multiply.
        - `multipliers`: the number of channels at each resolution in units of `width`, from the full resolution down.
        - `num_blocks`: the number of residual blocks at each resolution on the way down; on the way up there is one
            more.
        - `attention_levels`: the indices of the resolutions with attention. The middle blocks always have attention.
            Default: the lowest resolution.
        - `num_heads`: the number of attention heads.
        - `num_classes`: the number of classes, with labels from 0 to `num_classes - 1`; the label `num_classes` stands
            for no class. With 0 the network takes no label.
        - `vector_size`: the number of floating elements of a condition.
        - `num_frequencies`, `frequency_scale`: the number and scale of the time features; see [`FourierFeatures`][].
        - `dropout`: the probability of dropping a hidden unit in training.
        - `periodic`: whether to pad images periodically instead of with zeros.

        **Raises:** `ValueError` for a `shape` whose sides are not divisible as required.
        """
        width = check_count("width", width)
        num_blocks = check_count("num_blocks", num_blocks)
        num_heads = check_count("num_heads", num_heads)
        check_fraction("dropout", dropout)
        if not multipliers:
            raise ValueError("multipliers must have one number of channels for each resolution; it is empty.")
        self.shape = check_image(
            shape, 2 ** (len(multipliers) - 1), "since they are halved at every level but the last"
        )
        make = _Maker(4 * width, "CIRCULAR" if periodic else "ZEROS", num_heads, dropout, key)
        self.context = Context(
            4 * width,
            key=make.key(),
            num_classes=num_classes,
            vector_size=vector_size,
            num_frequencies=num_frequencies,
            frequency_scale=frequency_scale,
        )
        sizes = [width * multiplier for multiplier in multipliers]
        attends = [i in {level % len(sizes) for level in attention_levels} for i in range(len(sizes))]
        self.read_in = make.conv(self.shape[0], width)
        stack, down = [width], []
        for i, size in enumerate(sizes):
            last = i == len(sizes) - 1
            ins = [stack[-1], *[size] * (num_blocks - 1)]
            down.append(make.level(ins, size, attends[i], None if last else make.conv(size, size, stride=2)))
            stack += [size] * (num_blocks + (not last))
        self.down = tuple(down)
        self.middle = make.level([sizes[-1]] * 2, sizes[-1], True, None)
        up, current = [], sizes[-1]
        for i, size in reversed(list(enumerate(sizes))):
            ins = []
            for _ in range(num_blocks + 1):
                ins.append(current + stack.pop())
                current = size
            up.append(make.level(ins, size, attends[i], make.conv(size, size) if i else None))
        self.up = tuple(up)
        self.norm = _norm(width * multipliers[0])
        self.read_out = zeroed(make.conv(sizes[0], self.shape[0]))

    def __call__(self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None) -> Event:
        check_shape("The network's event", x.shape, self.shape)
        context = jax.nn.silu(self.context(t, condition, x.dtype))
        keys = _Keys(key)
        h = self.read_in(x)
        stack = [h]
        for level in self.down:
            for i in range(len(level.residuals)):
                h = _block(level, i, h, context, keys)
                stack.append(h)
            if level.resample is not None:
                h = level.resample(h)
                stack.append(h)
        for i in range(2):
            h = _block(self.middle, i, h, context, keys)
        for level in self.up:
            for i in range(len(level.residuals)):
                h = _block(level, i, jnp.concatenate([h, stack.pop()]), context, keys)
            if level.resample is not None:
                h = level.resample(jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2))
        return self.read_out(jax.nn.silu(self.norm(h)))


class _Maker:
    """Creates layers with shared settings, each with its own key."""

    def __init__(self, context: int, padding: str, num_heads: int, dropout: float, key: KeyArray) -> None:
        self.context, self.padding, self.num_heads, self.dropout = context, padding, num_heads, dropout
        self.keys = _Keys(key)

    def key(self) -> KeyArray:
        key = self.keys()
        assert key is not None
        return key

    def conv(self, size: int, out_size: int, stride: int = 1) -> eqx.nn.Conv2d:
        return eqx.nn.Conv2d(size, out_size, 3, stride, padding=1, padding_mode=self.padding, key=self.key())

    def level(self, ins: Sequence[int], size: int, attends: bool, resample: eqx.nn.Conv2d | None) -> _Level:
        residuals = tuple(_Residual(i, size, self.context, self.padding, self.dropout, key=self.key()) for i in ins)
        attentions = tuple(_Attention(size, self.num_heads, key=self.key()) for _ in ins) if attends else None
        return _Level(residuals, attentions, resample)


class _Keys:
    """Returns a new key at each call, or None if there is no key."""

    def __init__(self, key: KeyArray | None) -> None:
        self.base, self.count = key, 0

    def __call__(self) -> KeyArray | None:
        self.count += 1
        return None if self.base is None else jax.random.fold_in(self.base, self.count)


def _block(level: _Level, index: int, h: Array, context: Array, keys: _Keys) -> Array:
    h = level.residuals[index](h, context, keys())
    return h if level.attentions is None else level.attentions[index](h)

"""Semi-autoregressive sampling: blocks from left to right, and any other sampler within a block."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base.checks import plain_int
from ..._base.typing import Array, Condition, DType, KeyArray, Scalar, Shape, Tokens
from ..base import AbstractCategoricalModel, AbstractLogitModel, AbstractSampler, SamplerStep
from ..path.base import AbstractCategoricalPath
from ..prior import AbstractCategoricalPrior, Masked
from .masks import mask_of, size_of, times_of_shares


class AbstractBlockModel(AbstractCategoricalModel):
    """The model of a block of neighbouring sites, conditioned on all other sites, some of which may be masked."""

    model: eqx.AbstractVar[AbstractCategoricalModel]
    x: eqx.AbstractVar[Tokens]
    """The whole event."""
    start: eqx.AbstractVar[Array]
    """The first site of the block."""
    shape: eqx.AbstractVar[Shape]
    """The shape of the block, `(size,)`."""

    @property
    def interpolant(self) -> AbstractCategoricalPath:
        return self.model.interpolant

    @property
    def prior(self) -> AbstractCategoricalPrior:
        prior = self.model.prior
        return Masked(self.shape, prior.num_classes, prior.mask)

    @property
    def dtype(self) -> DType:
        return self.model.dtype

    @property
    def t_min(self) -> float:
        return self.model.t_min

    @property
    def t_max(self) -> float:
        return self.model.t_max

    @property
    def default_sampler(self) -> AbstractSampler:
        return self.model.default_sampler

    def log_probabilities(
        self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        whole, t = self.put(x), self.time(t)
        return self.take(self.model.log_probabilities(t, whole, condition, key=key))

    def put(self, x: Tokens) -> Tokens:
        """The whole event, with the sites of the block set to `x`."""
        return jax.lax.dynamic_update_slice(self.x.ravel(), x, (self.start,)).reshape(self.x.shape)

    def take(self, values: Array) -> Array:
        """The entries of the block, `(size, ...)`, in an array `(*shape, ...)` of the whole event."""
        rows = values.reshape(self.x.size, *values.shape[self.x.ndim :])
        return jax.lax.dynamic_slice_in_dim(rows, self.start, self.shape[0])

    def time(self, t: Scalar) -> Array:
        """The time of the whole event, from the expected share of its unmasked sites when the block is at time `t`."""
        size = self.shape[0]
        inside = jnp.sum(self.take(self.x) != self.prior.mask, dtype=jnp.int32)
        outside = (jnp.sum(self.x != self.prior.mask, dtype=jnp.int32) - inside).astype(self.dtype)
        alpha = self.interpolant.schedule.alpha(t).astype(self.dtype)
        return times_of_shares(self, (outside + size * alpha) / self.x.size)


class BlockModel(AbstractBlockModel):
    """A block of any categorical model."""

    model: AbstractCategoricalModel
    x: Tokens
    start: Array
    shape: Shape = eqx.field(static=True)

    def __init__(self, model: AbstractCategoricalModel, x: Tokens, start: Array, size: int):
        self.model, self.x, self.start, self.shape = model, x, start, (size,)


class BlockLogitModel(AbstractBlockModel, AbstractLogitModel):
    """A block of a model with logits; the block has logits too."""

    model: AbstractLogitModel
    x: Tokens
    start: Array
    shape: Shape = eqx.field(static=True)

    def __init__(self, model: AbstractLogitModel, x: Tokens, start: Array, size: int):
        self.model, self.x, self.start, self.shape = model, x, start, (size,)

    def logits(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        return self.take(self.model.logits(self.time(t), self.put(x), condition, key=key))


class Blocks(AbstractSampler):
    """Semi-autoregressive sampling: draws the blocks of an event from left to right (Arriola et al. 2025).

    Each block is drawn by `inner`, conditioned on the unmasked tokens of all other blocks; later blocks stay masked
    until their turn. All steps of `inner` are taken for each block, so `grid` describes a single block. The time passed
    to the network is the time of the whole event. The times of saved states are times within a block and start again
    with each block.

    **Reference:** [@arriola2025block].

    - `inner`: the sampler within a block.
    - `block`: the number of sites of a block, which must divide the number of sites of an event. Raises `ValueError`
        below 1.
    """

    inner: AbstractSampler
    block: int = eqx.field(static=True, converter=plain_int)

    def __check_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"block must be at least 1; got {self.block}.")

    @property
    def num_evaluations_per_step(self) -> int:
        return self.inner.num_evaluations_per_step

    def times(self, model: AbstractCategoricalModel, grid: Any) -> Array:
        """The times of all blocks in turn, each from noise to data; raises `ValueError` if the blocks do not fit."""
        mask_of(self, model)
        size = size_of(model)
        if size % self.block:
            raise ValueError(f"An event of {size} sites cannot be divided into blocks of {self.block}.")
        one = self.inner.times(self._model(model, model.prior.draw(jax.random.key(0)), jnp.asarray(0)), grid)
        return jnp.concatenate([one[:1], *[one[1:]] * (size // self.block)])

    def step(
        self, model: AbstractCategoricalModel, step: SamplerStep, x: Tokens, condition: Condition, key: KeyArray
    ) -> Tokens:
        count = step.count // (x.size // self.block)
        number = (step.index // count).astype(jnp.int32)
        block = self._model(model, x, number * self.block)
        index = step.index % count
        # The recorded start is the end time of the previous block; a block starts at t_min.
        start = jnp.where(index == 0, jnp.asarray(model.t_min, step.start.dtype), step.start)
        first = None if step.first is None else block.take(step.first)
        shared = None if step.key is None else jax.random.fold_in(step.key, number)
        inner = SamplerStep(index, count, start, step.end, first, shared)
        return block.put(self.inner.step(block, inner, block.take(x), condition, key))

    def _model(self, model: AbstractCategoricalModel, x: Tokens, start: Array) -> AbstractBlockModel:
        if isinstance(model, AbstractLogitModel):
            return BlockLogitModel(model, x, start, self.block)
        return BlockModel(model, x, start, self.block)

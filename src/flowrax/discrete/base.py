r"""The abstract classes of models that are sampled in discrete steps, and of their samplers."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.arrays import as_real
from .._base.checks import check_batch, is_traced
from .._base.rows import row_arrays
from .._base.typing import Array, BatchLike, Condition, KeyArray, PyTree, Scalar, Shape, Tokens
from ..model.base import AbstractModel
from ..prior import AbstractPrior
from .path.base import AbstractCategoricalPath
from .prior import AbstractCategoricalPrior


class SamplerStep(eqx.Module):
    """One sampler step of [`AbstractSampler`][], from time `start` to time `end`."""

    index: Array
    """The index of the step, from 0 to `count - 1`."""
    count: int = eqx.field(static=True)
    """The number of steps."""
    start: Array
    end: Array
    first: PyTree = None
    """The event before the first step. It marks, for example, which tokens are observed and which are masked."""
    key: KeyArray | None = None
    """The sample's key, identical at every step, for randomness that the steps share. Randomness of a single step uses
    the key passed to `step`."""


class AbstractSampler(eqx.Module, metaclass=Checked):
    """A sampler with its own discrete steps, for models without an ODE or SDE: for example jumps between classes."""

    @abc.abstractmethod
    def times(self, model: Any, grid: Any) -> Array:
        """The times of `k` steps, `(k + 1,)`; `grid` is the argument of `sample`."""

    @abc.abstractmethod
    def step(self, model: Any, step: SamplerStep, x: PyTree, condition: Condition, key: KeyArray) -> PyTree:
        """The event after one step. A token of -1 marks a failed sample."""

    @property
    @abc.abstractmethod
    def num_evaluations_per_step(self) -> int:
        """The number of network evaluations per step."""


class AbstractSingleEvaluationSampler(AbstractSampler):
    """A sampler that evaluates the network once per step."""

    @property
    def num_evaluations_per_step(self) -> int:
        return 1


class AbstractSampledModel(AbstractModel):
    """A model that is sampled in discrete steps, not by a differential equation."""

    @property
    @abc.abstractmethod
    def default_sampler(self) -> AbstractSampler:
        """The sampler that `sample` uses unless it is given another."""


class AbstractCategoricalModel(AbstractSampledModel):
    """A model of events whose sites hold classes. It predicts the class probabilities of the data at each site."""

    interpolant: eqx.AbstractVar[AbstractCategoricalPath]
    prior: eqx.AbstractVar[AbstractCategoricalPrior]
    shape: eqx.AbstractVar[Shape]

    @property
    def source(self) -> AbstractPrior:
        """The prior; the remaining information about the data at `t_min` is neglected."""
        return self.prior

    def events(self, name: str, x: BatchLike, size: int | None = None) -> Array:
        """A batch of events as integers; raises `ValueError` for wrong dtypes, shapes or classes."""
        rows = as_real(name, row_arrays(name, x))
        if not jnp.issubdtype(rows.dtype, jnp.integer):
            raise ValueError(f"{name} has dtype {rows.dtype}, but events are integers: the classes of their sites.")
        check_batch(name, rows, self.shape, size)
        if not is_traced(rows) and rows.size:
            low, high = int(rows.min()), int(rows.max())
            if low < 0 or high >= self.prior.num_classes:
                raise ValueError(f"{name} has classes from {low} to {high}; the prior has {self.prior.num_classes}.")
        return jnp.asarray(rows, self.prior.dtype)

    @abc.abstractmethod
    def log_probabilities(
        self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        r"""Log-probabilities $\log p(x_1^i = k | x_t)$ for each site $i$, `(*shape, K)`, of one event `x` at `t`."""


class AbstractLogitModel(AbstractCategoricalModel):
    """A categorical model that exposes the network's logits at every site, including observed sites.

    The distribution of the data is the softmax of the logits over the classes of the data. If the prior has a mask,
    these are all classes except the mask, and an unmasked site holds the clean token with probability one.
    """

    @abc.abstractmethod
    def logits(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        """The network's logits, `(*shape, K)`."""

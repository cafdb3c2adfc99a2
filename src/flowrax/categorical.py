r"""A network of categorical data: tokens, types, spins. It is told $x_t$ and gives logits of the data's classes.

The network is called as any other, with integers for `x`: `network(t, x, condition)` is `(*shape, K)`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._checks import check_batch, check_interval, check_shape, is_traced, time_dtype
from ._typing import Array, BatchLike, Condition, DType, KeyArray, Network, Scalar, Shape, Tokens
from .abstract import AbstractLogitModel, AbstractMoves, call_network
from .coupling import AbstractCoupling, Independent
from .discrete import Ancestral
from .interpolant import AbstractCategoricalPath, Mixture, spread
from .model import network_dtype
from .prior import AbstractCategoricalPrior, AbstractPrior
from .schedule import AbstractMasking


class CategoricalModel(AbstractLogitModel):
    """A trained, or trainable, network as a law of classes."""

    network: Network
    interpolant: AbstractCategoricalPath
    prior: AbstractCategoricalPrior
    coupling: AbstractCoupling
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    t_min: float = eqx.field(static=True)
    t_max: float = eqx.field(static=True)

    def __init__(
        self,
        network: Network,
        interpolant: AbstractCategoricalPath | AbstractMasking,
        *,
        prior: AbstractCategoricalPrior,
        dtype: DType | None = None,
        t_min: float = 0.0,
        t_max: float = 1.0,
    ):
        """**Arguments:**

        - `network`: `network(t, x, condition)` gives logits `(*shape, K)` of one event `x` of integers, for a scalar
            `t` and one condition (or None).
        - `interpolant`: the path; a schedule stands for its [`Mixture`][].
        - `prior`: the law of the noise, whose shape is that of an event and whose classes are those of the logits.
        - `dtype`: of times and log-probabilities; that of the network's parameters without. At least single precision.
        - `t_min`, `t_max`: the interval of time, within [0, 1].
        """
        self.network, self.prior, self.coupling = network, prior, Independent()
        self.interpolant = Mixture(interpolant) if isinstance(interpolant, AbstractMasking) else interpolant
        self.interpolant.check_prior(prior)
        self.shape = prior.shape
        self.dtype = time_dtype(network_dtype(network) if dtype is None else dtype)
        self.t_min, self.t_max = t_min, t_max
        check_interval(t_min, t_max)

    @property
    def source(self) -> AbstractPrior:
        """The prior; what is left of the data at `t_min` is neglected."""
        return self.prior

    @property
    def default_sampler(self) -> AbstractMoves:
        return Ancestral()

    def events(self, name: str, x: BatchLike, size: int | None = None) -> Array:
        """A batch as integers; raises `ValueError` where it is none of events of the data's classes."""
        rows = jnp.asarray(x)
        if not jnp.issubdtype(rows.dtype, jnp.integer):
            raise ValueError(f"{name} holds {rows.dtype}; events are integers, the classes of their sites.")
        check_batch(name, rows, self.shape, size)
        if not is_traced(rows) and rows.size:
            low, high = int(rows.min()), int(rows.max())
            if low < 0 or high >= self.prior.num_classes:
                raise ValueError(f"{name} has classes from {low} to {high}; the prior has {self.prior.num_classes}.")
        return rows.astype(self.prior.dtype)

    def logits(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        """What the network says, `(*shape, K)`; `key` is for dropout in training."""
        out = call_network(self.network, t, x, condition, key=key)
        if not isinstance(out, jax.Array | np.ndarray):
            raise ValueError(f"The network gave {type(out).__name__}; it must give an array of logits.")
        check_shape("The network's output", out.shape, (*self.shape, self.prior.num_classes))
        return jnp.asarray(out).astype(time_dtype(out.dtype))

    def log_probabilities(
        self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        r"""$\log p(x_1^i = k | x_t)$ of every site, `(*shape, K)`.

        Under a prior of masks no data are a mask, and what is not masked is known (Sahoo et al. 2024, section 3.2.3).
        """
        logits = self.logits(t, x, condition, key=key)
        mask = self.prior.mask
        if mask is None:
            return jax.nn.log_softmax(logits, axis=-1)
        classes = spread(jnp.arange(logits.shape[-1], dtype=x.dtype), logits.ndim)
        logits = jnp.where(classes == mask, -jnp.inf, logits)
        known = jnp.where(classes == x[..., None], 0, -jnp.inf).astype(logits.dtype)
        # Not log_softmax, whose shifted logits would be kept beside the answer.
        data = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        return jnp.where((x == mask)[..., None], data, known)

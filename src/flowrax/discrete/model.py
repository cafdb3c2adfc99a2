r"""Models of categorical data (tokens, types, spins): a network maps $x_t$ to logits of the clean tokens.

The network is called as any other, with integers for `x`: `network(t, x, condition)` has shape `(*shape, K)`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.checks import check_batch, check_interval, check_shape, is_traced, time_dtype
from .._base.rows import row_arrays
from .._base.typing import Array, BatchLike, Condition, DType, KeyArray, Network, Scalar, Shape, Tokens
from ..coupling import AbstractCoupling, Independent
from ..model.network import call_network
from ..model.trained import network_dtype
from ..prior import AbstractPrior
from .contract import AbstractLogitModel, AbstractSampler
from .path.base import AbstractCategoricalPath
from .path.mixture import Mixture
from .prior import AbstractCategoricalPrior
from .sampler.ancestral import Ancestral
from .schedule import AbstractMasking
from .sites import spread


class CategoricalModel(AbstractLogitModel):
    """A model of categorical data: a network, a path and a categorical prior."""

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

        - `network`: `network(t, x, condition)` returns logits `(*shape, K)` for one event `x` of integers, a scalar `t`
            and one condition (or None).
        - `interpolant`: the path, or a masking schedule, which stands for its [`Mixture`][].
        - `prior`: the distribution of the noise. It has the shape of an event and as many classes as the logits.
        - `dtype`: the dtype of times and log-probabilities, at least single precision. Default: the dtype of the
            network's parameters.
        - `t_min`, `t_max`: the time interval, within [0, 1]. Defaults: 0 and 1.

        Raises `ValueError` if the path does not fit the prior, or for an invalid time interval.
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
        """The prior; the remaining information about the data at `t_min` is neglected."""
        return self.prior

    @property
    def default_sampler(self) -> AbstractSampler:
        return Ancestral()

    def events(self, name: str, x: BatchLike, size: int | None = None) -> Array:
        """A batch of events as integers; raises `ValueError` for wrong dtypes, shapes or classes."""
        rows = jnp.asarray(row_arrays(name, x))
        if not jnp.issubdtype(rows.dtype, jnp.integer):
            raise ValueError(f"{name} has dtype {rows.dtype}, but events are integers: the classes of their sites.")
        check_batch(name, rows, self.shape, size)
        if not is_traced(rows) and rows.size:
            low, high = int(rows.min()), int(rows.max())
            if low < 0 or high >= self.prior.num_classes:
                raise ValueError(f"{name} has classes from {low} to {high}; the prior has {self.prior.num_classes}.")
        return rows.astype(self.prior.dtype)

    def logits(self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        """The network's output, `(*shape, K)`; `key` is for dropout in training."""
        out = call_network(self.network, t, x, condition, key=key)
        if not isinstance(out, jax.Array | np.ndarray):
            raise ValueError(f"The network returned {type(out).__name__}; it must return an array of logits.")
        check_shape("The network's output", out.shape, (*self.shape, self.prior.num_classes))
        return jnp.asarray(out).astype(time_dtype(out.dtype))

    def log_probabilities(
        self, t: Scalar, x: Tokens, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Array:
        r"""$\log p(x_1^i = k | x_t)$ of every site, `(*shape, K)`.

        Under a masking prior the mask has probability zero, and an unmasked site keeps its token with probability one
        (Sahoo et al. 2024, section 3.2.3).
        """
        logits = self.logits(t, x, condition, key=key)
        mask = self.prior.mask
        if mask is None:
            return jax.nn.log_softmax(logits, axis=-1)
        classes = spread(jnp.arange(logits.shape[-1], dtype=x.dtype), logits.ndim)
        logits = jnp.where(classes == mask, -jnp.inf, logits)
        known = jnp.where(classes == x[..., None], 0, -jnp.inf).astype(logits.dtype)
        # log_softmax would keep the shifted logits in memory as well as the result.
        data = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        return jnp.where((x == mask)[..., None], data, known)

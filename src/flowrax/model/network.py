r"""The contract of networks: any callable `network(t, x, condition)` for one event, or a class of this file."""

import abc
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.arguments import Checked
from .._base.checks import time_dtype
from .._base.typing import Array, Condition, DType, Event, KeyArray, Network, PyTree, Scalar


class AbstractNetwork(eqx.Module, metaclass=Checked):
    """A network that may be random in training (dropout). A plain callable `network(t, x, condition)` also works."""

    @abc.abstractmethod
    def __call__(self, t: Scalar, x: PyTree, condition: Condition = None, *, key: KeyArray | None = None) -> Any:
        """The output, with the shape of `x`; logits have an additional last axis of classes.

        The output is deterministic if `key` is None.
        """


def with_key(network: Network, key: KeyArray | None) -> Network:
    """The network as a function of `(t, x, condition)`; the key goes to networks that may be random."""
    return functools.partial(network, key=key) if isinstance(network, AbstractNetwork) else network


def call_network(network: Network, t: Any, x: PyTree, condition: Condition, *, key: KeyArray | None = None) -> Any:
    """The output of any network; the key goes to networks that may be random."""
    return with_key(network, key)(t, x, condition)


def as_output(out: Any, dtype: DType) -> Array:
    """The output of a network for states of a floating `dtype`, converted to it.

    Raises `ValueError` for an output that is not an array of real floating-point numbers.
    """
    if not isinstance(out, jax.Array | np.ndarray):
        raise ValueError(
            f"The network returned {type(out).__name__}; it must return an array of floating-point numbers."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"The network returned an array of dtype {out.dtype}; it must return real floating-point numbers such as "
            f"{jnp.dtype(dtype)}."
        )
    return jnp.asarray(out, dtype)


def as_logits(out: Any, widest: DType = jnp.float64) -> Array:
    """The logits that a network returned, in at least single precision but no wider than `widest`.

    Raises `ValueError` for an output that is not an array of real floating-point numbers.
    """
    logits = as_output(out, getattr(out, "dtype", jnp.float32))
    work = time_dtype(logits.dtype)
    return logits.astype(work if jnp.finfo(work).bits <= jnp.finfo(widest).bits else widest)


class AbstractTimelessNetwork(AbstractNetwork):
    """A network that does not depend on time. A model with such a network has no score."""


class AbstractFeatureNetwork(AbstractNetwork):
    """A network that exposes its hidden features, for losses that use them."""

    @abc.abstractmethod
    def hidden(
        self, t: Scalar, x: Array, condition: Condition = None, *, key: KeyArray | None = None
    ) -> tuple[Array, tuple[Array, ...]]:
        """The output, and the hidden features of every block."""

    def __call__(self, t: Scalar, x: Array, condition: Condition = None, *, key: KeyArray | None = None) -> Array:
        return self.hidden(t, x, condition, key=key)[0]


class AbstractAverageVelocity(AbstractNetwork):
    r"""A network of the average velocity of the flow, $u(t, r, x) = (\phi_{t \to r}(x) - x) / (r - t)$.

    Called like any other network, it returns the instantaneous velocity $u(t, t, x)$.
    """

    @abc.abstractmethod
    def average(
        self, t: Scalar, r: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None
    ) -> Event:
        """The average velocity between time `t`, where the event is `x`, and time `r`."""

    def __call__(self, t: Scalar, x: Event, condition: Condition = None, *, key: KeyArray | None = None) -> Event:
        return self.average(t, t, x, condition, key=key)

r"""$\nabla \cdot v = \operatorname{tr} \partial v / \partial x$ along a solve, exactly or by random probes.

Hutchinson's estimate is $\epsilon^\top (\partial v / \partial x)\, \epsilon$, $\mathbb{E}[\epsilon \epsilon^\top] = I$.
Probes are drawn once and kept for the whole solve: an estimate that changes between evaluations has no derivative in
time, and an adaptive solver would shrink its steps without end.
"""

import abc
import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ._typing import Array, DType, Event, KeyArray, Shape

VectorField = Callable[[Event], Event]


class AbstractProbes(eqx.Module):
    """A law of random vectors with unit covariance."""

    @abc.abstractmethod
    def __call__(self, key: KeyArray, shape: Shape, dtype: DType) -> Array:
        """Draws an array of that shape."""


class Rademacher(AbstractProbes):
    """Signs: the least variance among independent entries, none at all for a diagonal Jacobian."""

    def __call__(self, key: KeyArray, shape: Shape, dtype: DType) -> Array:
        return jax.random.rademacher(key, shape, dtype)


class Gaussian(AbstractProbes):
    """Standard normal entries."""

    def __call__(self, key: KeyArray, shape: Shape, dtype: DType) -> Array:
        return jax.random.normal(key, shape, dtype)


class AbstractDivergence(eqx.Module):
    """A way to the divergence of a vector field of one event."""

    needs_key: eqx.AbstractClassVar[bool]

    @property
    @abc.abstractmethod
    def num_estimates(self) -> int:
        """How many estimates a solve carries."""

    @abc.abstractmethod
    def probes(self, key: KeyArray | None, x: Event) -> Array | None:
        """The random part, drawn once for a solve that starts or ends at `x`."""

    @abc.abstractmethod
    def __call__(self, field: VectorField, x: Event, probes: Array | None) -> tuple[Event, Array]:
        """`field(x)` and the `(num_estimates,)` estimates of its divergence."""

    @abc.abstractmethod
    def standard_error(self, estimates: Array) -> Array:
        """Of the mean of `estimates`, whose last axis is `num_estimates`."""


class Exact(AbstractDivergence):
    """All diagonal entries by forward-mode products with the basis, in chunks.

    Memory is `chunk_size` times an evaluation of the field; the Jacobian is never formed.
    """

    chunk_size: int = eqx.field(static=True, default=16)
    needs_key: ClassVar[bool] = False

    @property
    def num_estimates(self) -> int:
        return 1

    def probes(self, key: KeyArray | None, x: Event) -> None:
        return None

    def __call__(self, field: VectorField, x: Event, probes: Array | None) -> tuple[Event, Array]:
        size = math.prod(x.shape)

        def entry(index: Array) -> tuple[Event, Array]:
            basis = jnp.zeros(size, x.dtype).at[index].set(1).reshape(x.shape)
            value, tangent = jax.jvp(field, (x,), (basis,))
            return value, tangent.reshape(-1)[index]

        def chunk(indices: Array) -> tuple[Event, Array]:
            value, entries = jax.vmap(entry, out_axes=(None, 0))(indices)
            return value, jnp.sum(entries)

        width = min(self.chunk_size, size)
        whole, rest = divmod(size, width)
        indices = jnp.arange(size)
        value, total = chunk(indices[:width])
        if whole > 1:
            later = indices[width : whole * width].reshape(whole - 1, width)
            total = total + jnp.sum(jax.lax.map(lambda i: chunk(i)[1], later))
        if rest:
            total = total + chunk(indices[whole * width :])[1]
        return value, total[None]

    def standard_error(self, estimates: Array) -> Array:
        return jnp.zeros_like(estimates[..., 0])


class Hutchinson(AbstractDivergence):
    """The mean over random probes, with the standard error of that mean.

    ??? cite "Reference"

        ```bibtex
        @inproceedings{grathwohl2019ffjord,
            author={Grathwohl, Will and Chen, Ricky T. Q. and Bettencourt, Jesse and Sutskever, Ilya and
                Duvenaud, David},
            title={{FFJORD}: Free-form Continuous Dynamics for Scalable Reversible Generative Models},
            booktitle={International Conference on Learning Representations},
            year={2019},
        }
        ```
    """

    num_probes: int = eqx.field(static=True)
    law: AbstractProbes
    needs_key: ClassVar[bool] = True

    def __init__(self, num_probes: int = 1, law: AbstractProbes | None = None):
        """**Arguments:**

        - `num_probes`: products with the Jacobian at each evaluation; they share the evaluation itself.
        - `law`: of the probes, [`Rademacher`][] without. Raises `ValueError` unless `num_probes >= 1`.
        """
        if num_probes < 1:
            raise ValueError(f"num_probes must be at least 1; got {num_probes}.")
        self.num_probes, self.law = num_probes, Rademacher() if law is None else law

    @property
    def num_estimates(self) -> int:
        return self.num_probes

    def probes(self, key: KeyArray | None, x: Event) -> Array:
        if key is None:
            raise ValueError("Hutchinson draws probes; pass key=jax.random.key(...).")
        return self.law(key, (self.num_probes, *x.shape), x.dtype)

    def __call__(self, field: VectorField, x: Event, probes: Array | None) -> tuple[Event, Array]:
        assert probes is not None

        def product(probe: Array) -> tuple[Event, Array]:
            value, tangent = jax.jvp(field, (x,), (probe,))
            return value, jnp.sum(probe * tangent)

        return jax.vmap(product, out_axes=(None, 0))(probes)

    def standard_error(self, estimates: Array) -> Array:
        if self.num_probes == 1:
            return jnp.full_like(estimates[..., 0], jnp.inf)
        # Deviations from the first estimate: equal estimates give zero to the bit.
        deviation = estimates - estimates[..., :1]
        spread = jnp.sum((deviation - jnp.mean(deviation, axis=-1, keepdims=True)) ** 2, axis=-1)
        variance = spread / (self.num_probes * (self.num_probes - 1))
        # The square root has no derivative at zero; its value there is wanted, not its slope.
        positive = variance > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)

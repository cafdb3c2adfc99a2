r"""Noise with arbitrary transition matrices: step `i` replaces class $j$ by $k$ with probability $(Q_i)_{jk}$.

The steps are $i = 0 \dots T - 1$, and $q(x_t | x_1) = (Q_0 Q_1 \cdots Q_i)_{x_1 x_t}$ at the time
$t = 1 - (i + 1) / T$ of index $i$ (Austin et al. 2021, section 3.1). Times between indices are rounded to the nearest
index, or to clean data.

Every $m$-th of the $T$ products is stored, with $m \approx \sqrt{T}$, so the memory is $O(\sqrt{T} K^2)$. The
marginals of $L$ sites multiply their rows by one product and by up to $m - 1$ matrices, which costs
$O(\sqrt{T} L K^2)$. A sampler step over $n$ indices multiplies by $n$ further matrices. An array `(T, K, K)` of
products is never formed.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..._base import random
from ..._base.arrays import as_real
from ..._base.checks import check_count, check_instance
from ..._base.typing import Array, KeyArray, Numbers, PyTree, Scalar, Tokens
from ...schedule import DiscreteSchedule
from ..prior import AbstractCategoricalPrior
from ..schedule import AbstractMasking
from ..sites import invert, log_or_infinity, probabilities_of
from .base import AbstractCategoricalPath


class AbstractTransitions(AbstractCategoricalPath):
    """A path defined by a sequence of transition matrices. `fit` does not train the matrices."""

    num_steps: eqx.AbstractVar[int]
    """The number of steps `T`."""
    num_classes: eqx.AbstractVar[int]
    """The number of classes `K`."""
    products: eqx.AbstractVar[Array]
    """The products of the matrices of the first 0, m, 2 m, ... steps, `(n, K, K)`."""

    @abc.abstractmethod
    def matrix(self, index: Array) -> Array:
        r"""The matrix $Q_i$, `(K, K)`, whose rows sum to one."""

    @property
    def schedule(self) -> AbstractMasking:
        raise ValueError(
            f"{type(self).__name__} is not a mixture of data and noise, so it has no masking schedule; sample it with "
            "discrete.Ancestral."
        )

    @property
    def stride(self) -> int:
        """The number of steps between two stored products."""
        return _stride(self.num_steps)

    def check_prior(self, prior: AbstractCategoricalPrior) -> None:
        if prior.num_classes != self.num_classes:
            raise ValueError(
                f"The prior has {prior.num_classes} classes but {type(self).__name__} has {self.num_classes}."
            )
        if prior.mask is not None:
            raise ValueError(
                "With a Masked prior every unmasked token is taken to be clean, but these matrices may also change "
                "unmasked tokens; pass discrete.Categorical with probability one on the mask."
            )

    def steps(self, t: Scalar) -> Array:
        """The number of noise steps applied to the data at time `t`: 0 for clean data."""
        return jnp.clip(jnp.round((1 - jnp.asarray(t)) * self.num_steps).astype(jnp.int32), 0, self.num_steps)

    def noise(self, key: KeyArray, x0: Tokens) -> PyTree:
        """A uniform number for each site."""
        return random.uniform(key, x0.shape)

    def interpolate(self, t: Scalar, x0: PyTree, x1: Tokens) -> Tokens:
        return invert(x0, self._rows(probabilities_of(x1, self.num_classes), self.steps(t))).astype(x1.dtype)

    def marginal(self, prior: AbstractCategoricalPrior, t: Scalar, x1: Array) -> Array:
        return self._rows(probabilities_of(x1, self.num_classes), self.steps(t))

    def log_marginal(self, prior: AbstractCategoricalPrior, t: Scalar, log_p1: Array) -> Array:
        # The matrix product needs the weights themselves; weights that underflow relative to the largest are lost.
        top = jax.lax.stop_gradient(jnp.max(log_p1, axis=-1, keepdims=True))
        return log_or_infinity(self._rows(jnp.exp(log_p1 - top), self.steps(t))) + top

    def transition(self, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Array) -> Array:
        rows = probabilities_of(x, self.num_classes)
        return jax.lax.fori_loop(self.steps(t), self.steps(s), lambda i, p: p @ self._matrix(i, p), rows)

    def likelihood(self, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens) -> Array:
        return self._between(probabilities_of(x, self.num_classes), self.steps(t), self.steps(s))

    def posterior(self, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens, x1: Array) -> Array:
        p1, here = probabilities_of(x1, self.num_classes), probabilities_of(x, self.num_classes)
        after, before = self.steps(t), self.steps(s)
        evidence = self._columns(here.astype(p1.dtype), before)
        ratio = jnp.where(evidence > 0, p1 / jnp.where(evidence > 0, evidence, 1), 0)
        joint = self._between(here.astype(p1.dtype), after, before) * self._rows(ratio, after)
        # A token that has probability zero under every class of the data is kept, as for a mixture.
        return jnp.where(jnp.sum(ratio, axis=-1, keepdims=True) == 0, here.astype(p1.dtype), joint)

    def _matrix(self, index: Array, like: Array) -> Array:
        return jax.lax.stop_gradient(self.matrix(index)).astype(like.dtype)

    def _product(self, steps: Array, like: Array) -> Array:
        return jax.lax.stop_gradient(self.products[steps // self.stride]).astype(like.dtype)

    # A loop of fixed length, which reverse-mode differentiation needs: losses differentiate with respect to the rows.
    def _rows(self, rows: Array, steps: Array) -> Array:
        r"""$p\, Q_0 \cdots Q_{\text{steps} - 1}$ for row vectors $p$, `(*shape, K)`."""
        first = steps // self.stride * self.stride

        def body(p: Array, i: Array) -> tuple[Array, None]:
            return jnp.where(first + i < steps, p @ self._matrix(first + i, p), p), None

        rows = rows @ self._product(steps, rows)
        return jax.lax.scan(body, rows, jnp.arange(self.stride - 1, dtype=jnp.int32))[0]

    def _columns(self, columns: Array, steps: Array) -> Array:
        r"""$Q_0 \cdots Q_{\text{steps} - 1}\, c$ for column vectors $c$, `(*shape, K)`."""
        columns = self._between(columns, steps // self.stride * self.stride, steps)
        return columns @ self._product(steps, columns).T

    def _between(self, columns: Array, first: Array, last: Array) -> Array:
        r"""$Q_{\text{first}} \cdots Q_{\text{last} - 1}\, c$ for column vectors $c$, `(*shape, K)`."""

        def body(i: Array, c: Array) -> Array:
            return c @ self._matrix(last - 1 - i, c).T

        return jax.lax.fori_loop(0, last - first, body, columns)


def _stride(num_steps: int) -> int:
    return max(1, round(num_steps**0.5))


def _products(matrix: Callable[[int], Any], num_steps: int, num_classes: int) -> Array:
    """Every m-th product, computed in double precision and rounded once.

    Raises `ValueError` unless every matrix is `(K, K)` with nonnegative rows that sum to one.
    """
    kept, product, stride = [np.eye(num_classes)], np.eye(num_classes), _stride(num_steps)
    for i in range(num_steps):
        step = np.asarray(matrix(i), np.float64)
        if step.shape != (num_classes, num_classes):
            raise ValueError(f"The matrix of index {i} has shape {step.shape}, not {(num_classes, num_classes)}.")
        off = np.max(np.abs(step.sum(axis=1) - 1))
        if not (step.min() >= 0 and off < 1e-5):
            raise ValueError(
                f"The rows of each matrix must be probabilities: the matrix of index {i} has the smallest entry "
                f"{step.min():g}, and its row sums differ from one by up to {off:g}."
            )
        product = product @ step
        if (i + 1) % stride == 0:
            kept.append(product)
    return jnp.asarray(np.stack(kept), float)


class Transitions(AbstractTransitions):
    """User-defined matrices, for example from amino acid substitution rates or from neighbours in an embedding.

    The chain may converge to any distribution, or to none: pass the distribution after the last step to the model as
    its prior.

    **Reference:** [@austin2021structured].
    """

    matrices: Callable[[Array], Array] | Array
    products: Array
    num_steps: int = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)

    def __init__(self, matrices: Callable[[Array], Array] | Numbers, num_steps: int | None = None):
        r"""**Arguments:**

        - `matrices`: the matrices $Q_i$, `(T, K, K)`, or a function `matrices(index)` that returns `(K, K)` for an
            index that may be traced. Index 0 is the step next to the data. Raises `ValueError` unless rows are
            probabilities.
        - `num_steps`: the number of steps $T$. It is required if `matrices` is a function. Raises `ValueError` if it
            is missing or disagrees with the number of matrices.
        """
        num_steps = None if num_steps is None else check_count("num_steps", num_steps)
        if callable(matrices):
            if num_steps is None:
                raise ValueError("num_steps is missing; it is required when matrices is a function.")
            compiled = eqx.filter_jit(matrices)
            self.matrices, find = matrices, lambda i: compiled(jnp.asarray(i, jnp.int32))
        else:
            given = np.asarray(as_real("matrices", matrices))
            if given.ndim != 3 or num_steps not in (None, len(given)):
                raise ValueError(f"matrices must be ({num_steps or 'T'}, K, K); got {given.shape}.")
            num_steps = len(given)
            self.matrices, find = jnp.asarray(given, float), lambda i: given[i]
        self.num_steps, self.num_classes = num_steps, find(0).shape[-1]
        self.products = _products(find, num_steps, self.num_classes)

    def matrix(self, index: Array) -> Array:
        return self.matrices(index) if callable(self.matrices) else self.matrices[index]


class Ordinal(AbstractTransitions):
    r"""Ordered classes replaced by nearby ones: $(Q_i)_{jk} \propto \exp(-4 (j - k)^2 / ((K - 1)^2 \beta_i))$.

    The off-diagonal entries are a discretised Gaussian, normalised over all differences from $1 - K$ to $K - 1$; the
    diagonal takes the remaining probability of each row. The matrices are symmetric, so the chain converges to the
    uniform distribution (Austin et al. 2021, appendix A.2.3, where the rates grow from 0.02 to 1 in 1000 steps).

    **Reference:** [@austin2021structured].
    """

    table: DiscreteSchedule = eqx.field(static=True)
    products: Array
    num_steps: int = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)

    def __init__(self, table: DiscreteSchedule, num_classes: int):
        r"""**Arguments:**

        - `table`: the rates $\beta_i$. If the classes are mapped to $[-1, 1]$, a step adds a variance of about
            $\beta_i / 2$.
        - `num_classes`: the number of classes $K$. Raises `ValueError` below 2.
        """
        check_instance("table", table, DiscreteSchedule)
        num_classes = check_count("num_classes", num_classes, 2)
        self.table, self.num_steps, self.num_classes = table, table.num_steps, num_classes
        self.products = _products(lambda i: _ordinal(table.rates[i], num_classes, np), table.num_steps, num_classes)

    def matrix(self, index: Array) -> Array:
        return _ordinal(self.table.beta[index], self.num_classes, jnp)


def _ordinal(rate: Any, num_classes: int, numpy: Any) -> Any:
    """The transition matrix for one rate, `(K, K)`, computed with `numpy`, which is NumPy or jax.numpy."""
    distance = numpy.arange(num_classes)
    weight = numpy.exp(-4 * (distance / (num_classes - 1)) ** 2 / rate)
    weight = weight / (2 * numpy.sum(weight) - 1)
    # Sums of the off-diagonal entries on one side of the diagonal; reversed, they are the sums on the other side.
    sums = numpy.cumsum(weight) - weight[0]
    gap = numpy.abs(distance[:, None] - distance[None, :])
    stay = 1 - sums - sums[::-1]
    return numpy.where(gap == 0, stay[:, None], weight[gap])

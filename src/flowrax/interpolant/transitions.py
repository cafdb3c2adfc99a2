r"""Noise by any matrices: step `i` replaces a class $j$ by $k$ with probability $(Q_i)_{jk}$, $i = 0 \dots T - 1$.

$q(x_t | x_1) = (Q_0 Q_1 \cdots Q_i)_{x_1 x_t}$ at the time $t = 1 - (i + 1) / T$ of index $i$ (Austin et al. 2021,
section 3.1). Nothing is defined between indices: a time stands for the nearest one, or for clean data.

Of the $T$ products every $m$-th is kept, $m \approx \sqrt{T}$: memory is $O(\sqrt{T} K^2)$, and a law of $L$ sites
multiplies their rows by one product and up to $m - 1$ steps, $O(\sqrt{T} L K^2)$. A step of the sampler that leads over
$n$ indices multiplies by $n$ matrices more. `(T, K, K)` numbers are never made.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._typing import Array, KeyArray, Numbers, PyTree, Scalar, Tokens
from ..prior import AbstractCategoricalPrior
from ..schedule import AbstractMasking, DiscreteSchedule
from .path import AbstractCategoricalPath
from .sites import invert, log_or_infinity, probabilities_of


class AbstractTransitions(AbstractCategoricalPath):
    """A chain of matrices. Its numbers are not trained by `fit`."""

    num_steps: eqx.AbstractVar[int]
    """`T`."""
    num_classes: eqx.AbstractVar[int]
    """`K`."""
    products: eqx.AbstractVar[Array]
    """The products of the first 0, m, 2 m, ... steps, `(n, K, K)`."""

    @abc.abstractmethod
    def matrix(self, index: Array) -> Array:
        r"""$Q_i$, `(K, K)`, whose rows sum to one."""

    @property
    def schedule(self) -> AbstractMasking:
        raise ValueError(
            f"{type(self).__name__} is no mixture of data and noise, which this needs; sample it by discrete.Ancestral."
        )

    @property
    def stride(self) -> int:
        """How many steps lie between two products."""
        return _stride(self.num_steps)

    def check_prior(self, prior: AbstractCategoricalPrior) -> None:
        if prior.num_classes != self.num_classes:
            raise ValueError(f"The prior has {prior.num_classes} classes, {type(self).__name__} {self.num_classes}.")
        if prior.mask is not None:
            raise ValueError(
                "Under a prior of masks a class that is seen is taken to be the data's, which these matrices need not "
                "keep; pass prior.Categorical with probability one on the mask."
            )

    def steps(self, t: Scalar) -> Array:
        """How many steps of noise the data have had at a time: 0 for clean data."""
        return jnp.clip(jnp.round((1 - jnp.asarray(t)) * self.num_steps).astype(jnp.int32), 0, self.num_steps)

    def noise(self, key: KeyArray, x0: Tokens) -> PyTree:
        """A uniform number of each site."""
        return jax.random.uniform(key, x0.shape)

    def interpolate(self, t: Scalar, x0: PyTree, x1: Tokens) -> Tokens:
        return invert(x0, self._rows(probabilities_of(x1, self.num_classes), self.steps(t))).astype(x1.dtype)

    def marginal(self, prior: AbstractCategoricalPrior, t: Scalar, x1: Array) -> Array:
        return self._rows(probabilities_of(x1, self.num_classes), self.steps(t))

    def log_marginal(self, prior: AbstractCategoricalPrior, t: Scalar, log_p1: Array) -> Array:
        # Sums of products have no logarithm of their own: what is below the smallest number beside the largest is lost.
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
        # A token that no data could have left there is kept, as by a mixture.
        return jnp.where(jnp.sum(ratio, axis=-1, keepdims=True) == 0, here.astype(p1.dtype), joint)

    def _matrix(self, index: Array, like: Array) -> Array:
        return jax.lax.stop_gradient(self.matrix(index)).astype(like.dtype)

    def _product(self, steps: Array, like: Array) -> Array:
        return jax.lax.stop_gradient(self.products[steps // self.stride]).astype(like.dtype)

    # Loops of fixed length, which have a gradient in reverse: the losses need that of rows.
    def _rows(self, rows: Array, steps: Array) -> Array:
        r"""$p\, Q_0 \cdots Q_{\text{steps} - 1}$ for `(*shape, K)` rows."""
        first = steps // self.stride * self.stride

        def body(p: Array, i: Array) -> tuple[Array, None]:
            return jnp.where(first + i < steps, p @ self._matrix(first + i, p), p), None

        rows = rows @ self._product(steps, rows)
        return jax.lax.scan(body, rows, jnp.arange(self.stride - 1, dtype=jnp.int32))[0]

    def _columns(self, columns: Array, steps: Array) -> Array:
        r"""$Q_0 \cdots Q_{\text{steps} - 1}\, c$ for `(*shape, K)` columns."""
        columns = self._between(columns, steps // self.stride * self.stride, steps)
        return columns @ self._product(steps, columns).T

    def _between(self, columns: Array, first: Array, last: Array) -> Array:
        r"""$Q_{\text{first}} \cdots Q_{\text{last} - 1}\, c$."""

        def body(i: Array, c: Array) -> Array:
            return c @ self._matrix(last - 1 - i, c).T

        return jax.lax.fori_loop(0, last - first, body, columns)


def _stride(num_steps: int) -> int:
    return max(1, round(num_steps**0.5))


def _products(matrix: Callable[[int], Any], num_steps: int, num_classes: int) -> Array:
    """Every m-th product, in double precision and rounded once; raises `ValueError` for what is no probability."""
    kept, product, stride = [np.eye(num_classes)], np.eye(num_classes), _stride(num_steps)
    for i in range(num_steps):
        step = np.asarray(matrix(i), np.float64)
        if step.shape != (num_classes, num_classes):
            raise ValueError(f"The matrix of index {i} has shape {step.shape}, not {(num_classes, num_classes)}.")
        off = np.max(np.abs(step.sum(axis=1) - 1))
        if not (step.min() >= 0 and off < 1e-5):
            raise ValueError(
                f"Rows of a matrix are probabilities: that of index {i} has the entry {step.min():g} and a row whose "
                f"sum is {off:g} off one."
            )
        product = product @ step
        if (i + 1) % stride == 0:
            kept.append(product)
    return jnp.asarray(np.stack(kept), float)


class Transitions(AbstractTransitions):
    """Matrices of one's own: rates from a table of similar amino acids, neighbours of an embedding, and the like.

    They need not lead to any law; give the model the prior that they lead to.

    **Reference:** [@austin2021structured].
    """

    matrices: Callable[[Array], Array] | Array
    products: Array
    num_steps: int = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)

    def __init__(self, matrices: Callable[[Array], Array] | Numbers, num_steps: int | None = None):
        r"""**Arguments:**

        - `matrices`: $Q_i$, `(T, K, K)`; or `matrices(index)`, `(K, K)`, for an index that may be traced. By index:
            0 is the step next to the data. Raises `ValueError` unless rows are probabilities.
        - `num_steps`: $T$, where `matrices` is a function.
        """
        if callable(matrices):
            if num_steps is None:
                raise ValueError("num_steps is missing: a function does not say how many matrices there are.")
            compiled = eqx.filter_jit(matrices)
            self.matrices, find = matrices, lambda i: compiled(jnp.asarray(i, jnp.int32))
        else:
            given = np.asarray(matrices)
            if given.ndim != 3 or num_steps not in (None, len(given)):
                raise ValueError(f"matrices must be ({num_steps or 'T'}, K, K); got {given.shape}.")
            num_steps = len(given)
            self.matrices, find = jnp.asarray(given, float), lambda i: given[i]
        self.num_steps, self.num_classes = num_steps, find(0).shape[-1]
        self.products = _products(find, num_steps, self.num_classes)

    def matrix(self, index: Array) -> Array:
        return self.matrices(index) if callable(self.matrices) else self.matrices[index]


class Ordinal(AbstractTransitions):
    r"""Classes in an order, replaced by near ones: $(Q_i)_{jk} \propto \exp(-4 (j - k)^2 / ((K - 1)^2 \beta_i))$.

    A Gaussian on the classes, normalised over all differences from $1 - K$ to $K - 1$; what would leave them stays
    where it is, on the diagonal. The matrices are symmetric, so noise leads to the uniform law (Austin et al. 2021,
    appendix A.2.3, whose rates grow from 0.02 to 1 in 1000 steps).

    **Reference:** [@austin2021structured].
    """

    table: DiscreteSchedule = eqx.field(static=True)
    products: Array
    num_steps: int = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)

    def __init__(self, table: DiscreteSchedule, num_classes: int):
        r"""**Arguments:**

        - `table`: its rates are $\beta_i$. With classes spread over $[-1, 1]$ a step has about the variance
            $\beta_i / 2$.
        - `num_classes`: $K$, at least 2.
        """
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2; got {num_classes}.")
        self.table, self.num_steps, self.num_classes = table, table.num_steps, num_classes
        self.products = _products(lambda i: _ordinal(table.rates[i], num_classes, np), table.num_steps, num_classes)

    def matrix(self, index: Array) -> Array:
        return _ordinal(self.table.beta[index], self.num_classes, jnp)


def _ordinal(rate: Any, num_classes: int, numpy: Any) -> Any:
    """One matrix, by numpy or by JAX."""
    distance = numpy.arange(num_classes)
    weight = numpy.exp(-4 * (distance / (num_classes - 1)) ** 2 / rate)
    weight = weight / (2 * numpy.sum(weight) - 1)
    # Of those on one side, which are what a row has to the left and to the right.
    sums = numpy.cumsum(weight) - weight[0]
    gap = numpy.abs(distance[:, None] - distance[None, :])
    stay = 1 - sums - sums[::-1]
    return numpy.where(gap == 0, stay[:, None], weight[gap])

r"""How pairs are drawn from a transport plan $\pi_{ij}$ between data $i$ and noise $j$.

A permutation is the plan $\pi_{i, \mathrm{order}(i)} = 1 / n$, with zeros elsewhere.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.checks import check_fields
from .._base.typing import Array, Float, Int, KeyArray
from .transport import AbstractRowsPlan

Rows = tuple[Int[Array, " n"], Int[Array, " n"]]
"""The rows of noise and of data of each pair."""


class AbstractDraw(eqx.Module):
    """How pairs are drawn from a plan."""

    def __check_init__(self) -> None:
        check_fields(self)

    @abc.abstractmethod
    def of_order(self, key: KeyArray, order: Int[Array, " n"]) -> Rows:
        """Pairs drawn from the permutation that assigns noise `order[i]` to row `i` of the data."""

    @abc.abstractmethod
    def of_plan(self, key: KeyArray, log_plan: Float[Array, "n n"]) -> Rows:
        """`n` pairs drawn from a plan, given by its logarithm; the plan need not be normalised."""

    @abc.abstractmethod
    def log_mass(self, log_plan: Float[Array, "n n"]) -> Float[Array, " n"] | None:
        """The log-mass of each row, if the draw takes every row once regardless of its mass; otherwise None."""

    @abc.abstractmethod
    def of_rows(self, key: KeyArray, plan: AbstractRowsPlan) -> Rows:
        """Draws `n` pairs from a plan whose matrix is not in memory."""

    @abc.abstractmethod
    def log_mass_of_rows(self, plan: AbstractRowsPlan) -> Float[Array, " n"] | None:
        """[`log_mass`][] for a plan whose matrix is not in memory."""


def _rows(order: Array) -> Array:
    return jnp.arange(order.shape[0], dtype=jnp.int32)


class PerData(AbstractDraw):
    r"""One pair for each row of data, in the order of the data: $j \sim \pi_{ij} / \sum_k \pi_{ik}$.

    Conditions keep their order, and the data keep their empirical distribution. A plan that is not a permutation may
    draw the same noise several times.
    """

    def of_order(self, key: KeyArray, order: Int[Array, " n"]) -> Rows:
        return order, _rows(order)

    def of_plan(self, key: KeyArray, log_plan: Float[Array, "n n"]) -> Rows:
        return random.categorical(key, log_plan, axis=1).astype(jnp.int32), _rows(log_plan)

    def log_mass(self, log_plan: Float[Array, "n n"]) -> Float[Array, " n"] | None:
        return jax.nn.logsumexp(log_plan, axis=1)

    def of_rows(self, key: KeyArray, plan: AbstractRowsPlan) -> Rows:
        data = jnp.arange(plan.num_rows, dtype=jnp.int32)
        return plan.partners(key, data), data

    def log_mass_of_rows(self, plan: AbstractRowsPlan) -> Float[Array, " n"] | None:
        return plan.log_mass()


class PerNoise(AbstractDraw):
    r"""One pair for each row of noise, in the order of the noise: $i \sim \pi_{ij} / \sum_k \pi_{kj}$."""

    def of_order(self, key: KeyArray, order: Int[Array, " n"]) -> Rows:
        return _rows(order), jnp.zeros_like(order).at[order].set(_rows(order))

    def of_plan(self, key: KeyArray, log_plan: Float[Array, "n n"]) -> Rows:
        return _rows(log_plan), random.categorical(key, log_plan, axis=0).astype(jnp.int32)

    def log_mass(self, log_plan: Float[Array, "n n"]) -> Float[Array, " n"] | None:
        return jax.nn.logsumexp(log_plan, axis=0)

    def of_rows(self, key: KeyArray, plan: AbstractRowsPlan) -> Rows:
        noise = jnp.arange(plan.num_rows, dtype=jnp.int32)
        return noise, plan.transposed().partners(key, noise)

    def log_mass_of_rows(self, plan: AbstractRowsPlan) -> Float[Array, " n"] | None:
        return plan.transposed().log_mass()


class JointDraw(AbstractDraw):
    r"""$n$ pairs $(i, j) \sim \pi$, in random order; some rows of data and noise may be missing and others repeated.

    With `replace=False` no pair is drawn twice, and a permutation yields each of its pairs once.
    """

    replace: bool = eqx.field(default=True, static=True)

    def of_order(self, key: KeyArray, order: Int[Array, " n"]) -> Rows:
        n = order.shape[0]
        any_row, all_rows = random.randint(key, (n,), 0, n, jnp.int32), random.permutation(key, _rows(order))
        rows = any_row if self.replace else all_rows
        return order[rows], rows

    def of_plan(self, key: KeyArray, log_plan: Float[Array, "n n"]) -> Rows:
        n, flat = log_plan.shape[1], log_plan.reshape(-1)
        if self.replace:
            drawn = random.categorical(key, flat, shape=log_plan.shape[:1])
        else:
            # Gumbel top-k: the n largest of the perturbed logarithms are n draws without replacement.
            noise = random.gumbel(key, flat.shape, flat.dtype)
            drawn = jax.lax.top_k(flat.astype(noise.dtype) + noise, log_plan.shape[0])[1]
        drawn = drawn.astype(jnp.int32)
        return drawn % n, drawn // n

    def log_mass(self, log_plan: Float[Array, "n n"]) -> Float[Array, " n"] | None:
        return None

    def of_rows(self, key: KeyArray, plan: AbstractRowsPlan) -> Rows:
        if not self.replace:
            raise ValueError("JointDraw(replace=False) needs the whole plan in memory; use another draw for many rows.")
        row_key, partner_key = jax.random.split(key)
        data = random.categorical(row_key, plan.log_mass(), shape=(plan.num_rows,)).astype(jnp.int32)
        return plan.partners(partner_key, data), data

    def log_mass_of_rows(self, plan: AbstractRowsPlan) -> Float[Array, " n"] | None:
        return None

r"""Transport plans between data $i$ and noise $j$, and the errors of their marginals.

A plan is held as a matrix of logarithms or, if the matrix would not fit into memory, as a few numbers for each row,
from which rows of the matrix are computed when needed.
"""

import abc
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.typing import Array, Bool, Float, Int, KeyArray
from .chunked import by_chunks


class Convergence(eqx.Module):
    """How close a transport plan is to the requested one."""

    marginal_error: Float[Array, ""]
    """The sum of the absolute errors of the marginal of the noise or of the data, whichever is larger, divided by the
    mass of the plan: the mean error of a row in units of its prescribed mass. An unbalanced plan is compared with the
    marginals that its potentials prescribe."""
    converged: Bool[Array, ""]
    """Whether the solver reached its tolerance and `marginal_error` is at most twice as large."""
    num_iterations: Int[Array, ""]
    """The number of iterations that the solver took."""


class AbstractTransport(eqx.Module):
    """A transport plan between `n` rows of data and as many rows of noise."""

    convergence: eqx.AbstractVar[Convergence | None]

    @abc.abstractmethod
    def log_mass(self) -> Float[Array, " n"]:
        """The logarithm of the mass of each row of the data."""

    @abc.abstractmethod
    def transposed(self) -> "AbstractTransport":
        """The plan with data and noise exchanged."""


class DensePlan(AbstractTransport):
    """A plan whose matrix is in memory."""

    log_plan: Float[Array, "n n"]
    """The logarithms; the mass of the plan need not be one."""
    convergence: Convergence | None = None

    def log_mass(self) -> Float[Array, " n"]:
        return jax.nn.logsumexp(self.log_plan, axis=1)

    def transposed(self) -> "DensePlan":
        return DensePlan(log_plan=self.log_plan.T, convergence=self.convergence)


class AbstractRowsPlan(AbstractTransport):
    """A plan whose rows are computed when they are needed, `chunk_size` of them at a time."""

    chunk_size: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def num_rows(self) -> int:
        """The number of rows of data."""

    @abc.abstractmethod
    def log_rows(self, rows: Int[Array, " k"]) -> Float[Array, "k n"]:
        """The logarithms of some rows of the matrix."""

    @abc.abstractmethod
    def transposed(self) -> "AbstractRowsPlan":
        """The plan with data and noise exchanged."""

    def each(self, function: Callable[[Array], Array], rows: Int[Array, " m"]) -> Array:
        """`function(log_rows)` for the given rows, computed in chunks."""
        return by_chunks(lambda chunk: function(self.log_rows(chunk)), rows, self.chunk_size)

    def log_mass(self) -> Float[Array, " n"]:
        rows = jnp.arange(self.num_rows, dtype=jnp.int32)
        return self.each(lambda log_rows: jax.nn.logsumexp(log_rows, axis=1), rows)

    def partners(self, key: KeyArray, rows: Int[Array, " m"]) -> Int[Array, " m"]:
        """Draws a row of noise for each of the given rows of data, in proportion to the plan."""
        keys = jax.random.split(key, rows.shape[0])

        def draw(chunk: tuple[Array, Array]) -> Array:
            return jax.vmap(random.categorical)(chunk[1], self.log_rows(chunk[0])).astype(jnp.int32)

        return by_chunks(draw, (rows, keys), self.chunk_size)


class PotentialPlan(AbstractRowsPlan):
    r"""$\pi_{ij} = e^{(f_i + g_j - \lVert x_i - y_j \rVert^2) / \varepsilon}$."""

    x: Float[Array, "n d"]
    y: Float[Array, "n d"]
    f: Float[Array, " n"]
    g: Float[Array, " n"]
    reg: float
    chunk_size: int = eqx.field(static=True)
    convergence: Convergence | None = None

    @property
    def num_rows(self) -> int:
        return self.x.shape[0]

    def log_rows(self, rows: Int[Array, " k"]) -> Float[Array, "k n"]:
        costs = squared_distances(self.x[rows], self.y)
        return (self.f[rows][:, None] + self.g[None] - costs) / self.reg

    def transposed(self) -> "PotentialPlan":
        return eqx.tree_at(lambda p: (p.x, p.y, p.f, p.g), self, (self.y, self.x, self.g, self.f))


class LowRankPlan(AbstractRowsPlan):
    r"""$\pi = Q \operatorname{diag}(1 / g)\, R^\top$ with factors that are not negative."""

    q: Float[Array, "n r"]
    r: Float[Array, "n r"]
    g: Float[Array, " r"]
    chunk_size: int = eqx.field(static=True)
    convergence: Convergence | None = None

    @property
    def num_rows(self) -> int:
        return self.q.shape[0]

    def log_rows(self, rows: Int[Array, " k"]) -> Float[Array, "k n"]:
        return jnp.log((self.q[rows] / self.g[None]) @ self.r.T)

    def transposed(self) -> "LowRankPlan":
        return eqx.tree_at(lambda p: (p.q, p.r), self, (self.r, self.q))


def squared_distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """The squared distances of all pairs of rows, which must be centred, by one matrix product."""
    return jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None] - 2 * x @ y.T


def with_convergence(
    plan: AbstractTransport,
    *,
    log_decrease: tuple[Array, Array] | None = None,
    tolerance: float,
    solver_converged: Array,
    num_iterations: Array,
) -> AbstractTransport:
    """The plan with its [`Convergence`][], which is measured on the plan itself.

    `log_decrease` holds the logarithm of the factor by which an unbalanced plan decreases the mass of each row of data
    and noise; None if all rows keep their mass.
    """
    masses = [jnp.exp(plan.log_mass()), jnp.exp(plan.transposed().log_mass())]
    n = masses[0].shape[0]
    wanted = [jnp.full(n, 1 / n, masses[0].dtype)] * 2
    if log_decrease is not None:
        wanted = [jnp.exp(decrease - math.log(n)) for decrease in log_decrease]
    errors = jnp.stack([jnp.sum(jnp.abs(mass - w)) for mass, w in zip(masses, wanted, strict=True)])
    error = jnp.max(errors) / jnp.sum(masses[0])
    converged = solver_converged & (error <= 2 * tolerance)
    record = Convergence(error, converged, num_iterations.astype(jnp.int32))
    return eqx.tree_at(lambda p: p.convergence, plan, record, is_leaf=lambda x: x is None)

r"""Semidiscrete transport between a prior and a finite set of data $y_j$ of mass $b_j$.

The potentials $g$ maximise $\mathbb{E}_{x \sim p_0} \min_j (c(x, y_j) - g_j) + \sum_j b_j g_j$. The plan pairs each
noise sample $x$ with the data point $\arg\min_j (c(x, y_j) - g_j)$; with regularisation $\varepsilon$ it draws the data
point with probability proportional to $b_j e^{(g_j - c(x, y_j)) / \varepsilon}$.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.checks import check_count, check_not_negative, check_shape, plain_int
from .._base.typing import Array, Batch, Condition, Float, Int, KeyArray
from ..prior import AbstractGaussianPrior, AbstractPrior
from .base import AbstractDataCoupling, Pairs
from .cost import Cost, centre_of
from .exact_ot import ExactOT

# The costs of this many data points and a batch of noise fit into the cache of a core.
_CHUNK = 2**11


class PotentialsRecord(eqx.Module):
    """How well the potentials are fitted, measured on fresh noise.

    **Attributes:**

    - `chi_squared`: The sum over the data of the squared error of the mass that they receive, divided by their mass.
    - `floor`: The expected value of `chi_squared` for exact potentials, due to the finite number of noise samples.
    - `mean_cost`: The mean cost of a pair.
    """

    chi_squared: Float[Array, ""]
    floor: Float[Array, ""]
    mean_cost: Float[Array, ""]


class Semidiscrete(AbstractDataCoupling):
    """Pairs noise with data by the optimal transport of the prior to the whole data set, without the bias of
    minibatches.

    `fit_semidiscrete` fits the potentials before training. At every step, `fit` draws fresh noise, which has exactly
    the distribution of the prior, and pairs it with data points by one matrix product and an argmin. Conditions and
    masks follow the rows of the data.

    Called with a batch of data, as for held-out rows, it pairs the rows of this batch by [`ExactOT`][] instead.

    **Reference:** [@mousavihosseini2025semidiscrete].
    """

    points: Float[Array, "m *event"]
    """The data, followed by their conditions; centred for squared distances."""
    centre: Array
    potentials: Float[Array, " m"]
    masses: Float[Array, " m"] | None
    labels: Int[Array, " m"] | None
    condition: Float[Array, "m k"] | None
    record: PotentialsRecord
    prior: AbstractPrior
    reg: float = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True, converter=plain_int)
    cost: Cost | None
    independent: ClassVar[bool] = False

    def __init__(
        self,
        data: Batch,
        prior: AbstractPrior,
        *,
        potentials: Float[Array, " m"] | None = None,
        masses: Float[Array, " m"] | None = None,
        labels: Int[Array, " m"] | None = None,
        condition: Float[Array, "m k"] | None = None,
        reg: float = 0.0,
        cost: Cost | None = None,
        chunk_size: int = _CHUNK,
    ) -> None:
        r"""**Arguments:**

        - `data`: `(m, *event)`.
        - `prior`: the distribution of the noise.
        - `potentials`: $g$. Default: zeros, which select the nearest data point.
        - `masses`: the mass $b$ of each row, with sum one. Default: all equal.
        - `labels`: noise is paired within labels, so that its distribution given the label is the prior.
        - `condition`: continuous conditions, whose squared distance is added to the cost. Each noise sample gets the
            condition of a row drawn in proportion to its mass.
        - `reg`: the regularisation $\varepsilon$ in units of the cost. Default: 0, the exact plan.
        - `cost`: as in [`ExactOT`][]; it is called without a condition. Default: the squared distance.
        - `chunk_size`: the number of data points whose costs are computed at once.
        """
        m = data.shape[0]
        self.prior, self.reg, self.cost = prior, reg, cost
        self.chunk_size = min(check_count("chunk_size", chunk_size), m)
        self.potentials = jnp.zeros(m, data.dtype) if potentials is None else potentials
        self.masses, self.labels = masses, labels
        self.centre = centre_of(data) if cost is None else jnp.zeros_like(data[:1])
        self.condition = None if condition is None else condition - centre_of(condition)
        self.points = data - self.centre
        nan = jnp.full((), jnp.nan, data.dtype)
        self.record = PotentialsRecord(nan, nan, nan)

    def __check_init__(self) -> None:
        check_not_negative("reg", self.reg)
        for name in ("potentials", "masses", "labels"):
            if getattr(self, name) is not None:
                check_shape(name, getattr(self, name).shape, self.points.shape[:1])

    @property
    def num_rows(self) -> int:
        return self.points.shape[0]

    def noise(self, key: KeyArray, number: int) -> Batch:
        """Draws of the prior, `(number, *event)`."""
        event = self.points.shape[1:]
        if isinstance(self.prior, AbstractGaussianPrior):
            return jax.vmap(self.prior.transform)(random.normal(key, (number, *event), self.points.dtype))
        return jax.vmap(self.prior.draw)(jax.random.split(key, number)).astype(self.points.dtype)

    def references(self, key: KeyArray, number: int) -> Int[Array, " n"]:
        """Rows drawn in proportion to their masses, whose labels and conditions the noise gets."""
        if self.masses is None:
            return random.randint(key, (number,), 0, self.num_rows, jnp.int32)
        drawn = random.uniform(key, (number,), self.masses.dtype) * jnp.sum(self.masses)
        rows = jnp.searchsorted(jnp.cumsum(self.masses), drawn, side="right")
        return jnp.minimum(rows, self.num_rows - 1).astype(jnp.int32)

    def rows(self, key: KeyArray, x0: Batch) -> Int[Array, " n"]:
        reference_key, draw_key = jax.random.split(key)
        references = self.references(reference_key, x0.shape[0])
        x0 = x0.astype(self.points.dtype) - self.centre
        starts = jnp.arange(0, self.num_rows, self.chunk_size, dtype=jnp.int32)

        def chunk(best: tuple[Array, Array], start: Array) -> tuple[tuple[Array, Array], None]:
            # The last chunk overlaps the one before, so that all have the same size.
            first = jnp.minimum(start, self.num_rows - self.chunk_size)
            scores = self.scores(x0, references, first, self.chunk_size, self.potentials)
            if self.reg > 0:
                gumbel = random.gumbel(jax.random.fold_in(draw_key, start), scores.shape, scores.dtype)
                is_new = first + jnp.arange(self.chunk_size, dtype=jnp.int32) >= start
                scores = jnp.where(is_new[None], scores / self.reg + gumbel, -jnp.inf)
            value = jnp.max(scores, axis=1)
            row = first + _first_equal(scores, value)
            is_better = value > best[0]
            return (jnp.where(is_better, value, best[0]), jnp.where(is_better, row, best[1])), None

        least = jnp.full(x0.shape[:1], -jnp.inf, self.points.dtype), jnp.zeros(x0.shape[:1], jnp.int32)
        if len(starts) == 1:
            return chunk(least, starts[0])[0][1]
        return jax.lax.scan(chunk, least, starts)[0][1]

    def scores(self, x0: Batch, references: Array, first: Array | int, size: int, potentials: Array) -> Array:
        r"""$g_j - c(x, y_j) + \varepsilon \log b_j$ for all noise and `size` data points from `first`, `(n, size)`.

        For squared distances, terms that do not depend on the data point are left out.
        """

        def part(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, first, size)

        points, bonus = part(self.points), part(potentials)
        if self.masses is not None:
            log_mass = jnp.log(part(self.masses))
            bonus = jnp.where(log_mass == -jnp.inf, -jnp.inf, bonus + self.reg * log_mass)
        if self.cost is None:
            points, x0 = points.reshape(size, -1), x0.reshape(x0.shape[0], -1)
            if self.condition is not None:
                points = jnp.concatenate([points, part(self.condition)], axis=1)
                x0 = jnp.concatenate([x0, self.condition[references]], axis=1)
            scores = (bonus - jnp.sum(points**2, axis=1))[None] + 2 * x0 @ points.T
        else:
            scores = bonus[None] - self.cost(points, x0, None).T
            if self.condition is not None:
                own, others = self.condition[references], part(self.condition)
                distances = jnp.sum(own**2, axis=1)[:, None] + jnp.sum(others**2, axis=1)[None] - 2 * own @ others.T
                scores = scores - distances
        if self.labels is None:
            return scores
        return jnp.where(self.labels[references][:, None] == part(self.labels)[None], scores, -jnp.inf)

    def costs(self, x0: Batch, references: Array) -> Array:
        """The costs of all noise and all data, `(n, m)`, infinite between different labels."""
        x0 = x0 - self.centre
        plain = eqx.tree_at(lambda c: c.masses, self, None, is_leaf=lambda x: x is None)
        costs = -plain.scores(x0, references, 0, self.num_rows, jnp.zeros_like(self.potentials))
        if self.cost is None:
            costs = costs + jnp.sum(x0**2, axis=tuple(range(1, x0.ndim)))[:, None]
            if self.condition is not None:
                costs = costs + jnp.sum(self.condition[references] ** 2, axis=1)[:, None]
        return costs

    def pairs(self, key: KeyArray, x0: Batch) -> Pairs:
        """Pairs each noise sample with its data point; `data_rows` are rows of the data set."""
        rows = self.rows(key, x0)
        x1 = (self.points[rows] + self.centre).astype(x0.dtype)
        return Pairs(x0, x1, jnp.arange(x0.shape[0], dtype=jnp.int32), rows)

    def __call__(self, key: KeyArray, x0: Any, x1: Any, condition: Condition = None) -> Pairs:
        return ExactOT(cost=self.cost)(key, x0, x1, condition)


def _first_equal(scores: Array, value: Array) -> Array:
    # An argmax by plain reductions, which a CPU vectorises.
    columns = jnp.arange(scores.shape[1], dtype=jnp.int32)[None]
    return jnp.min(jnp.where(scores == value[:, None], columns, scores.shape[1] - 1), axis=1)

r"""A Brownian motion on a dyadic lattice, for adaptive steps: $W$ and its Lévy areas over any $[s, t]$ of the interval.

Halving an interval of length $h$ with the areas $p = (W, H, K)$ gives the areas of both halves, $(u_l, u_r) = G p +
\sqrt h\, L z$ with standard normal $z$, which node $k$ of the tree draws from `fold_in(key, k)`. $G$ and $L$ follow
from Chen's relation, which expresses $p$ by $u_l$ and $u_r$ (Foster 2020; Jelinčič et al. 2024).

An increment is put together from the nodes between $s$ and $t$ alone. The difference of two values of the path would
lose its digits instead: in float32 the area $H$ of a step of $2^{-12}$ is then wrong by a tenth.
"""

import functools
import math
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base import random
from .._base.arguments import Checked
from .._base.arrays import as_floats
from .._base.checks import time_dtype
from .._base.typing import Array, DType, KeyArray, Scalar, Shape
from .brownian import BrownianRecord, num_areas

VARIANCES = (1.0, 1 / 12, 1 / 720)
r"""The variances of $W$, $H$ and $K$ over a unit of time."""


class BrownianTree(dfx.AbstractBrownianPath, metaclass=Checked):
    """A Brownian motion that is defined at the times of a fine lattice; other times are rounded to it.

    The lattice has 2^24 intervals, or 2^30 where time is in float64, so that rounding changes the variance of a step
    that is as long as 1,000 of them by less than a thousandth, and not on average.

    **Reference:** [@jelincic2024singleseed], [@foster2020numerical].
    """

    t0: Array
    t1: Array
    key: KeyArray
    shape: Shape = eqx.field(static=True)
    dtype: DType = eqx.field(static=True)
    levy_area: type[BrownianRecord] = eqx.field(static=True)
    depth: int = eqx.field(static=True)

    def __init__(
        self,
        t0: Scalar,
        t1: Scalar,
        shape: Shape,
        key: KeyArray,
        *,
        dtype: DType,
        levy_area: type[BrownianRecord] = dfx.BrownianIncrement,
    ):
        """**Arguments:**

        - `t0`, `t1`: the interval; `t0 < t1`.
        - `shape`: the shape of an increment.
        - `key`: decides the path.
        - `dtype`: the dtype of an increment.
        - `levy_area`: the diffrax record of increments that the solver needs. Default: `BrownianIncrement`.
        """
        (self.t0, self.t1), self.key = as_floats(t0=t0, t1=t1), random.as_threefry(key)
        self.shape, self.dtype, self.levy_area = tuple(shape), dtype, levy_area
        self.depth = lattice_depth(self.t0.dtype)

    def evaluate(
        self, t0: Scalar, t1: Scalar | None = None, left: bool = True, use_levy: bool = False
    ) -> Array | BrownianRecord:
        """The increment from `t0` to `t1`, or from the start of the interval to `t0`; zero where `t1 <= t0`."""
        t0, t1 = (self.t0, t0) if t1 is None else (t0, t1)
        t0, t1 = jnp.asarray(t0), jnp.asarray(t1)
        first, last = self._lattice(t0), self._lattice(t1)
        areas = jnp.where(last > first, self._areas(first, jnp.maximum(last, first + 1)), 0)
        parts = (jnp.sqrt(self.t1 - self.t0).astype(areas.dtype) * areas).astype(self.dtype)
        return self.levy_area((t1 - t0).astype(self.dtype), *parts) if use_levy else parts[0]

    def _lattice(self, t: Array) -> Array:
        """The lattice point next to `t`."""
        share = (t - self.t0) / (self.t1 - self.t0)
        return jnp.clip(jnp.round(share * 2**self.depth), 0, 2**self.depth).astype(jnp.int32)

    def _areas(self, first: Array, last: Array) -> Array:
        """The areas from lattice point `first` to `last` of the interval [0, 1], `(areas, *shape)`.

        One pointer descends to the leaf that starts at `first`, the other to the leaf that ends at `last`. Once they
        have parted, each collects the halves that lie between them.
        """
        count, work = num_areas(self.levy_area), time_dtype(self.dtype)
        draw = functools.partial(random.normal, shape=(count, *self.shape), dtype=work)
        gain, noise = (jnp.asarray(matrix, work) for matrix in halving(count))
        scales = jnp.sqrt(jnp.asarray(VARIANCES[:count], work))
        root = jnp.tensordot(jnp.diag(scales), draw(jax.random.fold_in(self.key, 0)), 1)
        leaves = jnp.stack([first, jnp.clip(last - 1, 0)])

        def descend(level: Array, carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            level, (nodes, joined, lengths, apart) = level.astype(jnp.int32), carry
            places = leaves >> (self.depth - level)
            z = jax.vmap(lambda place: draw(jax.random.fold_in(self.key, (1 << level) + place)))(places)
            length = jnp.exp2(-level.astype(work))
            halves = jax.vmap(lambda p, z: jnp.tensordot(gain, p, 1) + jnp.sqrt(length) * jnp.tensordot(noise, z, 1))
            halves = halves(nodes, z).reshape(2, 2, count, *self.shape)
            sides = (leaves >> (self.depth - level - 1)) & 1
            # The first pointer puts the right half before what it has, the second the left half behind it.
            before = jnp.stack([halves[0, 1], joined[1]]), jnp.stack([length / 2, lengths[1]])
            behind = jnp.stack([joined[0], halves[1, 0]]), jnp.stack([lengths[0], length / 2])
            longer = jax.vmap(_joined)(*before, *behind)
            passed = apart & (sides == jnp.arange(2, dtype=jnp.int32))
            joined = jnp.where(passed.reshape(2, *[1] * (joined.ndim - 1)), longer, joined)
            lengths = lengths + jnp.where(passed, length / 2, 0)
            return halves[jnp.arange(2), sides], joined, lengths, apart | (sides[0] != sides[1])

        nodes = jnp.broadcast_to(root, (2, *root.shape))
        start = nodes, jnp.zeros_like(nodes), jnp.zeros(2, work), jnp.asarray(False)
        nodes, joined, lengths, apart = jax.lax.fori_loop(0, self.depth, descend, start)
        leaf = jnp.exp2(-jnp.asarray(self.depth, work))
        left = _joined(nodes[0], leaf, joined[0], lengths[0])
        right = _joined(joined[1], lengths[1], nodes[1], leaf)
        return jnp.where(apart, _joined(left, leaf + lengths[0], right, leaf + lengths[1]), nodes[0])


def lattice_depth(dtype: DType) -> int:
    """How often a [`BrownianTree`][] halves its interval for times of this dtype."""
    return 24 if jnp.finfo(dtype).bits <= 32 else 30


def chen(first: Any, h1: Scalar, second: Any, h2: Scalar) -> list[Any]:
    r"""The areas over an interval of length `h1` followed by one of length `h2`, from the areas over each.

    With $h = h_1 + h_2$ and $d = (h_2 W_1 - h_1 W_2) / (2 h)$: $W = W_1 + W_2$, $H = (h_1 H_1 + h_2 H_2) / h + d$ and
    $K = (h_1^2 K_1 + h_2^2 K_2 + h_1 h_2 (H_1 - H_2) / 2 + d\, h (h_2 - h_1) / 6) / h^2$.
    """
    h = h1 + h2
    a, b = h1 / h, h2 / h
    d = (b * first[0] - a * second[0]) / 2
    areas = [first[0] + second[0]]
    if len(first) > 1:
        areas.append(a * first[1] + b * second[1] + d)
    if len(first) > 2:
        areas.append(a * a * first[2] + b * b * second[2] + a * b * (first[1] - second[1]) / 2 + d * (b - a) / 6)
    return areas


def _joined(first: Array, h1: Array, second: Array, h2: Array) -> Array:
    return jnp.stack(chen(first, h1, second, h2))


@functools.cache
def halving(count: int) -> tuple[np.ndarray, np.ndarray]:
    """`G`, `(2 count, count)`, and `L` of the same shape, for the first `count` areas; in float64.

    With unit-variance coordinates the areas of the whole are `M u` for the halves `u`, where the rows of `M` are
    orthonormal: the halves are `M^T p`, and noise in the orthogonal complement.
    """
    scales = np.sqrt(VARIANCES[:count])
    units = np.eye(2 * count) * np.tile(scales, 2)[:, None] / math.sqrt(2)
    whole = np.stack(chen(units[:count], 0.5, units[count:], 0.5)) / scales[:, None]
    q, r = np.linalg.qr(np.concatenate([whole.T, np.eye(2 * count)[:, :count]], 1))
    complement = (q * np.sign(np.diag(r)))[:, count:]
    back = np.tile(scales, 2)[:, None] / math.sqrt(2)
    return back * whole.T / scales, back * complement

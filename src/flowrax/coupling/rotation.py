r"""The rotation $R$ that minimises $\sum_p \lVert R\, (x_p - \bar x) - (y_p - \bar y) \rVert^2$, reflections excluded.

With the singular values $s_1 \ge s_2 \ge s_3$ and vectors of the cross-covariance
$H = \sum_p (x_p - \bar x) (y_p - \bar y)^\top = \sum_k s_k u_k v_k^\top$ (Kabsch 1976)

$$R = v_1 u_1^\top + v_2 u_2^\top + (v_1 \times v_2) (u_1 \times u_2)^\top, \qquad
\min = \lVert x - \bar x \rVert^2 + \lVert y - \bar y \rVert^2 - 2\, (s_1 + s_2 + \operatorname{sign}(\det H)\, s_3).$$

The decomposition is computed by one-sided Jacobi rotations of the columns of $H$ (Hestenes 1958), elementwise over all
pairs: no matrix is decomposed on its own, and a small $s_3$ keeps its sign.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .._base.checks import check_shape
from .._base.typing import Array, Batch, Bool, Event
from ..prior import remove_centre

Vector = tuple[Array, Array, Array]
"""The three components of a vector, each an array over all pairs."""

_PAIRS = ((0, 1), (0, 2), (1, 2))


def kabsch(x: Event, y: Event, mask: Bool[Array, " p"] | None = None) -> Array:
    """The rotation that best maps the points `x` onto the points `y`, each set taken about its centre.

    Where several rotations are optimal (points on a line, or a mirror image with a symmetry), one of them is returned.

    **Arguments:**

    - `x`, `y`: `(p, 3)`; row `k` of `x` corresponds to row `k` of `y`.
    - `mask`: `(p,)`, the points that count. Default: all points.

    **Returns:** `R`, `(3, 3)` with determinant one, such that `(x - mean) @ R.T` is near `y - mean`.

    **Raises:** `ValueError` for shapes other than these.

    **Reference:** [@kabsch1976solution].
    """
    check_shape("x", x.shape, (*x.shape[:-1][:1], 3))
    check_shape("y", y.shape, x.shape)
    covariance = _centred(x, mask).T @ _centred(y, mask)
    left, right = _jacobi(_columns(covariance), _columns(jnp.eye(3, dtype=x.dtype)), _sweeps(x) + 1)
    left, right = jnp.asarray(left), jnp.asarray(right)
    order = jnp.argsort(-jnp.sum(left**2, axis=1))
    u, v = left[order], right[order]
    return _frame(v[0], v[1]).T @ _frame(u[0], u[1])


def kabsch_cost(x: Batch, y: Batch, mask: Bool[Array, "*n p"] | None = None) -> Array:
    """Squared distances between all pairs from two batches of point sets, each pair centred and optimally rotated.

    Accurate to a few rounding errors of the two squared norms; not meant to be differentiated.

    **Arguments:**

    - `x`, `y`: `(n, p, 3)` and `(m, p, 3)`.
    - `mask`: the points that count, `(p,)`, or `(n, p)` with one mask for each row of `x`. Default: all points.

    **Returns:** `(n, m)`, sums over the points.

    **Raises:** `ValueError` for shapes other than these.
    """
    check_shape("One row of x", x.shape[1:], (*x.shape[1:2], 3))
    check_shape("One row of y", y.shape[1:], x.shape[1:])
    forbid = _unchanged
    if mask is not None and mask.ndim == 2:
        y, forbid = without_gaps(mask.astype(bool), y)
        y = _centred(y, jnp.any(mask, axis=0))
        y_squares = _squares_through(y, mask)
    else:
        y = _centred(y, mask)
        y_squares = jnp.sum(y**2, axis=(1, 2))[None]
    x = _centred(x, mask)
    n, m = x.shape[0], y.shape[0]
    rows, columns = (jnp.moveaxis(z, -1, 0).reshape(3 * len(z), -1) for z in (x, y))
    # Because x is centred, the centre of y drops out of the covariance.
    covariance = (rows @ columns.T).reshape(3, n, 3, m)
    first, second, third = _jacobi(_columns(jnp.moveaxis(covariance, 2, 1)), [], _sweeps(x))[0]
    lengths = [jnp.sqrt(_dot(b, b)) for b in (first, second, third)]
    smallest = jnp.minimum(jnp.minimum(lengths[0], lengths[1]), lengths[2])
    mirrored = _dot(first, _cross(second, third)) < 0
    trace = lengths[0] + lengths[1] + lengths[2] - jnp.where(mirrored, 2 * smallest, 0)
    squares = jnp.sum(x**2, axis=(1, 2))[:, None] + y_squares
    # Rounding can make the distance between equal shapes slightly negative.
    return forbid(jnp.maximum(squares - 2 * trace, 0))


def without_gaps(masks: Array, y: Batch) -> tuple[Batch, Callable[[Array], Array]]:
    """`y`, `(m, p, ...)`, with zeros instead of NaN and infinite points, and a function that makes their costs NaN.

    Costs are `(n, m)`. The function leaves a cost unchanged if no point of its mask, one of `(n, p)`, is such a gap.
    """
    gaps = jnp.any(~jnp.isfinite(y).reshape(*y.shape[:2], -1), axis=2)

    def marked(costs: Array) -> Array:
        counted = masks.astype(costs.dtype) @ gaps.astype(costs.dtype).T
        return jnp.where(counted > 0, jnp.nan, costs)

    def forbid(costs: Array) -> Array:
        return jax.lax.cond(jnp.any(gaps), marked, _unchanged, costs)

    return jnp.where(gaps.reshape(gaps.shape + (1,) * (y.ndim - 2)), 0, y), forbid


def _unchanged(costs: Array) -> Array:
    return costs


def _sweeps(x: Array) -> int:
    # Jacobi sweeps converge quadratically; these numbers reach the rounding error of the dtype.
    return 3 if jnp.finfo(x.dtype).bits <= 32 else 4


def _centred(x: Array, mask: Array | None) -> Array:
    if mask is None:
        return x - jnp.mean(x, axis=-2, keepdims=True)
    check_shape("mask", mask.shape, x.shape[-1 - mask.ndim : -1])
    return remove_centre(x, jnp.broadcast_to(mask, x.shape[:-1]))


def _squares_through(y: Array, masks: Array) -> Array:
    """The sum of squares of each `y` about its centre, `(n, m)`, both over the points of each of the `n` masks.

    Centre `y` roughly first: far from the origin the squares would cancel and lose digits.
    """
    weight = masks.astype(y.dtype)
    count = jnp.maximum(jnp.sum(weight, axis=1), 1)[:, None]
    centres = jnp.tensordot(weight, y, axes=(1, 1)) / count[..., None]
    return weight @ jnp.sum(y**2, axis=2).T - count * jnp.sum(centres**2, axis=2)


def _columns(matrices: Array) -> list[Vector]:
    """The columns of `(3, 3, ...)`."""
    return [(matrices[0, k], matrices[1, k], matrices[2, k]) for k in range(3)]


def _dot(a: Vector, b: Vector) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _jacobi(h: list[Vector], v: list[Vector], sweeps: int) -> tuple[list[Vector], list[Vector]]:
    """Rotates the columns of `h` until they are orthogonal, and applies the same rotations to `v`: `H V` and `V`."""
    h, v = list(h), list(v)
    for _ in range(sweeps):
        for p, q in _PAIRS:
            gap, overlap = _dot(h[q], h[q]) - _dot(h[p], h[p]), 2 * _dot(h[p], h[q])
            size = jnp.abs(gap) + jnp.sqrt(gap**2 + overlap**2)
            # The tangent of the smaller of the two angles that make the columns orthogonal. It is zero for columns that
            # are already orthogonal and of equal norm.
            tangent = jnp.where(gap < 0, -overlap, overlap) / jnp.where(size == 0, 1, size)
            cosine = 1 / jnp.sqrt(1 + tangent**2)
            sine = tangent * cosine
            for columns in (h, v):
                if columns:
                    columns[p], columns[q] = _turn(columns[p], columns[q], cosine, sine)
    return h, v


def _turn(a: Vector, b: Vector, cosine: Array, sine: Array) -> tuple[Vector, Vector]:
    turned = [(cosine * x - sine * y, sine * x + cosine * y) for x, y in zip(a, b, strict=True)]
    (a0, b0), (a1, b1), (a2, b2) = turned
    return (a0, a1, a2), (b0, b1, b2)


def _frame(first: Array, second: Array) -> Array:
    """The rows are the direction of `first`, `second` orthonormalised against it, and their cross product."""
    scale = jnp.max(jnp.abs(first))
    one = _direction(first, scale, jnp.asarray([1.0, 0.0, 0.0], first.dtype))
    # Where `second` vanishes or is parallel to `first`, any direction orthogonal to `first` will do.
    across = jnp.zeros_like(one).at[jnp.argmin(jnp.abs(one))].set(1)
    two = _direction(second - (second @ one) * one, scale, across - (across @ one) * one)
    two = two - (two @ one) * one
    two = two / jnp.sqrt(two @ two)
    return jnp.stack([one, two, jnp.cross(one, two)])


def _direction(vector: Array, scale: Array, otherwise: Array) -> Array:
    """`vector` scaled to unit length; `otherwise`, scaled likewise, where it is only rounding error of size `scale`."""
    is_something = jnp.max(jnp.abs(vector)) > 8 * jnp.finfo(vector.dtype).eps * scale
    vector = jnp.where(is_something, vector, otherwise)
    vector = vector / jnp.max(jnp.abs(vector))
    return vector / jnp.sqrt(vector @ vector)

r"""Linear operators $A$ on events of any rank, for the linear measurements $y = A x + \varepsilon$.

They are operators of [lineax](https://docs.kidger.site/lineax/), so that `A @ B`, `A + B`, `2 * A`, `A.T.mv(v)` and
`A.as_matrix()` work. Adjoints are found by transposing the function, with `jax.linear_transpose`.
"""

import abc
import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from .._base import random
from .._base.arguments import Checked, checked
from .._base.arrays import as_floats, as_real
from .._base.checks import check_count, check_event_shape, check_finite, is_traced
from .._base.typing import Array, Event, Integer, Numbers, Shape


class AbstractOperator(lx.AbstractLinearOperator, metaclass=Checked):
    """A linear operator on events. To write one, give `shape` and `mv`."""

    shape: eqx.AbstractVar[Shape]
    """The shape of the events."""

    @abc.abstractmethod
    def mv(self, vector: Event) -> Array:
        """The values $A x$ for one event $x$ of shape `shape`, an array of any shape."""

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, jnp.result_type(float))

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.eval_shape(self.mv, self.in_structure())

    def transpose(self) -> lx.AbstractLinearOperator:
        return lx.FunctionLinearOperator(
            lambda values: jax.linear_transpose(self.mv, self.in_structure())(values)[0], self.out_structure()
        )

    def as_matrix(self) -> Array:
        """The matrix `(m, d)` on flattened events, by one product for each row or column, whichever are fewer."""
        into, out = self.in_structure(), self.out_structure()
        rows, columns = math.prod(out.shape), math.prod(into.shape)
        if rows < columns:
            units = jnp.eye(rows, dtype=out.dtype).reshape(rows, *out.shape)
            return jax.vmap(self.transpose().mv)(units).reshape(rows, columns)
        units = jnp.eye(columns, dtype=into.dtype).reshape(columns, *into.shape)
        return jax.vmap(self.mv)(units).reshape(columns, rows).T


for _has_property in (
    lx.is_symmetric,
    lx.is_diagonal,
    lx.is_tridiagonal,
    lx.has_unit_diagonal,
    lx.is_lower_triangular,
    lx.is_upper_triangular,
    lx.is_positive_semidefinite,
    lx.is_negative_semidefinite,
):
    _has_property.register(AbstractOperator, lambda operator: False)


class Mask(AbstractOperator):
    """Keeps some elements of an event, `(m,)`; inpainting, missing data."""

    indices: Array
    """The positions of the kept elements in the flattened event, `(m,)`."""
    shape: Shape = eqx.field(static=True)

    def __init__(self, kept: Numbers, shape: Shape | None = None) -> None:
        """**Arguments:**

        - `kept`: booleans of the shape of the event, True for the elements that are measured; or the positions of these
            elements in the flattened event, integers `(m,)`.
        - `shape`: the shape of the event, for positions.

        Raises `ValueError` if nothing is kept and for positions outside of the event.
        """
        given = _known("kept", kept)
        if given.dtype == np.bool_:
            if shape is not None and tuple(shape) != given.shape:
                raise ValueError(f"kept has shape {given.shape} but shape={tuple(shape)}; leave shape out.")
            shape, given = given.shape, np.flatnonzero(given)
        elif not np.issubdtype(given.dtype, np.integer) or given.ndim != 1:
            raise ValueError(
                f"kept must be booleans of the shape of the event or integers (m,); got {given.dtype} {given.shape}."
            )
        elif shape is None:
            raise ValueError("kept holds positions, so the shape of the event is needed; pass shape=.")
        self.shape = check_event_shape(shape)
        size = math.prod(self.shape)
        if given.size == 0:
            raise ValueError("kept selects no element of the event.")
        if np.min(given) < 0 or np.max(given) >= size:
            raise ValueError(
                f"kept holds positions from {np.min(given)} to {np.max(given)}, outside of 0 to {size - 1}."
            )
        self.indices = jnp.asarray(given, jnp.int32)

    def mv(self, vector: Event) -> Array:
        return vector.reshape(-1)[self.indices]


class Blur(AbstractOperator):
    r"""The convolution $(A x)_i = \sum_j k_j\, x_{i - j}$, with $j = 0$ at the centre of the kernel.

    A kernel of rank $r$ acts on the last $r$ axes of the event. Other axes, such as channels, are blurred one by one.
    """

    kernel: Array
    shape: Shape = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    def __init__(self, kernel: Numbers, shape: Shape, *, periodic: bool = False) -> None:
        """**Arguments:**

        - `kernel`: the kernel, with an odd number of elements along each axis.
        - `shape`: the shape of the event.
        - `periodic`: whether the event continues periodically beyond its boundary. Default: it is zero there.

        Raises `ValueError` for a kernel of even size or larger than the event.
        """
        (self.kernel,) = as_floats(kernel=kernel)
        check_finite("kernel", self.kernel)
        self.shape, self.periodic = check_event_shape(shape), periodic
        sizes, rank = self.kernel.shape, self.kernel.ndim
        if not 1 <= rank <= min(3, len(self.shape)):
            raise ValueError(f"kernel of rank {rank} cannot blur events of shape {self.shape}; it needs 1 to 3 axes.")
        if any(size % 2 == 0 for size in sizes):
            raise ValueError(
                f"kernel has shape {sizes}; an odd size along each axis is needed, so that it has a centre."
            )
        if any(size > extent for size, extent in zip(sizes, self.shape[-rank:], strict=True)):
            raise ValueError(f"kernel of shape {sizes} is larger than the last axes of events of shape {self.shape}.")

    def mv(self, vector: Event) -> Array:
        rank = self.kernel.ndim
        half = [(size // 2, size // 2) for size in self.kernel.shape]
        x = vector.reshape(-1, 1, *self.shape[-rank:])
        x = jnp.pad(x, [(0, 0), (0, 0), *half], mode="wrap" if self.periodic else "constant")
        kernel = jnp.flip(self.kernel).astype(x.dtype)[None, None]
        highest = jax.lax.Precision.HIGHEST
        return jax.lax.conv_general_dilated(x, kernel, (1,) * rank, "VALID", precision=highest).reshape(self.shape)


class Downsample(AbstractOperator):
    """The means of blocks of an event: shape `(s_1 / f_1, s_2 / f_2, ...)`; superresolution, binned data."""

    factor: Shape = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)

    def __init__(self, factor: Integer | Sequence[int], shape: Shape) -> None:
        """**Arguments:**

        - `factor`: the size of a block along each axis of the event, or one integer for all axes. For an image
            `(channels, height, width)` this is for example `(1, 2, 2)`.
        - `shape`: the shape of the event.

        Raises `ValueError` unless the factors divide the shape.
        """
        self.shape = check_event_shape(shape)
        factors = tuple(factor) if isinstance(factor, list | tuple) else (factor,) * len(self.shape)
        self.factor = tuple(check_count("factor", f) for f in factors)
        if len(self.factor) != len(self.shape) or any(s % f for s, f in zip(self.shape, self.factor, strict=True)):
            raise ValueError(f"factor={self.factor} does not divide events of shape {self.shape} into equal blocks.")

    def mv(self, vector: Event) -> Array:
        blocks = [part for s, f in zip(self.shape, self.factor, strict=True) for part in (s // f, f)]
        return jnp.mean(vector.reshape(blocks), axis=tuple(range(1, len(blocks), 2)))


class Projection(AbstractOperator):
    """The sums of an event along axes, an array of the remaining axes; projected maps, marginal counts."""

    axis: tuple[int, ...] = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)

    def __init__(self, axis: Integer | Sequence[int], shape: Shape) -> None:
        """**Arguments:**

        - `axis`: the axis or axes of the event that are summed over; negative ones count from the last.
        - `shape`: the shape of the event.

        Raises `ValueError` for an axis that the event does not have.
        """
        self.shape = check_event_shape(shape)
        rank = len(self.shape)
        axes = [check_count("axis", a, None) for a in (axis if isinstance(axis, list | tuple) else (axis,))]
        if not axes or any(not -rank <= a < rank for a in axes) or len({a % rank for a in axes}) < len(axes):
            raise ValueError(f"axis={axis} does not name distinct axes of events of shape {self.shape}.")
        self.axis = tuple(a % rank for a in axes)

    def mv(self, vector: Event) -> Array:
        return jnp.sum(vector, axis=self.axis)


class FourierSubsample(AbstractOperator):
    r"""Some Fourier coefficients of an event, `(m,)`, as real numbers; magnetic resonance, interferometry.

    The coefficients are those of `numpy.fft.fftn(x, norm="ortho")` over the axes of `kept`. Those of a real event come
    in conjugate pairs, $\hat x_{-k} = \hat x_k^*$, and of each pair one is measured, by $\sqrt2 \operatorname{Re} \hat
    x_k$ and $\sqrt2 \operatorname{Im} \hat x_k$. The coefficients with $k = -k$ are real and are measured once. The
    rows of $A$ are then orthonormal, $A A^\top = I$. Noise of standard deviation $s$ in the real and in the imaginary
    part of $\hat x_k$ has standard deviation $\sqrt2 s$ here where $k \ne -k$; it is $s$ again for the mean of
    independent measurements at $k$ and $-k$. The values of each channel are the real coefficients, then the real parts
    of the others, then their imaginary parts.
    """

    single: Array
    """The positions of the real coefficients in the flattened grid of frequencies."""
    paired: Array
    """The positions of one coefficient of each conjugate pair."""
    axes: int = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)

    def __init__(self, kept: Numbers, shape: Shape) -> None:
        """**Arguments:**

        - `kept`: booleans on the grid of frequencies of `numpy.fft.fftn`, of the shape of the last one to three axes of
            the event. If both coefficients of a pair are kept, the one that comes first on this grid is measured.
        - `shape`: the shape of the event. Each element of the other axes, such as channels, is measured by itself.

        Raises `ValueError` if nothing is kept and for shapes that disagree.
        """
        given, self.shape = _known("kept", kept), check_event_shape(shape)
        self.axes = given.ndim
        if given.dtype != np.bool_ or not 1 <= given.ndim <= 3 or given.shape != self.shape[-given.ndim :]:
            raise ValueError(
                f"kept must be booleans of the shape of the last one to three axes of the event, {self.shape}; got "
                f"{given.dtype} {given.shape}."
            )
        grid = np.arange(given.size).reshape(given.shape)
        negative = np.roll(np.flip(grid), 1, axis=tuple(range(given.ndim)))
        first = np.unique(np.minimum(grid, negative)[given])
        if first.size == 0:
            raise ValueError("kept selects no frequency.")
        second = negative.reshape(-1)[first]
        # Of each pair the one that is kept, in the order of the first.
        chosen, own = np.where(given.reshape(-1)[first], first, second), first == second
        self.single, self.paired = (jnp.asarray(part, jnp.int32) for part in (chosen[own], chosen[~own]))

    def mv(self, vector: Event) -> Array:
        spectrum = jnp.fft.fftn(vector, axes=tuple(range(-self.axes, 0)), norm="ortho")
        return self.values_of(spectrum).astype(vector.dtype)

    def values_of(self, spectrum: Numbers) -> Array:
        """The values `(m,)` in a spectrum, complex numbers of the shape of the event; for example `y` from noisy data.

        Frequencies that are not kept are ignored. Of a conjugate pair of which both are kept the first is taken; pass
        the mean of both, conjugated, if they were measured independently.
        """
        flat = jnp.asarray(spectrum).reshape(*self.shape[: len(self.shape) - self.axes], -1)
        single, paired, root = flat[..., self.single], flat[..., self.paired], math.sqrt(2)
        return jnp.concatenate([single.real, root * paired.real, root * paired.imag], axis=-1).reshape(-1)


# How many pairs of random events are summed to see whether a function is linear.
_PAIRS = 4


@checked
def linear_function(function: Callable[[Event], Array], shape: Shape) -> lx.FunctionLinearOperator:
    """The operator of a linear function of the event, whose adjoint JAX finds by transposition.

    Linearity is tested on sums of random events of sizes 1 and 100.

    **Arguments:**

    - `function`: maps one event to an array of any shape; linear, and written in JAX.
    - `shape`: the shape of the event.

    **Returns:** an operator of lineax.

    **Raises:** `ValueError` with the deviation for a function that is not linear, and for one that cannot be applied to
    events of this shape or cannot be transposed.
    """
    event = jax.ShapeDtypeStruct(check_event_shape(shape), jnp.result_type(float))
    try:
        operator = lx.FunctionLinearOperator(function, event)
        answer = operator.out_structure()
    except Exception as error:
        raise ValueError(f"function cannot be applied to events of shape {event.shape}: {_cause(error)}") from None
    if not isinstance(answer, jax.ShapeDtypeStruct) or not jnp.issubdtype(answer.dtype, jnp.floating):
        raise ValueError(
            f"function must return one array of real numbers; got {answer}. Stack real and imaginary parts on an axis."
        )
    scales = jnp.asarray([1.0, 100.0] * (_PAIRS // 2), event.dtype).reshape(-1, *(1 for _ in event.shape))
    first, second = random.normal(jax.random.key(0), (2, _PAIRS, *event.shape), event.dtype)
    points = jnp.stack([jnp.zeros_like(first), first, scales * second, first + scales * second])
    values = jax.vmap(jax.vmap(operator.mv))(points)
    if not is_traced(values):
        _check_linear(np.asarray(values, np.float64).reshape(4, _PAIRS, -1), float(jnp.finfo(answer.dtype).eps))
    try:
        operator.transpose()
    except Exception as error:
        raise ValueError(f"function cannot be transposed by jax.linear_transpose: {_cause(error)}") from None
    return operator


def _check_linear(values: np.ndarray, rounding: float) -> None:
    """Raises `ValueError` unless the values at zero, a, b and a + b are those of a linear function."""
    zero, first, second, both = values
    size = np.sqrt(np.mean(both**2, axis=-1))
    deviation, offset = (
        np.sqrt(np.mean(v**2, axis=-1)) / np.maximum(size, 1e-300) for v in (both - first - second, zero)
    )
    if not np.max(deviation) <= math.sqrt(rounding):
        hint = (
            "it is not zero at x = 0; subtract function(0) from it and from y"
            if np.max(offset) > math.sqrt(rounding)
            else "use NonlinearGaussian for it"
        )
        raise ValueError(
            f"function is not linear: function(a + b) deviates from function(a) + function(b) by "
            f"{np.max(deviation):.2g} of its size; {hint}."
        )


def _known(name: str, value: Numbers) -> np.ndarray:
    if is_traced(value):
        raise ValueError(f"{name} must be known before compilation, but it is traced; pass a NumPy array.")
    return np.asarray(as_real(name, value))


def _cause(error: Exception) -> str:
    return " ".join(str(error).split())[:120]

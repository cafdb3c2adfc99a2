"""Linear operators of measurements against NumPy, their adjoints and matrices, and what they refuse."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy import ndimage

import flowrax as frx
from flowrax import observation as obs

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(3, 4, 6)).astype(np.float32)
KEPT, FREQUENCIES = RNG.random((3, 4, 6)) < 0.3, RNG.random((4, 6)) < 0.4
FREQUENCIES[0, 0] = FREQUENCIES[2, 3] = FREQUENCIES[1, 2] = FREQUENCIES[3, 4] = True
KERNEL, WEIGHTS = RNG.normal(size=(3, 5)), RNG.normal(size=(2, 3)).astype(np.float32)


def blurred(mode):
    return np.stack([ndimage.convolve(channel, KERNEL, mode=mode, cval=0.0) for channel in IMAGE])


# By name: the operator, and what NumPy or SciPy make of the image.
CASES = {
    "mask": (obs.Mask(KEPT), IMAGE[KEPT]),
    "positions": (obs.Mask([5, 0, 71, 5], (3, 4, 6)), IMAGE.reshape(-1)[[5, 0, 71, 5]]),
    "blur": (obs.Blur(KERNEL, (3, 4, 6)), blurred("constant")),
    "periodic": (obs.Blur(KERNEL, (3, 4, 6), periodic=True), blurred("wrap")),
    "lines": (
        obs.Blur(KERNEL[0], (3, 4, 6)),
        np.apply_along_axis(lambda line: np.convolve(line, KERNEL[0], "same"), -1, IMAGE),
    ),
    "downsample": (obs.Downsample((1, 2, 3), (3, 4, 6)), IMAGE.reshape(3, 2, 2, 2, 3).mean((2, 4))),
    "projection": (obs.Projection((0, -1), (3, 4, 6)), IMAGE.sum((0, 2))),
    "function": (
        obs.linear_function(lambda x: jnp.einsum("ac,chw->haw", WEIGHTS, x), (3, 4, 6)),
        np.einsum("ac,chw->haw", WEIGHTS, IMAGE),
    ),
    "composed": (
        2.0 * obs.Projection(0, (3, 2, 3)) @ obs.Downsample((1, 2, 2), (3, 4, 6)),
        2 * IMAGE.reshape(3, 2, 2, 3, 2).mean((2, 4)).sum(0),
    ),
}


def check_adjoint_and_matrix(operator):
    """Of `<A x, v> = <x, A^T v>`, and of the matrix on flattened events."""
    out, transposed = operator.mv(jnp.asarray(IMAGE)), operator.transpose()
    v = jnp.asarray(RNG.normal(size=out.shape), jnp.float32)
    np.testing.assert_allclose(jnp.vdot(out, v), jnp.vdot(IMAGE, transposed.mv(v)), rtol=1e-4, atol=1e-4)
    matrix = np.asarray(operator.as_matrix())
    assert matrix.shape == (out.size, IMAGE.size)
    np.testing.assert_allclose(matrix @ IMAGE.reshape(-1), np.ravel(out), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.ravel(v) @ matrix, np.ravel(transposed.mv(v)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_operators(name):
    operator, want = CASES[name]
    np.testing.assert_allclose(operator.mv(jnp.asarray(IMAGE)), want, rtol=1e-4, atol=1e-5)
    assert operator.out_structure().shape == want.shape
    check_adjoint_and_matrix(operator)


@pytest.mark.parametrize("shape", [(3, 4, 6), (4, 6)])
def test_fourier_coefficients_are_independent(shape):
    """Each channel has orthonormal rows, and the energy of the kept coefficients and of their conjugates."""
    operator = obs.FourierSubsample(FREQUENCIES, shape)
    x = IMAGE if len(shape) == 3 else IMAGE[0]
    spectrum = np.fft.fft2(x, norm="ortho")
    partner = np.roll(np.flip(FREQUENCIES), 1, (0, 1))
    either = FREQUENCIES | partner
    values = np.asarray(operator.mv(jnp.asarray(x)))
    assert values.size == either.sum() * (x.size // 24)
    np.testing.assert_allclose(np.sum(values**2), np.sum(np.abs(spectrum[..., either]) ** 2), rtol=1e-5)
    # Data hold nothing where no coefficient was measured.
    data = np.where(FREQUENCIES, spectrum, np.nan).astype(np.complex64)
    np.testing.assert_allclose(operator.values_of(data), values, rtol=1e-4, atol=1e-5)
    matrix = np.asarray(operator.as_matrix())
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(values.size), atol=1e-5)
    if len(shape) == 3:
        check_adjoint_and_matrix(operator)


def test_all_frequencies_are_a_rotation():
    matrix = np.asarray(obs.FourierSubsample(np.ones(5, bool), (5,)).as_matrix())
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(5), atol=1e-6)
    # One value of each frequency, by hand.
    for kept, sign in (([False, True, False, False], -1), ([False, False, False, True], 1)):
        once = np.asarray(obs.FourierSubsample(kept, (4,)).as_matrix())
        np.testing.assert_allclose(once, np.sqrt(0.5) * np.array([[1, 0, -1, 0], [0, sign, 0, -sign]]), atol=1e-6)


def test_operators_are_compiled_once_for_all_their_values():
    """Their arrays are leaves of a PyTree."""
    traces = []

    @jax.jit
    def blur(operator, x):
        traces.append(None)
        return operator.mv(x)

    for factor in (1.0, 2.0):
        got = blur(obs.Blur(factor * KERNEL, (3, 4, 6)), jnp.asarray(IMAGE))
        np.testing.assert_allclose(got, factor * blurred("constant"), rtol=1e-4, atol=1e-4)
    assert len(traces) == 1


REFUSED = {
    "kept selects no element of the event": lambda: obs.Mask(np.zeros(3, bool)),
    "kept holds positions, so the shape of the event is needed; pass shape=": lambda: obs.Mask([0, 2]),
    "kept holds positions from -1 to 4, outside of 0 to 3": lambda: obs.Mask([-1, 4], (4,)),
    "kept must be booleans of the shape of the event or integers (m,); got float64 (2,)": lambda: obs.Mask([0.0, 1.0]),
    "kept has shape (3,) but shape=(4,); leave shape out": lambda: obs.Mask(np.ones(3, bool), (4,)),
    "kept must be known before compilation": lambda: jax.jit(lambda k: obs.Mask(k).indices)(jnp.ones(3, bool)),
    "kernel has shape (2,); an odd size along each axis is needed": lambda: obs.Blur([0.5, 0.5], (4,)),
    "kernel of shape (5,) is larger than the last axes of events of shape (4,)": lambda: obs.Blur(np.ones(5), (4,)),
    "kernel of rank 2 cannot blur events of shape (4,)": lambda: obs.Blur(np.ones((1, 1)), (4,)),
    "factor=(2, 2) does not divide events of shape (4, 3)": lambda: obs.Downsample(2, (4, 3)),
    "axis=2 does not name distinct axes of events of shape (4, 3)": lambda: obs.Projection(2, (4, 3)),
    "axis=(0, -2) does not name distinct axes": lambda: obs.Projection((0, -2), (4, 3)),
    "kept must be booleans of the shape of the last one to three axes of the event, (4,); got bool (3,)": lambda: (
        obs.FourierSubsample(np.ones(3, bool), (4,))
    ),
    "function cannot be applied to events of shape (3,)": lambda: obs.linear_function(lambda x: jnp.eye(4) @ x, (3,)),
    "function must return one array of real numbers; got": lambda: obs.linear_function(jnp.fft.fft, (3,)),
    "of its size; use NonlinearGaussian for it": lambda: obs.linear_function(lambda x: x + 1e-2 * jnp.tanh(x), (3,)),
    "it is not zero at x = 0; subtract function(0) from it and from y": lambda: obs.linear_function(
        lambda x: x + 0.1, (3,)
    ),
    "operator must map one array of real numbers to another; this one takes": lambda: frx.LinearGaussian(
        lx.FunctionLinearOperator(lambda x: x["a"], {"a": jax.ShapeDtypeStruct((2,), jnp.float32)}), [0.0, 0.0], 1.0
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    with pytest.raises(ValueError) as error:
        REFUSED[words]()
    assert words in str(error.value) and len(str(error.value)) <= 240


def test_a_function_that_only_rounds_is_linear():
    """Sums of many numbers in single precision, and an exact zero."""
    matrix = jnp.asarray(RNG.normal(size=(40, 200)), jnp.float32)
    assert obs.linear_function(lambda x: matrix @ jnp.cumsum(x), (200,)).out_structure().shape == (40,)
    assert np.all(obs.linear_function(lambda x: 0 * x[:2], (3,)).as_matrix() == 0)

"""Draws, network outputs and arguments in the right precision; what would be reinterpreted is refused in words."""

import math
import types
import warnings

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax._base import random
from flowrax._base.arrays import as_floats, as_leaf, as_numbers
from flowrax.stepper import BrownianTree, GridBrownianPath

KEY = jax.random.key(0)
HALVES = [jnp.float16, jnp.bfloat16]


def velocity(t, x, condition):
    """Exact for standard normal data."""
    return x * ((2 * t - 1) / (t**2 + (1 - t) ** 2)).astype(x.dtype)


def model_of(dtype, network=velocity, **options):
    return frx.Model(network, frx.Linear(), shape=(2,), dtype=dtype, **options)


# Draws.


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_draws_are_rounded_single_precision_draws(key, dtype):
    drawn = random.normal(key, (1000,), dtype)
    assert drawn.dtype == dtype
    assert jnp.array_equal(drawn, jax.random.normal(key, (1000,), jnp.float32).astype(dtype))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_wider_draws_are_those_of_jax(key, dtype, x64):
    assert jnp.array_equal(random.normal(key, (5,), dtype), jax.random.normal(key, (5,), dtype))
    assert jnp.array_equal(random.uniform(key, (5,), dtype), jax.random.uniform(key, (5,), dtype))
    assert jnp.array_equal(random.gumbel(key, (5,), dtype), jax.random.gumbel(key, (5,), dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_uniform_numbers_stay_below_one(key, dtype):
    u = random.uniform(key, (100_000,), dtype)
    assert u.dtype == jnp.float32
    assert float(u.max()) < 1


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_paths_are_unbiased(key, dtype):
    n = 20_000
    times = jnp.asarray([0.0, 0.25, 1.0])
    paths = {
        "grid": GridBrownianPath(times, (n,), key, dtype=dtype).evaluate(times[0], times[1]),
        "tree": BrownianTree(0.0, 1.0, (n,), key, dtype=dtype).evaluate(0.0, 0.25),
    }
    for w in paths.values():
        assert w.dtype == dtype
        w = w.astype(jnp.float32)
        assert abs(float(w.mean())) < 5 * 0.5 / math.sqrt(n)
        # Rounding to 8 bits changes the variance by less than 2^-9.
        assert abs(float(w.var()) - 0.25) < 0.25 * (5 * math.sqrt(2 / n) + 2**-9)
        assert float(w.max()) > 0.5 * 3.3
        assert float(w.min()) < -0.5 * 3.3


@pytest.mark.accuracy
@pytest.mark.parametrize("dtype", HALVES)
def test_long_half_precision_sde_keeps_its_mean(dtype):
    # 800 steps, so that a biased draw adds up.
    dynamics = frx.ReverseSDE(frx.dynamics.Constant(1.0))
    # diffrax multiplies steps in float32 by increments in 16 bits.
    with jax.numpy_dtype_promotion("standard"):
        x = frx.sample(model_of(dtype), KEY, 2000, dynamics=dynamics, grid=800, solver=dfx.Euler()).x
    assert abs(float(x.astype(jnp.float32).mean())) < 5 / math.sqrt(x.size)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "probes", [frx.divergence.Rademacher(), frx.divergence.GaussianProbes(), frx.divergence.Sphere()], ids=repr
)
def test_half_precision_probes(key, dtype, probes):
    e = probes(key, (4000, 3), dtype)
    assert e.dtype == dtype
    assert jnp.all(jnp.abs(e.astype(jnp.float32).mean(0)) < 5 / math.sqrt(4000))


TIMES = {
    "uniform": frx.times.Uniform(),
    "stratified": frx.times.Stratified(),
    "antithetic": frx.times.Antithetic(),
    "logit-normal": frx.times.LogitNormal(),
    "beta": frx.times.Beta(),
    "log-normal": frx.times.LogNormal(frx.EDM()),
}


@pytest.mark.parametrize("name", TIMES)
def test_half_precision_times_are_rounded_single_precision_times(key, name):
    drawn = TIMES[name](key, 500, 0.0, 1.0, jnp.bfloat16)
    assert drawn.dtype == jnp.bfloat16
    assert jnp.array_equal(drawn, TIMES[name](key, 500, 0.0, 1.0, jnp.float32).astype(jnp.bfloat16))


class Recording(eqx.Module):
    """A network that records the dtype of the times it is called at."""

    weight: jax.Array
    dtypes: list = eqx.field(static=True)

    def __call__(self, t, x, condition):
        self.dtypes.append(t.dtype)
        return self.weight * x


@pytest.mark.parametrize("loss", [frx.Matching(), frx.loss.EquilibriumMatching()], ids=lambda loss: type(loss).__name__)
def test_half_precision_training_draws_its_times_in_single_precision(loss):
    seen = []
    model = model_of(jnp.bfloat16, Recording(jnp.ones(2, jnp.bfloat16), seen))
    result = frx.fit(model, np.ones((8, 2)), KEY, loss=loss, num_steps=2, batch_size=4, progress=False)
    assert set(seen) == {jnp.dtype(jnp.float32)}
    assert np.all(np.isfinite(result.history["train_loss"]))


# Networks.


@pytest.mark.parametrize("dtype", [*HALVES, jnp.float32])
def test_wide_outputs_are_cast(dtype, x64):
    def wide(t, x, condition):
        return velocity(t, x, condition).astype(jnp.float64)

    for network in (wide, velocity):
        model = model_of(dtype, network)
        assert model.predict(jnp.asarray(0.5, jnp.float32), jnp.ones(2, dtype)).velocity.dtype == dtype
    equal = [frx.sample(model_of(dtype, network), KEY, 3, grid=4).x for network in (wide, velocity)]
    assert jnp.array_equal(*equal)
    if dtype == jnp.float32:
        equal = [frx.log_prob(model_of(dtype, network), np.ones((2, 2)), grid=4).value for network in (wide, velocity)]
        assert jnp.allclose(*equal, rtol=1e-6)


def test_wide_outputs_of_preconditioned_networks_are_cast(x64):
    model = frx.Model(
        lambda t, x, c: x.astype(jnp.float64),
        frx.EDM(),
        frx.target.Data(),
        shape=(2,),
        dtype=jnp.float32,
        preconditioner=frx.EDMPreconditioner(),
    )
    assert frx.sample(model, KEY, 3, grid=4).x.dtype == jnp.float32


def test_wide_logits_are_cast(x64):
    model = frx.discrete.CategoricalModel(
        lambda t, x, c: jnp.zeros((3, 4), jnp.float64),
        frx.discrete.CosineMasking(),
        prior=frx.discrete.UniformCategorical((3,), 4),
        dtype=jnp.float32,
    )
    assert model.logits(jnp.asarray(0.5, jnp.float32), jnp.zeros(3, jnp.int32)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (jnp.zeros(2, jnp.int32), "The network returned an array of dtype int32; it must return real floating-point"),
        (jnp.zeros(2, jnp.complex64), "The network returned an array of dtype complex64; it must return real"),
        (jnp.zeros(2, bool), "The network returned an array of dtype bool"),
        (0.0, "The network returned float; it must return an array"),
    ],
)
def test_other_outputs_are_refused(output, message):
    with pytest.raises(ValueError, match=message):
        frx.sample(model_of(jnp.float32, lambda t, x, c: output), KEY, 2, grid=2)
    model = frx.discrete.CategoricalModel(
        lambda t, x, c: output, frx.discrete.CosineMasking(), prior=frx.discrete.UniformCategorical((1,), 2)
    )
    with pytest.raises(ValueError, match=message):
        frx.sample(model, KEY, 2, grid=2)


def test_complex_weights_do_not_make_a_complex_model():
    class Spectral(eqx.Module):
        weight: jax.Array

        def __call__(self, t, x, condition):
            return jnp.real(self.weight * x)

    assert frx.Model(Spectral(jnp.ones(2, jnp.complex64)), frx.Linear(), shape=(2,)).dtype == jnp.float32


# Arguments.


MODEL = frx.Model(frx.nn.MLP((2,), key=KEY, width=4, depth=1, condition_size=1), frx.Linear(), shape=(2,))
ESTIMATOR = frx.DensityEstimator((2,), key=KEY)
CONDITIONAL = frx.DensityEstimator((2,), key=KEY, condition=0.0)
ONE = np.ones((2, 1))

DOORS = {
    "x0": lambda x: frx.sample(MODEL, KEY, 2, x0=x, grid=2, condition=0.0),
    "x": lambda x: frx.log_prob(MODEL, x, grid=2, condition=0.0),
    "x of bound": lambda x: frx.verb.variational_bound(MODEL, x, KEY, t_min=0.1, t_max=0.9),
    "data": lambda x: frx.fit(MODEL, x, KEY, condition=ONE, num_steps=1, progress=False),
    "validation": lambda x: frx.fit(MODEL, np.ones((2, 2)), KEY, validation=x, num_steps=1, progress=False),
    "condition": lambda x: frx.sample(MODEL, KEY, 2, condition=x, grid=2),
    "condition of fit": lambda x: frx.fit(MODEL, np.ones((2, 2)), KEY, condition=x, num_steps=1, progress=False),
    "condition=Batched": lambda x: frx.sample(MODEL, KEY, 2, condition=frx.Batched(x), grid=2),
    "y": lambda x: frx.LinearGaussian(np.eye(2), x, 1.0),
    "operator": lambda x: frx.LinearGaussian(x, np.ones(2), 1.0),
    "mean": lambda x: frx.prior.Gaussian((2, 2), mean=x),
    "data of prior": frx.prior.Empirical,
    "data of estimator": lambda x: ESTIMATOR.fit(x, KEY, num_steps=1, progress=False),
    "condition of estimator": lambda x: CONDITIONAL.fit(np.ones((2, 2)), KEY, condition=x),
    "shift": lambda x: frx.DensityEstimator((2, 2), key=KEY, shift=x),
    "x of oracle": lambda x: frx.oracle.Gaussian(np.zeros(2), np.eye(2)).log_prob(x),
}

QUANTITY = types.SimpleNamespace(unit="km", value=1.0)
REFUSED = {
    "complex": (np.ones((2, 2)) * 1j, r"is complex \(complex128\), but numbers must be real"),
    "complex of JAX": (jnp.ones((2, 2), jnp.complex64), r"is complex \(complex64\)"),
    "masked": (np.ma.masked_array(np.ones((2, 2)), [[0, 1], [0, 0]]), "is a masked array with 1 masked elements"),
    "units": (QUANTITY, r"has units \(km\), which would be lost"),
    "objects": (np.full((2, 2), None), "has dtype object, but an array of real numbers is expected"),
    "strings": (np.full((2, 2), "a"), "has dtype <U1"),
    "dates": (np.full((2, 2), "2020-01-01", "M8[D]"), r"has dtype datetime64\[D\]"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("door", DOORS)
def test_what_would_be_reinterpreted_is_refused(door, kind):
    value, message = REFUSED[kind]
    name = door.split(" of ")[0].partition("=")[0]
    with pytest.raises(ValueError, match=f"^{name} {message}"):
        DOORS[door](value)


@pytest.mark.parametrize("value", [16777217, -16777219, 2**53 + 1, 2**63 - 1])
def test_integers_that_are_not_exact_are_refused(value):
    with pytest.raises(ValueError, match=f"^x0 holds the integer {value}, which float32 cannot represent exactly"):
        frx.sample(model_of(jnp.float32), KEY, 1, x0=np.asarray([[0, value]]), grid=2)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(2**24, "float32"), (2**40, "float32"), (3 * 2**60, "float32"), (-(2**63), "float32"), (255, "bfloat16")],
)
def test_exact_integers_are_kept(value, dtype):
    assert int(as_numbers("x", np.asarray([value]), jnp.dtype(dtype))[0]) == value


def test_exact_integers_in_double_precision(x64):
    assert as_numbers("x", np.asarray([2**53]), jnp.float64)[0] == 2**53
    with pytest.raises(ValueError, match="x holds the integer 9007199254740993, which float64"):
        as_numbers("x", np.asarray([2**53 + 1], np.uint64), jnp.float64)


def test_integer_conditions_do_not_wrap():
    with pytest.raises(ValueError, match=f"condition holds the integer {2**32 + 1}, beyond the range of int32"):
        frx.sample(MODEL, KEY, 2, condition=np.asarray(2**32 + 1), grid=2)
    assert as_leaf("condition", np.asarray(7), jnp.float32) == 7


def test_integer_events_do_not_wrap():
    model = frx.discrete.CategoricalModel(
        lambda t, x, c: jnp.zeros((1, 4)), frx.discrete.CosineMasking(), prior=frx.discrete.UniformCategorical((1,), 4)
    )
    with pytest.raises(ValueError, match=f"x has classes from 0 to {2**32 + 1}; the prior has 4"):
        frx.log_prob(model, np.asarray([[0], [2**32 + 1]]), key=KEY)


def test_numbers_beyond_the_range_are_refused():
    with pytest.raises(ValueError, match="^x holds 1e\\+300, beyond the range of float32"):
        as_numbers("x", [1.0, 1e300], jnp.float32)
    with pytest.raises(ValueError, match="^x holds 70000, beyond the range of float16"):
        as_numbers("x", jnp.asarray([7e4]), jnp.float16)


def test_what_is_right_passes():
    unmasked = np.ma.masked_array([1.0, 2.0], [False, False])
    for value in ([1, 2], (1.0, 2.0), unmasked, jnp.asarray([1, 2]), [np.float32(1), 2], [jnp.asarray(1.0), 2.0]):
        assert jnp.array_equal(as_numbers("x", value, jnp.float32), jnp.asarray([1.0, 2.0]))
    assert jnp.array_equal(jax.jit(lambda x: as_numbers("x", [x, 2.0], jnp.float32))(1.0), jnp.asarray([1.0, 2.0]))


def test_common_dtype_of_numbers():
    assert [a.dtype for a in as_floats(a=jnp.ones(2, jnp.bfloat16), b=2.0)] == [jnp.bfloat16] * 2
    assert [a.dtype for a in as_floats(a=np.ones(2, np.float16), b=np.ones(2, np.float32))] == [jnp.float32] * 2
    assert [a.dtype for a in as_floats(a=1, b=[True])] == [jnp.float32] * 2


# Dtypes of models.


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64, bool])
def test_models_have_floating_dtypes(dtype):
    message = f"dtype={jnp.dtype(dtype)} is not a real floating-point dtype"
    with pytest.raises(ValueError, match=message):
        model_of(dtype)
    with pytest.raises(ValueError, match=message):
        frx.prior.Gaussian((2,), dtype=dtype)


def test_double_precision_must_be_enabled():
    with pytest.raises(ValueError, match="dtype=float64 needs jax.config.update"):
        model_of(jnp.float64)


# The absolute tolerance.


def test_unresolved_spread_warns():
    small = frx.oracle.Gaussian(jnp.zeros(2), jnp.diag(jnp.asarray([1.0, 1e-12]))).model(frx.Linear())
    with pytest.warns(UserWarning, match=r"sample: 1 of 2 coordinates vary by less than 10 atol \(atol=1e-05\)"):
        x = frx.sample(small, KEY, 64).x
    # The warning is right: the draws are far too wide.
    assert float(x[:, 1].std()) > 10e-6


@pytest.mark.accuracy
def test_resolved_spreads_do_not_warn():
    """Nor do grids, starts that were given, few draws, constants and solves under `jit`."""
    small = frx.oracle.Gaussian(jnp.zeros(2), jnp.diag(jnp.asarray([1.0, 1e-12]))).model(frx.Linear())
    constant = frx.Model(
        lambda t, x, c: jnp.stack([0.0 * x[0], -x[1] / (1.001 - t)]), frx.Linear(), shape=(2,), t_max=0.5
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = frx.sample(small, KEY, 64, atol=1e-8).x
        frx.sample(small, KEY, 64, grid=4)
        frx.sample(small, KEY, 16, x0=jnp.ones((16, 2)))
        frx.sample(small, KEY, 15)
        frx.sample(constant, KEY, 16)
        jax.jit(lambda key: frx.sample(small, key, 16).x)(KEY)
    assert abs(float(x[:, 1].std()) / 1e-6 - 1) < 5 / math.sqrt(2 * 64)

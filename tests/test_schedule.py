"""Every quantity of every schedule against float64 definitions in another form, and against two other libraries."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import flowrax as frx
import registry
from laws import MORE_SCHEDULES, SCHEDULES as COMMON

SCHEDULES = COMMON | MORE_SCHEDULES

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "schedules.npz")

NAMES = [
    "alpha",
    "sigma",
    "alpha_rate",
    "sigma_rate",
    "variance_rate",
    "log_snr",
    "drift",
    "diffusion",
    "diffusion_squared",
]

# Both ends, the nearest that float32 comes to them, and the middle.
TIMES = np.array(
    [0, 1e-20, 1e-6, 1e-4, 0.01, 0.1, 0.25, 0.5, 0.77, 0.9, 0.99, 1 - 1e-4, 1 - 1e-6, 1 - 2**-24, 1], np.float32
)


def _beta(s):
    """The integral over diffusion time of a rate that runs from 0.1 to 20."""
    return 0.1 * s + 19.9 * s**2 / 2


def _offset_cosine(nu, s, rest):
    """The cosine of an angle, by the sine of what it lacks to a right one (`rest`), and the square of its sine."""
    return (
        lambda t: np.sin(np.pi / 2 / (1 + s) * rest(t)),
        lambda t: np.sin(((1 - t) ** nu + s) / (1 + s) * np.pi / 2) ** 2,
    )


# (alpha, variance of the noise) as analytic functions of time, for derivatives by complex steps.
DEFINITIONS = {
    "linear": (lambda t: t, lambda t: (1 - t) ** 2),
    "cosine": (lambda t: np.sin(np.pi * t / 2), lambda t: np.cos(np.pi * t / 2) ** 2),
    "vp": (lambda t: np.exp(-_beta(1 - t) / 2), lambda t: 1 - np.exp(-_beta(1 - t))),
    "subvp": (lambda t: np.exp(-_beta(1 - t) / 2), lambda t: (1 - np.exp(-_beta(1 - t))) ** 2),
    "ve": (lambda t: 1 + 0 * t, lambda t: 0.01 ** (2 * t) * 50 ** (2 * (1 - t))),
    "edm": (lambda t: 1 + 0 * t, lambda t: (80 ** (1 / 7) + t * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 14),
    "cosine_snr": _offset_cosine(1, 0.008, lambda t: t),
    "cosine_snr_1.5": _offset_cosine(1.5, 0.02, lambda t: t * (3 - 3 * t + t**2) / (1 + (1 - t) ** 1.5)),
    "linear_snr": (lambda t: np.exp(-(1e-4 + 10 * (1 - t) ** 2) / 2), lambda t: -np.expm1(-1e-4 - 10 * (1 - t) ** 2)),
    "log_linear_snr": (
        lambda t: (1 + np.exp(7 - 20.5 * t)) ** -0.5,
        lambda t: 1 / (1 + np.exp(-7 + 20.5 * t)),
    ),
    "conditional OT": (lambda t: t, lambda t: (1 - 0.95 * t) ** 2),
    "polynomial": (lambda t: t**1.5, lambda t: (1 - t**1.5) ** 2),
}


def complex_step(function, t):
    """The derivative of an analytic function, exact to rounding."""
    return np.imag(function(t + 1e-30j)) / 1e-30


def log_snr(name, t):
    alpha, variance = DEFINITIONS[name]
    return np.log(alpha(t) ** 2 / variance(t))


def truth(name, t):
    """Every quantity at a float64 time in the open interval; the forward SDE by g^2 = sigma^2 d(log SNR)/dt."""
    alpha, variance = DEFINITIONS[name]
    alpha_rate, variance_rate = complex_step(alpha, t), complex_step(variance, t)
    squared = variance(t) * complex_step(lambda u: log_snr(name, u), t)
    return {
        "alpha": alpha(t),
        "sigma": np.sqrt(variance(t)),
        "alpha_rate": alpha_rate,
        "sigma_rate": variance_rate / (2 * np.sqrt(variance(t))),
        "variance_rate": variance_rate,
        "log_snr": log_snr(name, t),
        "drift": -complex_step(lambda u: np.log(alpha(u)), t),
        "diffusion": np.sqrt(squared),
        "diffusion_squared": squared,
    }


# What the definitions above give at the ends by their limits.
C = np.pi / 2


def _offset_end(s, speed):
    """At t = 1, where the angle is small but not zero and changes with `-speed`."""
    cos, sin = np.cos(s / (1 + s) * C), np.sin(s / (1 + s) * C)
    squared = 2 * speed * sin / cos
    return dict(
        alpha=cos,
        sigma=sin,
        alpha_rate=speed * sin,
        sigma_rate=-speed * cos,
        variance_rate=-2 * speed * sin * cos,
        log_snr=2 * np.log(cos / sin),
        drift=-speed * sin / cos,
        diffusion=np.sqrt(squared),
        diffusion_squared=squared,
    )


ENDS = {
    ("linear", 0): dict(alpha=0, sigma=1, alpha_rate=1, sigma_rate=-1, variance_rate=-2),
    ("linear", 1): dict(
        alpha=1, sigma=0, alpha_rate=1, sigma_rate=-1, variance_rate=0, drift=-1, diffusion=0, diffusion_squared=0
    ),
    ("conditional OT", 0): dict(alpha=0, sigma=1, alpha_rate=1, sigma_rate=-0.95, variance_rate=-1.9),
    ("cosine", 0): dict(alpha=0, sigma=1, alpha_rate=C, sigma_rate=0, variance_rate=0),
    ("cosine", 1): dict(
        alpha=1, sigma=0, alpha_rate=0, sigma_rate=-C, variance_rate=0, drift=0, diffusion=0, diffusion_squared=0
    ),
    ("cosine_snr", 0): dict(alpha=0, sigma=1, alpha_rate=C / 1.008, sigma_rate=0, variance_rate=0),
    ("cosine_snr", 1): _offset_end(0.008, C / 1.008),
    ("cosine_snr_1.5", 0): dict(alpha=0, sigma=1, alpha_rate=1.5 * C / 1.02, sigma_rate=0, variance_rate=0),
    ("cosine_snr_1.5", 1): _offset_end(0.02, 0),
    ("polynomial", 0): dict(alpha=0, sigma=1, alpha_rate=0, sigma_rate=0, variance_rate=0),
    ("polynomial", 1): dict(
        alpha=1, sigma=0, alpha_rate=1.5, sigma_rate=-1.5, variance_rate=0, drift=-1.5, diffusion=0, diffusion_squared=0
    ),
    ("vp", 1): dict(
        alpha=1, sigma=0, alpha_rate=0.05, variance_rate=-0.1, drift=-0.05, diffusion=0.1**0.5, diffusion_squared=0.1
    ),
    ("subvp", 1): dict(
        alpha=1,
        sigma=0,
        alpha_rate=0.05,
        sigma_rate=-0.1,
        variance_rate=0,
        drift=-0.05,
        diffusion=0,
        diffusion_squared=0,
    ),
}


@pytest.fixture(scope="module")
def computed():
    """Every quantity of every schedule at `TIMES` in float32, under jit."""

    @jax.jit
    def evaluate(t):
        return {name: {q: getattr(s, q)(t) for q in NAMES} for name, s in SCHEDULES.items()}

    return jax.tree.map(np.asarray, evaluate(jnp.asarray(TIMES)))


def worst(got, want):
    return np.max(np.abs(got - want) / np.maximum(1, np.abs(want)))


@pytest.mark.parametrize("quantity", NAMES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_float32_is_accurate(name, quantity, computed):
    t = TIMES.astype(np.float64)
    got = computed[name][quantity]
    assert got.dtype == np.float32
    inside = (t > 0) & (t < 1)
    assert worst(got[inside], truth(name, t[inside])[quantity]) <= 1e-5
    for end in (0, 1):
        if registry.is_singular(SCHEDULES[name], quantity, float(end)):
            continue
        want = ENDS[name, end][quantity] if (name, end) in ENDS else truth(name, float(end))[quantity]
        assert worst(got[t == end], want) <= 1e-5


@pytest.mark.parametrize("name", SCHEDULES)
def test_infinite_exactly_where_singularities_says(name, computed):
    for quantity in NAMES:
        finite = np.isfinite(computed[name][quantity])
        assert finite[1:-1].all(), quantity
        for end in (0, -1):
            assert finite[end] != registry.is_singular(SCHEDULES[name], quantity, float(TIMES[end])), (quantity, end)


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_at_inverts_log_snr(name, computed):
    """The times that a bracketing root finder gives in float64."""
    inside = (TIMES > 1e-7) & (TIMES < 1)
    values = computed[name]["log_snr"][inside]
    low, high = (log_snr(name, t) for t in (1e-12, 1 - 1e-12))
    roots = [
        scipy.optimize.brentq(lambda t, v=v: log_snr(name, t) - v, 1e-12, 1 - 1e-12, xtol=1e-14)
        for v in np.clip(values.astype(np.float64), low, high)
    ]
    got = SCHEDULES[name].time_at(jnp.asarray(values))
    assert got.dtype == np.float32
    assert worst(np.asarray(got), np.asarray(roots)) <= 1e-5
    assert worst(np.asarray(got), TIMES[inside]) <= 1e-5


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_snr_increases(name, computed):
    assert (np.diff(computed[name]["log_snr"]) >= 0).all()
    assert (np.diff(computed[name]["log_snr"][2:13]) > 0).all()


TORCHEBM = {
    "linear": frx.Linear(),
    "cosine": frx.Cosine(),
    "vp": frx.VariancePreserving(),
    "vp_0.2_10": frx.VariancePreserving(0.2, 10.0),
}
FLOWFUSION = {
    "ve": frx.VarianceExploding(0.01, 10.0),
    "ve_0.05_25": frx.VarianceExploding(0.05, 25.0),
    "vp": frx.VariancePreserving(),
    "vp_0.2_10": frx.VariancePreserving(0.2, 10.0),
    "subvp": frx.SubVariancePreserving(),
    "subvp_0.2_10": frx.SubVariancePreserving(0.2, 10.0),
}


@pytest.mark.parametrize("name", TORCHEBM)
def test_agrees_with_torchebm(name, x64):
    """Its time is ours; its drift variance is half our g^2. It clamps both ends, so they are left out."""
    t = jnp.asarray(REFERENCE["t"][1:-1])
    pairs = {"alpha": "alpha", "dalpha": "alpha_rate", "sigma": "sigma", "dsigma": "sigma_rate"}
    for theirs, ours in pairs.items():
        want = REFERENCE[f"torchebm/{name}/{theirs}"][1:-1]
        assert worst(getattr(TORCHEBM[name], ours)(t), want) <= 1e-10, ours
    want = 2 * REFERENCE[f"torchebm/{name}/drift_var"][1:-1]
    assert worst(TORCHEBM[name].diffusion_squared(t), want) <= 1e-10


@pytest.mark.parametrize("name", FLOWFUSION)
def test_agrees_with_flowfusion(name, x64):
    """Its time is diffusion time; it holds sigma_min as a float32."""
    t = 1 - jnp.asarray(REFERENCE["t"])
    for quantity in ("alpha", "sigma", "diffusion"):
        want = REFERENCE[f"flowfusion/{name}/{quantity}"]
        assert worst(getattr(FLOWFUSION[name], quantity)(t), want) <= 3e-7, quantity
    want = REFERENCE[f"flowfusion/{name}/drift_coefficient"]
    known = np.isfinite(want)
    assert known.sum() >= 10
    assert worst(FLOWFUSION[name].drift(t)[known], want[known]) <= 1e-10


def test_scales_are_computed_in_the_dtype_of_the_time():
    """A float16 state is served by a float32 time: in float16 the time alone is off by twice the bound."""
    scales = frx.Cosine().scales(jnp.asarray(0.9, jnp.float32), np.float16)
    assert scales.sigma.dtype == np.float16
    assert float(scales.sigma) == pytest.approx(np.sin(np.pi / 20), rel=float(np.finfo(np.float16).eps))


@pytest.mark.parametrize(
    "make",
    [
        lambda: frx.VariancePreserving(0.0, 20.0),
        lambda: frx.SubVariancePreserving(2.0, 1.0),
        lambda: frx.VarianceExploding(1.0, 1.0),
        lambda: frx.EDM(-0.1, 1.0),
        lambda: frx.EDM(rho=0.0),
    ],
)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(ValueError, match=r"^(beta|sigma|rho) .*got [\d.-]+( and [\d.-]+)?\.$"):
        make()

"""Schedules that are learned, tabulated or retimed, the use of the less common ones, and other libraries' clocks."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowrax as frx
import registry
from flowrax import schedule as S
from laws import MORE_SCHEDULES, assert_moments, mixture, moments

LEARNED = S.LearnedSNR(jax.random.key(3), -6.0, 9.0)
TABLE = S.ddpm_cosine(8, beta_max=0.9)
COMPOSED = {
    "learned": LEARNED,
    "tabulated": S.Tabulated(TABLE),
    "shifted": S.ResolutionShift(frx.Linear(), 3.0),
    "shifted_vp": S.ResolutionShift(frx.VariancePreserving(), 0.4),
}
USED = {n: s for n, s in (MORE_SCHEDULES | COMPOSED).items() if n not in ("cosine_snr_1.5", "shifted_vp")}
QUANTITIES = ["alpha", "sigma", "alpha_rate", "sigma_rate", "variance_rate", "log_snr", "drift", "diffusion_squared"]


@pytest.mark.parametrize("name", COMPOSED)
def test_rates_follow_from_scales(name, x64):
    """By reverse-mode derivatives, between the kinks of a table, and the forward SDE keeps the marginal variance."""
    s, t = COMPOSED[name], jnp.asarray([0.01, 0.2, 0.35, 0.55, 0.83, 0.99])
    d = lambda f: jax.vmap(jax.grad(f))(t)  # noqa: E731
    assert np.allclose(s.alpha_rate(t), d(s.alpha), rtol=1e-9)
    assert np.allclose(s.sigma_rate(t), d(s.sigma), rtol=1e-9)
    assert np.allclose(s.variance_rate(t), d(lambda u: s.sigma(u) ** 2), rtol=1e-9)
    assert np.allclose(s.log_snr(t), np.log((s.alpha(t) / s.sigma(t)) ** 2), rtol=1e-9, atol=1e-9)
    assert np.allclose(s.diffusion_squared(t), s.sigma(t) ** 2 * d(s.log_snr), rtol=1e-9)
    assert np.allclose(s.time_at(s.log_snr(t)), t, atol=1e-12)


@pytest.mark.parametrize("name", COMPOSED)
def test_infinite_exactly_where_singularities_says(name):
    s = COMPOSED[name]
    values = {q: np.asarray(getattr(s, q)(jnp.asarray([0.0, 0.5, 1.0]))) for q in QUANTITIES}
    for quantity, value in values.items():
        assert value.dtype == np.float32
        finite = [not registry.is_singular(s, quantity, 0.0), True, not registry.is_singular(s, quantity, 1.0)]
        assert np.isfinite(value).tolist() == finite, quantity


@pytest.mark.parametrize("name", [n for n in COMPOSED if n != "shifted"])
def test_time_at_of_float32_ends(name):
    s = COMPOSED[name]
    t = jnp.asarray([0.0, 1e-3, 0.5, 0.999])
    assert np.allclose(s.time_at(s.log_snr(t)), t, atol=2e-5)


def test_a_table_passes_through_its_chain(x64):
    """Its continuous process has the chain's scales at every index, and its bridge is the chain's posterior."""
    s, t = S.Tabulated(TABLE), TABLE.time(jnp.arange(8))
    assert np.allclose(s.alpha(t), TABLE.data_scale, rtol=1e-12)
    assert np.allclose(s.sigma(t), TABLE.noise_scale, rtol=1e-12)
    assert np.allclose(s.log_snr(t), TABLE.log_snr, rtol=1e-10, atol=1e-12)
    assert (s.alpha(1.0), s.sigma(1.0)) == (1, 0)


def test_linear_rates_tend_to_vp(x64):
    """The distance falls with the number of steps, at first order."""
    t = jnp.linspace(0, 0.95, 9)
    off = [
        np.max(np.abs(S.Tabulated(S.ddpm_linear(n, 0.1 / n, 20 / n)).alpha(t) - frx.VariancePreserving().alpha(t)))
        for n in (400, 1600)
    ]
    assert abs(np.log(off[0] / off[1]) / np.log(4) - 1) <= 0.15


def test_shift_of_the_straight_path_is_a_shift_of_the_log_snr(x64):
    t = jnp.linspace(0.05, 0.95, 7)
    shifted = S.ResolutionShift(frx.Linear(), 3.0)
    assert np.allclose(shifted.log_snr(t), frx.Linear().log_snr(t) - 2 * np.log(3), rtol=1e-12)


def test_shift_in_diffusion_time_is_the_usual_formula(x64):
    """DiffuseNNX's `t_shift`, at its own shifts, and back."""
    reference = np.load(pathlib.Path(__file__).parent / "reference" / "nnx_interfaces.npz")
    path = jnp.linspace(0, 1, 21)
    for shift, name in ((2.0, "t_shift_2"), (0.5, "t_shift_0.5")):
        assert np.allclose(1 - S.shift_time(1 - path, shift), reference[name], atol=1e-14)
        assert np.allclose(S.shift_time(S.shift_time(path, shift), 1 / shift), path, atol=1e-14)


def test_clocks(x64):
    t = jnp.asarray([0.1, 0.5, 0.9])
    for clock in (
        S.DiffusionClock(),
        S.DiffusionClock(2.0),
        S.IndexClock(1000),
        S.SigmaClock(frx.EDM()),
        S.LogSNRClock(frx.VariancePreserving()),
    ):
        assert np.allclose(clock.ours(clock.theirs(t)), t, atol=1e-12)
    assert np.allclose(S.SigmaClock(frx.EDM()).theirs(jnp.asarray([0.0, 1.0])), [80, 0.002])
    assert np.allclose(S.DiffusionClock(2.0).theirs(jnp.asarray([0.0, 1.0])), [2, 0])
    assert np.allclose(S.IndexClock(8).ours(jnp.arange(8.0)), TABLE.time(jnp.arange(8)))


def test_derivatives_of_rates_at_the_ends():
    """Where a power of zero is differentiated: the curvatures of a circle and of a parabola."""
    with jax.debug_nans(True):
        s, squared = S.CosineSNR(), (np.pi / 2 / 1.008) ** 2
        for t in (0.0, 1.0):
            assert np.allclose(jax.grad(s.alpha_rate)(t), -squared * s.alpha(t), rtol=1e-5, atol=1e-6)
            assert np.allclose(jax.grad(s.sigma_rate)(t), -squared * s.sigma(t), rtol=1e-5, atol=1e-6)
        assert jax.grad(S.Polynomial(2.0).alpha_rate)(0.0) == 2
        assert jax.grad(S.Polynomial(1.0).sigma_rate)(0.0) == 0


def test_cosine_snr_without_offset_is_the_cosine(x64):
    t = jnp.linspace(0, 1, 9)
    bare = S.CosineSNR(s=0.0)
    for quantity in QUANTITIES[:5]:
        assert np.allclose(getattr(bare, quantity)(t), getattr(frx.Cosine(), quantity)(t), atol=1e-14)
    assert 1.0 in bare.singularities.log_snr and 1.0 not in S.CosineSNR().singularities.log_snr


def test_rates_of_a_slow_cosine_are_infinite_where_it_says():
    s = S.CosineSNR(nu=0.5)
    for quantity in QUANTITIES:
        value = getattr(s, quantity)(jnp.asarray([0.0, 0.5, 1.0]))
        finite = [not registry.is_singular(s, quantity, 0.0), True, not registry.is_singular(s, quantity, 1.0)]
        assert np.isfinite(value).tolist() == finite, quantity


@pytest.mark.accuracy
def test_learned_log_snr_increases_for_any_parameters(key, x64):
    t = jnp.linspace(0, 1, 201)
    for k in jax.random.split(key, 5):
        leaves, structure = jax.tree.flatten(eqx.filter(LEARNED, eqx.is_inexact_array))
        leaves = [2 * jax.random.normal(jax.random.fold_in(k, i), x.shape) for i, x in enumerate(leaves)]
        wild = eqx.combine(jax.tree.unflatten(structure, leaves), LEARNED)
        values = np.asarray(wild.log_snr(t))
        assert (np.diff(values) > 0).all()
        assert np.allclose(values[np.array([0, -1])], [-6, 9])
        assert np.allclose(wild.time_at(values), t, atol=1e-10)


@pytest.mark.accuracy
def test_the_inverse_of_a_learned_log_snr_has_gradients(x64):
    """By the implicit function theorem, against finite differences in a parameter and in the value."""

    def time(parameters, value):
        return eqx.combine(parameters, eqx.filter(LEARNED, eqx.is_inexact_array, inverse=True)).time_at(value)

    parameters = jax.tree.map(lambda x: x.astype(np.float64), eqx.filter(LEARNED, eqx.is_inexact_array))
    value = jnp.asarray(1.3)
    slope = jax.grad(time, argnums=1)(parameters, value)
    assert float(slope) == pytest.approx(1 / float(LEARNED.log_snr_rate(LEARNED.time_at(value))), rel=1e-8)
    moved = lambda e: eqx.tree_at(lambda p: p.log_weight, parameters, parameters.log_weight + e)  # noqa: E731
    got = jnp.sum(jax.grad(time)(parameters, value).log_weight)
    want = (time(moved(1e-4), value) - time(moved(-1e-4), value)) / 2e-4
    assert float(got) == pytest.approx(float(want), rel=1e-5)


class _ToCosine(frx.loss.AbstractLoss):
    """The distance of a model's log-SNR from another one."""

    times: frx.times.AbstractTimes = frx.times.Uniform()

    def __call__(self, model, t, x0, x1, condition=None, *, key=None):
        return (model.schedule.log_snr(t) - S.CosineSNR(s=0.2).log_snr(0.05 + 0.9 * t)) ** 2


def test_fit_trains_the_schedule(key):
    """Its parameters and its ends come to a curve whose ends and bends it did not have."""
    target = lambda t: S.CosineSNR(s=0.2).log_snr(0.05 + 0.9 * t)  # noqa: E731
    schedule = S.LearnedSNR(key, -6.0, 9.0, learn_ends=True)
    model = frx.Model(lambda t, x, c: x, schedule, shape=(1,), dtype=np.float32)
    result = frx.fit(
        model,
        jnp.zeros((8, 1)),
        key,
        loss=_ToCosine(),
        optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 1500)),
        num_steps=1500,
        batch_size=64,
        progress=False,
        ema_decay=0.0,
    )
    t = jnp.linspace(0, 1, 11)
    before, after = (np.max(np.abs(m.schedule.log_snr(t) - target(t))) for m in (model, result.model))
    assert before > 2 and after < 0.1


@pytest.mark.accuracy
@pytest.mark.parametrize("name", USED)
def test_exact_model_is_sampled_and_evaluated(name, key, x64):
    """The flow of a mixture: moments of draws, and the exact log-density of each."""
    model = mixture(3, 2, jnp.float64).model(USED[name])
    samples = frx.sample(model, key, 100, with_log_prob=True, divergence=frx.Exact(), rtol=1e-6, atol=1e-6)
    law = model.source_at(1.0)
    assert_moments(samples.x, *moments(law))
    off = np.abs(samples.log_prob - jax.vmap(law.log_density)(samples.x))
    # The eight rates of the table jump, and the polynomial's velocity starts like a root: both cost accuracy.
    assert np.max(off) <= {"tabulated": 1e-2, "polynomial": 1e-3}.get(name, 2e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S.LogLinearSNR(1.0, 1.0), "log-SNR needs minimum < maximum; got 1.0 and 1.0."),
        (lambda: S.LearnedSNR(jax.random.key(0), 1.0, 0.0), "log-SNR needs minimum < maximum; got 1.0 and 0.0."),
        (lambda: S.LinearSNR(0.0), "minimum and growth must be positive; got 0.0 and 10.0."),
        (lambda: S.CosineSNR(nu=0.0), "nu must be positive and s not negative; got 0.0 and 0.008."),
        (lambda: S.Polynomial(0.5), "exponent must be at least 1; got 0.5."),
        (lambda: S.ResolutionShift(frx.Linear(), 0.0), "shift must be positive; got 0.0."),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_a_learned_schedule_beyond_its_ends(x64):
    got = LEARNED.time_at(jnp.array([-100.0, -6.0, 9.0, 40.0]))
    np.testing.assert_allclose(got, [0.0, 0.0, 1.0, 1.0], atol=1e-12)
    np.testing.assert_allclose([LEARNED.log_snr(0.0), LEARNED.log_snr(1.0)], [-6.0, 9.0], rtol=1e-12)

"""The table of conversions on exact expectations, the gain of each target, and EDM's preconditioner."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.stepper.exponential.kernel import converted
from laws import MORE_SCHEDULES, SCHEDULES, covariances, mixture

TARGETS = {"data": frx.Data(), "noise": frx.Noise(), "velocity": frx.Velocity(), "score": frx.Score(), "v": frx.V()}
TIMES = np.array([0.02, 0.3, 0.7, 0.97])


@pytest.fixture(scope="module")
def exact():
    """Per schedule: times, events `(4, 10, 2)`, and data, noise, velocity and score, none of them by the table.

    The score is the gradient of the log-density, the data Tweedie's formula, and the velocity the derivative of the
    path between expected data and noise.
    """

    def expectations(schedule, oracle):
        def one(t, x):
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            score = jax.grad(lambda x: oracle.marginal_log_prob(schedule, t, x[None])[0])(x)
            data, noise = (x + sigma**2 * score) / alpha, -sigma * score
            path = lambda t: schedule.alpha(t) * data + schedule.sigma(t) * noise  # noqa: E731
            _, velocity = jax.jvp(path, (t,), (jnp.ones_like(t),))
            v = alpha * noise - sigma * data
            return {"data": data, "noise": noise, "velocity": velocity, "score": score, "v": v}

        times = jnp.asarray(TIMES)[:, None].repeat(10, 1)
        key = jax.random.key(0)
        data, noise = oracle.sample(key, (4, 10)), jax.random.normal(key, (4, 10, 2))
        x = schedule.alpha(times)[..., None] * data + schedule.sigma(times)[..., None] * noise
        return times, x, jax.jit(jax.vmap(jax.vmap(one)))(times, x)

    with jax.enable_x64(True):
        oracle = mixture(5, 2, "float64")
        return {name: expectations(schedule, oracle) for name, schedule in SCHEDULES.items()}


def convert(target, schedule, form, t, x, output):
    """The model whose network gives `output`, read in `form`."""
    scales = schedule.scales(t)
    prediction = converted(output, x, scales, target)
    if form == "v":
        return frx.V().from_pair(prediction.data, prediction.noise, scales)
    return getattr(prediction, form)


@pytest.mark.parametrize("name", SCHEDULES)
def test_all_conversions(name, exact, x64):
    """From each of the five to each of the five."""
    schedule, (t, x, forms) = SCHEDULES[name], exact[name]
    for source, target in TARGETS.items():
        for form, want in forms.items():
            one = lambda t, x, out, target=target, form=form: convert(target, schedule, form, t, x, out)  # noqa: E731
            got = jax.vmap(jax.vmap(one))(t, x, forms[source])
            size = 1 + np.abs(want).max(axis=(1, 2), keepdims=True)
            assert np.max(np.abs(got - want) / size) <= 1e-9, (source, form)


@pytest.mark.parametrize("name", SCHEDULES)
def test_of_is_the_value_of_the_target(name, exact, x64):
    """`from_pair` the exact data and noise is the exact value of each target."""
    t, _, forms = exact[name]
    for source, target in TARGETS.items():
        of = lambda t, data, noise, target=target: target.from_pair(data, noise, SCHEDULES[name].scales(t))  # noqa: E731
        got = jax.vmap(jax.vmap(of))(t, forms["data"], forms["noise"])
        size = 1 + np.abs(forms[source]).max(axis=(1, 2), keepdims=True)
        assert np.max(np.abs(got - forms[source]) / size) <= 1e-10, source


@pytest.mark.parametrize("name", SCHEDULES)
def test_oracle_predicts_the_exact_expectations(name, exact, x64):
    model, (t, x, forms) = mixture(5, 2, "float64").model(SCHEDULES[name]), exact[name]

    def one(t, x):
        p = model.predict(t, x)
        return {"data": p.data, "noise": p.noise, "velocity": p.velocity, "score": p.score}

    for form, got in jax.jit(jax.vmap(jax.vmap(one)))(t, x).items():
        size = 1 + np.abs(forms[form]).max(axis=(1, 2), keepdims=True)
        assert np.max(np.abs(got - forms[form]) / size) <= 1e-9, form


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_gain_is_the_slope_of_the_target_in_the_data(target, x64):
    """A difference quotient at fixed x, where the noise makes up for a change of the data."""
    step, x, data = 1e-3, jnp.asarray(0.7), jnp.asarray(0.2)
    for schedule in SCHEDULES.values():
        for t in TIMES:
            s = schedule.scales(t)
            low, high = (target.from_pair(d, (x - s.alpha * d) / s.sigma, s) for d in (data - step, data + step))
            # `from_pair` is linear in the data, so that the quotient is exact but for rounding.
            assert float(target.gain(s)) == pytest.approx(float(high - low) / (2 * step), rel=1e-8)


def zero(t, x, condition):
    return jnp.zeros_like(x)


@pytest.mark.parametrize("name", SCHEDULES)
def test_preconditioned_zero_network_is_exact_for_its_gaussian(name, x64):
    """With nothing learnt the denoiser is that of N(0, sigma_data^2): so are velocity and score."""
    schedule, std = SCHEDULES[name], 0.7
    preconditioner = frx.EDMPreconditioner(std)
    model = frx.Model(zero, schedule, frx.Data(), shape=(2,), preconditioner=preconditioner, dtype=np.float64)
    oracle = frx.oracle.Gaussian(np.zeros(2), std**2 * np.eye(2)).model(schedule)
    x = jnp.asarray([0.3, -2.0])
    both = jax.jit(
        lambda t: tuple((p.data, p.noise, p.velocity, p.score) for p in (m.predict(t, x) for m in (model, oracle)))
    )
    for t in (model.t_min, *TIMES, model.t_max):
        got, want = both(jnp.asarray(t))
        for a, b in zip(got, want, strict=True):
            # The score from data is divided by sigma^2, which is 1e-8 at the end of sub-VP.
            assert np.allclose(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_preconditioner_scales_to_unit_variance(name, x64):
    """The network's input and its regression target have unit variance for data of standard deviation `sigma_data`."""
    schedule, std, n = SCHEDULES[name], 0.7, 20_000
    data, noise = jax.random.normal(jax.random.key(0), (2, n))
    identity = lambda t, x, condition: x  # noqa: E731
    scale = frx.EDMPreconditioner(std)
    for t in (0.05, 0.6, 0.95):
        x = schedule.alpha(t) * std * data + schedule.sigma(t) * noise
        skipped = scale(zero, schedule, t, x, None)
        # With the identity for a network, output = skip x + out (in x); with ones, output = skip x + out.
        out = scale(lambda t, x, c: jnp.ones_like(x), schedule, t, x, None) - skipped
        seen = (scale(identity, schedule, t, x, None) - skipped) / out
        wanted = (std * data - skipped) / out
        assert abs(float(jnp.var(seen)) - 1) <= 5 * (2 / n) ** 0.5
        assert abs(float(jnp.var(wanted)) - 1) <= 5 * (2 / n) ** 0.5


def test_preconditioner_tells_the_network_the_noise_level(x64):
    """A quarter of log sigma, as in the paper, where the data is not scaled."""
    told = []
    frx.EDMPreconditioner(0.5)(lambda t, x, c: told.append(t) or x, frx.EDM(), jnp.asarray(0.4), jnp.ones(2), None)
    assert float(told[0]) == pytest.approx(np.log(float(frx.EDM().sigma(0.4))) / 4, rel=1e-12)


INTERVALS = {
    ("linear", "velocity"): (0.0, 1.0),
    ("linear", "data"): (0.0, 0.999),
    ("linear", "noise"): (0.01, 1.0),
    ("linear", "score"): (0.01, 0.999),
    ("linear", "v"): (0.0, 1.0),
    ("vp", "velocity"): (0.0, 0.999),
    ("vp", "noise"): (0.0, 0.999),
    ("subvp", "noise"): (0.0, 1.0),
    ("subvp", "score"): (0.0, 0.999),
    ("ve", "score"): (0.0, 1.0),
    ("edm", "data"): (0.0, 1.0),
}


@pytest.mark.parametrize(("schedule", "target"), INTERVALS)
def test_interval_is_where_the_velocity_is_finite(schedule, target):
    """The documented interval, on whose ends the velocity of a bounded network is finite."""
    model = frx.Model(lambda t, x, c: jnp.tanh(x), SCHEDULES[schedule], TARGETS[target], shape=(2,), dtype=np.float32)
    assert (model.t_min, model.t_max) == INTERVALS[schedule, target]
    for t in (model.t_min, model.t_max):
        assert np.all(np.isfinite(model.predict(jnp.asarray(t), jnp.ones(2)).velocity))


def test_covariances_are_full(x64):
    """What the mixtures of these tests are made of would hide errors if it were diagonal."""
    cov = np.asarray(covariances(jax.random.key(0), 3, 4, jnp.float64))
    assert np.all(np.linalg.eigvalsh(cov) >= 0.05 - 1e-12)
    assert np.all(np.abs(cov[:, ~np.eye(4, dtype=bool)]).max(axis=1) > 0.1)


@pytest.mark.parametrize(
    ("schedule", "end"),
    [(frx.schedule.Polynomial(2.0), 0), (frx.schedule.LinearSNR(), 1), (frx.schedule.CosineSNR(2.0), 1)],
    ids=["polynomial", "linear_snr", "cosine_snr"],
)
def test_a_velocity_that_does_not_give_the_data(schedule, end, x64):
    """The flow runs to the end; the score, other paths, solvers of the data and last steps stop short, or say so."""
    exact = mixture(3, 2, "float64").model(schedule)
    model = frx.Model(lambda t, x, c: exact.predict(t, x).velocity, schedule, shape=(2,), dtype="float64")
    assert (model.t_min, model.t_max)[end] == end
    assert model.score_interval[end] == (0.01, 0.999)[end]
    x, t = jnp.array([0.4, -0.7]), jnp.asarray(model.score_interval[end])
    np.testing.assert_allclose(model.predict(t, x).score, exact.predict(t, x).score, rtol=1e-6)
    # From the noise at t = 0, or to what is left of it at t = 1.
    ours, theirs = frx.warp(model, frx.VariancePreserving()), frx.warp(exact, frx.VariancePreserving())
    t = jnp.asarray((ours.t_min, ours.t_max)[end])
    np.testing.assert_allclose(ours.predict(t, x).velocity, theirs.predict(t, x).velocity, rtol=1e-6)
    solver = (frx.DDIM(), frx.EDMHeun())[end]
    refusal = rf"needs the data prediction at t={end}\.0, where a velocity on .* give the model t_m"
    with pytest.raises(ValueError, match=refusal):
        frx.sample(model, jax.random.key(0), 1, solver=solver, grid=4)
    if end == 1:
        with pytest.raises(ValueError, match=r"^Tweedie needs the data prediction at t=1\.0"):
            frx.sample(model, jax.random.key(0), 1, grid=4, solver=dfx.Heun(), last_step=frx.Tweedie())


def test_declared_determinants_vanish(x64):
    """At the ends that a schedule names, and at no other, by its rates."""
    for name, schedule in {**SCHEDULES, "polynomial": frx.schedule.Polynomial(3.0), **MORE_SCHEDULES}.items():
        for end in (0.0, 1.0):
            s = schedule.scales(jnp.asarray(end))
            vanishes = float(s.alpha * s.sigma_rate - s.alpha_rate * s.sigma) == 0
            assert vanishes == (end in schedule.singularities.determinant), (name, end)

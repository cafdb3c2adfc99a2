"""Steps of chains: the same numbers as the verbs', laws in closed form, posteriors by conditioning joint Gaussians."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import flowrax as frx
from flowrax import dynamics as dyn
from flowrax.dynamics.chain import CFM, DDPM, VDM
from flowrax.schedule import DiscreteSchedule, Tabulated, ddpm_cosine, ddpm_linear
from flowrax.stepper.brownian import GridBrownianPath
from laws import assert_moments, mixture, moments

ODD = dyn.Odds(offset=0.05)

# A chain's method with its options, and the dynamics and solver of the same steps.
SAME = {
    "ancestral": (VDM, "step", {}, frx.ReverseSDE(), frx.DDIM()),
    "noise": (VDM, "step_noise", {}, frx.ReverseSDE(), frx.DDIM()),
    "eta": (VDM, "step_ddim", {"eta": 0.6}, frx.ReverseSDE(dyn.SBDM(0.36)), frx.DDIM()),
    "ddim": (VDM, "step_ddim", {}, frx.ProbabilityFlow(), frx.DDIM()),
    "hybrid": (
        VDM,
        "step_hybrid_sde",
        {"equilibrium_rate": 1.5, "temperature": 0.7},
        frx.HybridSDE(1.5, temperature=0.7),
        dfx.Euler(),
    ),
    "tempered": (VDM, "step_ode", {"temperature": 0.7}, frx.TemperedFlow(0.7), dfx.Euler()),
    "flow": (CFM, "step", {}, frx.ProbabilityFlow(), dfx.Euler()),
    "stochastic": (
        CFM,
        "step_score_stochastic",
        {"diffusion": ODD, "score_temperature": 1.2, "noise_temperature": 0.8, "t_ode": 0.7},
        frx.StochasticFlow(ODD, score_temperature=1.2, noise_temperature=0.8, t_ode=0.7),
        dfx.Euler(),
    ),
}


def noises(key, index, times, shape):
    """The standard normal draws of sample `index` of `frx.sample`, one a step."""
    noise_key = jax.random.split(jax.random.fold_in(key, index), 4)[1]
    path = GridBrownianPath(times, shape, jax.random.fold_in(noise_key, 0), dtype=times.dtype)
    ends = zip(times[:-1], times[1:], strict=True)
    return [path.evaluate(t0, t1) / jnp.sqrt(t1 - t0) for t0, t1 in ends]


@pytest.mark.accuracy
@pytest.mark.parametrize("name", SAME)
def test_steps_are_those_of_sample(name, key, x64):
    chain, method, options, dynamics, solver = SAME[name]
    model = mixture(3, 2, "float64").model(frx.VariancePreserving())
    times = jnp.asarray([0.0, 0.2, 0.5, 0.8, 1.0])
    x0 = jnp.asarray([[0.3, -1.0], [1.2, 0.4]])
    want = frx.sample(model, key, 2, x0=x0, dynamics=dynamics, solver=solver, grid=times).x
    steps = chain(model.schedule)
    draws = {"step_ddim": "eta" in options, "step": chain is VDM, "step_ode": False}.get(method, True)
    predict = jax.jit(lambda t, x: model.predict(t, x))
    for i, x in enumerate(x0):
        for t0, t1, xi in zip(times[:-1], times[1:], noises(key, i, times, (2,)), strict=True):
            more = {"noise": xi} if draws else {}
            x = getattr(steps, method)(predict(t0, x), t0, x, t1 - t0, **options, **more)
        np.testing.assert_allclose(x, want[i], rtol=1e-10, atol=1e-12)


def test_key_and_noise_agree(key):
    """A step draws from its key what it may be given instead."""
    vdm, x = VDM(frx.Cosine()), jnp.float32([0.5, -0.2])
    prediction = vdm.predict(jnp.float32([1.0, 0.0]), 0.4, x)
    noise = jax.random.normal(key, (2,), jnp.float32)
    np.testing.assert_array_equal(
        vdm.step(prediction, 0.4, x, 0.1, key=key), vdm.step(prediction, 0.4, x, 0.1, noise=noise)
    )


COUNTS = np.array([200, 400, 800])


def assert_first_order(step, model, want, last=1.0, first=0.0):
    """The variance at the end of a chain of steps that are affine in one dimension, from the exact law at the start."""
    grids = [np.linspace(first, last, n + 1) for n in COUNTS]
    t0, dt = np.concatenate([grid[:-1] for grid in grids]), np.concatenate([np.diff(grid) for grid in grids])
    one, none = jnp.ones(1), jnp.zeros(1)

    def both(t, dt):
        keep = step(model.predict(t, one), t, one, dt, none)
        return keep[0], step(model.predict(t, none), t, none, dt, one)[0]

    start, errors = float(model.source_at(first).covariance[0, 0]), []
    factors = np.stack(jax.jit(jax.vmap(both))(jnp.asarray(t0), jnp.asarray(dt)))
    for part in np.split(factors, np.cumsum(COUNTS)[:-1], axis=1):
        value = start
        for keep, std in part.T:
            value = keep**2 * value + std**2
        errors.append(abs(value - want))
    assert abs(-np.polyfit(np.log(COUNTS), np.log(errors), 1)[0] - 1) <= 0.15
    assert errors[-1] < 0.05 * want


def unit(schedule):
    """The model of one standard normal."""
    return frx.oracle.Gaussian(np.zeros(1), np.eye(1)).model(schedule)


@pytest.mark.parametrize("rate", [0.0, 2.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_hybrid_law_of_a_gaussian(temperature, rate, x64):
    """Its variance V obeys a dV/da = (1 - 2 / (1 + (T - 1) a) - psi / T) V + 1 + psi in a = alpha^2, by scipy."""
    model = unit(frx.VariancePreserving())
    vdm, schedule = VDM(model.schedule), model.schedule

    def slope(a, V):
        return ((1 - 2 / (1 + (temperature - 1) * a) - rate / temperature) * V + 1 + rate) / a

    span = [float(schedule.alpha(t)) ** 2 for t in (0.0, 0.99)]
    want = solve_ivp(slope, span, [1.0], rtol=1e-11, atol=1e-13).y[0, -1]
    if rate == 0:
        # The start is the law at temperature 1, a little off the tempered one.
        assert abs(want - (1 + (temperature - 1) * span[1])) < 1e-3
    options = dict(equilibrium_rate=rate, temperature=temperature)
    assert_first_order(lambda p, t, x, dt, xi: vdm.step_hybrid_sde(p, t, x, dt, noise=xi, **options), model, want, 0.99)


@pytest.mark.parametrize("schedule", [frx.VariancePreserving(), frx.SubVariancePreserving(), frx.Linear()])
def test_tempered_flow_of_a_gaussian(schedule, x64):
    """It takes x in proportion to the square root of T alpha^2 + sigma^2, under every schedule."""
    dynamics = frx.TemperedFlow(0.4)
    model = unit(schedule)
    x = frx.sample(model, jax.random.key(0), 1, x0=np.array([[0.8]]), dynamics=dynamics, rtol=1e-9, atol=1e-9).x
    start, end = (0.4 * schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2 for t in dynamics.interval(model))
    np.testing.assert_allclose(x[0, 0], 0.8 * jnp.sqrt(end / start), rtol=1e-6)


@pytest.mark.parametrize("w", [dyn.Constant(0.7), dyn.Odds(0.3), dyn.Cotangent(), dyn.LinearGrowth()])
def test_noise_of_the_stochastic_flow(w, x64):
    r"""Noise of $\sqrt{2 w}$ keeps the marginal variance of a Gaussian; $\sqrt w$ would not."""
    cfm, model = CFM(), unit(frx.Linear())
    want = 0.9**2 + 0.1**2
    step = lambda p, t, x, dt, xi: cfm.step_score_stochastic(p, t, x, dt, diffusion=w, noise=xi)  # noqa: E731
    assert_first_order(step, model, want, 0.9, 0.1)


def test_temperatures_of_the_stochastic_flow(x64):
    """Of a Gaussian: dV/dt = (2 rate of the flow - 2 T_s w / m) V + 2 T_n w, m the variance at T = 1, by scipy."""
    model, cfm = unit(frx.Linear()), CFM()
    m = lambda t: t**2 + (1 - t) ** 2  # noqa: E731
    slope = lambda t, V: ((4 * t - 2) / m(t) - 2 * 1.5 * 0.7 / m(t)) * V + 2 * 0.45 * 0.7  # noqa: E731
    want = solve_ivp(slope, (0, 0.9), [1.0], rtol=1e-11, atol=1e-13).y[0, -1]
    options = dict(diffusion=dyn.Constant(0.7), score_temperature=1.5, noise_temperature=0.45)
    step = lambda p, t, x, dt, xi: cfm.step_score_stochastic(p, t, x, dt, noise=xi, **options)  # noqa: E731
    assert_first_order(step, model, want, 0.9)


def test_each_event_has_its_own_end_of_noise(x64):
    """In one batch, an event past `t_ode` moves by Euler's step while another is still noised."""
    cfm, t = CFM(), jnp.array([0.5, 0.995])
    x, velocity, noise = jnp.ones((2, 3)), jnp.full((2, 3), 2.0), jnp.ones((2, 3))
    step = lambda t, x, v, xi: cfm.step_score_stochastic(cfm.predict(v, t, x), t, x, 0.005, noise=xi)  # noqa: E731
    moved = jax.vmap(step)(t, x, velocity, noise)
    np.testing.assert_allclose(moved[1], 1.01, rtol=1e-12)
    assert abs(float(moved[0, 0]) - 1.01) > 0.01


@pytest.mark.parametrize("name", ["step", "step_ddim", "step_hybrid_sde"])
def test_masked_nodes_count_for_nothing(name, getkey, x64):
    """The step of a padded event is that of the event without its padding, centred, and zero at the padding."""
    vdm, few = VDM(frx.Cosine()), jnp.array([True, False, True, True, False])
    x, output, noise = (jax.random.normal(getkey(), (5, 3)) for _ in range(3))
    options = {"noise": noise, "eta": 0.5} if name == "step_ddim" else {"noise": noise}
    whole = getattr(vdm, name)(vdm.predict(output, 0.3, x), 0.3, x, 0.1, mask=few, centre=True, **options)
    options["noise"] = noise[few]
    alone = getattr(vdm, name)(vdm.predict(output[few], 0.3, x[few]), 0.3, x[few], 0.1, centre=True, **options)
    np.testing.assert_allclose(whole[few], alone, rtol=1e-12)
    np.testing.assert_array_equal(whole[~few], 0)
    np.testing.assert_allclose(jnp.sum(whole, axis=0), 0, atol=1e-14)


TABLES = {"linear": ddpm_linear(10, 1e-3, 0.3), "cosine": ddpm_cosine(7), "one": DiscreteSchedule([0.5])}


def posterior(table, index, x, data):
    """Mean and variance of x_{i-1} given x_i and the data, by conditioning the joint law of the two states."""
    keep = np.concatenate([[1.0], np.cumprod(1 - np.asarray(table.rates))])
    before, now, beta = keep[index], keep[index + 1], table.rates[index]
    covariance = np.sqrt(1 - beta) * (1 - before)
    gain = covariance / (1 - now)
    return np.sqrt(before) * data + gain * (x - np.sqrt(now) * data), 1 - before - gain * covariance


@pytest.mark.parametrize("name", TABLES)
def test_ddpm_draws_from_the_posterior(name, x64):
    """At every index, and index 1 has noise; one whose variance is that of the index before would have none there."""
    table = TABLES[name]
    ddpm, x, data = DDPM(table), jnp.array([0.7]), jnp.array([-0.4])
    for index in range(table.num_steps):
        mean, var = posterior(table, index, 0.7, -0.4)
        prediction = ddpm.predict(data, index, x)
        ends = [ddpm.step(prediction, index, x, noise=jnp.array([xi])) for xi in (0.0, 1.0)]
        np.testing.assert_allclose(ends[0], mean, rtol=1e-10)
        np.testing.assert_allclose(ends[1] - ends[0], np.sqrt(var), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(table.posterior_variance[index], var, rtol=1e-8, atol=1e-15)
        assert (var > 1e-6) == (index > 0)
        tempered = ddpm.step(prediction, index, x, noise=jnp.array([1.0]), temperature=0.5)
        np.testing.assert_allclose(tempered - ends[0], np.sqrt(var) / 2, rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(ddpm.step(ddpm.predict(data, 0, x), 0, x, noise=x), data)


@pytest.mark.parametrize("target", [frx.Data(), frx.Noise(), frx.V(), frx.Score()])
def test_forms_of_a_ddpm_step_agree(target, x64):
    """By data, by noise, as DDIM with eta 1, under indices from 1, and as the steps of continuous time."""
    table = TABLES["linear"]
    ddpm, vdm = DDPM(table, target), VDM(Tabulated(table), target)
    x, output, xi = jnp.array([0.7, 0.1]), jnp.array([-0.4, 1.3]), jnp.array([0.2, -0.6])
    later = DDPM(table, target, last_index=1)
    for index in (0, 1, 4, 9):
        prediction, t = ddpm.predict(output, index, x), table.time(index)
        want = ddpm.step(prediction, index, x, noise=xi)
        close = lambda got: np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)  # noqa: B023, E731
        close(ddpm.step_noise(prediction, index, x, noise=xi))
        close(ddpm.step_ddim(prediction, index, x, eta=1.0, noise=xi))
        close(later.step(later.predict(output, index + 1, x), index + 1, x, noise=xi))
        close(vdm.step(vdm.predict(output, t, x), t, x, 0.1, noise=xi))
        ddim = ddpm.step_ddim(prediction, index, x)
        np.testing.assert_allclose(ddim, vdm.step_ddim(vdm.predict(output, t, x), t, x, 0.1), rtol=1e-10)


@pytest.mark.accuracy
def test_ddpm_is_drawn_by_sample(key, x64):
    """The chain over all indices and `frx.sample` on the schedule of its table, with the same noise."""
    table = TABLES["linear"]
    ddpm, model = DDPM(table), mixture(3, 2, "float64").model(Tabulated(table))
    x = x0 = jnp.array([0.3, -1.0])
    want = frx.sample(model, key, 1, x0=x0[None], dynamics=frx.ReverseSDE(), solver=frx.DDIM(), grid=10).x[0]
    draws, predict = noises(key, 0, jnp.linspace(0, 1, 11), (2,)), jax.jit(lambda t, x: model.predict(t, x))
    for index, xi in zip(range(9, -1, -1), draws, strict=True):
        x = ddpm.step(predict(table.time(index), x), index, x, noise=xi)
    np.testing.assert_allclose(x, want, rtol=1e-9, atol=1e-11)


def test_ddpm_of_a_trained_model_is_drawn_by_sample(key, x64):
    """A network's interval stops short of the data, and the last step goes there: one of the chain's for each index."""
    table = TABLES["linear"]
    ddpm, exact = DDPM(table), mixture(3, 2, "float64").model(Tabulated(table))
    model = frx.Model(
        lambda t, x, c: exact.predict(t, x).data, Tabulated(table), frx.Data(), shape=(2,), dtype="float64"
    )
    x = x0 = jnp.array([0.3, -1.0])
    options = dict(dynamics=frx.ReverseSDE(t_max=1 - 1 / 10), solver=frx.DDIM(), grid=9, last_step=frx.Tweedie())
    want = frx.sample(model, key, 1, x0=x0[None], **options).x[0]
    draws, predict = noises(key, 0, jnp.linspace(0, 0.9, 10), (2,)), jax.jit(lambda t, x: model.predict(t, x))
    for index, xi in zip(range(9, -1, -1), [*draws, jnp.zeros(2)], strict=True):
        x = ddpm.step(predict(table.time(index), x), index, x, noise=xi)
    np.testing.assert_allclose(x, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("index", "to"), [(9, 6), (6, 0), (4, 3), (7, -1)])
def test_ddpm_strides(index, to, x64):
    """By conditioning the joint Gaussian of the noise-free chain's states at both indices, given the data."""
    table = TABLES["linear"]
    ddpm, x, data, xi = DDPM(table), jnp.array([0.7]), jnp.array([-0.4]), jnp.array([1.3])
    now, before = float(table.alpha_bar[index]), float(table.alpha_bar[to]) if to >= 0 else 1.0
    # Given x1: var x_to = 1 - before, var x_index = 1 - now, cov = sqrt(now / before) (1 - before).
    gain = np.sqrt(now / before) * (1 - before) / (1 - now)
    mean = np.sqrt(before) * -0.4 + gain * (0.7 - np.sqrt(now) * -0.4)
    std = np.sqrt(1 - before - gain * np.sqrt(now / before) * (1 - before))
    prediction = ddpm.predict(data, index, x)
    close = lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-10)  # noqa: E731
    close(ddpm.step(prediction, index, x, to=to, noise=xi)[0], mean + 1.3 * std)
    close(ddpm.step_noise(prediction, index, x, to=to, noise=xi)[0], mean + 1.3 * std)
    close(ddpm.step_ddim(prediction, index, x, to=to, eta=1.0, noise=xi)[0], mean + 1.3 * std)
    # Without noise the noise prediction is kept.
    noise = (0.7 - np.sqrt(now) * -0.4) / np.sqrt(1 - now)
    close(ddpm.step_ddim(prediction, index, x, to=to)[0], np.sqrt(before) * -0.4 + np.sqrt(1 - before) * noise)


def test_ddpm_forward_process(x64):
    """Scales of an index by the product of the rates, and what targets make of them."""
    table = TABLES["cosine"]
    ddpm, data, noise = DDPM(table, frx.V()), jnp.array([0.4, -2.0]), jnp.array([1.0, 0.3])
    for index in range(7):
        keep = np.prod(1 - np.asarray(table.rates[: index + 1]))
        x = ddpm.interpolate(index, noise, data)
        np.testing.assert_allclose(x, keep**0.5 * data + (1 - keep) ** 0.5 * noise, rtol=1e-12)
        prediction = ddpm.predict(keep**0.5 * noise - (1 - keep) ** 0.5 * data, index, x)
        np.testing.assert_allclose(prediction.data, data, rtol=1e-9)
        np.testing.assert_allclose(prediction.noise, noise, rtol=1e-9)
        np.testing.assert_allclose(prediction.score, -noise / (1 - keep) ** 0.5, rtol=1e-9)


@pytest.mark.accuracy
@pytest.mark.parametrize("rate", [0.0, 2.0])
def test_hybrid_keeps_the_law_at_temperature_one(rate):
    model = mixture(4, 2, "float32", seed=2).model(frx.VariancePreserving())
    grid = frx.times.edm_grid(model.schedule, 100)
    sde = frx.HybridSDE(rate)
    x = frx.sample(model, jax.random.key(1), 4000, dynamics=sde, solver=frx.SEEDS(2), grid=grid).x
    assert_moments(x, *moments(model.oracle))


@pytest.mark.accuracy
def test_low_temperature_gathers_at_modes():
    """Two far modes of unequal weight and width: cold samples are nearer to their mode than warm ones."""
    oracle = frx.oracle.GaussianMixture([0.5, 0.5], np.float32([[-3.0], [3.0]]), np.float32([[[0.5]], [[0.5]]]))
    model = oracle.model(frx.VariancePreserving())
    spread = {}
    for temperature in (1.0, 0.25):
        sde = frx.HybridSDE(3.0, temperature=temperature, t_max=0.995)
        x = np.asarray(frx.sample(model, jax.random.key(0), 500, dynamics=sde, solver=dfx.Euler(), grid=200).x)
        spread[temperature] = np.std(np.abs(x))
    assert spread[0.25] < 0.7 * spread[1.0]


def test_a_step_to_the_data_draws_nothing():
    ddpm, vdm, x = DDPM(TABLES["linear"]), VDM(frx.Cosine()), jnp.array([0.3, -1.0])
    for steps, at in ((ddpm, (0, x)), (vdm, (0.5, x, 0.5))):
        prediction = steps.predict(2 * x, *at[:2])
        np.testing.assert_array_equal(steps.step(prediction, *at), 2 * x)
        np.testing.assert_array_equal(steps.step(prediction, *at, noise=x), 2 * x)


def test_errors():
    vdm, ddpm, x = VDM(frx.Cosine()), DDPM(TABLES["linear"]), jnp.zeros(2, jnp.float32)
    prediction = vdm.predict(x, 0.5, x)
    three, few = jnp.zeros(3), jnp.ones(2)
    cases = {
        "^This step draws noise: pass either key=, or noise= with ": lambda: vdm.step(prediction, 0.5, x, 0.1),
        r"^noise has shape \(3,\) but \(2,\) is expected": lambda: vdm.step(prediction, 0.5, x, 0.1, noise=three),
        r"^A step from t=0.5 to 1.1 leaves \[0, 1\]; t=1": lambda: vdm.step(prediction, 0.5, x, 0.6, noise=x),
        "^index=10 is not one of 0, ..., 9.": lambda: ddpm.step(prediction, 10, x, noise=x),
        "^to=5 must be below index=5, and at least -1, ": lambda: ddpm.step(prediction, 5, x, to=5, noise=x),
        "^dt must be positive: .* got dt=-0.1": lambda: vdm.step(prediction, 0.5, x, -0.1, noise=x),
        "^dt must be positive: .* got dt=-0.2": lambda: vdm.step_hybrid_sde(prediction, 0.5, x, -0.2, noise=x),
        "^temperature must be positive; got 0.0.": lambda: frx.TemperedFlow(0.0),
        "^equilibrium_rate must not be negative; got -1.0.": lambda: frx.HybridSDE(-1.0),
        r"^mask has shape \(2,\) but \(\) is expected": lambda: vdm.step(prediction, 0.5, x, 0.1, noise=x, mask=few),
    }
    for text, call in cases.items():
        with pytest.raises(ValueError, match=text):
            call()

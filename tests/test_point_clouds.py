"""Rows with masks of their own are, row by row, the models of the points that count."""

from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import flowrax as frx
from flowrax import prior as pr
from flowrax.coupling import ConditionalCost, EquivariantOT, ExactOT, KabschDistance, SquaredDistance
from laws import assert_moments, covariances

NODES, FEATURES = 5, 2
SHAPE = NODES, FEATURES
MASKS = np.array([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 1]], bool)
SCHEDULE = frx.Linear()
LAWS = {
    "plain": lambda mask: pr.Gaussian(SHAPE, std=jnp.broadcast_to(jnp.asarray(mask)[:, None], SHAPE)),
    "centred": lambda mask: pr.CentredGaussian(SHAPE, mask=mask),
}


def mask_of(condition):
    return condition["mask"]


def prior_of(kind):
    return pr.Conditional(lambda condition: LAWS[kind](condition["mask"]), SHAPE)


def restricted(kind, mask):
    """Of a Gaussian restricted to the nodes that count: projector `(d, d)`, mean `(d,)`, covariance `(d, d)`."""
    size = NODES * FEATURES
    with jax.enable_x64(True):
        full = np.asarray(covariances(jax.random.key(0), 1, size, jnp.float64)[0])
    projector = np.kron(np.diag(mask.astype(float)), np.eye(FEATURES))
    if kind == "centred":
        projector -= np.kron(np.outer(mask, mask) / np.sum(mask), np.eye(FEATURES))
    return projector, projector @ np.linspace(-1, 2, size), projector @ full @ projector


def conditions(kind, masks):
    """The mask of each row, and what the exact network of it needs to know."""
    _, means, covariance = (np.stack(z) for z in zip(*(restricted(kind, mask) for mask in masks), strict=True))
    values, vectors = np.linalg.eigh(covariance)
    return {"mask": masks, "mean": means, "values": np.maximum(values, 0), "vectors": vectors}


class Exact(frx.model.AbstractNetwork):
    """The exact data prediction of the nodes that count; anything at all at the others, and about another centre."""

    off_centre: float

    def __call__(self, t, x, condition=None, *, key=None):
        assert condition is not None
        c, alpha, sigma = condition, SCHEDULE.alpha(t), SCHEDULE.sigma(t)
        gain = alpha * c["values"] / (alpha**2 * c["values"] + sigma**2)
        data = c["mean"] + c["vectors"] @ (gain * (c["vectors"].T @ (x.reshape(-1) - alpha * c["mean"])))
        junk = 1e3 * jnp.sin(7 * t + jnp.arange(NODES, dtype=x.dtype))[:, None]
        return jnp.where(c["mask"][:, None], data.reshape(SHAPE) + self.off_centre, junk)


def padded(kind, **options):
    network = Exact(3.0 if kind == "centred" else 0.0)
    return frx.Model(
        network, SCHEDULE, frx.Data(), shape=SHAPE, prior=prior_of(kind), dtype=jnp.result_type(float), **options
    )


def kept(mask):
    """Where the elements of the nodes that count stand in a flat event."""
    return np.flatnonzero(np.repeat(mask, FEATURES))


def unpadded(kind, mask, t):
    """Mean and covariance of the path at `t`, of the nodes that count and of no others."""
    alpha, sigma, few = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t)), kept(mask)
    projector, mean, covariance = restricted(kind, mask)
    return alpha * mean[few], (alpha**2 * covariance + sigma**2 * projector)[np.ix_(few, few)]


def assert_in_range(kind, x, masks):
    """Zeros exactly at masked nodes, the centre at zero to rounding."""
    assert np.all(np.asarray(x)[~masks] == 0)
    if kind == "centred":
        assert np.max(np.abs(np.sum(x, axis=1))) < 1e-12 * np.max(np.abs(x))


@pytest.mark.accuracy
@pytest.mark.parametrize("kind", LAWS)
def test_flow_and_density_are_those_of_the_points_that_count(kind, x64, key):
    model = padded(kind)
    x0 = jnp.stack([LAWS[kind](mask).draw(jax.random.fold_in(key, i)) for i, mask in enumerate(MASKS)])
    options = dict(condition=frx.Batched(conditions(kind, MASKS)), rtol=1e-8, atol=1e-8)
    draws = frx.sample(model, key, len(MASKS), x0=x0, with_log_prob=True, **options)
    back = frx.log_prob(model, draws.x, **options)
    assert_in_range(kind, draws.x, MASKS)
    assert_in_range(kind, back.x0, MASKS)
    for i, mask in enumerate(MASKS):
        few, x = kept(mask), np.asarray(draws.x[i]).reshape(-1)[kept(mask)]
        # At t = 1, where alpha is one and sigma zero.
        oracle = frx.oracle.Gaussian(*unpadded(kind, mask, 1.0))
        want = oracle.flow(SCHEDULE, 0.0, model.t_max, x0[i].reshape(-1)[few])
        assert np.allclose(x, want, rtol=0, atol=1e-6)
        value = scipy.stats.multivariate_normal(*unpadded(kind, mask, model.t_max), allow_singular=True).logpdf(x)
        assert draws.log_prob is not None
        assert float(draws.log_prob[i]) == pytest.approx(value, abs=1e-5)
        assert float(back.value[i]) == pytest.approx(value, abs=1e-5)


@pytest.mark.accuracy
def test_noise_stays_with_the_points_that_count(x64):
    """Moments of 2,000 draws of each mask within 5 standard errors, through noise at every step."""
    num, model, sde = 2000, padded("centred"), frx.ReverseSDE()
    condition = jax.tree.map(lambda leaf: np.repeat(leaf, num, axis=0), conditions("centred", MASKS))
    start, end = sde.interval(model)
    grid = np.concatenate([np.geomspace(start, 0.1, 30)[:-1], np.linspace(0.1, end, 30)])
    options = dict(condition=frx.Batched(condition), dynamics=sde, solver=dfx.ShARK(), grid=grid)
    x = np.asarray(frx.sample(model, jax.random.key(0), len(MASKS) * num, **options).x)
    assert_in_range("centred", x, condition["mask"])
    for mask, rows in zip(MASKS, x.reshape(len(MASKS), num, -1), strict=True):
        mean, covariance = unpadded("centred", mask, end)
        assert_moments(rows[:, kept(mask)], mean, covariance + np.outer(mean, mean))


@pytest.mark.accuracy
def test_other_verbs_and_wrappers_see_the_mask(x64, key):
    """Side by side the steps are those of `sample`; on another schedule the flow is that schedule's."""
    model, options = padded("centred"), dict(condition=frx.Batched(conditions("centred", MASKS)), grid=12)
    plain = frx.sample(model, key, 3, solver=dfx.Euler(), **options)
    beside = frx.verb.parallel_sample(model, key, 3, tolerance=0.0, **options)
    assert np.allclose(plain.x, beside.x, rtol=0, atol=1e-9)
    assert_in_range("centred", beside.x, MASKS)

    # One condition for all, and the data prediction at the end.
    warped, few = frx.warp(padded("centred", t_max=0.9), frx.Cosine()), kept(MASKS[0])
    row = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), conditions("centred", MASKS))
    x0 = pr.bind_condition(warped, row).source.draw(key)
    options = dict(condition=row, x0=x0[None], last_step=frx.Tweedie(), rtol=1e-8, atol=1e-8)
    x = frx.sample(warped, key, 1, **options).x
    assert_in_range("centred", x, MASKS[:1])
    law, cosine = frx.oracle.Gaussian(*unpadded("centred", MASKS[0], 1.0)), frx.Cosine()
    end = law.flow(cosine, warped.t_min, warped.t_max, x0.reshape(-1)[few])
    data = law.posterior_terms(cosine.alpha(warped.t_max), cosine.sigma(warped.t_max), end)[1]
    assert np.allclose(np.asarray(x).reshape(-1)[few], data, rtol=0, atol=1e-6)


class BySize(frx.model.AbstractNetwork):
    """One number for each count of nodes, and junk that no mask stops but the prior's."""

    weight: jax.Array

    def __call__(self, t, x, condition=None, *, key=None):
        assert condition is not None
        mask = condition["mask"]
        slope = self.weight[jnp.sum(mask)]
        return jnp.where(mask[:, None], slope * x + 5, 1e3 * slope)


def clouds(n, shape=SHAPE):
    """Of two and four points: masks `(n, nodes)` and centred data whose scale is 1/2 or 2."""
    counts = np.where(np.arange(n) % 2, 2, 4)
    masks = jax.random.permutation(
        jax.random.key(1), jnp.arange(shape[0])[None] < counts[:, None], axis=1, independent=True
    )
    scale = jnp.where(counts == 2, 0.5, 2.0)[:, None, None]
    return masks, pr.remove_centre(scale * jax.random.normal(jax.random.key(2), (n, *shape)), masks)


@pytest.mark.accuracy
def test_training_finds_the_regression_of_each_size(x64):
    r"""At t = 1/2 the velocity of data of variance $s^2$ is $2 (s^2 - 1) / (s^2 + 1)\, x$, for every size."""

    class Half(frx.times.AbstractUnitTimes):
        def unit(self, key, n, dtype):
            return jnp.full((n,), 0.5, dtype)

    masks, data = clouds(4000)
    model = frx.Model(BySize(jnp.zeros(NODES + 1)), SCHEDULE, shape=SHAPE, prior=prior_of("centred"))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 400))
    loss = frx.Matching(times=Half(), reduction=frx.loss.Mean(mask=mask_of))
    options = dict(num_steps=400, batch_size=256, optimizer=optimizer, loss=loss, progress=False)
    fitted = frx.fit(model, data, jax.random.key(3), condition={"mask": masks}, **options).last_model
    variance = {2: 0.25, 4: 4.0}
    for count, s2 in variance.items():
        network: Any = fitted.network
        assert float(network.weight[count]) == pytest.approx(2 * (s2 - 1) / (s2 + 1), abs=0.08)


class Noise(frx.loss.AbstractLoss):
    """The squared length of the noise by the number of its dimensions; infinite where it leaves the row's range."""

    times: frx.times.AbstractTimes = frx.times.Stratified()

    def __call__(self, model, t, x0, x1, condition=None, *, key=None):
        assert condition is not None
        own = pr.remove_centre(x0, condition["mask"])
        leak = jnp.max(jnp.abs(own - x0)) + jnp.max(jnp.abs(model.prior.project(x1) - x1))
        dimensions = 3 * (jnp.sum(condition["mask"]) - 1)
        return jnp.where(leak < 1e-5, jnp.sum(x0**2) / dimensions.astype(x0.dtype), jnp.inf)


WITHIN = ConditionalCost(KabschDistance(mask=mask_of), by=mask_of)
KEEPING = {
    "equivariant": EquivariantOT(cost=WITHIN),
    "across": ExactOT(cost=SquaredDistance(mask=mask_of)),
}


@pytest.mark.accuracy
@pytest.mark.parametrize("name", KEEPING)
def test_training_starts_from_the_noise_of_sampling(name):
    """Whatever row it was paired with. Its law survives rotations and, within equal masks, an assignment."""
    shape = NODES, 3
    masks, data = clouds(400, shape)
    prior = pr.Conditional(lambda c: pr.CentredGaussian(shape, mask=c["mask"]), shape)
    model = frx.Model(BySize(jnp.zeros(NODES + 1)), SCHEDULE, shape=shape, prior=prior, coupling=KEEPING[name])
    options = dict(condition={"mask": masks}, num_steps=40, batch_size=64, loss=Noise(), progress=False)
    loss = frx.fit(model, data, jax.random.key(4), **options).history["train_loss"][-1]
    assert np.isfinite(loss)
    if name != "across":
        # Half of 2,560 draws with 3 dimensions, half with 9: the variance of one is 2 / dimensions.
        assert abs(loss - 1) < 5 * np.sqrt((2 / 3 + 2 / 9) / 2 / 2560)


def test_equivariant_transport_turns_by_the_mask_of_its_cost():
    cost = KabschDistance(mask=mask_of)
    own = EquivariantOT(cost=lambda x1, x0, c: cost(x1, x0, c), mask=mask_of)
    for coupling in (EquivariantOT(cost=cost), EquivariantOT(cost=WITHIN, mask=mask_of), own):
        assert coupling.alignment.mask is mask_of
    for wrong in (KabschDistance(), ConditionalCost(SquaredDistance(mask=lambda c: c["mask"]))):
        with pytest.raises(ValueError, match="give the mask to the cost alone"):
            EquivariantOT(cost=wrong, mask=mask_of)


class Labelled(frx.model.AbstractNetwork):
    """Something nonlinear that the label and the mask both change."""

    weight: jax.Array

    def __call__(self, t, x, condition=None, *, key=None):
        assert condition is not None
        real = condition["mask"].astype(x.dtype)[:, None]
        return jnp.tanh(x + self.weight * condition["label"] * jnp.sum(real * x**2) + t)


@pytest.mark.accuracy
def test_guidance_keeps_the_mask_of_a_row(x64, key):
    """Flow and its density on the padded row are those of the points that count, guided on their own."""

    def null(condition):
        return condition | {"label": jnp.zeros_like(condition["label"])}

    def guided(shape, prior, null):
        model = frx.Model(Labelled(jnp.ones(())), SCHEDULE, shape=shape, prior=prior)
        return frx.ClassifierFree(model, 2.0, null=null)

    rows = {"mask": MASKS, "label": np.array([0.5, -1.0, 1.0])}
    options = dict(with_log_prob=True, grid=8)
    x0 = jnp.stack([LAWS["centred"](mask).draw(jax.random.fold_in(key, i)) for i, mask in enumerate(MASKS)])
    got = frx.sample(guided(SHAPE, prior_of("centred"), null), key, 3, x0=x0, condition=frx.Batched(rows), **options)
    assert_in_range("centred", got.x, MASKS)
    mask, shape = MASKS[0], (int(MASKS[0].sum()), FEATURES)
    alone = {"mask": np.ones(shape[0], bool), "label": rows["label"][0]}
    small = guided(shape, pr.CentredGaussian(shape), {"mask": alone["mask"], "label": 0.0})
    want = frx.sample(small, key, 1, x0=x0[:1, mask], condition=alone, **options)
    assert np.allclose(got.x[0, mask], want.x[0], rtol=0, atol=1e-12)
    assert got.log_prob is not None and want.log_prob is not None
    assert float(got.log_prob[0]) == pytest.approx(float(want.log_prob[0]), abs=1e-12)

    dropped = frx.loss.ConditionDropout(1.0, null)(jax.tree.map(lambda leaf: jnp.asarray(leaf[2]), rows), key)
    assert np.array_equal(dropped["mask"], MASKS[2]) and dropped["label"] == 0


def trainable(kind="centred"):
    return frx.Model(BySize(jnp.zeros(NODES + 1)), SCHEDULE, shape=SHAPE, prior=prior_of(kind))


ONE = {"mask": jnp.asarray(MASKS[0])}
ERRORS = {
    "sample": (lambda key: frx.sample(trainable(), key, 2), "depends on the condition; pass condition="),
    "log_prob": (lambda key: frx.log_prob(trainable(), jnp.zeros((1, *SHAPE))), "depends on the condition"),
    "fit": (lambda key: frx.fit(trainable(), jnp.zeros((4, *SHAPE)), key), "depends on the condition"),
    "source": (lambda key: trainable().source, "prior.bind_condition"),
    "predict": (lambda key: trainable().predict(jnp.asarray(0.5), jnp.zeros(SHAPE)), "depends on the condition"),
    "padding in an event": (
        lambda key: frx.log_prob(trainable("plain"), jnp.ones((1, *SHAPE)), condition=ONE),
        "x leaves the range of the singular prior Conditional by up to 1",
    ),
    "padding in the data": (
        lambda key: frx.fit(
            trainable("plain"), jnp.ones((3, *SHAPE)), key, condition={"mask": jnp.asarray(MASKS)}, num_steps=1
        ),
        "data leaves the range",
    ),
    "another shape": (
        lambda key: pr.bind_condition(pr.Conditional(lambda c: pr.Gaussian((2,)), SHAPE), ONE),
        r"A draw of prior has shape \(2,\)",
    ),
    "no Gaussian": (
        lambda key: pr.bind_condition(pr.Conditional(lambda c: pr.Empirical(np.zeros((2, *SHAPE))), SHAPE), ONE),
        "must return a Gaussian prior; got Empirical",
    ),
    "estimator": (lambda key: frx.DensityEstimator(trainable()), "this prior depends on the condition"),
    "momenta": (
        lambda key: frx.sample(trainable(), key, 1, condition=ONE, dynamics=frx.UnderdampedLangevin(0.5, 1.0), grid=2),
        "standard normal prior only",
    ),
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors(what, key):
    act, text = ERRORS[what]
    with pytest.raises(ValueError, match=text):
        act(key)

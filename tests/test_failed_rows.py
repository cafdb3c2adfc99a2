"""Failed rows among good ones: nothing of theirs reaches the gradients, weights and evidence of the others."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flowrax as frx


class Growth(eqx.Module):
    """The velocity $w x$ within a distance of 5, and NaN beyond."""

    w: jax.Array

    def __call__(self, t, x, condition=None):
        return self.w * x * jnp.where(jnp.abs(x) < 5, 1.0, jnp.nan)


X0 = np.array([[1.0], [9.0], [0.5]])
SOLVES = {
    "replayed": {},
    "replayed on a grid": dict(grid=4, solver=dfx.Dopri5(), lanes=2),
    "checkpointed": dict(adjoint=dfx.RecursiveCheckpointAdjoint(), grid=4),
    "direct": dict(adjoint=dfx.DirectAdjoint(), grid=4, lanes=2),
    "backsolve": dict(adjoint=dfx.BacksolveAdjoint()),
    "reversible": dict(adjoint=frx.ReversibleAdjoint(throw=False), solver=frx.Reversible(dfx.Dopri5()), grid=4),
}


def total(w, x0, **options):
    model = frx.Model(Growth(w), frx.Linear(), shape=(1,), dtype=jnp.float64)
    answer = frx.sample(model, jax.random.key(0), 3, x0=x0, throw=False, **options)
    return jnp.sum(jnp.where(jnp.isfinite(answer.x), answer.x, 0))


@pytest.mark.accuracy
@pytest.mark.parametrize("name", SOLVES)
def test_gradients_are_of_the_good_rows(name, x64):
    """The end is $x_0 e^w$, and its sum over two rows $1.5 e^w$."""
    of_w, of_x0 = jax.grad(lambda w, x0: total(w, x0, **SOLVES[name]), (0, 1))(jnp.asarray(0.5), jnp.asarray(X0))
    np.testing.assert_allclose(of_w, 1.5 * np.exp(0.5), rtol=1e-4)
    np.testing.assert_allclose(of_x0, np.exp(0.5) * np.array([[1.0], [0.0], [1.0]]), rtol=1e-4)


@pytest.mark.accuracy
@pytest.mark.parametrize("adjoint", [dfx.ForwardMode(), dfx.DirectAdjoint()], ids=["forward", "direct"])
def test_forward_mode_is_of_the_good_rows(adjoint, x64):
    of_w = jax.jvp(lambda w: total(w, X0, adjoint=adjoint, grid=4), (jnp.asarray(0.5),), (jnp.asarray(1.0),))[1]
    np.testing.assert_allclose(of_w, 1.5 * np.exp(0.5), rtol=1e-4)


@pytest.mark.accuracy
def test_second_derivatives_are_of_the_good_rows(x64):
    gradient = jax.grad(lambda w: total(w, X0, adjoint=dfx.DirectAdjoint(), grid=4))
    np.testing.assert_allclose(jax.jvp(gradient, (0.5,), (1.0,))[1], 1.5 * np.exp(0.5), rtol=1e-4)


@pytest.mark.parametrize("x0", [X0, np.full((3, 1), 9.0)], ids=["some", "all"])
def test_rows_that_fail_in_the_last_step_too(x0, x64):
    """An Euler step of 0.5 from t = 0.5 is a factor $1 + w / 2$ after $e^{w / 2}$."""

    def end(w, x0):
        model = frx.Model(Growth(w), frx.Linear(), shape=(1,), dtype=jnp.float64, t_max=0.5)
        answer = frx.sample(model, jax.random.key(0), 3, x0=x0, grid=4, last_step=frx.EulerStep(), throw=False)
        return jnp.sum(jnp.where(jnp.isfinite(answer.x), answer.x, 0))

    # The third row leaves the range of the network before the last step.
    x0 = np.where(x0 == 0.5, 4.2, x0)
    got = jax.grad(lambda w: end(w, jnp.asarray(x0)))(jnp.asarray(0.5))
    want = np.exp(0.25) * (0.5 * 1.25 + 0.5) if x0[0, 0] == 1 else 0
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=0)


@pytest.mark.accuracy
def test_the_density_of_failed_rows_stays_out_of_the_gradient_of_the_prior(x64):
    """The flow is the identity where it is finite, so each log-density is that of the prior."""

    def density(mean):
        prior = frx.prior.Gaussian((1,), mean=jnp.broadcast_to(mean, (1,)), dtype=jnp.float64)
        model = frx.Model(Growth(jnp.asarray(0.0)), frx.Linear(), shape=(1,), prior=prior, dtype=jnp.float64)
        value = frx.log_prob(model, X0, throw=False, grid=2).value
        return jnp.sum(jnp.where(jnp.isfinite(value), value, 0))

    np.testing.assert_allclose(jax.grad(density)(jnp.asarray(0.2)), (1 - 0.2) + (0.5 - 0.2), rtol=1e-6)


def measurement():
    return frx.LinearGaussian([[1.0, 0.0]], [0.7], 0.3)


def mixture():
    covariances = jnp.stack([0.1 * jnp.eye(2)] * 2)
    return frx.oracle.GaussianMixture([0.5, 0.5], [[-2.0, 0.0], [2.0, 0.0]], covariances)


@pytest.mark.accuracy
def test_failed_draws_weigh_nothing_and_good_ones_what_they_weigh_alone(x64):
    """Some draws need more than 26 steps. The others have their weights among all draws, up to a factor."""
    model = mixture().model(frx.Linear())
    # The guided draws lie too far from the posterior for its evidence, which is also said.
    options = dict(method=frx.ImportanceSampling(), throw=False)
    with pytest.warns(UserWarning) as told:
        some = frx.posterior(model, measurement(), jax.random.key(0), 200, max_steps=26, **options)
    failed = int(some.num_failed)
    assert 50 < failed < 150 and any(f"{failed} of 200 draws failed" in str(one.message) for one in told)
    every = frx.posterior(model, measurement(), jax.random.key(0), 200, **options)
    good = np.asarray(some.result == frx.RESULTS.successful)
    kept = np.where(good, every.weights, 0)
    np.testing.assert_allclose(some.weights, kept / kept.sum(), atol=1e-6)
    np.testing.assert_allclose(some.ess, kept.sum() ** 2 / np.sum(kept**2), rtol=1e-4)
    # The mean over all draws, with zero for the failed ones.
    np.testing.assert_allclose(some.log_evidence, every.log_evidence + np.log(kept.sum()), rtol=1e-4)
    assert np.isfinite(np.asarray(some.residual)[good]).all()


@pytest.mark.accuracy
def test_the_gradient_of_the_evidence_with_failed_draws(x64):
    """Against the weights of the good draws, each of which is the evidence by three copies of it."""
    model = frx.oracle.Gaussian(jnp.zeros(2), jnp.eye(2)).model(frx.VariancePreserving())

    def evidence(y, x0):
        measured = eqx.tree_at(lambda m: m.y, measurement(), y[None])
        options = dict(method=frx.ImportanceSampling(), x0=x0, throw=False, grid=4)
        return frx.posterior(model, measured, jax.random.key(0), len(x0), **options).log_evidence

    both, x0 = jax.jit(jax.value_and_grad(evidence)), np.array([[0.3, -0.2], [np.nan, 0.1], [-0.6, 0.5]])
    got, one, other = (both(jnp.asarray(0.4), x0[rows]) for rows in ([0, 1, 2], [0, 0, 0], [2, 2, 2]))
    total = np.logaddexp(one[0], other[0])
    np.testing.assert_allclose(got[0], total - np.log(3), rtol=1e-6)
    want = np.exp(one[0] - total) * one[1] + np.exp(other[0] - total) * other[1]
    np.testing.assert_allclose(got[1], want, rtol=1e-6)


@pytest.mark.accuracy
def test_where_every_draw_fails():
    model = frx.oracle.Gaussian(jnp.zeros(2), jnp.eye(2)).model(frx.Linear())
    options = dict(method=frx.ImportanceSampling(), max_steps=1)
    with pytest.warns(
        UserWarning, match=r"(4 of 4 draws failed|effective sample size is 0.0 of 4|k-hat of the weights is inf)"
    ):
        answer = frx.posterior(model, measurement(), jax.random.key(0), 4, throw=False, **options)
    assert float(answer.log_evidence) == -np.inf and float(answer.ess) == 0 and np.all(answer.weights == 0)
    with pytest.raises(frx.SolveError, match="posterior, draws of the guided model: 4 of 4 solves failed"):
        frx.posterior(model, measurement(), jax.random.key(0), 4, **options)


@pytest.mark.accuracy
def test_the_standard_error_of_the_evidence(x64):
    """The spread of the log-evidence over 40 keys, against its stated error; both from 100 draws each."""
    oracle = frx.oracle.Gaussian(jnp.zeros(2), jnp.asarray([[1.5, 0.4], [0.4, 0.8]]))
    model = oracle.model(frx.Linear())

    options = dict(method=frx.ImportanceSampling(), grid=8, solver=dfx.Heun())

    @jax.jit
    @jax.vmap
    def draw(key):
        answer = frx.posterior(model, measurement(), key, 100, throw=False, **options)
        return answer.log_evidence, answer.log_evidence_error

    values, errors = map(np.asarray, draw(jax.random.split(jax.random.key(0), 40)))
    ratio = values.var(ddof=1) / np.mean(errors**2)
    assert stats.chi2(39).ppf(5e-4) / 39 < ratio < stats.chi2(39).ppf(1 - 5e-4) / 39

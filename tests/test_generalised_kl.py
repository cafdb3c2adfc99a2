"""The bound of the jumps of a mixture path, against log-probabilities and against the densities of whole paths."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import flowrax as frx
from states import SCHEDULES, TABLE, exact, states_of

NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)


@eqx.filter_jit
def bounds(model, data):
    """The integral over time of the mean over states, for each of the data: the bound in nats."""
    # More nodes where the logarithm of the time that is left is integrated.
    u = 0.5 * (1 + jnp.asarray(NODES))
    t, weights = 1 - (1 - u) ** 3, 1.5 * (1 - u) ** 2 * jnp.asarray(WEIGHTS)
    states, sites = states_of(model), jnp.arange(model.shape[0])

    def integrand(t, x1):
        chances = jnp.prod(model.interpolant.marginal(model.prior, t, x1)[sites, states], axis=1)
        values = jax.vmap(lambda x: frx.discrete.GeneralisedKL().per_site(model, t, x, x1))(states)
        return jnp.sum(jnp.where(chances > 0, chances * jnp.sum(values, axis=1), 0))

    return jax.vmap(lambda x1: weights @ jax.vmap(lambda t: integrand(t, x1))(t))(data)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_with_masks_and_an_exact_model_it_is_the_log_probability(schedule, x64):
    data = jnp.asarray(np.indices((3, 3)).reshape(2, -1).T)
    got = bounds(exact("masked", SCHEDULES[schedule]), data)
    np.testing.assert_allclose(got, -np.log(TABLE.ravel()), rtol=1e-6)


def test_with_other_noise_it_is_above(x64):
    """For every event, and by a good part of the entropy of the data: paths that jump to the data tell them apart."""
    data = jnp.asarray(np.indices((3, 3)).reshape(2, -1).T)
    entropy = -np.sum(TABLE * np.log(TABLE))
    for prior in ("uniform", "custom"):
        gap = np.asarray(bounds(exact(prior), data)) + np.log(TABLE.ravel())
        assert np.all(gap > 0)
        assert 0.2 < np.sum(TABLE.ravel() * gap) / entropy < 0.4


def path_bound(p, pi, x1):
    """The mean over jump times of the log-ratio of densities of paths of one site, the model's in closed form.

    In the clock of alpha: a state x is left at the rate pi (1 - p) / (pi + u (p - pi)), which is integrated by hand.
    """

    def log_stay(x, a, b):
        slope = p[x] - pi[x]
        return -pi[x] * (1 - p[x]) / slope * np.log((pi[x] + b * slope) / (pi[x] + a * slope))

    def jump(u, x0):
        log_rate = np.log(p[x1] * pi[x0] / (pi[x0] + u * (p[x0] - pi[x0])))
        return -log_stay(x0, 0, u) - log_rate - log_stay(x1, u, 1)

    others = (pi[x0] * integrate.quad(jump, 0, 1, args=(x0,))[0] for x0 in range(len(p)) if x0 != x1)
    return sum(others) - pi[x1] * log_stay(x1, 0, 1)


@pytest.mark.parametrize("prior", ["uniform", "custom"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_with_other_noise_it_is_the_divergence_of_paths(prior, schedule, x64):
    """Whatever the schedule, which is but a clock."""
    model, p = exact(prior, SCHEDULES[schedule], TABLE[0]), TABLE[0] / TABLE[0].sum()
    got = bounds(model, jnp.arange(3)[:, None])
    want = [path_bound(p, np.asarray(model.prior.probabilities), x1) for x1 in range(3)]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert np.all(got > -np.log(p))


def test_padding_counts_for_nothing(x64):
    """With a mask the loss is the mean over the real sites, NaN elsewhere or not."""

    def network(t, x, condition):
        phases = jnp.arange(3.0)[None]
        return jnp.sin(x[:, None].astype(phases.dtype) + phases) + jnp.array([[0.0], [0.0], [jnp.nan]])

    model = frx.CategoricalModel(
        network, SCHEDULES["linear"], prior=frx.discrete.UniformCategorical((3,), 3), dtype=jnp.float64
    )
    loss = frx.discrete.GeneralisedKL(mask=lambda c: c)
    x0, x1, t = (jnp.array([1, 2, 0]), jnp.array([0.9, 0.2, 0.5])), jnp.array([0, 1, 0]), jnp.asarray(0.6)
    got = loss(model, t, x0, x1, jnp.array([1, 1, 0]))
    # The first site is noise, the second is seen: 1 / (1 - t) is 2.5.
    p = np.exp(np.sin([[1.0, 2, 3], [1, 2, 3]]))
    p /= p.sum(1, keepdims=True)
    assert np.isclose(got, 2.5 * ((-np.log(p[0, 0]) - p[0, 1]) + (1 - p[1, 1])) / 2, rtol=1e-12)
    with pytest.raises(ValueError, match="The mask has shape"):
        loss(model, t, x0, x1, jnp.ones(2))

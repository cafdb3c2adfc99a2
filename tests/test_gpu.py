"""What must hold on an accelerator: closed forms, and the values that the CPU of the same machine computes.

Random keys give the same bits on every device, so draws are compared sample by sample; values agree to the rounding of
matrix products, which accelerators take at a lower precision unless they are asked for more.
"""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from laws import assert_moments, mixture, moments

pytestmark = pytest.mark.gpu
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def on_both(function):
    """The value on the default device, and on the CPU."""
    here = jax.tree.map(np.asarray, function())
    with jax.default_device(jax.devices("cpu")[0]):
        return here, jax.tree.map(np.asarray, function())


@pytest.fixture(scope="module")
def model():
    return mixture(25, 2, "float32").model(frx.Linear())


def test_draws_do_not_depend_on_the_device(model):
    here, there = on_both(lambda: frx.sample(model, KEY, 300).x)
    np.testing.assert_allclose(here, there, atol=1e-3)


def test_draws_have_the_moments_of_the_distribution(model):
    """With more samples than lanes, so that lanes are refilled."""
    mean, second = moments(model.oracle)
    assert_moments(frx.sample(model, KEY, 10_000).x, mean, second)


def test_log_density_is_the_closed_form(model):
    x = model.oracle.sample(KEY, (300,))
    value = frx.log_prob(model, x).value
    np.testing.assert_allclose(value, model.oracle.marginal_log_prob(model.schedule, 1.0, x), atol=2e-2)


def test_double_precision_log_density():
    with jax.enable_x64(True):
        model = mixture(5, 2, "float64").model(frx.Linear())
        x = model.oracle.sample(KEY, (20,))
        value = frx.log_prob(model, x, rtol=1e-8, atol=1e-8).value
        np.testing.assert_allclose(value, model.oracle.marginal_log_prob(model.schedule, 1.0, x), atol=2e-5)


def test_random_divergences_agree(model):
    x = model.oracle.sample(KEY, (50,))
    options = {"key": KEY, "divergence": frx.Hutchinson(8), "grid": 12}

    def both():
        answer = frx.log_prob(model, x, **options)
        return answer.value, answer.standard_error

    (value, error), (other, other_error) = on_both(both)
    np.testing.assert_allclose(value, other, atol=1e-3)
    np.testing.assert_allclose(error, other_error, rtol=1e-2, atol=1e-4)


def test_gradient_through_adaptive_steps_agrees(model):
    x0 = jax.random.normal(KEY, (40, 2))

    def gradient():
        return jax.grad(lambda x0: jnp.sum(jnp.sin(frx.sample(model, KEY, 40, x0=x0).x)))(x0)

    np.testing.assert_allclose(*on_both(gradient), atol=1e-2)


def test_reversible_gradient_is_that_of_autodiff_and_takes_less_memory():
    def loss(y0, adjoint):
        term = dfx.ODETerm(lambda t, y, args: jnp.tanh(y) - y)
        grid = dfx.StepTo(jnp.linspace(0.0, 1.0, 501))
        options = {"stepsize_controller": grid, "adjoint": adjoint, "max_steps": 500}
        return jnp.sum(dfx.diffeqsolve(term, dfx.ReversibleHeun(), 0.0, 1.0, None, y0, **options).ys ** 2)

    y0, programs = jnp.linspace(-2, 2, 4096), []
    for adjoint in (frx.ReversibleAdjoint(), dfx.RecursiveCheckpointAdjoint()):
        programs.append(jax.jit(jax.grad(lambda y0, adjoint=adjoint: loss(y0, adjoint))).lower(y0).compile())
    reversible, checkpointed = programs
    np.testing.assert_allclose(reversible(y0), checkpointed(y0), atol=1e-4)
    memory = [program.memory_analysis().temp_size_in_bytes for program in programs]
    assert memory[0] < 0.5 * memory[1]


def test_reverse_sde_keeps_the_moments(model):
    mean, second = moments(model.oracle)
    start, end = frx.ReverseSDE().interval(model)
    x = frx.sample(model, KEY, 8000, dynamics=frx.ReverseSDE(), solver=dfx.Heun(), grid=np.linspace(start, end, 301)).x
    alpha, sigma = float(model.schedule.alpha(end)), float(model.schedule.sigma(end))
    # The steps leave a bias of first order in their length; the moments themselves are of order ten.
    np.testing.assert_allclose(np.mean(x, 0), alpha * mean, atol=0.3)
    np.testing.assert_allclose(x.T @ x / len(x), alpha**2 * second + sigma**2 * np.eye(2), atol=1.0)


def test_posterior_of_a_gaussian_is_exact():
    oracle = frx.oracle.Gaussian([0.5, -1.0], [[1.0, 0.6], [0.6, 0.5]])
    observation = frx.LinearGaussian([[1.0, 0.0]], y=[1.0], noise_std=0.3)
    draws = frx.posterior(oracle.model(frx.Linear()), observation, KEY, 2000, method=frx.ImportanceSampling())
    gain = np.array([1.0, 0.6]) / (1.0 + 0.09)
    np.testing.assert_allclose(np.asarray(draws.weights @ draws.x), [0.5, -1.0] + gain * 0.5, atol=0.05)


def test_tokens_are_drawn_alike():
    table = np.random.default_rng(0).dirichlet(np.ones(16)).reshape(2, 2, 2, 2)
    model = frx.discrete.oracle.Joint(table).model(
        frx.discrete.LogLinearMasking(), prior=frx.discrete.Masked.exclusive((4,), 2)
    )
    here, there = on_both(lambda: frx.sample(model, KEY, 20_000, dynamics=frx.discrete.Ancestral(), grid=4).x)
    # A token differs only where its random number falls between two roundings of one probability.
    assert np.mean(here != there) < 1e-3
    counts = np.bincount(np.ravel_multi_index(here.T, (2, 2, 2, 2)), minlength=16)
    # Four steps of four sites are not exact: 5 standard errors and the error of the steps.
    assert np.all(np.abs(counts / 20_000 - table.ravel()) < 5 * np.sqrt(table.ravel() / 20_000) + 0.03)


@pytest.mark.parametrize("coupling", [frx.coupling.Sinkhorn(), frx.coupling.Greedy()], ids=lambda c: type(c).__name__)
def test_pairs_agree(coupling):
    x0, x1 = jax.random.normal(KEY, (64, 2)), jax.random.normal(jax.random.key(1), (64, 2))
    here, there = on_both(lambda: coupling(KEY, x0, x1, None).x0)
    assert np.mean(np.any(here != there, axis=1)) < 0.1


def test_training_agrees():
    data = np.random.default_rng(0).normal(size=(256, 2)).astype(np.float32)
    network = frx.nn.MLP((2,), key=KEY, width=16, depth=2)
    model = frx.Model(network, frx.Linear(), shape=(2,))

    def weights():
        fitted = frx.fit(model, data, KEY, num_steps=20, batch_size=32, progress=False).model
        return jax.tree.leaves(eqx.filter(fitted.network, eqx.is_inexact_array))

    here, there = on_both(weights)
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)

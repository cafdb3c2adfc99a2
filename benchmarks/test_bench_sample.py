"""Times of `sample` and `log_prob` for an oracle, without compilation, recorded with the numbers of evaluations."""

import jax
import jax.numpy as jnp
import pytest

import flowrax as frx

NUM_SAMPLES = 1000


@pytest.fixture
def model():
    means = 5 * jax.random.normal(jax.random.key(0), (25, 2))
    covariances = jnp.tile(0.1 * jnp.eye(2), (25, 1, 1))
    return frx.oracle.GaussianMixture(jnp.ones(25) / 25, means, covariances).model(frx.Linear())


def record(benchmark, stats):
    benchmark.extra_info["device"] = jax.devices()[0].device_kind
    benchmark.extra_info["evaluations_per_sample"] = float(jnp.mean(stats.num_evaluations))


def test_sample(benchmark, model):
    def run():
        return jax.block_until_ready(frx.sample(model, jax.random.key(1), NUM_SAMPLES))

    samples = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    record(benchmark, samples.stats)


def test_log_prob(benchmark, model):
    x = frx.sample(model, jax.random.key(1), NUM_SAMPLES).x

    def run():
        return jax.block_until_ready(frx.log_prob(model, x))

    record(benchmark, benchmark.pedantic(run, rounds=5, warmup_rounds=1).stats)

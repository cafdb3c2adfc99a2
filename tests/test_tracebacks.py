"""Errors found while a solve is traced: one sentence, and a traceback that shows the caller's own code."""

import traceback

import jax
import jax.numpy as jnp
import pytest

import flowrax as frx
from flowrax._base.tracebacks import short_traceback


@pytest.fixture
def filtering():
    jax.config.update("jax_traceback_filtering", "auto")
    yield
    jax.config.update("jax_traceback_filtering", "off")


def model(network):
    return frx.Model(network, frx.Linear(), shape=(2,), dtype=jnp.float32)


def product(t, x, condition):
    return x @ jnp.ones((3, 3))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda t, x, condition: jnp.zeros(3), r"The network's output has shape \(3,\) but \(2,\) is expected"),
        (lambda t, x: x, r"called as network\(t, x, condition\), which <lambda>\(t, x\) does not take"),
        (product, "contracting dimensions"),
        (lambda t, x, condition: x * condition[0], "not subscriptable"),
    ],
)
@pytest.mark.parametrize("verb", [frx.sample, frx.log_prob])
def test_an_error_of_the_network_is_short(network, message, verb, filtering):
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        verb(model(network), *((jax.random.key(0), 3) if verb is frx.sample else (jnp.ones((3, 2)),)))
    frames = [frame for frame in traceback.extract_tb(raised.value.__traceback__) if "jaxtyping" not in frame.filename]
    assert len(frames) <= 6
    if network is product:
        assert "product" in [frame.name for frame in frames]


def test_all_frames_are_shown_on_request():
    def inner(depth):
        return inner(depth - 1) if depth else jnp.ones(2) @ jnp.ones(3)

    with pytest.raises(TypeError) as raised:
        short_traceback(inner)(3)
    assert len(traceback.extract_tb(raised.value.__traceback__)) > 6

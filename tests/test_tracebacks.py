"""Errors found while a solve is traced: one sentence, and a traceback that shows the caller's own code."""

import traceback

import jax
import jax.numpy as jnp
import numpy as np
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


NEGATED = model(lambda t, x, condition: -x)


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


ROWS = np.zeros((3, 2), np.float32)
KEY = jax.random.key(0)
MISTAKES = [
    lambda: frx.schedule.EDM(sigma_min="small"),
    lambda: frx.prior.Gaussian(2),
    lambda: frx.prior.Gaussian((2,), dtype="wide"),
    lambda: frx.dynamics.Constant(None),
    lambda: frx.ReverseSDE(frx.dynamics.Constant),
    lambda: frx.nn.MLP((2,), key=0),
    lambda: frx.times.linear_grid("3"),
    lambda: frx.times.pad_grid(np.zeros((2, 2))),
    lambda: frx.DPMSolver("two"),
    lambda: frx.sample(NEGATED, KEY, 3, throw="no"),
    lambda: frx.sample(NEGATED, KEY, 3, condition=frx.Batched),
    lambda: frx.sample(NEGATED, KEY, 3, grid="10"),
    lambda: frx.sample(NEGATED, KEY, 3, rtol=np.ones(3)),
    lambda: frx.log_prob(NEGATED, ROWS, with_log_prob=True),
    lambda: frx.log_prob(NEGATED, np.array(["a"])),
    lambda: frx.posterior(NEGATED, None, KEY, 3),
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_few_lines(mistake, filtering, untyped):
    with pytest.raises((TypeError, ValueError)) as raised:
        mistake()
    # Without the frame of this test, and those of its checks of types.
    frames = [frame for frame in traceback.extract_tb(raised.value.__traceback__) if "jaxtyping" not in frame.filename]
    told = [*traceback.format_list(frames[1:]), *traceback.format_exception_only(raised.value)]
    assert len("".join(told).splitlines()) < 12

"""Schedules of step sizes are optax's: the same numbers as torchebm's, for who comes from there."""

import pathlib

import numpy as np
import optax
import pytest

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "torchebm_schedulers.npz")

SAME = {
    "constant": optax.constant_schedule(0.3),
    "expdecay": optax.exponential_decay(1.0, transition_steps=1, decay_rate=0.9),
    "linear": optax.linear_schedule(1.0, 0.1, transition_steps=10),
    "cosine": optax.cosine_decay_schedule(1.0, decay_steps=10, alpha=0.1),
    "multistep": optax.piecewise_constant_schedule(1.0, {3: 0.5, 6: 0.5}),
    "warmup": optax.join_schedules(
        [optax.linear_schedule(0.1, 1.0, 4), optax.cosine_decay_schedule(1.0, 10, 0.1)], [4]
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_optax_gives_the_same(name, x64):
    want = REFERENCE[name]
    with_optax = [float(SAME[name](step)) for step in range(len(want))]
    assert np.max(np.abs(np.asarray(with_optax) - want)) <= 1e-7

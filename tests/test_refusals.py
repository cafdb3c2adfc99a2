"""What would run and be wrong without a word is refused, with a sentence that says how to mend it."""

import jax
import numpy as np
import pytest

import flowrax as frx
from laws import mixture

KEY = jax.random.key(0)


def test_a_network_hidden_in_a_function_is_not_trained():
    network = frx.nn.MLP((2,), key=KEY)
    model = frx.Model(lambda t, x, condition: -network(t, x, condition), frx.Linear(), shape=(2,))
    with pytest.raises(ValueError, match="^The network has no arrays to train. .* an eqx.Module that holds"):
        frx.fit(model, np.zeros((8, 2)), KEY, num_steps=1)


def test_a_bridge_has_no_noise_of_a_schedule():
    path = frx.interpolant.Latent(frx.Linear(), frx.interpolant.Brownian())
    flow, latent = (
        frx.Model(frx.nn.MLP((2,), key=KEY), path, target, shape=(2,))
        for target in (frx.Velocity(), frx.target.Latent())
    )
    bridge = frx.Bridge(flow, latent)
    with pytest.raises(ValueError, match="^SBDM, the default of ReverseSDE, .* ReverseSDE\\(dynamics.Constant"):
        frx.sample(bridge, KEY, 3, x0=np.zeros((3, 2)), dynamics=frx.ReverseSDE(), grid=4)
    with pytest.raises(ValueError, match="^SBDM, the default"):
        frx.TemperedFlow(0.5).interval(bridge)
    with pytest.raises(ValueError, match="^The path of this model has a latent"):
        frx.model.warp(bridge, frx.Cosine())
    drawn = frx.sample(bridge, KEY, 3, x0=np.zeros((3, 2)), dynamics=frx.ReverseSDE(frx.dynamics.Constant()), grid=4)
    assert np.all(np.isfinite(drawn.x))


def test_signs_that_often_agree_do_not_decide_when_to_stop():
    model = mixture(3, 2, "float32").model(frx.Linear())
    x = model.oracle.sample(KEY, (4,))
    with pytest.raises(ValueError, match="^8 random signs in 2 dimensions are too often all the same"):
        frx.log_prob(model, x, key=KEY, divergence=frx.Hutchinson(8), target_standard_error=0.1)

"""What would run and be wrong without a word is refused, with a sentence that says how to mend it."""

import inspect

import diffrax as dfx
import jax
import numpy as np
import pytest

import flowrax as frx
from flowrax.verb.options import SolveOptions
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
        for target in (frx.Velocity(), frx.target.LatentNoise())
    )
    bridge = frx.Bridge(flow, latent)
    with pytest.raises(ValueError, match="^SBDM, the default of ReverseSDE, .* ReverseSDE\\(dynamics.Constant"):
        frx.sample(bridge, KEY, 3, x0=np.zeros((3, 2)), dynamics=frx.ReverseSDE(), grid=4)
    with pytest.raises(ValueError, match="^SBDM, the default"):
        frx.TemperedFlow(0.5).interval(bridge)
    with pytest.raises(ValueError, match="^The path of this model has a latent"):
        frx.warp(bridge, frx.Cosine())
    drawn = frx.sample(bridge, KEY, 3, x0=np.zeros((3, 2)), dynamics=frx.ReverseSDE(frx.dynamics.Constant()), grid=4)
    assert np.all(np.isfinite(drawn.x))


def test_options_of_a_solve_are_refused_by_a_sampler_of_tokens():
    """Whatever is given and does not apply, be it the default or out of range."""
    model = frx.CategoricalModel(lambda t, x, c: x, frx.discrete.LogLinearMasking(), prior=frx.discrete.Masked((3,), 4))
    for option in ({"max_steps": -5}, {"max_steps": 4096}, {"rtol": 1e-3}, {"solver": dfx.Euler()}, {"lanes": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} must be at least 1|takes no {next(iter(option))}"):
            frx.sample(model, KEY, 2, grid=4, **option)
    for option in (
        {"max_steps": 4096},
        {"divergence": frx.Exact()},
        {"max_probes": 1024},
        {"discretisation_error": True},
    ):
        with pytest.raises(ValueError, match=f"takes no {next(iter(option))}; pass key="):
            frx.log_prob(model, np.zeros((2, 3), int), key=KEY, grid=4, **option)


def test_the_verbs_share_their_options():
    """An option of a solve that one verb takes under another name, or forgets, is a fault."""
    names = {verb: set(inspect.signature(verb).parameters) for verb in (frx.sample, frx.log_prob, frx.posterior)}
    options = set(inspect.signature(SolveOptions).parameters)
    shared = {"solver", "rtol", "atol", "grid", "stepsize_controller", "adjoint", "lanes", "max_steps", "progress"}
    assert all(shared | {"divergence"} <= arguments for arguments in names.values())
    assert options <= set.union(*names.values())
    assert names[frx.posterior] - {"observation", "method", "reweight"} <= names[frx.sample]


def test_signs_that_often_agree_do_not_decide_when_to_stop():
    model = mixture(3, 2, "float32").model(frx.Linear())
    x = model.oracle.sample(KEY, (4,))
    with pytest.raises(ValueError, match="^8 random signs in 2 dimensions are too often all the same"):
        frx.log_prob(model, x, key=KEY, divergence=frx.Hutchinson(8), target_standard_error=0.1)

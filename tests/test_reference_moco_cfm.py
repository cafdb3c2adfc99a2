"""The steps of bionemo-moco's flow matching, and its g(t).

Its velocity from data divides by `1 - t + 1e-5`, which is put into what is expected; ours has no such offset. Its g(t)
at a power takes the mean of log g over the batch, which is given to ours as a number.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax import dynamics as dyn
from flowrax.dynamics.chain import CFM

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "moco_cfm.npz")
TIMES = REFERENCE["t"]

G = {
    "us": dyn.Odds,
    "tan": dyn.Cotangent,
    "1_t": dyn.InversePower,
    "1_t2": lambda **o: dyn.InversePower(2.0, **o),
    "1_t1p5": lambda **o: dyn.InversePower(1.5, **o),
    "2_t": lambda **o: dyn.InversePower(scale=2.0, **o),
    "2_t2": lambda **o: dyn.InversePower(2.0, scale=2.0, **o),
    "2_t1p5": lambda **o: dyn.InversePower(1.5, scale=2.0, **o),
    "1mt": lambda offset=0.0: dyn.LinearDecay(),
    "t": lambda offset=0.0: dyn.LinearGrowth(),
    "ones": lambda offset=0.0: dyn.Constant(),
}


@pytest.mark.parametrize("mode", G)
def test_named_diffusions(mode, x64):
    def check(w, key, t):
        # Two keys of the reference are the times themselves.
        if key not in ("t", "t_p0p9"):
            np.testing.assert_allclose(w(frx.Linear(), jnp.asarray(t)), REFERENCE[f"gt/{key}"], rtol=1e-10, atol=1e-12)

    t = REFERENCE["gt/t"]
    inner = t[1:-1]
    w = G[mode]()
    check(w, mode, t)
    check(dyn.Capped(w, 2.0), f"{mode}_clamp2", t)
    check(G[mode](offset=1e-3), f"{mode}_eps1em3", t)
    centre = float(jnp.mean(jnp.log(w(frx.Linear(), jnp.asarray(inner)))))
    check(dyn.SigmoidPower(w, 0.9, centre), f"{mode}_p0p9", inner)
    # At one time of a batch the mean is the value itself.
    one = dyn.SigmoidPower(w, 0.9)(frx.Linear(), jnp.asarray(0.3))
    value = float(w(frx.Linear(), jnp.asarray(0.3)))
    own = dyn.SigmoidPower(w, 0.9, float(np.log(value)))(frx.Linear(), jnp.asarray(0.3))
    np.testing.assert_allclose(one, own, rtol=1e-12)


@pytest.fixture(scope="module")
def given():
    with jax.enable_x64(True):
        return {name: jnp.asarray(REFERENCE[name]) for name in ("model_out", "eps", "xt", "t", "dt", "mask")}


def test_conversions(given, x64):
    t, x, shrink = given["t"], given["xt"], ((1 - TIMES) / (1 - TIMES + 1e-5))[:, None, None]
    for name, target in {"data": frx.Data(), "velocity": frx.Velocity()}.items():
        cfm = CFM(target=target)

        @jax.jit
        @jax.vmap
        def converted(output, t, x, cfm=cfm):
            prediction = cfm.predict(output, t, x)
            return prediction.data, prediction.velocity

        data, velocity = converted(given["model_out"], t, x)
        want = REFERENCE[f"{name}/pvf"]
        np.testing.assert_allclose(data, REFERENCE[f"{name}/pdata"], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(velocity * (shrink if name == "data" else 1), want, rtol=1e-10, atol=1e-12)
        score = jax.jit(jax.vmap(lambda v, t, x: CFM().predict(v, t, x).score))(jnp.asarray(want), t, x)
        np.testing.assert_allclose(score, REFERENCE[f"{name}/vf_to_score"], rtol=1e-10, atol=1e-10)
    data, noise = jnp.asarray(REFERENCE["data"]), jnp.asarray(REFERENCE["noise"])
    np.testing.assert_allclose(jax.jit(jax.vmap(frx.Affine(frx.Linear()).interpolate))(t, noise, data), x, rtol=1e-12)
    velocity = jax.jit(jax.vmap(frx.Affine(frx.Linear()).velocity))(t, noise, data)
    np.testing.assert_allclose(velocity, REFERENCE["velocity/target"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["data", "velocity"])
def test_steps(name, given, x64):
    """From their velocity; a whole batch of theirs past its limit is Euler's, here each event by itself."""
    cfm = CFM()
    # That of log g over their batch of times, and both temperatures, as theirs were.
    centre = float(jnp.mean(jnp.log(dyn.Cotangent()(frx.Linear(), given["t"]))))
    cold = dict(diffusion=dyn.Capped(dyn.SigmoidPower(dyn.Cotangent(), 0.9, centre), 5.0))
    cold |= dict(score_temperature=1.5, noise_temperature=0.45, centre=True)

    def steps(velocity, t, x, dt, noise, mask):
        prediction = cfm.predict(velocity, t, x)
        stochastic = lambda **o: cfm.step_score_stochastic(prediction, t, x, dt, noise=noise, **o)  # noqa: E731
        return {
            "step": cfm.step(prediction, t, x, dt),
            "step_mask_center": cfm.step(prediction, t, x, dt, mask=mask, centre=True),
            "step_score_stoch_us": stochastic(diffusion=dyn.Odds()),
            "step_score_stoch_tan": stochastic(),
            "step_score_stoch_1_t": stochastic(diffusion=dyn.InversePower()),
            "step_score_stoch_ode": stochastic(t_ode=0.0),
            "step_score_stoch_tan_T": stochastic(mask=mask, **cold),
        }

    velocity = jnp.asarray(REFERENCE[f"{name}/pvf"])
    found = jax.jit(jax.vmap(steps))(velocity, given["t"], given["xt"], given["dt"], given["eps"], given["mask"])
    mask = REFERENCE["mask"][..., None]
    for key, got in found.items():
        want = REFERENCE[f"{name}/{key}"]
        if key in ("step_mask_center", "step_score_stoch_tan_T"):
            # Theirs leaves minus the centre at masked nodes.
            assert np.abs(want * (1 - mask)).max() > 1e-3
            want = want * mask
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10, err_msg=key)

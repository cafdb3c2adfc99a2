"""Positions and types together: the exact joint denoiser gives the joint law, and `fit` trains one network for both."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import flowrax as frx

CHANCES = np.array([0.5, 0.3, 0.2])
MEANS = np.array([-2.0, 0.5, 2.0])
STD = 0.6


class Exact(frx.model.AbstractNetwork):
    """Of a type with `CHANCES` and a position given the type: Gaussian around `MEANS`."""

    separate: bool = False

    def __call__(self, t, x, condition=None, *, key=None):
        s, u = (t["position"], t["type"]) if self.separate else (t, t)
        x, a = x["position"][0], x["type"][0]
        types = jnp.arange(3, dtype=jnp.int32)
        means, log_p = jnp.asarray(MEANS, x.dtype), jnp.log(jnp.asarray(CHANCES, x.dtype))
        # What the type's own state says: it is that type, or it was lost.
        seen = jnp.where(a == 3, 1 - u, jnp.where(types == a, u, 0))
        variance = s**2 * STD**2 + (1 - s) ** 2
        log_p = log_p + jnp.log(seen) - (x - s * means) ** 2 / (2 * variance)
        p = jax.nn.softmax(log_p)
        data = means + s * STD**2 / variance * (x - s * means)
        noise = (1 - s) / variance * (x - s * means)
        logits = jnp.concatenate([log_p, jnp.zeros(1, x.dtype)])
        return {"position": jnp.sum(p * (data - noise))[None], "type": logits[None]}


def parts():
    return {
        "position": frx.Model(frx.SharedNetwork(), frx.Linear(), shape=(1,)),
        "type": frx.CategoricalModel(
            frx.SharedNetwork(), frx.discrete.LogLinearMasking(0.0), prior=frx.discrete.Masked.exclusive((1,), 3)
        ),
    }


def distance(x):
    """Of draws of both from their law: the chi-square of the types, and the worst Kolmogorov distance of a type."""
    types, positions = np.asarray(x["type"])[:, 0], np.asarray(x["position"])[:, 0]
    pvalue = stats.chisquare(np.bincount(types, minlength=3), len(types) * CHANCES).pvalue
    far = [stats.kstest(positions[types == k], stats.norm(MEANS[k], STD).cdf).statistic for k in range(3)]
    return pvalue, max(far)


@pytest.mark.accuracy
@pytest.mark.parametrize("dynamics", [None, frx.ReverseSDE(frx.dynamics.Constant(0.3))], ids=["flow", "sde"])
def test_the_exact_network_gives_the_joint_law(dynamics, x64):
    """The types have their frequencies, and the positions of each type its law, as the steps become many."""
    model = frx.JointModel(Exact(), parts())
    moves = frx.JointSampler(dynamics={} if dynamics is None else {"position": dynamics})
    draws = {n: frx.sample(model, jax.random.key(0), 20_000, dynamics=moves, grid=n) for n in (16, 128)}
    (_, coarse), (pvalue, fine) = (distance(draw.x) for draw in draws.values())
    assert np.all(draws[16].stats.num_evaluations == 16)
    assert pvalue > 1e-3
    assert fine < 0.025 < coarse


def test_one_part_given_the_other(x64):
    """With a time for each, the type of a position that was given has the probabilities of Bayes' theorem."""
    model = frx.JointModel(Exact(separate=True), parts(), separate_times=True)
    moves = frx.JointSampler(clocks={"position": jnp.ones_like})
    position, n = 1.2, 20_000
    x0 = {"position": np.full((n, 1), position), "type": np.full((n, 1), 3)}
    x = frx.sample(model, jax.random.key(1), n, dynamics=moves, grid=4, x0=x0).x
    assert np.all(np.asarray(x["position"]) == position)
    chances = CHANCES * stats.norm(MEANS, STD).pdf(position)
    counts = np.bincount(np.asarray(x["type"])[:, 0], minlength=3)
    assert stats.chisquare(counts, n * chances / chances.sum()).pvalue > 1e-3


class Net(frx.model.AbstractNetwork):
    mlp: frx.nn.MLP

    def __call__(self, t, x, condition=None, *, key=None):
        types = jax.nn.one_hot(x["type"][0], 4, dtype=x["position"].dtype)
        times = jnp.stack([t["position"], t["type"]]) if isinstance(t, dict) else jnp.stack([t, t])
        out = self.mlp(jnp.zeros(()), jnp.concatenate([x["position"], types, times.astype(types.dtype)]))
        return {"position": out[:1], "type": out[None, 1:5]}


@pytest.mark.accuracy
@pytest.mark.parametrize("separate", [False, True], ids=["one time", "two times"])
def test_fit_trains_one_network_for_both(separate):
    """What is trained on draws of both knows that they go together."""
    rng = np.random.default_rng(0)
    types = rng.choice(3, size=4000, p=CHANCES)
    data = {"type": types[:, None], "position": (MEANS[types] + STD * rng.standard_normal(4000))[:, None]}
    network = Net(frx.nn.MLP((7,), width=64, depth=2, key=jax.random.key(0)))
    model = frx.JointModel(network, parts(), separate_times=separate)
    result = frx.fit(
        model, data, jax.random.key(1), optimizer=optax.adam(5e-3), num_steps=500, validation=data, progress=False
    )
    x = frx.sample(result.model, jax.random.key(2), 5000, grid=50).x
    # Positions that ignored the type would be 0.5 away from those of the first.
    assert distance(x)[1] < 0.15
    assert np.allclose(np.bincount(np.asarray(x["type"])[:, 0], minlength=3) / 5000, CHANCES, atol=0.05)


def test_errors():
    model = frx.JointModel(Exact(), parts())
    with pytest.raises(ValueError, match="dictionary of the parts"):
        frx.sample(model, jax.random.key(0), 2, x0=np.zeros((2, 1)))
    with pytest.raises(ValueError, match="separate_times=False"):
        frx.sample(model, jax.random.key(0), 2, dynamics=frx.JointSampler(clocks={"type": jnp.ones_like}))
    with pytest.raises(ValueError, match="there is no part"):
        frx.sample(model, jax.random.key(0), 2, dynamics=frx.JointSampler(dynamics={"types": frx.discrete.Ancestral()}))
    scaled = frx.Model(
        frx.SharedNetwork(), frx.EDM(), frx.Data(), shape=(1,), preconditioner=frx.EDMPreconditioner(sigma_data=1.0)
    )
    with pytest.raises(ValueError, match="preconditioner"):
        frx.JointModel(Exact(), {**parts(), "position": scaled})


GAUSSIAN = frx.oracle.Gaussian(np.ones(1, np.float32), 0.25 * np.eye(1, dtype=np.float32)).model(frx.Linear())
ALONE = [
    (frx.ReverseSDE(), None),
    (frx.PredictorCorrector(frx.ProbabilityFlow(), snr=0.3), None),
    (frx.PredictorCorrector(frx.ReverseSDE(), num_steps=2), dfx.Heun()),
    (frx.Churn(0.3), frx.EDMHeun()),
    (frx.Restart(0.3, 0.6, num_steps=2), frx.EDMHeun()),
]


def exact_velocity(t, x, condition):
    return {"z": GAUSSIAN.predict(t["z"], x["z"]).velocity}


@pytest.mark.parametrize(("dynamics", "solver"), ALONE)
def test_a_part_alone_moves_as_a_model(dynamics, solver):
    """A joint model of one part has, within the error of 20,000 draws, the moments of the model in the same steps."""
    part = frx.Model(frx.SharedNetwork(), frx.Linear(), shape=(1,), dtype=np.float32)
    joint = frx.JointModel(exact_velocity, {"z": part}, separate_times=True)
    sampler = frx.JointSampler({"z": dynamics}, dfx.Euler() if solver is None else solver)
    single = frx.Model(lambda t, x, c: GAUSSIAN.predict(t, x).velocity, frx.Linear(), shape=(1,), dtype=np.float32)
    n = 20_000
    got = frx.sample(joint, jax.random.key(0), n, dynamics=sampler, grid=6).x["z"]
    expected = frx.sample(single, jax.random.key(1), n, dynamics=dynamics, solver=sampler.solver, grid=6).x
    # Differences of means and of standard deviations, in units of their standard errors.
    spread = float(jnp.std(expected))
    assert abs(jnp.mean(got) - jnp.mean(expected)) < 4 * spread * (2 / n) ** 0.5
    assert abs(jnp.std(got) - spread) < 4 * spread * (1 / n) ** 0.5


REFUSED = {
    "dynamics['position']=Langevin does not run in the time of the path, as all parts do.": frx.Langevin(0.9, 1.0),
    "dynamics['position']=Churn goes back in time, where the other parts do not follow; it needs a model with "
    "separate_times=True.": frx.Churn(0.1),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_dynamics_that_cannot_move_one_part_is_refused(message):
    model = frx.JointModel(Exact(), parts())
    with pytest.raises(ValueError) as error:
        frx.sample(model, jax.random.key(0), 2, dynamics=frx.JointSampler({"position": REFUSED[message]}), grid=2)
    assert str(error.value) == message

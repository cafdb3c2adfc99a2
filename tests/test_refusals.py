"""What would run and be wrong without a word is refused, with a sentence that says how to mend it."""

import inspect

import diffrax as dfx
import equinox as eqx
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
    assert all(shared | {"divergence"} <= names[verb] for verb in (frx.sample, frx.log_prob))
    assert shared <= names[frx.posterior]
    assert options <= set.union(*names.values())
    assert names[frx.posterior] - {"observation", "method"} <= names[frx.sample]


def test_signs_that_often_agree_do_not_decide_when_to_stop():
    model = mixture(3, 2, "float32").model(frx.Linear())
    x = model.oracle.sample(KEY, (4,))
    with pytest.raises(ValueError, match="^8 random signs in 2 dimensions are too often all the same"):
        frx.log_prob(model, x, key=KEY, divergence=frx.Hutchinson(8), target_standard_error=0.1)


ORACLE = mixture(3, 2, "float32").model(frx.Linear())
NETWORK = frx.nn.MLP((2,), key=KEY, width=4, depth=1)
MODEL = frx.Model(NETWORK, frx.Linear(), shape=(2,))
ESTIMATOR = frx.DensityEstimator(MODEL, shift=0.0, scale=1.0)
SEEN = frx.LinearGaussian([[1.0, 0.0]], [0.5], 0.1)
TOKENS = frx.CategoricalModel(lambda t, x, c: x, frx.discrete.LogLinearMasking(), prior=frx.discrete.Masked((3,), 4))
ROWS = np.zeros((3, 2), np.float32)


class Unfinished:
    """A measurement of one's own without a likelihood."""

    def check_event(self, shape):
        pass

    def residual(self, x):
        return x


def sample(model=ORACLE, num_samples=3, **options):
    return lambda: frx.sample(model, KEY, num_samples, **options)


def fit(model=MODEL, **options):
    return lambda: frx.fit(model, ROWS, KEY, num_steps=1, progress=False, **options)


# What is given, and the whole message.
DOORS = {
    "num_samples must be an integer; got 2.5.": sample(num_samples=2.5),
    "num_samples must be an integer; got True.": sample(num_samples=True),
    "num_samples must be an integer; got the string '3'.": sample(num_samples="3"),
    "lanes must be an integer; got 1.5.": sample(lanes=1.5),
    "max_steps must be an integer; got True.": sample(max_steps=True),
    "rtol must not be negative; got -1.0.": sample(rtol=-1.0),
    "rtol must be a number; got nan.": sample(rtol=float("nan")),
    "rtol must be finite; got inf.": sample(rtol=float("inf")),
    "atol must not be negative; got -1.0.": lambda: frx.log_prob(ORACLE, ROWS, atol=-1.0),
    "rtol and atol must not both be zero: no step would ever be accepted.": sample(rtol=0.0, atol=0.0),
    "grid must be a number of steps, at least one, or an array of times; got 2.5.": sample(grid=2.5),
    "grid must be a number of steps, at least one, or an array of times; got True.": sample(TOKENS, grid=True),
    "grid holds 1 NaN or infinite values; remove or impute them first.": sample(grid=[0.0, np.nan, 1.0]),
    "grid has shape (0,); it needs (k + 1,) times with k >= 1.": sample(grid=[]),
    "saveat must be a diffrax.SaveAt such as diffrax.SaveAt(ts=jnp.linspace(0, 1, 11)); got 10.": sample(saveat=10),
    "saveat=SaveAt(steps=...) reserves 3125 MiB for the states of up to 4096 steps of each sample; pass a lower "
    "max_steps=, grid=, or SaveAt(ts=times).": sample(num_samples=100_000, saveat=dfx.SaveAt(steps=True)),
    "solver must be a diffrax solver; got the class Dopri5: write Dopri5().": sample(solver=dfx.Dopri5),
    "solver must be a diffrax solver; got the string 'euler'.": lambda: frx.log_prob(ORACLE, ROWS, solver="euler"),
    "dynamics must be a dynamics such as ProbabilityFlow() or a sampler; got the class Langevin: write "
    "Langevin(...).": (sample(dynamics=frx.Langevin)),
    "stepsize_controller must be a diffrax step size controller; got the class PIDController: write "
    "PIDController(...).": sample(stepsize_controller=dfx.PIDController),
    "adjoint must be a diffrax adjoint; got the class DirectAdjoint: write DirectAdjoint().": sample(
        adjoint=dfx.DirectAdjoint
    ),
    "divergence must be a divergence such as Exact(); got the class Exact: write Exact().": sample(
        with_log_prob=True, divergence=frx.Exact
    ),
    "last_step must be a last step such as Tweedie(); got the class Tweedie: write Tweedie().": sample(
        last_step=frx.Tweedie
    ),
    "progress must be a bool or a diffrax progress meter; got the string 'yes'.": sample(progress="yes"),
    "model must be a model such as Model(network, schedule, shape=...); got an object of type MLP.": sample(NETWORK),
    "model must be a model such as Model(network, schedule, shape=...); got the class Model: write Model(...).": sample(
        frx.Model
    ),
    "sample takes a model, not a DensityEstimator: call the method sample of this DensityEstimator.": sample(ESTIMATOR),
    "log_prob takes a model, not a DensityEstimator: call the method log_prob of this DensityEstimator.": (
        lambda: frx.log_prob(ESTIMATOR, ROWS)
    ),
    "posterior takes a model, not a DensityEstimator: call the method posterior of this DensityEstimator.": (
        lambda: frx.posterior(ESTIMATOR, SEEN, KEY, 3)
    ),
    "fit takes a model, not a DensityEstimator: call the method fit of this object.": fit(ESTIMATOR),
    "Euler is a sampler of categorical or joint models; OracleModel takes a dynamics such as ProbabilityFlow().": (
        sample(dynamics=frx.discrete.Euler(), grid=4)
    ),
    "ProbabilityFlow moves continuous events; CategoricalModel has none.": sample(
        TOKENS, dynamics=frx.ProbabilityFlow()
    ),
    "observation must be an object with the methods log_likelihood; got an object of type Unfinished, "
    "without log_likelihood.": lambda: frx.posterior(ORACLE, Unfinished(), KEY, 3),
    "observation must be an object with the methods log_likelihood; got the class LinearGaussian: "
    "write LinearGaussian(...).": lambda: frx.posterior(ORACLE, frx.LinearGaussian, KEY, 3),
    "method must be a guidance rule or a posterior method such as TemperedSMC(); got the class PiGDM: write "
    "PiGDM().": lambda: frx.posterior(ORACLE, SEEN, KEY, 3, method=frx.guidance.PiGDM),
    "window must be an integer; got 2.5.": lambda: frx.verb.parallel_sample(ORACLE, KEY, 3, grid=4, window=2.5),
    "tolerance must be a number; got nan.": lambda: frx.verb.parallel_sample(
        ORACLE, KEY, 3, grid=4, tolerance=float("nan")
    ),
    "target_standard_error must be positive; got -1.0.": lambda: frx.log_prob(
        ORACLE, ROWS, key=KEY, divergence=frx.Hutchinson(16), target_standard_error=-1.0
    ),
    "loss must be a loss; got the class Matching: write Matching().": fit(loss=frx.Matching),
    "coupling must be a coupling; got the class ExactOT: write ExactOT().": fit(coupling=frx.ExactOT),
    "optimizer must be an optax transformation, with init and update; got the string 'adam'.": fit(optimizer="adam"),
    "network must be a function network(t, x, condition) or a module; got the class MLP: write MLP(...).": lambda: (
        frx.Model(frx.nn.MLP, frx.Linear(), shape=(2,))
    ),
    "shape must be a tuple of integers such as (2,); got 2.": lambda: frx.Model(NETWORK, frx.Linear(), shape=2),
}


@pytest.mark.parametrize("words", DOORS)
def test_what_does_not_belong_is_refused_at_the_door(words, untyped):
    with pytest.raises(ValueError) as error:
        DOORS[words]()
    assert str(error.value) == words
    assert len(words) <= 240


@pytest.mark.parametrize(
    "options", [dict(num_samples=np.int64(3)), dict(lanes=np.int64(2)), dict(grid=np.int64(4)), dict(max_steps=None)]
)
def test_numpy_integers_are_integers(options):
    assert sample(**{"grid": 4, **options})().x.shape == (3, 2)


def test_explicit_limits_of_steps_may_reserve_what_they_ask_for():
    saved = sample(saveat=dfx.SaveAt(steps=True), max_steps=64)()
    assert saved.trajectory.shape == (3, 64, 2)


class Both(eqx.Module):
    """A network of two parts with one parameter."""

    scale: jax.Array

    def __call__(self, t, x, condition):
        return x


JOINT = frx.JointModel(
    Both(np.ones(1, np.float32)),
    {"x": frx.Model(frx.joint.SharedNetwork(), frx.Linear(), shape=(2,)), "y": TOKENS},
    separate_times=True,
)
PARTS = {"x": ROWS, "y": np.zeros((3, 3), np.int32)}


@pytest.mark.parametrize(
    ("words", "act"),
    [
        (
            r"^x0 must be a dictionary of the parts \['x', 'y'\]; got one with \['x', 'z'\]\.$",
            sample(JOINT, x0={**{"x": ROWS}, "z": ROWS}),
        ),
        (r"^x must be a dictionary of the parts", lambda: JOINT.events("x", {**PARTS, "z": ROWS})),
        (r"^data must be a dictionary of the parts", lambda: frx.fit(JOINT, {"x": ROWS}, KEY, num_steps=1)),
        (
            r"^dynamics: there is no part z; the model has x, y\.$",
            sample(JOINT, dynamics=frx.JointSampler({"z": frx.ProbabilityFlow()})),
        ),
        (r"^clocks: there is no part z", sample(JOINT, dynamics=frx.JointSampler(clocks={"z": lambda t: t}))),
        (
            r"^losses: there is no part z",
            lambda: frx.fit(JOINT, PARTS, KEY, num_steps=1, loss=frx.joint.JointMatching({"z": frx.Matching()})),
        ),
        (
            r"^weights: there is no part z",
            lambda: frx.fit(JOINT, PARTS, KEY, num_steps=1, loss=frx.joint.JointMatching(weights={"z": 2.0})),
        ),
        (r"^weights\['x'\] must not be negative; got -1\.0\.$", lambda: frx.joint.JointMatching(weights={"x": -1.0})),
        (r"^t: there is no part z", lambda: JOINT.times_of({"z": 0.5})),
        (r"^name: there is no part z", lambda: JOINT.part_view("z", {"x": 0.5, "y": 0.5}, PARTS)),
        (r"^JointModel has no log_prob", lambda: frx.log_prob(JOINT, PARTS)),
    ],
)
def test_names_of_parts_that_do_not_exist_are_refused(words, act, untyped):
    with pytest.raises(ValueError, match=words):
        act()

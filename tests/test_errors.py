"""The text of every error a user meets first: what, where and how to mend it, in one or two short sentences."""

from typing import ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import flowrax as frx
from flowrax.dynamics.base import AbstractPathDynamics

KEY = jax.random.key(0)
ORACLE = frx.oracle.Gaussian(np.float32([0.5, -1.0]), np.eye(2, dtype=np.float32))
LINEAR, EDM = ORACLE.model(frx.Linear()), ORACLE.model(frx.EDM())
ROWS = np.zeros((3, 2), np.float32)
HOLES = np.float32([[0, np.nan], [np.inf, 1], [2, 3]])


def negated(t, x, condition):
    return -x


def network(*, schedule=frx.Linear(), target=None, shape=(2,), **options):
    return frx.Model(negated, schedule, target, shape=shape, dtype=np.float32, **options)


class Geometric(AbstractPathDynamics):
    """dX = X dW: the readings differ, and Euler is for Ito's."""

    calculus: ClassVar[type | None] = dfx.AbstractItoSolver
    keeps_density: ClassVar[bool] = False
    has_noise: ClassVar[bool] = True
    default_tolerance: ClassVar[float] = 1e-2

    def interval(self, model):
        return 0.0, 1.0

    def source(self, model):
        return model.source

    def terms(self, model, condition, make_noise):
        noise = make_noise(model.shape, 0)
        drift = dfx.ODETerm(lambda t, x, args: jnp.zeros_like(x))
        return dfx.MultiTerm(drift, dfx.ControlTerm(lambda t, x, args: lx.DiagonalLinearOperator(x), noise)), None

    def stepper(self, solver):
        return dfx.Euler() if solver is None else solver


def sample(model=LINEAR, **options):
    return lambda: frx.sample(model, KEY, 3, **options)


def log_prob(x=ROWS, model=LINEAR, **options):
    return lambda: frx.log_prob(model, x, **options)


NO_SCORE = (
    "This model has no score: its coupling makes noise and data dependent; train with coupling=Independent() "
    "for the score, ReverseSDE, Langevin or guidance."
)

# What is done, and the whole message.
MESSAGES = {
    "x of another event": (
        log_prob(np.zeros((3, 4), np.float32)),
        "x has shape (3, 4) but (n, 2) is expected; the model's events have shape (2,).",
    ),
    "x without a batch": (
        log_prob(np.zeros(2, np.float32)),
        "x has shape (2,) but (n, 2) is expected; the model's events have shape (2,).",
    ),
    "x0 of another event": (
        sample(x0=np.zeros((3, 1), np.float32)),
        "x0 has shape (3, 1) but (n, 2) is expected; the model's events have shape (2,).",
    ),
    "x0 of another number": (sample(x0=np.zeros((5, 2), np.float32)), "x0 has 5 rows but 3 are expected."),
    "condition of another number": (
        sample(condition=frx.Batched(np.zeros((4, 1), np.float32))),
        "condition=Batched(...) has a leaf of shape (4, 1); its leading axis must be n=3.",
    ),
    "no samples": (lambda: frx.sample(LINEAR, KEY, 0), "num_samples must be at least 1; got 0."),
    "an event shape that disagrees": (
        lambda: frx.sample(frx.Model(lambda t, x, c: x[:1], frx.Linear(), shape=(2,), dtype=np.float32), KEY, 3),
        "The network's output has shape (1,) but (2,) is expected.",
    ),
    "t_min below 0": (lambda: network(t_min=-0.1), "t_min=-0.1 is outside [0, 1]; t=0 is noise and t=1 is data."),
    "t_max above 1": (
        lambda: frx.ReverseSDE(t_max=1.5),
        "t_max=1.5 is outside [0, 1]; t=0 is noise and t=1 is data.",
    ),
    "time of Langevin": (
        lambda: frx.Langevin(time=2.0, duration=1.0),
        "time=2.0 is outside [0, 1]; t=0 is noise and t=1 is data.",
    ),
    "times in reverse": (lambda: network(t_min=0.9, t_max=0.2), "t_min=0.9 is not below t_max=0.2."),
    "a singular end": (
        lambda: network(schedule=frx.VariancePreserving(), t_max=1.0),
        "This schedule and target are singular at t_max=1.0; use for example 0.999.",
    ),
    "fixed steps without a grid": (
        sample(solver=dfx.Euler()),
        "Euler has no error estimate to adapt its steps by; pass grid=<number of steps>.",
    ),
    "a grid of the wrong interval": (
        sample(grid=np.linspace(0, 0.5, 5)),
        "grid runs from 0 to 0.5 but this solve from 0 to 1.",
    ),
    "a grid outside [0, 1]": (
        sample(grid=np.linspace(0, 2, 5)),
        "grid=2.0 is outside [0, 1]; t=0 is noise and t=1 is data.",
    ),
    "a grid that turns back": (sample(grid=np.array([0, 0.7, 0.5, 1.0])), "grid must be strictly increasing."),
    "a grid of one time": (
        sample(grid=np.array([0.0])),
        "grid has shape (1,); it needs (k + 1,) times with k >= 1.",
    ),
    "a grid of no steps": (sample(grid=0), "grid=0 steps are too few; at least 1 is needed."),
    "two ways to step": (
        sample(grid=10, rtol=1e-3),
        "Give one of rtol/atol, stepsize_controller and grid, not several.",
    ),
    "two other ways to step": (
        log_prob(grid=10, stepsize_controller=dfx.PIDController(rtol=1e-3, atol=1e-3)),
        "Give one of rtol/atol, stepsize_controller and grid, not several.",
    ),
    "a controller of fixed steps": (
        sample(stepsize_controller=dfx.ConstantStepSize()),
        "Fixed steps are asked for by grid=<number of steps>, not by a stepsize_controller.",
    ),
    "a Stratonovich solver for Ito's reading": (
        sample(dynamics=Geometric(), solver=dfx.Heun(), grid=10),
        "Geometric has state-dependent diffusion in the Ito sense, but Heun converges to the other; "
        "pass a solver of diffrax's Ito kind.",
    ),
    "a Stratonovich solver for Ito's reading, many steps at once": (
        lambda: frx.verb.parallel_sample(LINEAR, KEY, 3, dynamics=Geometric(), solver=dfx.Heun(), grid=10),
        "Geometric has state-dependent diffusion in the Ito sense, but Heun converges to the other; "
        "pass a solver of diffrax's Ito kind.",
    ),
    "overlapping steps of a reverse SDE": (
        sample(dynamics=frx.ReverseSDE(), solver=dfx.LeapfrogMidpoint(), grid=4),
        "LeapfrogMidpoint steps over two intervals at once, but ReverseSDE draws its noise for one at a time; use "
        "a one-step solver such as Euler, Heun or ShARK.",
    ),
    "overlapping steps of Langevin": (
        sample(dynamics=frx.Langevin(0.5, 1.0), solver=dfx.LeapfrogMidpoint(), grid=4),
        "LeapfrogMidpoint steps over two intervals at once, but Langevin draws its noise for one at a time; use "
        "a one-step solver such as Euler, Heun or ShARK.",
    ),
    "overlapping steps with a corrector": (
        sample(dynamics=frx.PredictorCorrector(frx.ProbabilityFlow()), solver=dfx.LeapfrogMidpoint(), grid=4),
        "LeapfrogMidpoint steps over two intervals at once, but PredictorCorrector draws its noise for one at a time; "
        "use a one-step solver such as Euler, Heun or ShARK.",
    ),
    "a reverse SDE without a score": (sample(network(coupling=frx.ExactOT()), dynamics=frx.ReverseSDE()), NO_SCORE),
    "Langevin without a score": (
        sample(network(coupling=frx.ExactOT()), dynamics=frx.Langevin(0.5, 1.0), grid=4),
        NO_SCORE,
    ),
    "a score without a score": (
        lambda: network(coupling=frx.ExactOT()).predict(jnp.asarray(0.5), jnp.zeros(2)).score,
        NO_SCORE,
    ),
    "Langevin beyond the score's interval": (
        sample(network(), dynamics=frx.Langevin(1.0, 1.0), grid=4),
        "Langevin needs a score at t=1.0, but the model has one on [0.0, 0.999].",
    ),
    "NaN in x": (
        log_prob(HOLES),
        "x holds 2 NaN or infinite values; remove or impute them first. The first is in row 0, column 1.",
    ),
    "NaN in x0": (
        sample(x0=HOLES),
        "x0 holds 2 NaN or infinite values; remove or impute them first. The first is in row 0, column 1.",
    ),
    "NaN in an oracle": (
        lambda: frx.oracle.Gaussian(HOLES[0], np.eye(2)),
        "mean holds 1 NaN or infinite values; remove or impute them first.",
    ),
    "probes without a key": (
        log_prob(divergence=frx.Hutchinson(4)),
        "Hutchinson draws probes; pass key=jax.random.key(...).",
    ),
    "no probes": (lambda: frx.Hutchinson(0), "num_probes must be at least 1; got 0."),
    "a density along an SDE": (
        sample(dynamics=frx.ReverseSDE(), with_log_prob=True),
        "with_log_prob=True needs the probability flow; ReverseSDE carries no density.",
    ),
    "a divergence for nothing": (sample(divergence=frx.Exact()), "divergence is used with with_log_prob=True only."),
    "a density of denoised samples": (
        sample(with_log_prob=True, last_step=frx.Tweedie()),
        "last_step changes the distribution of the samples; it cannot go with with_log_prob=True.",
    ),
    "no lanes": (sample(lanes=0), "lanes must be at least 1; got 0."),
    "no steps": (sample(max_steps=0), "max_steps must be at least 1; got 0."),
    "EDM's scaling of another target": (
        lambda: network(target=frx.Velocity(), preconditioner=frx.EDMPreconditioner(0.5)),
        "EDMPreconditioner predicts the data; pass target=Data() with it.",
    ),
    "a negative deviation of the data": (
        lambda: frx.EDMPreconditioner(sigma_data=-1.0),
        "sigma_data must be positive; got -1.0.",
    ),
    "an observation of another size": (
        lambda: ORACLE.posterior(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), np.eye(3, dtype=np.float32)),
        "operator has shape (3, 3) but (3, 2) is expected.",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_message(case):
    act, message = MESSAGES[case]
    with pytest.raises(ValueError) as error:
        act()
    # Without the notes that jax adds to an error it sees pass.
    assert str(error.value) == message
    assert len(message) <= 240


def test_too_few_steps_are_counted():
    message = (
        "sample: 3 of 3 solves failed: the limit of max_steps=2 was reached in 3; raise max_steps, loosen rtol and "
        "atol, take fixed steps by grid=, or look for NaN in the network's output. throw=False returns the successful "
        "rows."
    )
    with pytest.raises(frx.SolveError) as error:
        sample(EDM, max_steps=2)()
    assert str(error.value) == message


def fails_far_out(t, x, condition):
    """NaN beyond 5, still elsewhere."""
    return jnp.where(jnp.abs(x) > 5, jnp.nan, 0 * x)


NAN = "the state became NaN or infinite; check the network's output, or take smaller steps."


@pytest.mark.parametrize("stepping", [dict(max_steps=50), dict(grid=4)])
def test_a_failed_row_leaves_the_others_alone(stepping):
    model = frx.Model(fails_far_out, frx.Linear(), shape=(2,), dtype=np.float32)
    x0 = np.float32([[0, 1], [9, 0], [2, 3]])
    with pytest.raises(frx.SolveError) as error:
        frx.sample(model, KEY, 3, x0=x0, **stepping)
    assert str(error.value) == f"sample: 1 of 3 solves failed: {NAN} throw=False returns the successful rows."
    kept = frx.sample(model, KEY, 3, x0=x0, throw=False, **stepping)
    assert np.array_equal(np.asarray(kept.x), np.float32([[0, 1], [np.nan, np.nan], [2, 3]]), equal_nan=True)
    assert np.array_equal(kept.result == frx.RESULTS.successful, [True, False, True])
    assert np.array_equal(kept.result == frx.RESULTS.nonfinite, [False, True, False])


@pytest.mark.accuracy
def test_too_few_steps_keep_the_good_rows():
    """A tolerance that some starts meet in 14 steps and others do not."""
    options = dict(max_steps=40, throw=False, rtol=1e-4, atol=1e-4)
    x = ORACLE.sample(KEY, (64,)) * jnp.where(jnp.arange(64) % 2, 1.0, 1e3)[:, None]
    whole = frx.log_prob(EDM, x, throw=False, rtol=1e-4, atol=1e-4)
    steps = np.asarray(whole.stats.num_steps)
    limit = int(np.median(steps))
    assert steps.min() < limit < steps.max()
    cut = frx.log_prob(EDM, x, **{**options, "max_steps": limit})
    good = steps <= limit
    assert np.array_equal(np.asarray(cut.result == frx.RESULTS.successful), good)
    assert np.all(np.asarray(cut.result == frx.RESULTS.max_steps_reached) == ~good)
    assert np.allclose(cut.value[good], whole.value[good], rtol=1e-5, atol=1e-4)
    assert np.all(np.isnan(cut.value[~good]))
    with pytest.raises(frx.SolveError, match=rf"^log_prob: {int(np.sum(~good))} of 64 solves failed: the limit of "):
        frx.log_prob(EDM, x, max_steps=limit, rtol=1e-4, atol=1e-4)


def test_inside_jit_one_static_sentence():
    sentence = (
        "sample: a solve failed (NaN, or the limit of steps was reached); "
        "call it outside jit or with throw=False to see which."
    )
    with pytest.raises(RuntimeError) as error:
        eqx.filter_jit(lambda key: frx.sample(EDM, key, 3, max_steps=2).x)(KEY)
    assert sentence in str(error.value)
    kept = eqx.filter_jit(lambda key: frx.sample(EDM, key, 3, max_steps=2, throw=False).x)(KEY)
    assert np.all(np.isnan(kept))


@pytest.mark.parametrize("make", [sample(x0=np.zeros((3, 1), np.float32)), sample(solver=dfx.Euler())])
def test_bad_arguments_fail_inside_jit_too(make):
    with pytest.raises(ValueError, match=r"^(x0 has shape|Euler has no error estimate)"):
        jax.jit(lambda: make().x)()

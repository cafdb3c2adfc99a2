"""Uses of categorical and joint models that are easily got wrong: precision, failures, grids, parts, what fit takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax import discrete

TABLE = np.random.default_rng(0).dirichlet(np.full(9, 4.0)).reshape(3, 3)
SCHEDULE = frx.discrete.LogLinearMasking(0.0)


def masked(shape=(2,), classes=3):
    return frx.discrete.Masked.exclusive(shape, classes)


@pytest.mark.accuracy
def test_half_precision_logits_draw_all_classes():
    """In bfloat16 sums of 1024 equal weights and uniform numbers would reach 128 classes alone."""
    prior = frx.discrete.UniformCategorical((4,), 1024)
    model = frx.CategoricalModel(lambda t, x, c: jnp.zeros((4, 1024), jnp.bfloat16), SCHEDULE, prior=prior)
    for moves in (discrete.Ancestral(), discrete.MixtureJump()):
        x = frx.sample(model, jax.random.key(0), 2000, dynamics=moves, grid=2).x
        counts = np.bincount(np.ravel(x), minlength=1024)
        # 8000 draws of 1024 classes miss exp(-7.8) of them and take none 30 times.
        assert np.sum(counts > 0) > 1015 and counts.max() < 30


def test_half_precision_networks_are_stepped_in_single():
    def network(t, x, c):
        return jnp.zeros((2, 4), jnp.bfloat16)

    model = frx.CategoricalModel(network, SCHEDULE, prior=masked(), dtype=jnp.bfloat16)
    answer = frx.sample(model, jax.random.key(0), 2, dynamics=discrete.MixtureJump(), grid=1000)
    assert model.dtype == jnp.float32 and answer.x.max() < 3


@pytest.mark.parametrize(
    "moves",
    [discrete.Ancestral(), discrete.Euler(), discrete.CorrectorSampler(discrete.Euler())],
    ids=["ancestral", "euler", "corrector"],
)
def test_a_failure_on_the_way_stays_one(moves):
    """A network that is not a number for a while: later steps could draw good tokens again."""
    prior = frx.discrete.UniformCategorical((2,), 3)

    def network(t, x, c):
        return jnp.full((2, 3), jnp.sqrt((t - 0.4) * (t - 0.6)))

    model = frx.CategoricalModel(network, SCHEDULE, prior=prior)
    answer = frx.sample(model, jax.random.key(0), 5, dynamics=moves, grid=10, throw=False)
    assert np.all(answer.x == -1) and np.all(answer.result == frx.RESULTS.nonfinite)
    with pytest.raises(frx.SolveError, match="5 of 5"):
        frx.sample(model, jax.random.key(0), 5, dynamics=moves, grid=10)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([0.0, 0.5], "increasing times from 0.0"),
        ([1.0, 0.5, 0.0], "increasing times"),
        ([-1.0, 1.0], "increasing times"),
        ([[0.0, 1.0]], "an array of times; got an array of shape"),
        ([0.5, 1.0], "samples of the prior start at 0"),
        (0, "grid=0 steps are too few"),
    ],
)
def test_grids(grid, message):
    model = frx.discrete.oracle.Joint(TABLE).model(SCHEDULE, prior=masked())
    with pytest.raises(ValueError, match=message):
        frx.sample(model, jax.random.key(0), 2, grid=grid if isinstance(grid, int) else jnp.array(grid))


def parts(shape=(2,)):
    return {
        "position": frx.Model(frx.SharedNetwork(), frx.Linear(), shape=shape),
        "type": frx.CategoricalModel(frx.SharedNetwork(), SCHEDULE, prior=masked(shape)),
    }


class Joint(frx.model.AbstractNetwork):
    weight: jax.Array

    def __call__(self, t, x, condition=None, *, key=None):
        return {"position": self.weight * x["position"], "type": jnp.zeros((*x["type"].shape, 4))}


@pytest.mark.accuracy
def test_parts_keep_what_was_given():
    model = frx.JointModel(Joint(jnp.ones(())), parts())
    x0 = {"position": np.zeros((50, 2)), "type": np.tile([1, 3], (50, 1))}
    for moves in (
        discrete.PathPlanning(keep_given=True),
        discrete.Remasking(discrete.CappedRemasking(0.5), keep_given=True),
    ):
        both = frx.JointSampler(dynamics={"type": moves})
        x = frx.sample(model, jax.random.key(0), 50, dynamics=both, grid=6, x0=x0).x
        assert np.all(x["type"][:, 0] == 1) and np.all(x["type"] < 3)


def test_parts_have_the_steps_of_their_moves():
    model = frx.JointModel(Joint(jnp.ones(())), parts((8,)))
    moves = frx.JointSampler(dynamics={"type": discrete.Unmask(discrete.RandomOrder(), per_step=1)})
    with pytest.raises(ValueError, match="grid|steps"):
        frx.sample(model, jax.random.key(0), 2, dynamics=moves, grid=4)


def test_parts_keep_to_the_interval_of_their_dynamics():
    """The default noise of ReverseSDE is infinite at an end of the path."""
    model = frx.JointModel(Joint(jnp.ones(())), parts())
    moves = frx.JointSampler(dynamics={"position": frx.ReverseSDE()})
    assert np.all(np.isfinite(frx.sample(model, jax.random.key(0), 5, dynamics=moves, grid=8).x["position"]))


@pytest.mark.accuracy
def test_molecules_of_several_sizes():
    """A prior of the row for the positions: masked atoms stay at zero in training and in draws."""
    position = frx.prior.Conditional(lambda c: frx.prior.Gaussian((3,), std=c), (3,))
    molecule = {
        "position": frx.Model(frx.SharedNetwork(), frx.Linear(), shape=(3,), prior=position),
        "type": frx.CategoricalModel(frx.SharedNetwork(), SCHEDULE, prior=masked((3,))),
    }
    real = np.tile([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], (20, 1)).astype(np.float32)
    data = {"position": real * 2, "type": np.zeros((40, 3), np.int32)}
    model = frx.JointModel(Joint(jnp.ones(())), molecule)
    result = frx.fit(model, data, jax.random.key(0), condition=real, num_steps=5, batch_size=8, progress=False)
    x = frx.sample(result.model, jax.random.key(1), 2, condition=frx.Batched(real[:2]), grid=4).x
    assert x["position"][0, 2] == 0 and np.all(x["position"][1] != 0)


class Table(frx.model.AbstractNetwork):
    logits: jax.Array

    def __call__(self, t, x, condition=None, *, key=None):
        return self.logits


@pytest.mark.accuracy
def test_fit_takes_integers_afresh_and_refuses_what_makes_no_sense():
    model = frx.CategoricalModel(Table(jnp.zeros((2, 4))), SCHEDULE, prior=masked())
    rows = np.zeros((10, 4), np.int32) + np.arange(4, dtype=np.int32) % 3
    options = {"num_steps": 3, "batch_size": 4, "progress": False}

    def crop(key, row):
        return jax.lax.dynamic_slice(row, (jax.random.randint(key, (), 0, 3),), (2,))

    assert frx.fit(model, rows, jax.random.key(0), augment=crop, **options).num_steps == 3
    refused = [
        ({"augment": lambda key, row: row[:2].astype(float)}, rows, "events are int32"),
        ({}, np.full((10, 2), 3), "holds class 3, the prior's mask"),
        ({"coupling": frx.ExactOT()}, rows[:, :2], "no distance"),
        ({"x0": rows[:, :2]}, rows[:, :2], "all noise is masks"),
    ]
    for more, data, message in refused:
        with pytest.raises(ValueError, match=message):
            frx.fit(model, data, jax.random.key(0), **options, **more)


def test_more_refusals():
    model = frx.discrete.oracle.Joint(TABLE).model(SCHEDULE, prior=masked())
    short = frx.CategoricalModel(model.network, SCHEDULE, prior=masked(), t_max=0.8)
    apart = frx.CategoricalModel(lambda t, x, _: {"logits": x}, SCHEDULE, prior=masked(), dtype=jnp.float32)
    part = frx.JointModel(lambda t, x, _: {"type": x["type"]}, parts())
    calls = [
        (lambda: frx.sample(apart, jax.random.key(0), 2), "returned dict; it must return an array"),
        (
            lambda: frx.sample(part, jax.random.key(0), 2),
            r"returned \['type'\]; it must return a dictionary of the parts",
        ),
        (lambda: frx.sample(model, jax.random.key(0), 2, with_log_prob=True), "log_prob"),
        (
            lambda: frx.posterior(model, frx.LinearGaussian(jnp.eye(2), jnp.zeros(2), 1.0), jax.random.key(0), 2),
            "posterior is for continuous events",
        ),
        (lambda: frx.discrete.oracle.Joint([[-0.5, 0.5], [0.5, 0.5]]), "finite, not negative"),
        (lambda: frx.discrete.Categorical((2,), []), "list of numbers"),
        (lambda: frx.log_prob(frx.JointModel(Joint(jnp.ones(())), parts()), TABLE), "has no log_prob"),
        (lambda: frx.joint.JointMatching(losses={"type": frx.discrete.CategoricalBound()}), "evaluated once"),
        (lambda: discrete.Loop(discrete.CappedRemasking(0.1)).times(short, 4), "outside the model's times"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()

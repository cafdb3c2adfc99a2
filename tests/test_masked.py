"""Samplers of masks with the exact denoiser: joint laws, numbers of steps, what is given; the loss and the score."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flowrax as frx
from flowrax import discrete
from flowrax.discrete.base import SamplerStep
from states import LINEAR, TABLE, exact, falls_at_order, law_after, marginal, states_of

CUBE = np.random.default_rng(2).dirichlet(np.full(27, 0.7)).reshape(3, 3, 3)
SQUARE = np.random.default_rng(3).dirichlet(np.ones(16)).reshape(2, 2, 2, 2)


def pvalue(model, moves, law, grid=None, n=20_000):
    """Of the chi-square test of draws against a law over data; no mask may be left."""
    x = np.asarray(frx.sample(model, jax.random.key(1), n, dynamics=moves, grid=grid).x)
    counts = np.bincount(np.ravel_multi_index(x.T, law.shape), minlength=law.size)
    return stats.chisquare(counts, n * law.ravel() / law.sum()).pvalue


@pytest.mark.accuracy
def test_paths_planned_at_random_are_the_joint_law():
    moves = discrete.PathPlanning(discrete.RandomOrder(), stochasticity=0.0)
    assert pvalue(exact("masked", table=CUBE), moves, CUBE, 3) > 1e-3


@pytest.mark.accuracy
def test_a_block_at_a_time_is_the_joint_law():
    oracle = frx.discrete.oracle.Joint(SQUARE)
    model = oracle.model(LINEAR, prior=frx.discrete.Masked.exclusive((4,), 2))
    moves = discrete.Blocks(discrete.Unmask(discrete.RandomOrder()), 2)
    assert len(moves.times(model, None)) == 5
    assert pvalue(model, moves, SQUARE) > 1e-3


@pytest.mark.accuracy
def test_confidence_has_the_law_of_its_selection():
    """Of two sites by hand: the more probable of two tokens stays, and the other site is drawn anew given it."""
    law = np.zeros((3, 3))
    first, second = TABLE.sum(1), TABLE.sum(0)
    for a in range(3):
        for b in range(3):
            if first[a] >= second[b]:
                law[a] += first[a] * second[b] * TABLE[a] / first[a]
            else:
                law[:, b] += first[a] * second[b] * TABLE[:, b] / second[b]
    moves = discrete.Unmask(discrete.Confidence())
    assert pvalue(exact("masked"), moves, law) > 1e-3 > pvalue(exact("masked"), moves, TABLE)


class Constant(frx.model.AbstractNetwork):
    logits: jax.Array

    def __call__(self, t, x, condition=None, *, key=None):
        return self.logits


def flat(length):
    """All classes are equal: every margin is zero, every order a tie."""
    return frx.CategoricalModel(
        Constant(jnp.zeros((length, 4))), LINEAR, prior=frx.discrete.Masked.exclusive((length,), 3)
    )


@pytest.mark.parametrize(
    ("moves", "grid", "left"),
    [
        (discrete.Unmask(discrete.Margin(), per_step=2), None, [5, 3, 1, 0]),
        (discrete.Unmask(discrete.Entropy(0.5)), 3, [5, 3, 1, 0]),
        (discrete.Unmask(discrete.Confidence(), per_step=[1, 4]), None, [5, 4, 0]),
        (discrete.PathPlanning(), 5, [5, 4, 3, 2, 1, 0]),
    ],
    ids=["by two", "three steps", "as told", "planned"],
)
def test_the_number_of_steps_is_exact(moves, grid, left):
    """Five masks by two are three steps, and none is left, ties or not; a row with fewer masks rests at its end."""
    saveat = dfx.SaveAt(steps=True)
    answer = frx.sample(flat(5), jax.random.key(0), 4, dynamics=moves, grid=grid, saveat=saveat)
    assert np.all(np.sum(np.asarray(answer.trajectory) == 3, axis=2) == left)
    assert np.all(answer.stats.num_evaluations == len(left) - 1)
    x0 = np.array([[0, 3, 2, 3, 1], [3, 3, 3, 3, 3], [2, 2, 2, 2, 2], [3, 0, 0, 0, 0]])
    x = np.asarray(frx.sample(flat(5), jax.random.key(0), 4, dynamics=moves, grid=grid, x0=x0).x)
    assert np.all(x < 3) and np.all(x[x0 < 3] == x0[x0 < 3])


def test_left_to_right_is_so_in_every_row():
    x0 = np.array([[0, 3, 3], [3, 0, 3], [3, 3, 0]])
    moves = discrete.Unmask(discrete.LeftToRight(), per_step=1)
    answer = frx.sample(flat(3), jax.random.key(0), 3, dynamics=moves, x0=x0, saveat=dfx.SaveAt(steps=True))
    assert np.array_equal(answer.trajectory[:, 1] == 3, [[False, False, True]] * 2 + [[False, True, False]])


@pytest.mark.parametrize("make", [discrete.CappedRemasking, discrete.RescaledRemasking])
def test_remasking_keeps_the_law_of_a_site(make, x64):
    """In any steps; of two sites the error falls with them where the share that is masked again does."""
    p = TABLE[0] / TABLE[0].sum()
    model = exact("masked", frx.discrete.CosineMasking(0.0), p)
    for steps in (1, 3, 8):
        law = law_after(model, discrete.Remasking(make(0.4)), steps)
        np.testing.assert_allclose(law, [*p, 0], atol=1e-12)


def test_remasking_tends_to_the_joint_law(x64):
    errors = []
    for steps in (32, 64, 128):
        law = law_after(exact("masked"), discrete.Remasking(discrete.CappedRemasking(2.0 / steps)), steps)
        errors.append(np.abs(law[:3, :3] - TABLE).sum())
    assert falls_at_order(errors, 1)


def test_tokens_compete_in_path_planning_and_given_ones_stay():
    x0 = np.tile([0, 3, 2, 3, 3], (50, 1))
    for moves in (discrete.PathPlanning(discrete.RandomOrder()), discrete.PathPlanning(judge_drawn=True)):
        x = np.asarray(frx.sample(flat(5), jax.random.key(0), 50, dynamics=moves, x0=x0, grid=4).x)
        assert np.all(x[:, [0, 2]] == [0, 2]) and x.max() < 3
    free = discrete.PathPlanning(discrete.RandomOrder(), keep_given=False)
    assert np.any(np.asarray(frx.sample(flat(5), jax.random.key(0), 50, dynamics=free, x0=x0, grid=4).x)[:, 0] != 0)


@pytest.mark.accuracy
def test_temperature_leaves_the_speed_alone(x64):
    """It is that of the tokens: rows sum to one, and as many masks stay at any temperature."""
    model = exact("masked")
    step = SamplerStep(jnp.asarray(0), 1, jnp.asarray(0.3), jnp.asarray(0.4))
    x = jnp.array([3, 3], jnp.int32)
    rows = [discrete.Ancestral(temperature).probabilities(model, step, x) for temperature in (1.0, 0.5, 0.0)]
    for row in rows:
        np.testing.assert_allclose(np.sum(row, axis=-1), 1, rtol=1e-12)
        np.testing.assert_allclose(row[:, 3], 0.6 / 0.7, rtol=1e-12)
    sharp = np.exp(2 * np.asarray(model.log_probabilities(0.3, x)))[:, :3]
    np.testing.assert_allclose(rows[1][:, :3] / (0.1 / 0.7), sharp / sharp.sum(1, keepdims=True), rtol=1e-10)


def test_score_is_a_ratio_of_probabilities(x64):
    """At masked sites, by sums over the data; at known sites as given their data."""
    model, t = exact("masked"), 0.35
    law = np.asarray(marginal(model, t)).reshape(4, 4)
    for x in ([3, 3], [1, 3], [3, 0]):
        got = np.asarray(discrete.score(model, t, jnp.asarray(x, jnp.int32)))
        assert np.all(np.isfinite(got))
        for site in range(2):
            ratio = np.take(law, x[1 - site], axis=1 - site) / law[tuple(x)]
            want = ratio if x[site] == 3 else np.where(np.arange(4) == x[site], 1.0, 0.0)
            want[3] = 1 if x[site] == 3 else (1 - t) / t
            np.testing.assert_allclose(got[site], want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("schedule", [LINEAR, frx.discrete.CosineMasking(0.0)], ids=["linear", "cosine"])
def test_the_weighted_cross_entropy_is_the_log_probability(schedule, x64):
    """With the exact denoiser, by quadrature over the time and sums over what is masked; padding counts for nothing."""
    model = exact("masked", schedule)
    loss = frx.discrete.CrossEntropy(weight=frx.discrete.ELBOWeight(), per_token=False)
    points, weights = np.polynomial.legendre.leggauss(24)
    x1, masks = jnp.array([2, 0], jnp.int32), jnp.array([3, 3], jnp.int32)

    def at_time(t):
        alpha = schedule.alpha(t)
        # A level above alpha is lost.
        levels = [jnp.where(jnp.array(lost), 1.0, -1.0) for lost in ([0, 0], [0, 1], [1, 0], [1, 1])]
        chances = [alpha**2, alpha * (1 - alpha), alpha * (1 - alpha), (1 - alpha) ** 2]
        return sum(p * loss(model, t, (masks, level), x1) for p, level in zip(chances, levels, strict=True))

    values = jax.jit(jax.vmap(at_time))(jnp.asarray((1 + points) / 2))
    assert np.isclose(np.sum(weights / 2 * values), -np.log(TABLE[2, 0]), rtol=1e-6)
    padded = frx.discrete.CrossEntropy(mask=lambda c: c)
    real = jnp.array([True, False])
    lost = masks, jnp.ones(2)
    want = -np.asarray(model.log_probabilities(0.3, masks))[0, 2]
    assert np.isclose(padded(model, jnp.asarray(0.3), lost, x1, real), want, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: discrete.Unmask().times(exact("uniform"), None),
            "Unmask unmasks sites, but UniformCategorical has no mask; use discrete.Masked",
        ),
        (lambda: discrete.FirstHitting().times(exact("custom"), None), "FirstHitting unmasks sites"),
        (lambda: discrete.FirstHitting().times(exact("masked"), 7), "leave out grid=7"),
        (lambda: discrete.Unmask(per_step=0), "at least 1"),
        (lambda: discrete.Unmask(per_step=[1]).times(exact("masked"), None), "unmasks 1 sites in all"),
        (lambda: discrete.Unmask(per_step=2).times(exact("masked"), 4), "leave out grid=4"),
        (
            lambda: discrete.Blocks(discrete.Unmask(), 3).times(exact("masked"), None),
            "cannot be divided into blocks of 3",
        ),
        (lambda: discrete.score(exact("uniform"), 0.5, states_of(exact("uniform"))[0]), "has no mask"),
        (lambda: frx.discrete.ELBOWeight()(exact("uniform"), 0.5), "has no mask"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()

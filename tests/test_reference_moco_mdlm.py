"""Masked diffusion against bionemo-moco's: every value of theirs, or how it is related to the right one.

Their time runs the other way; their mask is class 5 of 6, which a network of theirs may also predict.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import flowrax as frx
from flowrax.discrete.sampler.masks import highest

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "moco_mdlm.npz")
SCHEDULES = {"cosine": frx.discrete.CosineMasking(), "loglinear": frx.discrete.LogLinearMasking()}
MASK, LENGTH = 5, 5
PRIOR = frx.discrete.Masked((LENGTH,), 6)
X, TOKENS, LOGITS = REFERENCE["xt"], REFERENCE["tokens"], REFERENCE["logits"]
T, DT = REFERENCE["t"], REFERENCE["dt"]
ROWS = range(len(X))
# Argmax of the data's classes, and where theirs gives a token: not where it predicts a mask.
BEST = LOGITS[..., :MASK].argmax(-1)
TOKEN = LOGITS.argmax(-1) != MASK


class Rows(frx.model.AbstractNetwork):
    """Their logits of the row that is the condition."""

    def __call__(self, t, x, condition=None, *, key=None):
        return jnp.asarray(LOGITS)[condition]


def model(name="loglinear"):
    return frx.CategoricalModel(Rows(), SCHEDULES[name], prior=PRIOR, dtype=jnp.float64)


def by_row(function):
    """The function of each row's state, number and our time, stacked."""
    rows = jnp.asarray(X, jnp.int32), jnp.asarray(ROWS), jnp.asarray(1 - T)
    return np.asarray(jax.jit(jax.vmap(function))(*rows))


def moved(moves, index=0, count=3, fixed=None):
    """Each row after one step; `index` may be one for each row."""
    index = jnp.asarray(np.broadcast_to(index, len(X)))
    first = jnp.asarray(np.full_like(X, MASK) if fixed is None else np.where(fixed, X, MASK), jnp.int32)

    def one(x, i, t):
        step = frx.discrete.base.SamplerStep(index[i], count, t, t, first[i])
        return moves.step(model(), step, x, i, jax.random.key(0))

    return by_row(one)


@pytest.mark.parametrize("name", SCHEDULES)
def test_probabilities_of_the_data(name, x64):
    """Equal where theirs is not their stand-in for minus infinity, and their logits are left as they were."""
    before = LOGITS.copy()
    ours, theirs = by_row(lambda x, i, t: model(name).log_probabilities(t, x, i)), REFERENCE[f"{name}/subs_logprobs"]
    assert np.array_equal(ours == -np.inf, theirs < -1e5)
    finite = np.isfinite(ours)
    np.testing.assert_allclose(ours[finite], theirs[finite], rtol=1e-10, atol=1e-12)
    assert np.array_equal(LOGITS, before)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_weight_and_interpolation(name, x64):
    schedule = SCHEDULES[name]
    np.testing.assert_allclose(schedule.mask_probability(1 - T), REFERENCE[f"{name}/p_mask"], rtol=1e-10)
    weight = [frx.discrete.ELBOWeight()(model(name), jnp.asarray(1 - t)) for t in T]
    np.testing.assert_allclose(weight, REFERENCE[f"{name}/loss_weight"], rtol=1e-10)
    # They mask below the probability of a mask, we above that of none.
    level = jnp.asarray(1 - REFERENCE["rand_u2"])
    x0 = jnp.full((LENGTH,), MASK, jnp.int32)
    got = [
        frx.discrete.Mixture(schedule).interpolate(1 - T[i], (x0, level[i]), jnp.asarray(TOKENS[i], jnp.int32))
        for i in ROWS
    ]
    assert np.array_equal(np.stack(got), REFERENCE[f"{name}/interpolate_u2"])


@pytest.mark.parametrize("weight", [0, 1])
@pytest.mark.parametrize("name", SCHEDULES)
def test_losses(name, weight, x64):
    """Their `global_mean` is the sum over the batch, divided by the real tokens of it or, unmasked, by one event's."""
    weighting, group = frx.discrete.ELBOWeight() if weight else None, f"{name}/loss_w{weight}"
    real = REFERENCE["mask"]

    def losses(masked, per_token):
        mask = (lambda row: jnp.asarray(real)[row]) if masked else None
        loss = frx.discrete.CrossEntropy(weighting, mask=mask, per_token=per_token)
        # Levels that keep what is known in their states.
        return by_row(
            lambda x, i, t: loss(
                model(name),
                t,
                (jnp.full_like(x, MASK), jnp.where(x == MASK, 1.0, -1.0)),
                jnp.asarray(TOKENS, jnp.int32)[i],
                i,
            )
        )

    # Theirs counts what is known but not the data there as 1e6; the states here were made of other tokens.
    assert np.all((X == MASK) | (X == TOKENS))
    for masked, suffix, tokens in ((False, "", LENGTH), (True, "_mask", real.sum())):
        np.testing.assert_allclose(losses(masked, True), REFERENCE[f"{group}_gm0{suffix}"], rtol=1e-10)
        batch = losses(masked, False).sum() / tokens
        np.testing.assert_allclose(batch, REFERENCE[f"{group}_gm1{suffix}"], rtol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_step(name, x64):
    """Theirs are ours times the probability of a mask before the step; draws by their exponential race agree."""
    lost = REFERENCE[f"{name}/p_mask"][:, None, None]
    masked = X == MASK

    def law(temperature):
        moves = frx.discrete.Ancestral(temperature)
        return by_row(
            lambda x, i, t: moves.probabilities(
                model(name), frx.discrete.base.SamplerStep(jnp.asarray(0), 1, t, jnp.asarray(1 - T + DT)[i]), x, i
            )
        )

    ours, theirs = law(1.0), REFERENCE[f"{name}/step_probs_T1.0"]
    np.testing.assert_allclose((lost * ours)[masked], theirs[masked], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours[~masked], np.eye(6)[X[~masked]], atol=1e-12)
    race = np.argmax(ours / (1e-10 - np.log(REFERENCE["rand_u"] + 1e-10)), axis=-1)
    assert np.array_equal(race, REFERENCE[f"{name}/step_u"])
    # Temperature one half: the same masks, the rest by squared probabilities. Theirs forgets to divide by their sum.
    cold, squares = law(0.5), np.exp(2 * REFERENCE[f"{name}/subs_logprobs"])
    np.testing.assert_allclose(cold[masked].sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(cold[..., MASK], ours[..., MASK], rtol=1e-10, atol=1e-12)
    share = squares / squares.sum(-1, keepdims=True)
    lift = (1 - ours[..., MASK])[..., None]
    np.testing.assert_allclose(cold[masked][:, :MASK], (lift * share)[masked][:, :MASK], rtol=1e-9, atol=1e-12)
    wrong = REFERENCE[f"{name}/step_probs_T0.5"]
    unlifted = wrong[..., :MASK].sum(-1) / theirs[..., :MASK].sum(-1)
    np.testing.assert_allclose(unlifted[masked], squares.sum(-1)[masked], rtol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_score(name, x64):
    """Theirs of raw logits and of log-probabilities with that of a mask among them; ours are normalised without it."""
    ours = by_row(lambda x, i, t: frx.discrete.score(model(name), t, x, i))
    data = log_softmax(LOGITS[..., :MASK], axis=-1)
    masked, known = X == MASK, X != MASK
    for theirs, given in (("score", LOGITS), ("score_from_log_softmax", log_softmax(LOGITS, axis=-1))):
        values = REFERENCE[f"{name}/{theirs}"]
        np.testing.assert_allclose(ours[known], values[known], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ours[masked][:, MASK], values[masked][:, MASK], rtol=1e-12)
        factor = np.exp(given[..., :MASK] - data)
        np.testing.assert_allclose((factor * ours[..., :MASK])[masked], values[masked][:, :MASK], rtol=1e-9)


def test_numbers_of_steps(x64):
    """Five masks by two are three steps; theirs rounds down and leaves one."""
    steps = {k: len(frx.discrete.Unmask(per_step=k).times(model(), None)) - 1 for k in (1, 2, 3)}
    assert steps == {1: 5, 2: 3, 3: 2}
    assert {k: int(REFERENCE[f"num_steps_{k}"]) for k in steps} == {1: 5, 2: 2, 3: 1}


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("per_step", [1, 2])
def test_confidence(per_step, step, x64):
    moves = frx.discrete.Unmask(frx.discrete.Confidence(), per_step, temperature=0.0)
    theirs = REFERENCE[f"conf/argmaxsample_rand0_n{per_step}_step{step}_of3"]
    assert np.array_equal(moved(moves, step), theirs)


def test_left_to_right(x64):
    """Every row's own first mask; theirs is the first row's, where other rows may hold none."""
    ours = moved(frx.discrete.Unmask(frx.discrete.LeftToRight(), 1, temperature=0.0))
    first = (X == MASK).argmax(-1)
    expected = X.copy()
    expected[ROWS, first] = BEST[ROWS, first]
    assert np.array_equal(ours, expected)
    theirs, column = REFERENCE["ar/argmaxsample"], first[0]
    assert np.array_equal(theirs != X, (X == MASK) & (np.arange(LENGTH) == column))
    assert np.array_equal(theirs[0], ours[0])


def test_greedy_tokens_and_their_probabilities(x64):
    """Theirs among six classes, the mask as well; ours never give a mask."""
    everything = frx.discrete.Unmask(frx.discrete.LeftToRight(), LENGTH, temperature=0.0)
    filled = moved(everything)
    assert np.array_equal(filled, np.where(X == MASK, BEST, X))
    for theirs in ("step_argmax", "ssc_T0/tokens", "ssc_T0p7_ns0p5/tokens"):
        assert np.array_equal(REFERENCE[theirs] == MASK, ~TOKEN)
        assert np.array_equal(REFERENCE[theirs][TOKEN], BEST[TOKEN])
    # Their scores are log-probabilities of tempered and perturbed logits; ours of the tempered ones, a law.
    noise = -np.log(-np.log(REFERENCE["rand_u"] + 1e-8) + 1e-8)
    for name, logits in (("T0", LOGITS), ("T0p7_ns0p5", LOGITS / 0.7 + 0.5 * noise)):
        np.testing.assert_allclose(log_softmax(logits, axis=-1).max(-1), REFERENCE[f"ssc_{name}/scores"], rtol=1e-9)
    tempered = frx.discrete.log_tempered(jnp.asarray(log_softmax(LOGITS, axis=-1)), 0.7)
    np.testing.assert_allclose(tempered, log_softmax(LOGITS / 0.7, axis=-1), rtol=1e-9)


def test_the_lowest_scores():
    scores = jnp.asarray(REFERENCE["topk/scores"])
    assert np.array_equal([highest(-row, jnp.asarray(2)) for row in scores], REFERENCE["topk/cut2"])


def plan(logits, randomness, fixed, last):
    """Their rule in numpy, on logits that may or may not hold the mask's."""
    scores, drawn = log_softmax(logits, axis=-1).max(-1), logits.argmax(-1)
    out = X.copy()
    for i in ROWS:
        masked = X[i] == MASK
        score = np.where(masked, randomness, 1.0) * scores[i]
        score[fixed[i]] = np.inf
        worst = np.argsort(score)[: 0 if last else int((~fixed[i]).sum() * T[i])]
        out[i] = np.where(masked, drawn[i], X[i])
        out[i][worst] = MASK
    return out


@pytest.mark.parametrize("step", [0, 2, 4])
@pytest.mark.parametrize("name", ["T0", "T0_rand0p5_fix"])
def test_path_planning(name, step, x64):
    """Their rule without the mask among the predictions; their factor on new tokens is one over ours on known ones.

    Their share of masks is their time: the fraction floor(n t) of n free sites is that of our step 4, 3, 1, 0 of five.
    """
    fixed = REFERENCE["p2/fix_mask"] if "fix" in name else np.zeros_like(X, bool)
    randomness, last = (0.5 if "fix" in name else 1.0), step == 4
    assert np.array_equal(plan(LOGITS, randomness, fixed, last), REFERENCE[f"p2/{name}_step{step}_of5"])
    moves = frx.discrete.PathPlanning(stochasticity=1 / randomness, temperature=0.0, judge_drawn=True)
    ours = moved(moves, 4 if last else [4, 3, 1, 0], 5, fixed)
    assert np.array_equal(ours, plan(LOGITS[..., :MASK], randomness, fixed, last))

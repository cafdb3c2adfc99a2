"""Discrete flow matching against bionemo-moco's: every value of theirs, or how it is related to the right one.

Their time is ours. Their mask is class 5 of 6, which a network of theirs may also predict.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import flowrax as frx
from flowrax import discrete
from flowrax.discrete.base import SamplerStep
from states import LINEAR

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "moco_dfm.npz")
MASK, CLASSES, LENGTH = 5, 6, 5
TOKENS, LOGITS, T, DT = (REFERENCE[name] for name in ("tokens", "logits", "t", "dt"))
X = {"mask": REFERENCE["xt_mask"], "uniform": REFERENCE["xt_unif"]}
PRIOR = {"mask": frx.discrete.Masked, "uniform": frx.discrete.UniformCategorical}
ROWS = range(len(T))
PER_SITE = -np.take_along_axis(log_softmax(LOGITS, axis=-1), TOKENS[..., None], axis=-1)[..., 0]


class Rows(frx.model.AbstractNetwork):
    """Their logits of the row that is the condition."""

    def __call__(self, t, x, condition=None, *, key=None):
        return jnp.asarray(LOGITS)[condition]


def model(kind, shape=(LENGTH,)):
    return frx.CategoricalModel(Rows(), LINEAR, prior=PRIOR[kind](shape, CLASSES), dtype=jnp.float64)


def by_row(kind, function):
    """The function of each row's state, number and step, stacked."""

    def one(x, i, start, end):
        return function(x, i, SamplerStep(jnp.asarray(0), 2, start, end))

    rows = jnp.asarray(X[kind], jnp.int32), jnp.asarray(ROWS), jnp.asarray(T), jnp.asarray(T + DT)
    return np.asarray(jax.jit(jax.vmap(one))(*rows))


@pytest.mark.parametrize("eta", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("kind", PRIOR)
def test_step(kind, temperature, eta, x64):
    """Theirs bounds each probability by one; ours bounds their sum, a certain jump, and goes to the data at the end."""
    theirs, before = REFERENCE[f"{kind}/step_probs_eta{eta}_T{temperature}"], LOGITS.copy()
    moves, plain = discrete.Euler(eta, temperature), discrete.Euler(0.0, temperature)
    ours, there = (by_row(kind, lambda x, i, s, m=m: m.probabilities(model(kind), s, x, i)) for m in (moves, plain))
    data = there[-1]
    here = X[kind][..., None] == np.arange(CLASSES)

    def expected(x, i, step):
        p1 = jax.nn.softmax(model(kind).log_probabilities(step.start, x, i) / temperature)
        return (step.end - step.start) * discrete.jump_rates(model(kind), step.start, x, p1, eta)

    jumps = by_row(kind, expected)
    # A last step of theirs loses nothing under masks.
    last = np.where(np.arange(CLASSES) == MASK, kind != "mask", True)
    bounded = np.minimum(jumps, 1) * np.where((T + DT >= 1)[:, None, None], last, True)
    bounded = np.where(here, np.maximum(1 - bounded.sum(-1, keepdims=True), 0), bounded)
    np.testing.assert_allclose(theirs, bounded, rtol=3e-6, atol=5e-7)
    np.testing.assert_allclose(ours.sum(-1), 1, rtol=1e-12)
    inner = T + DT < 1
    sums = theirs.sum(-1, keepdims=True)
    rare = inner[:, None] & (jumps.sum(-1) <= 1)
    assert rare.sum() >= 6
    np.testing.assert_allclose(ours[rare], theirs[rare], rtol=3e-6, atol=5e-7)
    certain = inner[:, None] & (jumps.sum(-1) > 1) & (jumps.max(-1) <= 1)
    np.testing.assert_allclose(ours[certain], (theirs / sums)[certain], rtol=3e-6, atol=5e-7)
    assert np.array_equal(certain.any(), (kind, eta) == ("uniform", 5.0))
    known = np.eye(CLASSES)[X[kind][-1]]
    squared = log_softmax((LOGITS[-1] if kind == "uniform" else LOGITS[-1, :, :MASK]) / temperature, axis=-1)
    chances = np.pad(np.exp(squared), [(0, 0), (0, CLASSES - squared.shape[-1])])
    free = np.full((LENGTH, 1), True) if kind == "uniform" else X[kind][-1][:, None] == MASK
    np.testing.assert_allclose(data, np.where(free, chances, known), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(ours[-1], data)
    assert np.array_equal(LOGITS, before)


@pytest.mark.parametrize("weighted", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_losses(masked, weighted, x64):
    """Theirs counts known tokens as well and a mask among the classes; its weight lacks 1e-5 of ours."""
    name, real = f"loss_w{weighted}" + "_mask" * masked, REFERENCE["mask"] if masked else np.ones_like(TOKENS)
    loss = frx.discrete.CrossEntropy(
        frx.discrete.InverseRemaining() if weighted else None,
        mask=(lambda row: jnp.asarray(real)[row]) if masked else None,
    )

    def ours(kind):
        def one(x, i, step):
            # Levels that keep what is known in their states.
            pair = jnp.full_like(x, MASK), jnp.where(x == MASK, 1.0, -1.0)
            return loss(model(kind), step.start, pair, jnp.asarray(TOKENS, jnp.int32)[i], i)

        return by_row(kind, one)

    theirs = REFERENCE[f"uniform/{name}"] * ((1 - T + 1e-5) / (1 - T) if weighted else 1)
    assert np.array_equal(REFERENCE[f"uniform/{name}"], REFERENCE[f"mask/{name}"])
    np.testing.assert_allclose(ours("uniform"), theirs, rtol=1e-10)
    # That of masks: less what is known, and a mask is no class of the data.
    others = np.log1p(-np.exp(log_softmax(LOGITS, axis=-1)[..., MASK]))
    surplus = np.where(X["mask"] == MASK, -others, PER_SITE)
    scale = (1 / (1 - T) if weighted else 1) / real.sum(-1)
    np.testing.assert_allclose(ours("mask"), theirs - scale * (real * surplus).sum(-1), rtol=1e-10)


@pytest.mark.parametrize("loss", [frx.discrete.CrossEntropy(), frx.discrete.GeneralisedKL()], ids=repr)
def test_losses_of_events_of_two_axes(loss, x64):
    """Classes are the last axis of events of any rank: a square of tokens has the mean of its rows' losses."""

    def value(i, x1):
        x1, t = jnp.asarray(x1, jnp.int32), jnp.asarray(0.4)
        pair = jnp.full_like(x1, 2), jnp.where(x1 == 3, -1.0, 1.0)
        return loss(model("uniform", x1.shape), t, pair, x1, i)

    rows = [value(i, TOKENS[i]) for i in ROWS]
    np.testing.assert_allclose(value(jnp.arange(len(T)), TOKENS), np.mean(rows), rtol=1e-12)


@pytest.mark.parametrize("kind", PRIOR)
def test_interpolation(kind, x64):
    """They keep noise below the level 1 - t, we data below t; keys, which theirs forgets, are told apart."""
    noise = jnp.asarray(REFERENCE[f"{kind}/noise"], jnp.int32)
    path, data = frx.discrete.Mixture(LINEAR), jnp.asarray(TOKENS, jnp.int32)
    level = jnp.asarray(1 - REFERENCE["rand_u2"])
    got = [path.interpolate(jnp.asarray(T[i]), (noise[i], level[i]), data[i]) for i in ROWS]
    assert np.array_equal(np.stack(got), REFERENCE[f"{kind}/interpolate_u2"])
    levels = [path.noise(jax.random.key(k), data)[1] for k in (0, 0, 1)]
    assert np.array_equal(levels[0], levels[1]) and not np.array_equal(levels[0], levels[2])


@pytest.mark.parametrize("kind", PRIOR)
def test_greedy_tokens(kind, x64):
    """One step to the data at temperature zero, from where nothing is known."""
    start = jnp.full((LENGTH,), MASK, jnp.int32)
    step = SamplerStep(jnp.asarray(0), 1, jnp.asarray(0.0), jnp.asarray(1.0))
    for moves in (discrete.MixtureJump(0.0), discrete.Euler(temperature=0.0)):
        got = by_row(kind, lambda x, i, _, m=moves: m.step(model(kind), step, start, i, jax.random.key(0)))
        assert np.array_equal(got, REFERENCE[f"{kind}/argmax"])


def test_how_many_masks_purity_lifts(x64):
    """The same probability; what comes back does not in the last step, where theirs loses one in twenty."""
    chances = by_row("mask", lambda x, i, step: jnp.stack(discrete.Purity(1.0).chances(model("mask"), step)))
    np.testing.assert_allclose(chances[:, 0], REFERENCE["unmask_prob_purity_eta1"], rtol=1e-12)
    np.testing.assert_allclose(chances[:, 1], np.where(T + DT < 1, DT, 0), rtol=1e-12)
    x = by_row("mask", lambda x, i, step: discrete.Purity(1.0).step(model("mask"), step, x, i, jax.random.key(i)))
    assert np.all(x[-1] != MASK)

"""bionemo-moco's D3PM: its matrices, posteriors, losses and steps, in single precision as they are.

Its posterior is the published one, `AveragedJoint`, with 1e-6 inside each logarithm. Known to be wrong there, and shown
here for what they are: the variational term, whose one-hot target goes through a softmax; the mask of `mask_dim=2`,
which is the last class; and the last step, which takes the likeliest class instead of a draw.
"""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import rel_entr, softmax

import flowrax as frx
from flowrax.discrete import D3PM, AveragedJoint
from flowrax.schedule import ddpm_cosine, ddpm_linear

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "moco_d3pm.npz")
SHAPE, NUM, STEPS = (5,), 5, 20
PRIORS = {
    "uniform": frx.discrete.UniformCategorical(SHAPE, NUM),
    "mask": frx.discrete.Masked(SHAPE, NUM),
    "custom": frx.discrete.Categorical(SHAPE, [0.3, 0.2, 0.4, 0.1, 0.0]),
}
TABLES = {"cosine": ddpm_cosine(STEPS, beta_min=1e-3), "linear": ddpm_linear(STEPS, 1e-4, 0.2)}
CASES = [(prior, table) for prior in PRIORS for table in TABLES]
INDICES, TOKENS, LOGITS = (REFERENCE[name] for name in ("ti", "tokens", "logits"))


def chain(prior, table, **options):
    return D3PM(TABLES[table], PRIORS[prior], **options)


def want(prior, table, name):
    return REFERENCE[f"{prior}/{table}/{name}"]


@eqx.filter_jit
def over_rows(function, chain, arguments):
    return jax.vmap(lambda *row: function(chain, *row))(*arguments)


def batch(function, chain, *arguments):
    """A function of a chain, one event and its index over the rows of the reference; chains of one prior share it."""
    tokens = [jnp.asarray(a, jnp.int32) if a.dtype == np.int64 else jnp.asarray(a) for a in arguments]
    return np.asarray(over_rows(function, chain, tokens))


def factors(chain, p1, index, x):
    """Of the published step."""
    s, t = chain.time(index), chain.time(index - 1)
    return chain.path.likelihood(chain.prior, s, t, x), chain.path.marginal(chain.prior, t, p1)


def size(chain, p1, x):
    """How large the unnormalised step is: zero where no data can have left the token that is seen."""
    return np.max(batch(product, chain, p1, INDICES, x), axis=-1)


def product(chain, p1, index, x):
    seen, left = factors(chain, p1, index, x)
    return seen * left


def offset(chain, logits, index, x):
    """The logarithm of their step, with their offsets."""
    seen, left = factors(chain, jax.nn.softmax(logits), index, x)
    return jnp.where(index == 0, logits, jnp.log(seen + 1e-6) + jnp.log(left + 1e-6))


def masked_loss(chain, logits, index, x, tokens, mask):
    return chain.loss(logits, index, x, tokens, mask=mask)


def weighted_loss(chain, logits, index, x, tokens, mask):
    return chain.loss(logits, index, x, tokens, mask=mask, scale=0.3)


def step(chain, logits, index, x, uniform):
    return chain.step(logits, index, x, uniform=uniform)


def interpolate(chain, index, x1, uniform):
    return chain.interpolate(index, x1, uniform=uniform)


@pytest.mark.parametrize(("prior", "table"), CASES)
def test_matrices(prior, table):
    ours = chain(prior, table)
    classes, indices = jnp.arange(NUM, dtype=jnp.int32), jnp.arange(STEPS, dtype=jnp.int32)

    every = np.broadcast_to(classes, (STEPS, NUM))
    for name, rows, shift in (
        ("Qt", D3PM.transition, 0),
        ("Qt_bar", D3PM.marginal, 0),
        ("Qt_prev_bar", D3PM.marginal, 1),
    ):
        got = batch(rows, ours, indices - shift, every)
        np.testing.assert_allclose(got, want(prior, table, name), rtol=0, atol=2e-6, err_msg=name)
    np.testing.assert_allclose(TABLES[table].alpha_bar, want(prior, table, "alpha_bar"), rtol=2e-5, atol=1e-9)
    marginal = batch(D3PM.marginal, ours, INDICES, TOKENS)
    np.testing.assert_allclose(marginal, want(prior, table, "marginal_probs"), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("prior", "table"), CASES)
def test_posteriors(prior, table):
    """With their offsets the same numbers; without them the same law where the offsets are small beside it."""
    ours, x = chain(prior, table, reverse=AveragedJoint()), want(prior, table, "xt")

    theirs = want(prior, table, "q_post_logits")
    np.testing.assert_allclose(batch(offset, ours, LOGITS, INDICES, x), theirs, rtol=2e-5, atol=2e-5)
    p = batch(D3PM.predict, ours, LOGITS, INDICES, x)
    known = softmax(want(prior, table, "q_post_from_tokens"), axis=-1)
    q = batch(D3PM.posterior, chain(prior, table), INDICES, x, TOKENS)
    for got, law, p1 in ((p, softmax(theirs, axis=-1), softmax(LOGITS, axis=-1)), (q, known, np.eye(NUM)[TOKENS])):
        large = size(ours, p1.astype(np.float32), x)
        assert np.mean(large > 1e-2) > 0.5
        off = np.max(np.abs(got - law), axis=-1)
        # Each of two factors, of every class, is off by 1e-6.
        assert np.all(off[large > 1e-2] < 2e-6 * NUM / large[large > 1e-2])
    assert np.allclose(q.sum(-1), 1, atol=1e-5)


def exact_divergence(prior, table, x, index, logits, tokens):
    """The divergence of one site between the posterior and the published step, by matrices."""
    alpha, pi = np.asarray(TABLES[table].alpha, np.float64), np.asarray(PRIORS[prior].probabilities, np.float64)
    steps = [a * np.eye(NUM) + (1 - a) * pi for a in alpha]
    before = np.linalg.multi_dot([np.eye(NUM), np.eye(NUM), *steps[:index]])
    p1 = softmax(logits.astype(np.float64))
    if index == 0:
        return -np.log(p1[tokens])
    q, p = steps[index][:, x] * before[tokens], steps[index][:, x] * (p1 @ before)
    return np.sum(rel_entr(q / q.sum(), p / p.sum())) if q.sum() else 0.0


@pytest.mark.accuracy
@pytest.mark.parametrize(("prior", "table"), CASES)
def test_losses(prior, table):
    """Cross-entropies are theirs. Their other term is that of a softmax of one-hot rows; ours is that of the data."""
    ours, x = chain(prior, table, reverse=AveragedJoint()), want(prior, table, "xt")
    mask = REFERENCE["mask"]
    np.testing.assert_allclose(
        batch(D3PM.loss, ours, LOGITS, INDICES, x, TOKENS), want(prior, table, "loss"), rtol=1e-5
    )
    masked = batch(masked_loss, ours, LOGITS, INDICES, x, TOKENS, mask)
    np.testing.assert_allclose(masked, want(prior, table, "loss_mask"), rtol=1e-5)
    # Elsewhere theirs is made of its offsets, where tokens cannot be reached.
    if prior == "uniform":
        wrong = batch(D3PM.predict, ours, np.eye(NUM, dtype=np.float32)[TOKENS], INDICES, x)
        theirs = np.mean(np.sum(rel_entr(wrong, batch(D3PM.predict, ours, LOGITS, INDICES, x)), axis=-1))
        np.testing.assert_allclose(want(prior, table, "loss_vb1") - want(prior, table, "loss"), theirs, atol=2e-4)
        np.testing.assert_allclose(
            want(prior, table, "loss_vb0p01_mask") - want(prior, table, "loss_mask"), theirs / 100, atol=1e-5
        )
    rows = range(len(x))
    divergence = [
        [exact_divergence(prior, table, x[i, j], INDICES[i], LOGITS[i, j], TOKENS[i, j]) for j in range(5)]
        for i in rows
    ]
    got = batch(D3PM.variational, ours, LOGITS, INDICES, x, TOKENS)
    np.testing.assert_allclose(got, divergence, rtol=2e-4, atol=3e-5)
    if (prior, table) == ("uniform", "cosine"):
        assert abs(got.mean() - 1.084) < 1e-3
        assert np.max(np.abs(want(prior, table, "loss_vb1") - want(prior, table, "loss") - 0.275)) < 1e-3
    # A weight on both terms, each over the sites that count.
    both = batch(weighted_loss, ours, LOGITS, INDICES, x, TOKENS, mask)
    over = np.sum(mask * divergence, axis=1) / mask.sum(axis=1)
    np.testing.assert_allclose(both, want(prior, table, "loss_mask") + 0.3 * over, rtol=1e-4)


@pytest.mark.parametrize(("prior", "table"), CASES)
def test_steps(prior, table):
    """With Gumbel noise of their numbers their draws, except from the last index, where theirs has no noise."""
    ours, x = chain(prior, table, reverse=AveragedJoint()), want(prior, table, "xt")
    uniform, flat = np.clip(REFERENCE["rand_u"], 1e-6, 1), np.full((4, 5, NUM), np.exp(-1), np.float32)

    # Where theirs is a draw, and not made of its offsets.
    drawn = (INDICES > 0)[:, None] & (size(ours, softmax(LOGITS, axis=-1), x) > 1e-3)
    assert drawn.mean() > 0.5
    best = np.argmax(LOGITS, axis=-1)
    for noise, name in ((uniform, "step_u"), (flat, "step_zero_gumbel")):
        draws = batch(step, ours, LOGITS, INDICES, x, noise)
        np.testing.assert_array_equal(draws[drawn], want(prior, table, name)[drawn])
        np.testing.assert_array_equal(want(prior, table, name)[:1], best[:1])
    # Their temperature is that of the step, ours that of the data: theirs by our step's probabilities.
    p = batch(D3PM.predict, ours, LOGITS, INDICES, x)
    log_p = np.log(np.where(p > 0, p, 1e-30))
    sharp = np.argmax(2 * log_p - np.log(-np.log(uniform)), axis=-1)
    np.testing.assert_array_equal(sharp[drawn], want(prior, table, "step_u_T0p5")[drawn])
    for noise, name in ((uniform, "interpolate_u"), (flat, "interpolate_zero_gumbel")):
        noisy = batch(interpolate, ours, INDICES, TOKENS, noise)
        np.testing.assert_array_equal(noisy, want(prior, table, name))


@pytest.mark.parametrize("table", TABLES)
def test_a_mask_is_the_class_that_is_named(table):
    """Theirs at `mask_dim=2` absorbs into class 4, ours into 2."""
    theirs, classes = REFERENCE[f"mask_dim2/{table}/Qt"], jnp.arange(NUM, dtype=jnp.int32)
    np.testing.assert_array_equal(theirs, REFERENCE[f"mask/{table}/Qt"])
    got = np.asarray(D3PM(TABLES[table], frx.discrete.Masked(SHAPE, NUM, 2)).transition(7, classes))
    swap = [0, 1, 4, 3, 2]
    np.testing.assert_allclose(got, theirs[7][swap][:, swap], atol=2e-6)
    assert got[0, 2] > 0 and got[0, 4] == 0

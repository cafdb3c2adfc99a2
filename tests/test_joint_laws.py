"""Every sampler with the exact denoiser: 4e4 draws against the law by sums, for several K, L and numbers of steps."""

import jax
import numpy as np
import pytest
from scipy import stats

import flowrax as frx
from flowrax import discrete
from states import SCHEDULES, law_after

# Classes, sites and steps.
SIZES = {"K=2 L=4": (2, 4, 3), "K=5 L=2": (5, 2, 12), "K=3 L=3": (3, 3, 16)}
FLOW = discrete.Euler(stochasticity=0.5)
MOVES = {
    "ancestral, masks": (discrete.Ancestral(), "masked"),
    "ancestral, uniform": (discrete.Ancestral(), "uniform"),
    "ancestral, custom": (discrete.Ancestral(), "custom"),
    "remasking": (discrete.Remasking(discrete.RescaledRemasking(0.3)), "masked"),
    "Euler, masks": (FLOW, "masked"),
    "Euler, uniform": (FLOW, "uniform"),
    "tau-leaping": (discrete.TauLeaping(), "custom"),
    "mixture jump": (discrete.MixtureJump(), "uniform"),
    "corrected": (discrete.CorrectorSampler(FLOW, 1, stochasticity=2.0), "uniform"),
}
# The law of the data whatever the steps: one token at a time.
EXACT = {
    "random order": discrete.Unmask(discrete.RandomOrder()),
    "left to right": discrete.Unmask(discrete.LeftToRight()),
    "margin": discrete.Unmask(discrete.Margin()),
    "entropy": discrete.Unmask(discrete.Entropy()),
    "first hitting": discrete.FirstHitting(),
}


def cases(names, *everywhere):
    """Each at one of the sizes, in turn; some at all of them."""
    sizes = list(SIZES)
    return [(name, size) for i, name in enumerate(names) for size in (sizes if name in everywhere else [sizes[i % 3]])]


def oracle_and_model(prior, classes, sites):
    table = np.random.default_rng(classes).dirichlet(np.full(classes**sites, 2.0)).reshape((classes,) * sites)
    noise = {
        "masked": lambda: frx.discrete.Masked.exclusive((sites,), classes),
        "uniform": lambda: frx.discrete.UniformCategorical((sites,), classes),
        "custom": lambda: frx.discrete.Categorical((sites,), np.arange(1, classes + 1) / (classes * (classes + 1) / 2)),
    }[prior]()
    return table, frx.discrete.oracle.Joint(table).model(SCHEDULES["cosine"], prior=noise)


def pvalue(model, moves, law, grid=None):
    """Of the chi-square test of 4e4 draws; no mask may be left."""
    x = np.asarray(frx.sample(model, jax.random.key(1), 40_000, dynamics=moves, grid=grid).x)
    counts = np.bincount(np.ravel_multi_index(x.T, law.shape), minlength=law.size)
    return stats.chisquare(counts, 4e4 * law.ravel() / law.sum()).pvalue


@pytest.mark.accuracy
@pytest.mark.parametrize(("name", "size"), cases(MOVES, "ancestral, masks", "Euler, uniform"))
def test_steps_draw_the_law_of_the_sums(name, size, x64):
    (moves, prior), (classes, sites, steps) = MOVES[name], SIZES[size]
    table, model = oracle_and_model(prior, classes, sites)
    law = law_after(model, moves, steps)[(slice(classes),) * sites]
    np.testing.assert_allclose(law.sum(), 1, rtol=1e-9)
    assert pvalue(model, moves, law, steps) > 1e-3
    # Which differs from that of the data by an error of these steps, and no more.
    assert np.abs(law - table).sum() / 2 < 2 / steps


@pytest.mark.accuracy
@pytest.mark.parametrize(("name", "size"), cases(EXACT, "random order"))
def test_one_token_at_a_time_is_the_law_of_the_data(name, size, x64):
    """Whatever the order, as long as it does not look at the tokens drawn."""
    classes, sites, _ = SIZES[size]
    table, model = oracle_and_model("masked", classes, sites)
    assert pvalue(model, EXACT[name], table) > 1e-3


@pytest.mark.accuracy
def test_the_published_step_draws_the_law_of_its_sums(x64):
    """Which is not that of the data, even in many steps."""
    table, model = oracle_and_model("uniform", 3, 2)
    moves = discrete.Ancestral(reverse=frx.discrete.AveragedJoint())
    law = law_after(model, moves, 16)
    assert pvalue(model, moves, law, 16) > 1e-3 > pvalue(model, moves, table, 16)

"""Diagnostics against closed forms: conjugate Gaussians that are right, and errors that are planted.

The truth is standard normal in each coordinate and observed with unit noise, so the posterior of `y` is normal with
mean `y / 2` and variance 1/2.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flowrax import diagnostics as dg
from flowrax.diagnostics import ecdf, modes, ranks, runs
from flowrax.diagnostics.calibration import Verdict

STD = np.sqrt(0.5)


def simulated(seed, num=1000, num_draws=100, width=(1.0,), bias=(0.0,)):
    """Truths `(num, q)`, data, and draws whose widths and means are wrong by these factors and standard deviations."""
    rng = np.random.default_rng(seed)
    truths = rng.normal(size=(num, len(width)))
    data = truths + rng.normal(size=truths.shape)
    noise = STD * np.asarray(width) * rng.normal(size=(num, num_draws, len(width)))
    return truths, data, data[:, None] / 2 + STD * np.asarray(bias) + noise


def plain_ranks(seed, size, num_draws, ratio=1.0):
    """Ranks of Gaussian posteriors whose width is `ratio` times the right one, in (0, 1)."""
    rng = np.random.default_rng(seed)
    counts = rng.binomial(num_draws, stats.norm.cdf(rng.normal(size=size) / ratio))
    return (counts + rng.uniform(size=size)) / (num_draws + 1)


def test_a_correct_posterior_passes_and_planted_errors_are_named():
    truths, _, draws = simulated(0, width=(1.0, 0.9, 1.1, 1.0), bias=(0.0, 0.0, 0.0, 0.2))
    record = dg.simulation_based_calibration(truths, draws)
    wanted = ((), (Verdict.TOO_NARROW,), (Verdict.TOO_WIDE,), (Verdict.BIASED_HIGH,))
    assert record.verdicts == wanted
    assert record.p_value[0] > 0.01 and np.all(record.p_value[1:] < 0.01 / 4)
    # Standard errors: r / sqrt(2 s) of a ratio, 1 / sqrt(s) of a bias.
    np.testing.assert_allclose(record.width_ratio, [1.0, 0.9, 1.1, 1.0], atol=4 * 1.1 / np.sqrt(2000))
    np.testing.assert_allclose(record.bias, [0.0, 0.0, 0.0, 0.2], atol=4 / np.sqrt(1000))
    assert "x[1]  width x 0." in repr(record) and "too narrow" in repr(record)


def test_a_width_error_of_a_tenth_is_caught_in_most_runs():
    """In 95% (too narrow) and 83% (too wide) of the runs by the normal approximation; at least 32 and 26 of 40."""
    for ratio, least, verdict in ((0.9, 32, Verdict.TOO_NARROW), (1.1, 26, Verdict.TOO_WIDE)):
        samples = plain_ranks(1, (40, 1000), 200, ratio)
        records = [dg.calibration_of_ranks(np.floor(201 * u), 200) for u in samples]
        assert sum(r.p_value[0] < 0.01 and r.verdicts == ((verdict,),) for r in records) >= least


def test_p_values_are_uniform_for_a_correct_posterior():
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(300):
        truth, draws = rng.normal(size=60), rng.normal(size=(60, 7))
        u = ranks.randomised_ranks(truth, draws, np.full((60, 7), 1 / 7), rng.uniform(size=60))
        p_values.append((ranks.location_test(u)[1], ranks.dispersion_test(u)[1], ecdf.p_value(u)))
    for column in np.transpose(p_values):
        assert stats.kstest(column, "uniform").pvalue > 0.001
    # Bonferroni keeps the level.
    assert np.mean(3 * np.min(p_values, axis=1) <= 0.1) <= 0.1 + 3 * np.sqrt(0.09 / 300)


def test_ties_are_split():
    """Ranks of integers: the truth is exchangeable with the draws, whatever their ties."""
    rng = np.random.default_rng(3)
    truth, draws = rng.integers(3, size=4000).astype(float), rng.integers(3, size=(4000, 5)).astype(float)
    u = ranks.randomised_ranks(truth, draws, np.full((4000, 5), 0.2), rng.uniform(size=4000))
    assert stats.kstest(u, "uniform").pvalue > 0.001


def test_the_band_has_its_simultaneous_level():
    for num, level in ((7, 0.8), (100, 0.95)):
        points, low, high = ecdf.band(num, level)
        u = np.random.default_rng(4).uniform(size=(4000, num))
        counts = np.sum(u[:, :, None] <= points, axis=1)
        inside = np.mean(np.all((counts >= low) & (counts <= high), axis=1))
        exact = ecdf.probability_within(low, high, num, points)
        assert level <= exact < level + 0.1
        assert abs(inside - exact) < 4 * np.sqrt(exact * (1 - exact) / 4000)


def test_the_smallest_width_error_has_the_power_that_is_stated():
    smallest = ranks.smallest_width_error(200, 50, 0.01)
    power = []
    for ratio in (1 - smallest, 1 + smallest):
        tests = [ranks.dispersion_test(u)[1] <= 0.01 for u in plain_ranks(5, (400, 200), 50, ratio)]
        power.append(np.mean(tests))
    # The worse of the two directions; the approximation takes the scores of wrong ranks for normal ones.
    assert abs(min(power) - 0.8) < 0.1


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.25])
def test_width_ratios_do_not_depend_on_the_number_of_draws(ratio):
    for num_draws in (10, 100):
        z = stats.norm.ppf(plain_ranks(6, 20000, num_draws, ratio))
        assert abs(ranks.width_ratio(np.mean(z**2), num_draws) / ratio - 1) < 0.03


def test_weights_correct_draws_of_another_width():
    """Draws of 1.3 times the width, weighted to the posterior."""
    truths, data, draws = simulated(7, num_draws=200, width=(1.3,))
    mean = data[:, None] / 2
    log_weights = stats.norm.logpdf(draws, mean, STD) - stats.norm.logpdf(draws, mean, 1.3 * STD)
    weighted = dg.simulation_based_calibration(truths, draws, log_weights=log_weights[..., 0] + 5.0)
    assert weighted.verdicts == ((),) and 100 < weighted.num_draws < 200
    assert dg.simulation_based_calibration(truths, draws).verdicts == ((Verdict.TOO_WIDE,),)


def test_ranks_given_are_ranks_computed():
    truths, _, draws = simulated(8, num=200, num_draws=20)
    key = jax.random.key(3)
    record = dg.simulation_based_calibration(truths, jnp.asarray(draws), key=key)
    given = dg.calibration_of_ranks(np.sum(draws < truths[:, None], axis=1), 20, key=key)
    np.testing.assert_allclose(given.ranks, record.ranks, rtol=1e-5)


def test_further_quantities_see_what_coordinates_do_not():
    """The prior instead of the posterior is calibrated, but not its log-likelihood; functions and values agree."""
    truths, data, _ = simulated(9)
    draws = np.random.default_rng(10).normal(size=(1000, 50, 1))
    likelihoods = -((truths - data)[:, 0] ** 2) / 2, -((draws - data[:, None])[..., 0] ** 2) / 2
    quantities = {"log-likelihood": likelihoods, "square": lambda x: x[0] ** 2}
    record = dg.simulation_based_calibration(truths, draws, quantities=quantities)
    assert record.names == ("x[0]", "log-likelihood", "square")
    assert record.verdicts[0] == () and Verdict.BIASED_LOW in record.verdicts[1] and record.verdicts[2] == ()
    squares = truths[:, 0] ** 2, draws[..., 0] ** 2
    other = dg.simulation_based_calibration(truths, draws, quantities=quantities | {"square": squares})
    np.testing.assert_allclose(other.ranks, record.ranks, atol=1e-4)


def test_coverage_has_its_closed_form():
    """For widths wrong by r: 2 Phi(r q) - 1 of central intervals, 1 - (1 - a)^(r^2) of discs of highest density."""
    ratio = 0.8
    truths, data, draws = simulated(11, num=2000, width=(ratio, ratio))
    log_prob = [
        -np.sum((x - mean) ** 2, axis=-1) / (2 * (ratio * STD) ** 2)
        for x, mean in ((truths, data / 2), (draws, data[:, None] / 2))
    ]
    regions = dg.expected_coverage(truths, draws, log_prob=(log_prob[0], log_prob[1]))
    central = dg.expected_coverage(truths, draws)
    a = regions.credibility
    exact = 1 - (1 - a) ** ratio**2, 2 * stats.norm.cdf(ratio * stats.norm.ppf((1 + a) / 2)) - 1
    # Greatest deviations below 1.9 / sqrt(s) with probability 0.999, and 1 / n from the finite number of draws.
    np.testing.assert_allclose(regions.coverage[0], exact[0], atol=1.95 / np.sqrt(2000) + 0.01)
    np.testing.assert_allclose(central.coverage, [exact[1]] * 2, atol=1.95 / np.sqrt(2000) + 0.01)
    area = 1 / 8 - 0.5 ** (ratio**2 + 1) / (ratio**2 + 1)
    assert abs(regions.area[0] - area) < 4 * np.sqrt(5 / 192 / 2000) + 0.005
    assert regions.p_area[0] < 1e-6 and np.all(central.p_area < 1e-3)
    outside = (regions.coverage[0] < regions.band[0]) | (regions.coverage[0] > regions.band[1])
    assert outside.any()
    low, high = regions.bootstrap[:, 0]
    assert np.mean((low <= exact[0]) & (exact[0] <= high)) > 0.9


def test_tarp_passes_the_exact_posterior_and_finds_a_bias():
    truths, _, draws = simulated(12, num=500, width=(1.0, 1.0))
    right = dg.tarp(truths, draws)
    assert right.p_value[0] > 0.01 and right.p_area[0] > 0.01
    # Points on one side of all events order them along the first coordinate.
    side = np.tile([-100.0, 0.0], (500, 1))
    biased = dg.tarp(truths, draws + [0.5 * STD, 0.0], references=side)
    assert biased.p_value[0] < 1e-6
    narrow = dg.tarp(truths, draws.mean(1, keepdims=True) + 0.6 * (draws - draws.mean(1, keepdims=True)))
    assert narrow.p_area[0] < 1e-3 and narrow.area[0] < 0


def test_contraction_of_a_conjugate_gaussian():
    truths, _, draws = simulated(13, num=2000, width=(1.0, 1.0))
    record = dg.z_scores_and_contraction(truths, draws, prior_draws=np.random.default_rng(0).normal(size=(50_000, 2)))
    np.testing.assert_allclose(record.contraction.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(np.mean(record.z_scores**2, axis=0), 1.0, atol=4 * np.sqrt(2 / 2000) + 0.03)


def test_coordinates_that_do_not_vary_are_told():
    truths, _, draws = simulated(20, num=50, width=(1.0, 1.0))
    truths[:, 1], draws[..., 1], draws[:3, :, 0] = 2.0, 2.0, 0.0
    words = r"^z_scores_and_contraction: the prior does not vary in x\[1\] and the draws of 3 simulations do not vary"
    with pytest.warns(UserWarning, match=words):
        record = dg.z_scores_and_contraction(truths, draws)
    assert np.isnan(record.contraction[:, 1]).all() and np.isnan(record.z_scores[:3, 0]).all()
    assert np.isfinite(record.z_scores[3:, 0]).all() and "contraction nan" in repr(record)
    with pytest.warns(UserWarning, match=words):
        # Equal values tie, and ties are split.
        assert dg.diagnose(truths, draws).calibration.verdicts[1] == ()


def bimodal(seed, share, num=500, num_draws=60, width=1.0):
    """Modes at -3 and 3 with half of the truths and a given share of the draws in the upper one."""
    rng = np.random.default_rng(seed)
    place = [np.where(rng.uniform(size=s) < q, 3.0, -3.0) for s, q in ((num, 0.5), ((num, num_draws), share))]
    truths, draws = place[0] + 0.5 * rng.normal(size=num), place[1] + 0.5 * width * rng.normal(size=(num, num_draws))
    return truths[:, None], draws[..., None]


def test_weights_of_modes():
    record = dg.diagnose(*bimodal(14, 0.5))
    assert record.passed and record.sentences[0] == "Nothing found in x[0]."
    record = dg.diagnose(*bimodal(15, 0.35, width=0.8))
    assert not record.passed
    assert record.sentences[0].startswith("x[0]: the weight of the upper mode is too small, 0.35 on average where 0.")
    (percent,) = re.findall(r"too narrow by about (\d+)% .* within the modes", record.sentences[1])
    assert abs(int(percent) - 20) < 4 * 100 * 0.8 / np.sqrt(2 * 500)


def test_membership_of_modes_is_exact():
    """Whatever the cut, also of small samples: p-values of exchangeable truths are uniform."""
    rng, p_values = np.random.default_rng(16), []
    for seed in range(200):
        truths, draws = bimodal(seed, 0.5, num=100, num_draws=12)
        weights = np.full((100, 12), 1 / 12)
        test = modes.mode_test(truths[:, 0], draws[..., 0], weights, np.full(100, 0.5), rng.uniform(size=100))
        p_values.append((test.upper[2], test.larger[2], *[f(test.ranks)[1] for f in (ranks.location_test,)]))
        assert test.num > 50
    # The first two are normal approximations of sums of 100 truth values.
    for column, least in zip(np.transpose(p_values), (1e-3, 1e-3, 1e-3), strict=True):
        assert stats.kstest(column, "uniform").pvalue > least


def test_diagnosis_reads_well():
    truths, data, draws = simulated(17, width=(1.0, 0.8, 1.0), bias=(0.0, 0.0, -0.3))
    record = dg.diagnose(truths, draws)
    found = [line for line in repr(record).splitlines() if line.startswith("- x[")]
    assert [line.split(" about")[0] for line in found] == [
        "- x[1]: the posterior is too narrow by",
        "- x[2]: the posterior is biased low by",
    ]
    assert "Nothing found in x[0]." in record.sentences
    assert any(line.startswith("1,000 simulations of 100 draws notice a width") for line in record.sentences)
    prior = dg.diagnose(truths, np.random.default_rng(18).normal(size=draws.shape))
    assert prior.passed and "would pass these tests too" in prior.sentences[-1]
    log_prob = -np.sum((truths - data / 2) ** 2, axis=1), -np.sum((draws - data[:, None] / 2) ** 2, axis=2)
    assert dg.diagnose(truths, draws, log_prob=log_prob).coverage is not None


def test_failures_are_counted():
    truths, _, draws = simulated(19, num=200)
    draws[:3], draws[5, :7] = np.nan, np.inf
    with pytest.warns(UserWarning, match="3 of 200 simulations have no usable draw and 7 of 19700 draws of the others"):
        record = dg.simulation_based_calibration(truths, draws)
    assert record.num_failed == 3 and record.ranks.shape == (197, 1) and "3 failed" in repr(record)
    with pytest.warns(UserWarning, match="^diagnose: 3 of 200"):
        assert any(line.startswith("3 of 200 simulations failed") for line in dg.diagnose(truths, draws).sentences)
    good = runs.read_runs("test", truths[3:], np.where(np.isfinite(draws[3:]), draws[3:], 0.0)).ess
    np.testing.assert_allclose(good, 100)


TRUTHS, DRAWS = np.zeros((20, 2)), np.ones((20, 5, 2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dg.diagnose(TRUTHS, DRAWS[:, 0]), r"^draws must have shape \(s, n, \*event\) .* got \(20, 2\)"),
        (lambda: dg.diagnose(TRUTHS * np.nan, DRAWS), "^truths holds 40 NaN"),
        (lambda: dg.tarp(TRUTHS[:4], DRAWS[:4]), "^tarp needs at least 10 simulations with .*; got 4 of 4"),
        (lambda: dg.tarp(TRUTHS, DRAWS, references=TRUTHS[:3]), r"^references has shape \(3, 2\) but \(20, 2\)"),
        (lambda: dg.tarp(TRUTHS, DRAWS, level=1.0), "^level must lie between 0 and 1"),
        (lambda: dg.diagnose(TRUTHS, DRAWS, log_weights=np.zeros(20)), r"^log_weights has shape \(20,\) but \(20, 5\)"),
        (lambda: dg.tarp(TRUTHS, DRAWS, log_weights=np.full((20, 5), np.nan)), "^log_weights must be finite, or minus"),
        (lambda: dg.tarp(TRUTHS, DRAWS, key=3), "^key must be a random key, not int"),
        (lambda: dg.calibration_of_ranks(np.full(20, 0.5), 5), "^ranks must be integers from 0 to num_draws=5"),
        (lambda: dg.calibration_of_ranks(np.full(20, 2), 5, names=("a", "b")), "^names has 2 entries but ranks has 1"),
        (lambda: dg.z_scores_and_contraction(TRUTHS, DRAWS, prior_draws=DRAWS), r"^prior_draws has shape \(20, 5, 2\)"),
        (lambda: dg.expected_coverage(TRUTHS, DRAWS, log_prob=(TRUTHS, DRAWS)), "^log_prob has shapes"),
        (lambda: dg.simulation_based_calibration(TRUTHS, DRAWS, quantities={"f": 3}), r"^quantities\['f'\] must be a"),
        (
            lambda: dg.simulation_based_calibration(TRUTHS, DRAWS, quantities={"f": lambda x: x}),
            r"^quantities\['f'\] must give one number for an event; its shape is \(2,\)",
        ),
        (
            lambda: dg.simulate_posteriors(
                lambda k: np.zeros(2), lambda k, x: x, lambda y, k, n: np.zeros((n, 3)), jax.random.key(0), 12, 5
            ),
            r"^the draws of posterior has shape \(5, 3\) but \(n, 2\)",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, words, untyped):
    with pytest.raises(ValueError, match=words):
        call()

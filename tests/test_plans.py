"""Plans satisfy the conditions of their optimum, and pairs are drawn from them as often as they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from flowrax.coupling import (
    ConditionalCost,
    ExactOT,
    Greedy,
    Independent,
    JointDraw,
    MeasuredPairs,
    PerData,
    PerNoise,
    Plan,
    Sinkhorn,
    SquaredDistance,
    UnbalancedSinkhorn,
)


def ends(getkey, n=12):
    return jax.random.normal(getkey(), (n, 3)), 2 + jax.random.normal(getkey(), (n, 3))


def scaled_costs(x0, x1):
    costs = jnp.sum((x1[:, None] - x0[None]) ** 2, axis=2)
    return costs / jnp.max(costs)


@pytest.mark.accuracy
def test_a_balanced_plan_is_optimal(x64, getkey):
    """Its marginals are uniform, and no cycle of mass, which keeps them, improves the objective."""
    x0, x1 = ends(getkey)
    plan = jnp.exp(Sinkhorn(0.1, tolerance=1e-12).log_plan(x0, x1))
    for axis in (0, 1):
        np.testing.assert_allclose(jnp.sum(plan, axis=axis), np.full(12, 1 / 12), rtol=1e-10)
    costs = scaled_costs(x0, x1)
    slope = jax.grad(lambda p: jnp.sum(p * costs) + 0.1 * jnp.sum(jax.scipy.special.xlogy(p, p)))(plan)
    across = slope - slope.mean(0, keepdims=True) - slope.mean(1, keepdims=True) + slope.mean()
    np.testing.assert_allclose(across, jnp.zeros_like(plan), atol=1e-10)


@pytest.mark.parametrize(("coupling", "regs"), [(Sinkhorn, [0.1]), (UnbalancedSinkhorn, [0.1, 0.5])])
def test_an_absolute_unit_is_that_of_the_cost(coupling, regs, x64, getkey):
    x0, x1 = ends(getkey)
    largest = float(jnp.max(jnp.sum((x1[:, None] - x0[None]) ** 2, axis=2)))
    plan = coupling(*(largest * reg for reg in regs), absolute=True).log_plan(x0, x1)
    np.testing.assert_allclose(plan, coupling(*regs).log_plan(x0, x1), rtol=1e-10)
    assert not np.allclose(coupling(*regs, absolute=True).log_plan(x0, x1), plan, rtol=0.1)


@pytest.mark.parametrize("reg_marginal", [0.1, 2.0])
def test_an_unbalanced_plan_is_optimal(reg_marginal, x64, getkey):
    x0, x1 = ends(getkey)
    coupling = UnbalancedSinkhorn(0.1, reg_marginal, tolerance=1e-12)
    costs = scaled_costs(x0, x1)

    def divergence(mass, other):
        return jnp.sum(mass * jnp.log(mass / other) - mass + other)

    def objective(plan):
        marginals = divergence(plan.sum(0), 1 / 12) + divergence(plan.sum(1), 1 / 12)
        return jnp.sum(plan * costs) + 0.1 * divergence(plan, 1.0) + reg_marginal * marginals

    plan = jnp.exp(coupling.log_plan(x0, x1))
    np.testing.assert_allclose(jax.grad(objective)(plan), jnp.zeros_like(plan), atol=1e-9)


@pytest.mark.accuracy
def test_unbalanced_plans_count_outliers_less(getkey):
    """And a large penalty keeps all weights at one."""
    x0, x1 = ends(getkey)
    x1 = x1.at[5].add(30.0)
    weights = UnbalancedSinkhorn(0.05, 0.1)(getkey(), x0, x1).weights
    assert int(jnp.argmin(weights)) == 5
    assert weights[5] < 0.1
    np.testing.assert_allclose(jnp.mean(weights), 1, rtol=1e-5)
    # The data are updated last, so that their marginal is the exact one.
    np.testing.assert_allclose(UnbalancedSinkhorn(0.05, 1e5)(getkey(), x0, x1).weights, np.ones(12), rtol=1e-4)
    assert UnbalancedSinkhorn(draw=JointDraw())(getkey(), x0, x1).weights is None


@pytest.mark.accuracy
def test_a_cold_plan_is_the_assignment(x64, getkey):
    """In one dimension that is the sorted one."""
    apart = jnp.arange(10.0)[:, None]
    x0, x1 = (jax.random.permutation(getkey(), apart + jax.random.uniform(getkey(), (10, 1)) / 4) for _ in range(2))
    pairs = Sinkhorn(1e-3)(getkey(), x0, x1)
    np.testing.assert_array_equal(jnp.argsort(pairs.x0[:, 0]), jnp.argsort(pairs.x1[:, 0]))
    np.testing.assert_array_equal(jnp.sort(pairs.x0[:, 0]), jnp.sort(x0[:, 0]))


def frequencies(draw, plan, key, num):
    """How often each pair comes, `(n, n)`, in `num` draws."""
    keys = jax.random.split(key, num)
    noise, data = jax.vmap(lambda k: draw.of_plan(k, jnp.log(plan)))(keys)
    return np.asarray(jnp.zeros(plan.shape).at[data, noise].add(1.0))


PLAN = np.asarray([[0.3, 0.1, 0.0], [0.05, 0.2, 0.15], [0.1, 0.6, 0.5]])


@pytest.mark.accuracy
@pytest.mark.parametrize(
    ("draw", "want"),
    [
        (PerData(), PLAN / PLAN.sum(1, keepdims=True)),
        (PerNoise(), PLAN / PLAN.sum(0, keepdims=True)),
        (JointDraw(), 3 * PLAN / PLAN.sum()),
    ],
    ids=["data", "noise", "joint"],
)
def test_pairs_come_as_often_as_the_plan_says(draw, want, key):
    """Chi-squared of independent draws at one in a thousand; what has no mass never comes."""
    got = frequencies(draw, jnp.asarray(PLAN), key, 20_000)
    assert got[0, 2] == 0
    has_mass = want > 0
    statistic = np.sum((got - 20_000 * want)[has_mass] ** 2 / (20_000 * want[has_mass]))
    assert statistic < scipy.stats.chi2.isf(1e-3, has_mass.sum() - 1)


@pytest.mark.accuracy
def test_draws_without_replacement(key):
    """Both orders in which two pairs of a 2 by 2 plan may come one after the other; four standard errors."""
    plan = np.asarray([[0.5, 0.2], [0.2, 0.1]])
    noise, data = jax.vmap(lambda k: JointDraw(replace=False).of_plan(k, jnp.log(jnp.asarray(plan))))(
        jax.random.split(key, 20_000)
    )
    drawn = np.sort(np.asarray(2 * data + noise), axis=1)
    assert np.all(drawn[:, 0] < drawn[:, 1])
    p = plan.ravel()
    for a, b in ((0, 1), (0, 3), (1, 2), (2, 3)):
        want = p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b])
        got = np.mean((drawn[:, 0] == a) & (drawn[:, 1] == b))
        assert abs(got - want) < 4 * np.sqrt(want * (1 - want) / 20_000)


def test_pairs_of_a_permutation(getkey):
    order = jax.random.permutation(getkey(), jnp.arange(9, dtype=jnp.int32))
    for draw in (PerData(), PerNoise(), JointDraw(), JointDraw(replace=False)):
        noise, data = draw.of_order(getkey(), order)
        np.testing.assert_array_equal(noise, order[data])
    np.testing.assert_array_equal(PerData().of_order(getkey(), order)[1], np.arange(9))
    np.testing.assert_array_equal(PerNoise().of_order(getkey(), order)[0], np.arange(9))
    # That nine draws hit nine pairs has a chance of one in a thousand.
    for replace in (True, False):
        noise, _ = JointDraw(replace).of_order(getkey(), order)
        assert (len(set(noise.tolist())) == 9) != replace


def plan_of():
    return Plan(jnp.exp)


def scan(costs):
    """The definition: sort all pairs, take what is free."""
    order, taken = np.full(len(costs), -1), set()
    for flat in np.argsort(costs.ravel(), kind="stable"):
        i, j = divmod(int(flat), len(costs))
        if order[i] < 0 and j not in taken:
            order[i] = j
            taken.add(j)
    return order


@pytest.mark.parametrize("repeats", [(1, 150), (150, 1), (150, 150)], ids=["data", "noise", "both"])
def test_greedy_pairs_of_equal_rows(repeats, getkey):
    """Equal rows of data prefer the same noise, so that a round takes few pairs and the rest is sorted."""
    x0, x1 = (jnp.tile(jax.random.normal(getkey(), (300 // times, 2)), (times, 1)) for times in repeats)
    cost = SquaredDistance()
    got = Greedy(cost=cost)(getkey(), x0, x1).noise_rows
    np.testing.assert_array_equal(got, scan(np.asarray(cost(x1, x0))))


@pytest.mark.parametrize("make", [ExactOT, Greedy, Sinkhorn, UnbalancedSinkhorn, Independent, MeasuredPairs, plan_of])
def test_unequal_numbers_of_rows_are_refused(make):
    x0, x1, key = jnp.zeros((4, 2)), jnp.zeros((5, 2)), jax.random.key(0)
    with pytest.raises(ValueError, match="x0 has 4 rows but x1 has 5; a coupling pairs equally many rows"):
        make()(key, x0, x1)
    with pytest.raises(ValueError, match=r"The condition has shape \(4,\), but each of the 5 rows of x1 needs one"):
        make()(key, x1, x1, jnp.zeros(4))


@pytest.mark.parametrize("num_values", [1_000_000, 4])
def test_greedy_pairs(num_values, getkey):
    """Ties included; NaN and infinite costs end too."""
    costs = jax.random.randint(getkey(), (20, 20), 0, num_values).astype(jnp.float32)
    x = jnp.zeros((20, 1))

    def order(costs):
        return Greedy(cost=lambda x1, x0, condition: costs)(getkey(), x, x).noise_rows

    np.testing.assert_array_equal(order(costs), scan(np.asarray(costs)))
    for bad in (jnp.nan, jnp.inf):
        assert sorted(order(costs.at[3].set(bad).at[:, 2].set(bad)).tolist()) == list(range(20))


def test_any_function_may_find_the_plan(getkey):
    """The independent one here, and a permutation."""
    x0, x1 = ends(getkey)
    order = jax.random.permutation(getkey(), 12)
    pairs = Plan(lambda costs: jnp.eye(12)[order])(getkey(), x0, x1)
    np.testing.assert_array_equal(pairs.noise_rows, order)
    with pytest.raises(ValueError, match=r"plan\(costs\) has shape \(12,\) but \(12, 12\) is expected"):
        Plan(lambda costs: costs[0])(getkey(), x0, x1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Sinkhorn(0.0), "reg must be positive; got 0.0"),
        (lambda: UnbalancedSinkhorn(reg_marginal=-1.0), "reg_marginal must be positive; got -1.0"),
        (lambda: Sinkhorn(max_iterations=0), "max_iterations must be at least 1; got 0"),
        (lambda: Sinkhorn(tolerance=0.0), "tolerance must be positive"),
    ],
)
def test_what_is_not_positive_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_rows_without_mass_count_nothing(getkey):
    """However the plan is found: its marginal is the weight of what is drawn for each row."""
    x0, x1 = ends(getkey)
    mass = np.asarray([0.0, 2.0, 1.0] * 4)
    plan = jnp.asarray(mass[:, None] / 12 * np.ones((12, 12)), jnp.float32)
    weights = Plan(lambda costs: plan)(getkey(), x0, x1).weights
    np.testing.assert_allclose(weights, mass, rtol=1e-5)
    across = Plan(lambda costs: plan.T, draw=PerNoise())(getkey(), x0, x1).weights
    np.testing.assert_allclose(across, mass, rtol=1e-5)
    assert Plan(lambda costs: plan, draw=JointDraw())(getkey(), x0, x1).weights is None
    unbalanced = UnbalancedSinkhorn(0.05, 0.1)
    same = Plan(lambda costs: jnp.exp(unbalanced.log_plan(x0, x1)))(getkey(), x0, x1).weights
    np.testing.assert_allclose(same, unbalanced(getkey(), x0, x1).weights, rtol=1e-4)


def test_the_unit_of_a_plan_is_that_of_the_rows(x64, getkey):
    """A heavy condition leaves the plan of each class as it is: that of the infinite weight."""
    x0, x1 = ends(getkey)
    labels = jnp.arange(12) % 2
    plans = [
        jnp.exp(Sinkhorn(0.1, cost=ConditionalCost(weight=weight), tolerance=1e-12).log_plan(x0, x1, labels))
        for weight in (1e4, float("inf"))
    ]
    np.testing.assert_allclose(plans[0], plans[1], atol=1e-12)
    assert np.all(np.asarray(plans[1])[np.asarray(labels)[:, None] != labels[None]] == 0)
    # Not the independent plan of each class, which is what a regularisation in units of the weight gives.
    assert jnp.max(plans[0]) > 2 / 72

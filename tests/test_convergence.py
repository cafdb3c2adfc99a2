"""Entropic plans converge or say so, whatever the solver, the size of the batch, and the rows in it."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import flowrax as frx
from flowrax.coupling import (
    Anderson,
    Annealing,
    ConditionalCost,
    ExactOT,
    Greedy,
    JointDraw,
    KabschDistance,
    LowRankSinkhorn,
    Momentum,
    PerData,
    PerNoise,
    Sinkhorn,
    UnbalancedSinkhorn,
)
from flowrax.coupling.transport import LowRankPlan
from flowrax.testing import run_on_devices


def ends(getkey, n=32, d=2):
    return jax.random.normal(getkey(), (n, d)), 2 + jax.random.normal(getkey(), (n, d))


def marginal_error(log_plan):
    """The mean error of a row in units of 1 / n, in double precision."""
    plan = np.exp(np.asarray(log_plan, np.float64))
    return max(np.sum(np.abs(plan.sum(axis) - 1 / len(plan))) for axis in (0, 1)) / plan.sum()


@pytest.mark.accuracy
@pytest.mark.parametrize("d", [1, 64])
@pytest.mark.parametrize("n", [8, 128])
def test_no_plan_is_wrong_in_silence(n, d, getkey):
    x0, x1 = ends(getkey, n, d)
    verdicts = []
    for reg in (1.0, 1e-2, 1e-3, 1e-4):
        plan = Sinkhorn(reg, max_iterations=100).transport(x0, x1)
        error = marginal_error(plan.log_plan)
        np.testing.assert_allclose(plan.convergence.marginal_error, error, rtol=1e-2, atol=1e-5)
        assert error < 1e-2 or not plan.convergence.converged
        verdicts.append(bool(plan.convergence.converged))
    assert verdicts[0] and (n == 8 or not verdicts[-1])


def test_a_plan_that_did_not_converge_is_reported(getkey):
    """By the record, by a warning with the marginal error, and by an error if it is strict."""
    x0, x1 = ends(getkey)
    key, short = getkey(), {"reg": 1e-3, "max_iterations": 10}
    error = marginal_error(Sinkhorn(**short).log_plan(x0, x1))
    assert error > 0.05
    message = rf"Sinkhorn did not converge in 10 iterations: its marginal error is {error:.3g}\. Pairs .* use|Use"
    with pytest.warns(UserWarning, match=message):
        record = Sinkhorn(**short)(key, x0, x1).convergence
    np.testing.assert_allclose(record.marginal_error, error, rtol=1e-3)
    assert int(record.num_iterations) == 10 and not record.converged
    with pytest.raises(ValueError, match="did not converge in 10 iterations"):
        Sinkhorn(**short, strict=True)(key, x0, x1)
    assert Sinkhorn(0.1, strict=True)(key, x0, x1).convergence.converged


@pytest.mark.accuracy
def test_fit_records_plans_and_warns_once(getkey):
    model = frx.Model(frx.nn.MLP((2,), key=getkey(), width=8, depth=1), frx.Linear(), shape=(2,))
    x1, key = ends(getkey)[1], getkey()
    options = {"num_steps": 4, "batch_size": 16, "validate_every": 2, "progress": False}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = frx.fit(model, x1, key, coupling=Sinkhorn(1e-3, max_iterations=10), **options)
    (warning,) = caught
    first = result.history["marginal_error"][0]
    assert str(warning.message).startswith(
        f"2 of the transport plans of steps 1 to 2 did not converge: their marginal error is up to {first:.3g}."
    )
    np.testing.assert_array_equal(result.history["unconverged_plans"], [2, 2])
    assert np.all(result.history["marginal_error"] > 0.05)
    history = frx.fit(model, x1, key, coupling=Sinkhorn(0.1, strict=True), **options).history
    np.testing.assert_array_equal(history["unconverged_plans"], [0, 0])
    assert np.all(history["marginal_error"] < 2e-3)
    assert np.isnan(frx.fit(model, x1, key, **options).history["marginal_error"]).all()
    with pytest.raises(Exception, match="The plan of Sinkhorn did not converge"):
        frx.fit(model, x1, key, coupling=Sinkhorn(1e-3, max_iterations=10, strict=True), **options)


@pytest.mark.accuracy
@pytest.mark.parametrize(
    "faster", [{"acceleration": Momentum(1.4)}, {"acceleration": Anderson()}, {"annealing": Annealing()}], ids=str
)
def test_faster_iterations_end_at_the_same_plan(faster, x64, getkey):
    x0, x1 = ends(getkey)
    options = {"reg": 0.01, "tolerance": 1e-9, "max_iterations": 5000}
    plans = [Sinkhorn(**options, **more).transport(x0, x1) for more in ({}, faster)]
    assert plans[1].convergence.converged
    np.testing.assert_allclose(jnp.exp(plans[1].log_plan), jnp.exp(plans[0].log_plan), atol=1e-8)


@pytest.mark.accuracy
@pytest.mark.parametrize(("coupling", "reg"), [(Sinkhorn, 0.05), (UnbalancedSinkhorn, 0.1)])
def test_chunks_of_a_plan_are_those_of_its_matrix(coupling, reg, x64, getkey):
    """Chunks that do not divide the rows; far from the origin; the weights and the record are the same too."""
    x0, x1 = (x + 1e3 for x in ends(getkey))
    whole, chunked = coupling(reg), coupling(reg, chunk_size=5)
    np.testing.assert_allclose(chunked.log_plan(x0, x1), whole.log_plan(x0, x1), atol=1e-8)
    records = []
    for draw in (PerData(), PerNoise()):
        pairs = [c(getkey(), x0, x1) for c in (coupling(reg, draw=draw), coupling(reg, chunk_size=5, draw=draw))]
        np.testing.assert_allclose(pairs[1].weights, pairs[0].weights, rtol=1e-8)
        records += [p.convergence.marginal_error for p in pairs]
    np.testing.assert_allclose(records, records[0], rtol=1e-4)
    with pytest.raises(ValueError, match="chunk_size is for squared distances without a mask"):
        coupling(chunk_size=5, cost=KabschDistance())
    with pytest.raises(ValueError, match=r"JointDraw\(replace=False\) needs the whole plan in memory"):
        coupling(chunk_size=5, draw=JointDraw(replace=False))(getkey(), x0, x1)


@pytest.mark.accuracy
def test_many_rows_take_little_memory(untyped):
    """20,000 rows, whose costs alone would take 1.5 GiB."""
    rows, key = jax.ShapeDtypeStruct((20_000, 64), jnp.float32), jax.random.key(0)
    for coupling in (Sinkhorn(), LowRankSinkhorn()):
        compiled = jax.jit(coupling.__call__).lower(key, rows, rows).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 2**30


FACTORS = np.asarray([[0.2, 0.0], [0.1, 0.3], [0.0, 0.4]]), np.asarray([[0.1, 0.5], [0.2, 0.1], [0.0, 0.1]])


@pytest.mark.accuracy
@pytest.mark.parametrize("draw", [PerData(), PerNoise(), JointDraw()], ids=str)
def test_pairs_drawn_by_rows_come_as_often_as_the_plan_says(draw, key):
    """Chi-squared of independent draws at one in a thousand; what has no mass never comes."""
    q, r = FACTORS
    g, number = np.asarray([0.3, 0.7]), 20_000
    plan = LowRankPlan(q=jnp.asarray(q), r=jnp.asarray(r), g=jnp.asarray(g), chunk_size=2)
    noise, data = jax.vmap(lambda key: draw.of_rows(key, plan))(jax.random.split(key, number))
    got = np.zeros((3, 3))
    np.add.at(got, (np.asarray(data), np.asarray(noise)), 1)
    matrix = (q / g) @ r.T
    axis = {PerData: 1, PerNoise: 0}.get(type(draw))
    want = 3 * matrix / matrix.sum() if axis is None else matrix / matrix.sum(axis, keepdims=True)
    assert np.all(got[want == 0] == 0)
    statistic = np.sum((got - number * want)[want > 0] ** 2 / (number * want[want > 0]))
    assert statistic < scipy.stats.chi2.isf(1e-3, np.sum(want > 0) - 1)


@pytest.mark.accuracy
def test_a_plan_of_low_rank(getkey):
    """Clusters that are far apart: with as many components as clusters, the plan is the one between clusters."""
    cluster = jnp.arange(60) % 3
    x0 = 10 * cluster[:, None].astype(float) + jax.random.normal(getkey(), (60, 2))
    x1 = (x0 + 0.5)[::-1]
    pairs = LowRankSinkhorn(3, strict=True)(getkey(), x0, x1)
    np.testing.assert_array_equal(cluster[pairs.noise_rows], cluster[::-1][pairs.data_rows])
    assert pairs.convergence.marginal_error < 2e-3
    np.testing.assert_allclose(pairs.weights, 1, rtol=2e-2)
    assert (
        np.linalg.matrix_rank(np.asarray(jnp.exp(LowRankSinkhorn(3).transport(x0, x1).log_rows(jnp.arange(60)))), 1e-5)
        <= 3
    )


def split_rows() -> dict[str, np.ndarray]:
    """The plan of a batch whose rows are split over all devices."""
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

    mesh = jax.make_mesh((len(jax.devices()),), ("rows",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P("rows"))
    x0, x1 = (jax.device_put(jax.random.normal(jax.random.key(i), (64, 2)) + 2 * i, rows) for i in range(2))
    pairs = jax.jit(Sinkhorn(0.01))(jax.random.key(2), x0, x1)
    return {"noise": np.asarray(pairs.noise_rows), "error": np.asarray(pairs.convergence.marginal_error)}


@pytest.mark.accuracy
def test_rows_on_several_devices_are_one_batch():
    one, four = run_on_devices(split_rows, 1), run_on_devices(split_rows, 4)
    assert one["error"] < 2e-3
    np.testing.assert_allclose(four["error"], one["error"], rtol=1e-2)
    np.testing.assert_array_equal(four["noise"], one["noise"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite(bad, getkey):
    """The assignment of the others is optimal and the same compiled; a plan says that there is none."""
    x0, x1 = ends(getkey, 12)
    spoilt = x1.at[3].set(bad)
    pairs = ExactOT()(getkey(), x0, spoilt)
    np.testing.assert_array_equal(jax.jit(ExactOT())(getkey(), x0, spoilt).noise_rows, pairs.noise_rows)
    rest = np.delete(np.arange(12), 3)
    taken = np.asarray(x0)[np.asarray(pairs.noise_rows)[rest]]
    cost = np.sum((np.asarray(x1)[rest, None] - taken[None]) ** 2, axis=2)
    np.testing.assert_allclose(np.trace(cost), cost[scipy.optimize.linear_sum_assignment(cost)].sum(), rtol=1e-5)
    assert sorted(Greedy()(getkey(), x0, spoilt).noise_rows.tolist()) == list(range(12))
    with pytest.warns(UserWarning, match="its marginal error is nan, because some rows are NaN or infinite"):
        Sinkhorn()(getkey(), x0, spoilt)


def test_rows_without_a_partner(getkey):
    x = jnp.zeros((4, 2))
    coupling = ExactOT(cost=lambda x1, x0, condition: jnp.full((4, 4), jnp.inf).at[:, 0].set(0))
    with pytest.raises(ValueError, match="Some of the 4 rows that are assigned together have no partner"):
        coupling(getkey(), x, x)


def test_batches_that_leave_no_choice(getkey):
    """Equal costs, one row, and labels that occur once."""
    key, (x0, x1) = getkey(), ends(getkey, 12)
    for coupling in (ExactOT, Greedy, Sinkhorn, UnbalancedSinkhorn):
        assert coupling()(key, x0[:1], x1[:1]).noise_rows.tolist() == [0]
        within = coupling(cost=ConditionalCost())(key, x0, x1, jnp.arange(12))
        np.testing.assert_array_equal(within.noise_rows, np.arange(12))
    equal = Sinkhorn().log_plan(jnp.ones((6, 2)), jnp.ones((6, 2)))
    np.testing.assert_allclose(equal, np.log(1 / 36), rtol=1e-5)

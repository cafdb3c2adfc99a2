"""More probes for the rows that need them, and the error of the steps, against closed forms."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from flowrax.divergence import Hadamard
from laws import mixture

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def correlated():
    """A mixture whose rows differ in the noise of their probes, points of it, and their exact values on a grid."""
    model = mixture(5, 6, "float32").model(frx.Linear())
    x = model.oracle.sample(jax.random.key(11), (400,))
    return model, x, frx.log_prob(model, x, grid=12)


def targeted(model, x, target, divergence=frx.Hutchinson(8), **options):
    return frx.log_prob(model, x, key=KEY, divergence=divergence, target_standard_error=target, grid=12, **options)


@pytest.mark.accuracy
def test_target_is_met_by_those_who_can(correlated):
    """Each row has stopped at the target or at its limit, and z-scores are still those of honest errors.

    Student's t with 7 degrees of freedom has variance 1.4; rows that stop early are picked for a small error.
    """
    model, x, exact = correlated
    plain = frx.log_prob(model, x, key=KEY, divergence=frx.Hutchinson(8), grid=12)
    target = float(np.median(plain.standard_error)) / 2
    answer = targeted(model, x, target, max_probes=60)
    error, probes = np.asarray(answer.standard_error), np.asarray(answer.num_probes)
    assert set(probes) <= {8, 16, 32, 60}
    assert len(set(probes)) >= 3
    assert np.all((error <= target) | (probes == 60))
    assert np.any(error > target)
    # Who needed no more has the plain answer; the others' work is counted.
    assert np.array_equal(probes == 8, np.asarray(plain.standard_error) <= target)
    assert np.array_equal(answer.value[probes == 8], plain.value[probes == 8])
    rounds = np.searchsorted([8, 16, 32, 60], probes) + 1
    assert np.array_equal(answer.stats.num_steps, 12 * rounds)
    z = np.asarray((answer.value - exact.value) / answer.standard_error)
    assert 0.8 <= np.var(z) <= 1.7
    # Estimates by several rounds are better than those by the first.
    more = probes == 60
    assert np.var((answer.value - exact.value)[more]) < 0.4 * np.var((plain.value - exact.value)[more])


@pytest.mark.accuracy
def test_a_row_does_not_depend_on_who_else_needs_more(correlated):
    model, x, _ = correlated
    whole = targeted(model, x, 0.1, max_probes=32)
    few = targeted(model, x[:5], 0.1, max_probes=32)
    assert np.array_equal(whole.num_probes[:5], few.num_probes)
    assert len(set(np.asarray(few.num_probes))) >= 1
    assert np.allclose(whole.value[:5], few.value, rtol=0, atol=1e-4)
    assert np.allclose(whole.standard_error[:5], few.standard_error, rtol=0, atol=1e-4)


def test_rounds_are_the_solves_they_say_they_are(x64):
    """Two rounds against their two solves done by hand, with a condition for each row and rows of Hadamard matrices."""

    def network(t, x, condition):
        return jnp.sin(x * condition) * jnp.sum(x)

    model = frx.Model(network, frx.Linear(), shape=(6,), dtype=np.float64)
    x, condition = (jax.random.normal(jax.random.key(k), (3, 6)) for k in (1, 2))
    divergence = frx.Hutchinson(4, Hadamard())
    answer = targeted(model, x, 1e-9, divergence, max_probes=8, condition=frx.Batched(condition))
    assert np.array_equal(answer.num_probes, [8, 8, 8])

    @jax.jit
    @jax.vmap
    def ends(x, c, key):
        """Where the state ends, and the integrals of the quadratic forms of the probes."""
        probes = divergence.distribution(key, (4, 6), np.float64)
        steps = dfx.StepTo(ts=jnp.linspace(1.0, 0.0, 13))
        term = dfx.ODETerm(lambda t, y, args: _rates(network, t, y[0], c, probes))
        start = x, jnp.zeros(4)
        solved = dfx.diffeqsolve(term, dfx.Dopri5(), 1.0, 0.0, None, start, stepsize_controller=steps, max_steps=12)
        return jax.tree.map(lambda y: y[0], solved.ys)

    keys = jnp.stack([jax.random.fold_in(KEY, i) for i in range(3)])
    rounds = [ends(x, condition, own) for own in (keys, jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))]
    for i in range(3):
        values, errors = [], []
        for state, forms in rounds:
            values.append(model.source.log_density(state[i]) + jnp.mean(forms[i]))
            # Of 8 rows, 4 without replacement.
            errors.append(np.sqrt((1 - 4 / 8) * np.var(forms[i], ddof=1) / 4))
        assert float(answer.value[i]) == pytest.approx(float(np.mean(values)), rel=1e-10)
        assert float(answer.standard_error[i]) == pytest.approx(np.hypot(*errors) / 2, rel=1e-8)


@pytest.mark.accuracy
def test_rounds_of_hadamard_rows_end_in_the_exact_trace(correlated):
    """Rounds of 2, 2 and 4 of the 8 rows, then all 8; a limit below that leaves the mean and its error."""
    model, x, exact = correlated
    exact = exact.value[:20]
    answer = targeted(model, x[:20], 1e-3, frx.Hutchinson(2, Hadamard()), max_probes=100)
    assert np.array_equal(answer.num_probes, np.full(20, 16))
    assert np.max(answer.standard_error) <= 1e-5
    assert np.allclose(answer.value, exact, rtol=0, atol=1e-4)
    less = targeted(model, x[:20], 1e-3, frx.Hutchinson(2, Hadamard()), max_probes=15)
    assert np.array_equal(less.num_probes, np.full(20, 15))
    assert np.min(less.standard_error) > 1e-3
    odd = targeted(model, x[:20], 1e-3, frx.Hutchinson(6, Hadamard()), max_probes=100)
    assert np.array_equal(odd.num_probes, np.full(20, 20))
    assert np.allclose(odd.value, exact, rtol=0, atol=1e-4)


def _rates(network, t, x, condition, probes):
    jacobian = jax.jacfwd(lambda x: network(t, x, condition))(x)
    return network(t, x, condition), jnp.einsum("ki,ij,kj->k", probes, jacobian, probes)


@pytest.mark.accuracy
@pytest.mark.parametrize(
    ("options", "stepping"),
    [(dict(grid=12), "grid"), (dict(rtol=1e-4, atol=1e-4), "tolerances")],
)
def test_discretisation_error_is_that_of_the_steps(options, stepping, x64):
    """Against the closed form: within a factor of two, and of the right sign, for nearly all rows."""
    oracle = mixture(5, 2, "float64")
    x = oracle.sample(jax.random.key(3), (300,))
    answer = frx.log_prob(oracle.model(frx.Linear()), x, discretisation_error=True, **options)
    want = np.asarray(answer.value - oracle.log_prob(x))
    ratio = np.asarray(answer.discretisation_error) / want
    large = np.abs(want) > 1e-9
    assert np.mean(large) > 0.9
    assert np.mean((ratio[large] >= 0.5) & (ratio[large] <= 2)) >= 0.85


def test_discretisation_error_at_its_order(x64):
    """Heun's: what is left after taking the estimate away is of a higher order than the error."""
    oracle = frx.oracle.Gaussian(np.zeros(2), np.diag([0.5, 2.0]))
    x = oracle.sample(jax.random.key(3), (50,))
    model = oracle.model(frx.Cosine())
    answer = frx.log_prob(model, x, solver=dfx.Heun(), grid=64, discretisation_error=True)
    error = np.asarray(answer.value - oracle.marginal_log_prob(frx.Cosine(), 1.0, x))
    left = np.abs(error - np.asarray(answer.discretisation_error))
    assert np.median(left) < 0.05 * np.median(np.abs(error))


@pytest.mark.accuracy
def test_discretisation_error_of_a_control_variate_is_the_difference(x64):
    """Its deviation is trapezoidal whatever the method, so half steps promise no ratio of the method's order."""
    model = mixture(5, 3, "float64").model(frx.Linear())
    x = model.oracle.sample(jax.random.key(2), (3,))
    options = dict(key=KEY, divergence=frx.ControlVariate(frx.Hutchinson(2)), solver=dfx.Tsit5())
    answer = frx.log_prob(model, x, grid=8, discretisation_error=True, **options)
    finer = frx.log_prob(model, x, grid=16, **options)
    np.testing.assert_allclose(answer.discretisation_error, answer.value - finer.value, rtol=1e-9, atol=1e-12)


@pytest.mark.accuracy
def test_discretisation_error_leaves_the_probes_alone(correlated):
    """Both solves have the same probes, so their noise is no part of it; and it can be had with a target."""
    model, x, _ = correlated
    options = dict(discretisation_error=True, max_probes=16)
    answer = targeted(model, x[:50], 1e-3, **options)
    assert np.all(answer.num_probes == 16)
    assert np.median(np.abs(answer.discretisation_error)) < 0.1 * np.median(answer.standard_error)


MESSAGES = {
    "nothing to add to": (
        dict(divergence=frx.Exact()),
        "target_standard_error adds probes to those of divergence=Hutchinson(num_probes) with num_probes >= 2.",
    ),
    "no error to begin with": (
        dict(divergence=frx.Hutchinson(1)),
        "target_standard_error adds probes to those of divergence=Hutchinson(num_probes) with num_probes >= 2.",
    ),
    "a target of zero": (dict(target=0.0), "target_standard_error must be positive; got 0.0."),
    "a limit below the start": (
        dict(divergence=frx.Hutchinson(8), max_probes=4),
        "max_probes=4 is below the divergence's num_probes=8.",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_message(case, correlated):
    options, message = MESSAGES[case]
    with pytest.raises(ValueError) as error:
        targeted(*correlated[:2], **{"target": 0.1, **options})
    assert str(error.value) == message


def test_message_inside_a_transformation(correlated):
    model, x, _ = correlated
    message = (
        "target_standard_error looks at values to choose the rows that need more probes, so it cannot be traced by "
        "jit, grad or vmap; fix Hutchinson(num_probes) there."
    )
    for transformed in (jax.jit, jax.grad):
        with pytest.raises(ValueError) as error:
            transformed(lambda x: jnp.sum(targeted(model, x, 0.1).value))(x)
        assert str(error.value) == message


def test_message_of_an_unknown_controller(correlated):
    model, x, _ = correlated
    controller = dfx.ClipStepSizeController(dfx.PIDController(rtol=1e-3, atol=1e-3))
    with pytest.raises(ValueError, match=r"^discretisation_error cannot refine ClipStepSizeController; use rtol and "):
        frx.log_prob(model, x, stepsize_controller=controller, discretisation_error=True)


def test_too_many_rows_of_a_hadamard_matrix(correlated):
    model, x, _ = correlated
    message = "Hadamard has 8 rows for events of 6 elements, which give the trace exactly; got num_probes=9, use at "
    with pytest.raises(ValueError, match=message):
        frx.log_prob(model, x, key=KEY, divergence=frx.Hutchinson(9, Hadamard()))

"""Every constructor refuses a number out of its range, and a class or a string in place of an object, in one sentence.

The classes and their arguments are found by introspection (`constructors`), so that a new class is asked at once.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowrax as frx
from constructors import BY_CLASS, MODEL, arguments, hints_of, name_of, options_of, public_classes
from flowrax import discrete, dynamics as dyn
from flowrax._base.arguments import Checked

CLASSES = public_classes()
LINEAR = frx.Linear()


def is_number(annotation):
    return bool(options_of(annotation) & {int, float})


def is_part(annotation):
    """Whether an argument is an object of this package or of diffrax."""
    return any(isinstance(kind, type) and issubclass(kind, eqx.Module) for kind in options_of(annotation))


def arguments_where(holds):
    return [(name, given) for name, cls in CLASSES.items() for given, hint in hints_of(cls).items() if holds(hint)]


def refusal(name, argument, value):
    """What is wrong with the refusal of a value, or nothing."""
    cls = CLASSES[name]
    try:
        cls(**{**arguments(name, cls), argument: value})
    except ValueError as error:
        words = str(error)
        named = argument in words or cls.__name__ in words
        return None if named and "\n" not in words and len(words) <= 240 else words
    except Exception as error:
        return repr(error)
    return "accepted"


def test_every_class_is_known():
    """A new class fails here until `constructors` can build it, or says why not; no entry is left over."""
    assert set(BY_CLASS) <= set(CLASSES)
    assert {name_of(cls) for cls in (frx.Model, frx.Matching, frx.ReverseSDE, frx.EDM, frx.LinearGaussian)} <= set(
        CLASSES
    )
    for name, cls in CLASSES.items():
        arguments(name, cls)


def test_nan_is_refused(untyped):
    assert {case: told for case in arguments_where(is_number) if (told := refusal(*case, math.nan))} == {}


# Where an infinite value has a meaning: no bound, no cap, or conditions that must be equal.
INFINITE = {
    ("coupling.ConditionalCost", "weight"),
    ("dynamics.Capped", "maximum"),
    ("dynamics.Churn", "sigma_max"),
    ("loss.MinSNR", "gamma"),
}


def test_infinity_is_refused_unless_it_has_a_meaning(untyped):
    accepted = {case for case in arguments_where(is_number) if refusal(*case, math.inf)}
    assert accepted == INFINITE


# Where a negative number has a meaning: a place, a signed weight, a mean, a log-SNR, or the index of the last block.
SIGNED = {
    ("discrete.ClassifierFreeCategorical", "weight"),
    ("discrete.FirstOrderRatio", "weight"),
    ("discrete.LikelihoodRatio", "weight"),
    ("dynamics.CosineDecay", "scale"),
    ("dynamics.RaisedSine", "scale"),
    ("dynamics.SigmoidPower", "centre"),
    ("guidance.ClassifierFree", "weight"),
    ("loss.MeanFlowGuidance", "mixture"),
    ("loss.MeanFlowGuidance", "scale"),
    ("loss.RepresentationAlignment", "block"),
    ("observation.Projection", "axis"),
    ("schedule.LearnedSNR", "maximum"),
    ("schedule.LearnedSNR", "minimum"),
    ("schedule.LogLinearSNR", "maximum"),
    ("schedule.LogLinearSNR", "minimum"),
    ("times.LogNormal", "mean"),
    ("times.LogitNormal", "mean"),
    ("verb.DiscreteReconstruction", "low"),
}


def test_negative_numbers_are_refused_unless_they_have_a_meaning(untyped):
    accepted = set()
    for name, given in arguments_where(is_number):
        whole = float not in options_of(hints_of(CLASSES[name])[given])
        if refusal(name, given, -1 if whole else -1.0):
            accepted.add((name, given))
    assert accepted == SIGNED


def test_fractions_and_truth_values_are_no_counts(untyped):
    counts = arguments_where(lambda hint: int in options_of(hint) and float not in options_of(hint))
    for wrong in (2.5, True):
        told = {case: words for case in counts if (words := refusal(*case, wrong))}
        # Here True says that integers are labels.
        assert told == ({case: "accepted" for case in counts if case[1] == "labels"} if wrong is True else {})
    assert len(counts) > 40


def wrong_kinds(hint):
    """Values that no argument with this annotation can have."""
    kinds = options_of(hint)
    may_be_none = type(None) in kinds
    kinds = kinds - {type(None)}
    wrong = ["text", b"1", 1j, object(), frx.Linear, lambda t: t, np.array(["1"]), {"a": 1.0}]
    if kinds == {bool}:
        return [*wrong, 1, 0.0, np.ones(2), None]
    if float in kinds and kinds <= {int, float}:
        return [
            *wrong,
            True,
            [1.0],
            np.ones(2),
            jax.random.split(jax.random.key(0), 3),
            *([] if may_be_none else [None]),
        ]
    if kinds == {int}:
        return [*wrong, True, 1.5, [1], np.ones(2, int), 2**40, *([] if may_be_none else [None])]
    if any(isinstance(kind, type) and issubclass(kind, eqx.Module) for kind in kinds):
        # Functions stand for some objects.
        return [value for value in wrong if not callable(value)]
    return []


def test_values_of_another_kind_are_refused(untyped):
    """In words that name the argument, by every class that is checked by its annotations."""
    told, asked = {}, 0
    for name, cls in CLASSES.items():
        for given, hint in hints_of(cls).items() if isinstance(cls, Checked) else ():
            for value in wrong_kinds(hint):
                asked += 1
                if words := refusal(name, given, value):
                    told[name, given, str(value)] = words
    assert told == {}
    assert asked > 2000


@pytest.mark.parametrize("wrong", [frx.Linear, "linear", 3.5], ids=["class", "string", "number"])
def test_only_objects_stand_for_parts(wrong, untyped):
    cases = [case for case in arguments_where(is_part)]
    assert {case: told for case in cases if (told := refusal(*case, wrong))} == {}


def test_numpy_integers_are_integers(untyped):
    for make in (
        lambda n: frx.Hutchinson(n),
        lambda n: frx.divergence.HutchPP(n + 3),
        lambda n: discrete.UniformCategorical((3,), n),
        lambda n: discrete.Unmask(per_step=n),
        lambda n: frx.prior.Harmonic(n),
        lambda n: frx.PredictorCorrector(frx.ProbabilityFlow(), num_steps=n),
        lambda n: discrete.Blocks(discrete.Ancestral(), n),
    ):
        assert eqx.tree_equal(make(np.int64(3)), make(3))


def test_checks_leave_traced_values_and_placeholders_alone(untyped):
    """Construction within jit, vmap and grad, and what JAX's tree functions put into a module."""
    values = jnp.asarray([0.5, -0.5])
    assert jax.jit(lambda c: dyn.Constant(c).scale)(-1.0) == -1
    assert jnp.array_equal(jax.vmap(lambda c: frx.dynamics.Sigma(c).scale)(values), values)
    assert jax.grad(lambda s: frx.EDMPreconditioner(s).sigma_data ** 2)(3.0) == 6
    module = eqx.filter_vmap(lambda c: frx.TemperedFlow(c))(values)
    assert jax.tree.map(lambda leaf: None, module).temperature is None
    assert eqx.tree_at(lambda m: m.temperature, module, object()) is not None
    assert jax.eval_shape(lambda c: dyn.Constant(c), 1.0).scale.shape == ()


GRIDS = frx.times
OUT_OF_RANGE = {
    "num_steps must be an integer; got 2.5.": lambda: GRIDS.linear_grid(2.5),
    "num_steps must be an integer; got True.": lambda: frx.schedule.ddpm_cosine(True),
    "num_steps must be at least 1; got 0.": lambda: frx.schedule.ddpm_linear(0),
    "exponent must be finite; got inf.": lambda: GRIDS.power_grid(3, math.inf),
    "exponent must be a number; got nan.": lambda: GRIDS.power_grid(3, math.nan),
    "rho must be a number; got nan.": lambda: GRIDS.edm_grid(frx.EDM(), 3, rho=math.nan),
    "num_points must be at least 2; got 1.": lambda: GRIDS.rate_grid(lambda t: t, 3, num_points=1),
    "num_draws must be at least 1; got 0.": lambda: frx.variational_bound(
        frx.oracle.Gaussian(np.zeros(2), np.eye(2)).model(frx.EDM()), np.zeros((3, 2)), jax.random.key(0), num_draws=0
    ),
    "t_max=1.5 is outside [0, 1]; t=0 is noise and t=1 is data.": lambda: frx.variational_bound(
        frx.oracle.Gaussian(np.zeros(2), np.eye(2)).model(frx.EDM()), np.zeros((3, 2)), jax.random.key(0), t_max=1.5
    ),
    "schedule must be a schedule; got the class Cosine: write Cosine().": lambda: frx.warp(MODEL, frx.Cosine),
    "flow must be a Model; got an object of type OracleModel.": lambda: frx.Bridge(MODEL, MODEL),
    "interval must be two increasing times; got (0.8, 0.2).": lambda: frx.ClassifierFree(
        MODEL, 1.5, null=0, interval=(0.8, 0.2)
    ),
    "noise_std must be positive; got -0.1.": lambda: frx.LinearGaussian([[1.0, 0.0]], [0.7], -0.1),
    "noise_std must be positive; got [ 0.1, -1. ].": lambda: frx.LinearGaussian(np.eye(2), [0.7, 0.1], [0.1, -1.0]),
    "covariance has a negative eigenvalue, -1; it must be positive semi-definite.": lambda: frx.oracle.Gaussian(
        np.zeros(2), np.diag([1.0, -1.0])
    ),
    "covariance must be symmetric; it differs from its transpose by up to 1.": lambda: frx.oracle.Gaussian(
        np.zeros(2), [[1.0, 1.0], [0.0, 1.0]]
    ),
    "covariances has a negative eigenvalue, -1; it must be positive semi-definite.": lambda: frx.oracle.GaussianMixture(
        [1.0], np.zeros((1, 2)), -np.eye(2)[None]
    ),
    "weights must not be negative; got [ 1., -1.].": lambda: frx.oracle.GaussianMixture(
        [1.0, -1.0], np.zeros((2, 2)), np.stack([np.eye(2)] * 2)
    ),
    "sigma_min must be positive; got 0. For 0 use Linear().": lambda: frx.schedule.ConditionalOT(0.0),
}


@pytest.mark.parametrize("words", OUT_OF_RANGE)
def test_ranges_that_introspection_does_not_reach(words, untyped):
    with pytest.raises(ValueError) as error:
        OUT_OF_RANGE[words]()
    assert str(error.value) == words


def test_a_covariance_may_be_singular_and_a_residual_noise_large():
    frx.oracle.Gaussian(np.zeros(2), np.ones((2, 2)))
    path = frx.schedule.ConditionalOT(1.5)
    t = np.linspace(0.05, 1, 7)
    np.testing.assert_allclose(path.time_at(path.log_snr(jnp.asarray(t))), t, rtol=1e-4)


SCHEDULES = {name: cls for name, cls in CLASSES.items() if issubclass(cls, frx.schedule.AbstractSchedule)}
# Both ends of its paths are data.
del SCHEDULES["interpolant.EncoderDecoder"]


@pytest.mark.parametrize("name", SCHEDULES)
def test_times_lie_in_the_unit_interval(name):
    """A log-SNR beyond the ends of a schedule gives the nearest end, and one of the schedule its own time."""
    path = SCHEDULES[name](**arguments(name, SCHEDULES[name]))
    got = np.asarray(path.time_at(jnp.asarray([-1e3, -60.0, 0.0, 60.0, 1e3])))
    assert np.all((got >= 0) & (got <= 1)), got
    assert got[0] <= 1e-6 and got[-1] >= 1 - 1e-3
    turned, slope = jax.jvp(lambda t: path.time_at(path.log_snr(t)), (jnp.asarray(0.33),), (jnp.asarray(1.0),))
    np.testing.assert_allclose([turned, slope], [0.33, 1], atol=2e-3)


@pytest.mark.parametrize("cls", discrete.schedule.AbstractMasking.__subclasses__())
def test_times_of_masking_lie_in_the_unit_interval(cls):
    path = cls(frx.schedule.ddpm_linear(10)) if cls is discrete.TabulatedMasking else cls()
    got = np.asarray(path.time_at(jnp.asarray([0.0, 1e-6, 0.5, 1.0, 1.1])))
    assert np.all((got >= 0) & (got <= 1)), got
    assert got[-1] == 1


RECORDS = [
    *(frx.Stats, frx.Samples, frx.LogProb, frx.PosteriorSamples, frx.Batched, frx.verb.VariationalBound),
    *(frx.coupling.Pairs, frx.schedule.Scales, frx.density.DensityFit),
    *(frx.diagnostics.Calibration, frx.diagnostics.ClassifierTest, frx.diagnostics.Contraction),
    *(frx.diagnostics.Coverage, frx.diagnostics.Diagnosis, frx.diagnostics.Distance),
    *(frx.diagnostics.LocalClassifierTest, frx.diagnostics.Simulations),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_help_shows_every_field_of_a_record(record):
    fields = [name for name in record.__dataclass_fields__ if not name.startswith("_")]
    assert [name for name in fields if f"`{name}`:" not in record.__doc__] == []


def test_results_print_in_a_few_lines():
    model = frx.oracle.Gaussian(np.zeros(2, np.float32), np.eye(2, dtype=np.float32)).model(LINEAR)
    samples = frx.sample(model, jax.random.key(0), 3, grid=2)
    assert repr(samples) == "Samples(x=f32[3,2], failed=0 of 3)"
    printed = []
    eqx.filter_jit(lambda s: printed.append(repr(s)) or s)(samples)
    assert printed == ["Samples(x=f32[3,2])"]
    assert "failed" not in repr(jax.tree.map(lambda leaf: None, samples))

"""Training that goes wrong stops and says so, keeps the best finite weights, and a second `fit` compiles nothing."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowrax as frx

KEY = jax.random.key(0)
ROWS = jax.random.normal(KEY, (40, 1))


def model(key=KEY, dtype=jnp.float32):
    network = frx.nn.MLP((1,), key=key, width=4, depth=1, num_frequencies=2)
    cast = jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, network)
    return frx.Model(cast, frx.Linear(), shape=(1,))


def fit(of=None, rows=ROWS, key=KEY, **options):
    options = {"num_steps": 8, "batch_size": 8, "progress": False} | options
    return frx.fit(model() if of is None else of, rows, key, **options)


def arrays(of):
    return eqx.filter(of.network, eqx.is_inexact_array)


def is_finite(tree):
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)))


def test_a_held_out_loss_of_nan_stops_the_run():
    held_out = np.exp(np.asarray(ROWS))
    held_out[7] = 0
    with pytest.warns(UserWarning, match="fit took 4 of 8 steps. The held-out loss became NaN"):
        result = fit(rows=jnp.exp(ROWS), validation=held_out, augment=lambda key, row: jnp.log(row), validate_every=4)
    assert result.stopped == "The held-out loss became NaN or infinite at step 4; kept the weights of step 4."
    assert result.best_step == result.num_steps == 4 and np.isnan(result.history["validation_loss"]).all()
    assert is_finite(result.model) and not eqx.tree_equal(result.model.network, model().network)


def test_labels_that_the_network_does_not_have_are_named():
    class Embedded(eqx.Module):
        table: jax.Array

        def __call__(self, t, x, condition):
            return x + self.table.at[condition].get(mode="fill", fill_value=jnp.nan)

    of = frx.Model(Embedded(jnp.ones(3)), frx.Linear(), shape=(1,))
    hint = "Conditions hold integers from 0 to 3; is the network made for all of these labels"
    with pytest.warns(
        UserWarning, match=f"The loss became NaN or infinite in step .; kept the weights of step .. {hint}"
    ):
        result = fit(of, condition=np.arange(40) % 4)
    assert repr(result).startswith("FitResult(model=Model(...), ") and len(repr(result)) < 300


def poisoned(step):
    """SGD whose update is NaN in one step, counted from zero, although the loss is finite."""

    def update(gradient, count, parameters=None):
        scale = jnp.where(count == step, jnp.nan, -0.1)
        return jax.tree.map(lambda leaf: scale * leaf, gradient), count + 1

    return optax.GradientTransformation(lambda parameters: jnp.zeros((), jnp.int32), update)


@pytest.mark.parametrize("step", [0, 5, 7])
def test_weights_of_nan_stop_at_the_last_finite_ones(step):
    with pytest.warns(UserWarning, match=f"fit took {step} of 8 steps. The gradient or the weights became NaN"):
        result = fit(optimizer=poisoned(step))
    assert result.num_steps == result.best_step == step
    assert result.stopped == (
        f"The gradient or the weights became NaN or infinite in step {step + 1}; kept the weights of step {step}."
    )
    # The kept weights are those of a run that ends there.
    same = fit(optimizer=poisoned(99), num_steps=step)
    assert eqx.tree_equal(result.last_model.network, same.last_model.network)
    assert eqx.tree_equal(result.model.network, same.model.network)


def test_a_run_that_goes_wrong_returns_its_best_held_out_weights():
    options = {"validation": ROWS, "validate_every": 2}
    with pytest.warns(UserWarning, match="fit took 5 of 8 steps"):
        result = fit(optimizer=poisoned(5), **options)
    whole = fit(optimizer=poisoned(99), num_steps=4, **options)
    assert result.num_steps == 5 and list(result.history["step"]) == [2, 4, 5]
    np.testing.assert_array_equal(result.history["validation_loss"][:2], whole.history["validation_loss"])
    assert result.best_step == result.history["step"][np.argmin(result.history["validation_loss"])]


ARGUMENTS = {
    "num_steps": {-5: "must be at least 0; got -5.", 2.5: "must be an integer; got 2.5."},
    "batch_size": {0: "must be at least 1; got 0.", True: "must be an integer; got True."},
    "validate_every": {0: "must be at least 1; got 0."},
    "patience": {0: "must be at least 1; got 0."},
    "ema_decay": {
        float("nan"): "must be a number; got nan.",
        1.5: "must lie in [0, 1]; got 1.5.",
        "a": "must be a number; got the string 'a'.",
    },
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_numbers_are_checked_first(name, untyped):
    for value, wanted in ARGUMENTS[name].items():
        with pytest.raises(ValueError) as error:
            fit(rows=jnp.full((3, 1), jnp.nan), **{name: value})
        assert str(error.value) == f"{name} {wanted}"


def test_numpy_numbers_are_numbers():
    numbers = {"num_steps": np.int64(4), "batch_size": np.int32(8), "validate_every": np.int64(2)}
    result = fit(validation=ROWS, patience=np.int64(9), ema_decay=np.float32(0.5), **numbers)
    assert list(result.history["step"]) == [2, 4]


def test_averages_and_losses_of_16_bit_models_are_in_single_precision():
    """Of weights that move by 2^-8 in each step the average moves, although each change is below its rounding."""
    jump = optax.GradientTransformation(
        lambda parameters: (), lambda g, s, p=None: (jax.tree.map(lambda leaf: jnp.full_like(leaf, 2.0**-8), g), s)
    )
    network = model(dtype=jnp.bfloat16)
    ones = jax.tree.map(lambda leaf: jnp.ones_like(leaf) if eqx.is_inexact_array(leaf) else leaf, network)
    result = fit(ones, optimizer=jump, num_steps=64, ema_decay=0.99, validation=ROWS, validate_every=64)
    # From one the steps of 2^-8 are lost to rounding of the weights; from zero none is.
    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if eqx.is_inexact_array(leaf) else leaf, network)
    moved = fit(zeros, optimizer=jump, num_steps=64, ema_decay=0.99).model
    mean = 0.0
    for k in range(64):
        decay = min(0.99, (1 + k) / (10 + k))
        mean = decay * mean + (1 - decay) * 2.0**-8 * (k + 1)
    for leaf in jax.tree.leaves(eqx.filter((moved.network, result.model.network), eqx.is_inexact_array)):
        assert leaf.dtype == jnp.bfloat16
    for leaf in jax.tree.leaves(eqx.filter(moved.network, eqx.is_inexact_array)):
        np.testing.assert_array_equal(leaf, jnp.full_like(leaf, mean))
    # A loss rounded to bfloat16 would have eight bits.
    loss = np.float32(result.history["validation_loss"][0])
    assert loss != np.float32(jnp.asarray(loss, jnp.bfloat16))


class Programs:
    """Counts the programs that JAX compiles."""

    def __init__(self):
        self.count, self.on = 0, True
        jax.monitoring.register_event_duration_secs_listener(self.heard)

    def heard(self, event, seconds, **details):
        self.count += self.on and event == "/jax/core/compile/backend_compile_duration"


@pytest.mark.parametrize("name", ["default", "made anew", "augment", "network of another key"])
def test_a_second_fit_compiles_nothing(name):
    def options():
        scale = 2.0
        return {
            "default": {},
            "made anew": {"optimizer": optax.adamw(optax.linear_schedule(1e-3, 1e-4, 8), weight_decay=0.1)},
            "augment": {"augment": lambda key, row: scale * row},
            "network of another key": {"of": model(jax.random.key(5))},
        }[name]

    fit(validation=ROWS, **options() | {"of": model(jax.random.key(4))})
    again, programs = options(), Programs()
    fit(validation=ROWS, key=jax.random.key(2), **again)
    programs.on = False
    assert programs.count == 0


def test_functions_of_other_values_are_other_functions():
    from flowrax.train.by_value import ByValue

    def made(value):
        return lambda x: value * x

    assert ByValue(made(2.0)) == ByValue(made(2.0)) and hash(ByValue(made(2.0))) == hash(ByValue(made(2.0)))
    assert ByValue(made(2.0)) != ByValue(made(3.0)) and ByValue(made(1)) != ByValue(made(1.0))
    one, other = jnp.ones(2), jnp.ones(2)
    assert ByValue(made(one)) == ByValue(made(one)) and ByValue(made(one)) != ByValue(made(other))
    assert ByValue(optax.adam(1e-3).update) != ByValue(optax.adam(1e-4).update)


def test_frequencies_are_constants_of_a_network(x64):
    features = frx.nn.FourierFeatures(frequencies=[0.5, 2.0])
    angle = 2 * np.pi * np.array([0.5, 2.0]) * 0.3
    np.testing.assert_allclose(features(0.3, jnp.float64), np.concatenate([np.sin(angle), np.cos(angle)]), atol=1e-12)
    assert not jax.tree.leaves(eqx.filter(features, eqx.is_inexact_array))
    with pytest.raises(ValueError, match="needs either num_frequencies and key, or frequencies"):
        frx.nn.FourierFeatures(3)


def test_networks_are_made_under_transformations():
    def make(key):
        return frx.nn.MLP((1,), key=key, width=4, depth=1, num_frequencies=2)

    keys = jax.random.split(KEY, 2)
    x, t = jnp.ones(1), jnp.asarray(0.3)
    wanted = [make(key)(t, x) for key in keys]
    ensemble = eqx.filter_vmap(lambda network: network(t, x))(eqx.filter_vmap(make)(keys))
    np.testing.assert_allclose(ensemble, jnp.stack(wanted), rtol=1e-5)
    np.testing.assert_allclose(eqx.filter_jit(make)(keys[0])(t, x), wanted[0], rtol=1e-5)
    assert jax.tree.structure(eqx.filter_eval_shape(make, KEY)) == jax.tree.structure(make(KEY))


def test_optimisers_may_need_the_loss():
    """The Polyak step of SGD is (loss - minimum) / |gradient|^2, so a larger `f_min` gives another step."""
    steps = [fit(optimizer=optax.polyak_sgd(1.0, f_min=low), num_steps=1).last_model for low in (0.0, 0.5)]
    moved = [jax.tree.map(lambda a, b: a - b, *map(arrays, (step, model()))) for step in steps]
    ratio = [one / other for one, other in zip(*map(jax.tree.leaves, moved), strict=True)]
    assert (
        all(np.allclose(r[jnp.isfinite(r)], jnp.ravel(ratio[0])[0], rtol=1e-2) for r in ratio) and ratio[0].min() > 1.1
    )


@pytest.mark.parametrize("optimizer", [optax.lbfgs(), optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())])
def test_optimisers_with_a_line_search_or_a_plateau_run(optimizer):
    result = fit(optimizer=optimizer, num_steps=20, validation=ROWS, validate_every=1)
    assert result.num_steps == 20 and result.history["validation_loss"][-1] < result.history["validation_loss"][0]


def test_optimisers_that_cannot_work_are_refused():
    needy = optax.GradientTransformationExtraArgs(lambda p: (), lambda g, s, p=None, *, hessian, **_: (g, s))
    with pytest.raises(ValueError, match="fit cannot use this optimizer, .*'hessian'"):
        fit(optimizer=needy)
    with pytest.raises(
        ValueError, match="optimizer must be an optax transformation, with init and update; got the string 'adam'"
    ):
        fit(optimizer="adam")


def test_fit_inside_jit_is_refused():
    with pytest.raises(ValueError, match="fit loops on the host and cannot be called inside jit"):
        jax.jit(lambda rows: fit(rows=rows).num_steps)(ROWS)

"""A file names what differs between the object that it holds and the one that it is read into, and nothing else."""

import enum
import functools
import os
import subprocess
import sys
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowrax as frx
from flowrax._base.describe import describe, differences, versions

KEY = jax.random.key(0)


class Pair(NamedTuple):
    left: Any
    right: Any


class Node(eqx.Module):
    child: Any
    fixed: Any = eqx.field(static=True, default=None)


class Other(eqx.Module):
    child: Any
    fixed: Any = eqx.field(static=True, default=None)


class Shade(enum.Enum):
    DARK = 0
    LIGHT = 1


class Shift:
    """A callable whose default `repr` is its address."""

    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x + self.by

    def method(self, x):
        return x * self.by


def double(x):
    return 2 * x


def halve(x):
    return x / 2


def times(factor, offset=0):
    return lambda x: factor * x + offset


def wrapped(function, factor):
    @functools.wraps(function)
    def call(x):
        return factor * function(x)

    return call


def reader(factor):
    """A lambda that reads `factor` from its module."""
    return eval("lambda x: factor * x", {"factor": factor, "__name__": "module"})


def mlp(activation=jax.nn.silu):
    return frx.nn.MLP((2,), key=KEY, width=3, depth=1, num_frequencies=1, activation=activation)


def model(target=None, schedule=None, **options):
    schedule = frx.VariancePreserving() if schedule is None else schedule
    return frx.Model(mlp(), schedule, target or frx.Noise(), shape=(2,), **options)


def transformer(heads):
    return frx.nn.Transformer((4,), 3, key=KEY, width=8, depth=1, num_heads=heads)


def different(one, other, **options):
    return differences(describe(one, **options), describe(other, **options), versions(), versions())


CHANGES = {
    "target": lambda: (model(frx.Noise()), model(frx.Data()), r"\.target is flowrax\.model\.target\.Noise"),
    "schedule": lambda: (
        model(),
        model(schedule=frx.VariancePreserving(beta_max=10.0)),
        r"\.beta_max is 20\.0 .* 10\.0 in",
    ),
    "schedule class": lambda: (
        model(),
        model(schedule=frx.Cosine()),
        r"\.interpolant\.schedule is .*VariancePreserving in",
    ),
    "time": lambda: (model(t_max=0.9), model(t_max=0.8), r"\.t_max is 0\.9 .* and 0\.8"),
    "coupling": lambda: (
        model(frx.Velocity(), coupling=frx.ExactOT()),
        model(frx.Velocity()),
        r"\.coupling is .*ExactOT in",
    ),
    "activation": lambda: (mlp(), mlp(jnp.tanh), r"\.activation is .*\.silu .* and .*\.tanh"),
    "heads": lambda: (transformer(2), transformer(4), r"num_heads is 2 .* and 4"),
    "shape": lambda: (np.zeros(3), np.zeros(4), r"the whole is float64\[3\] .* and float64\[4\]"),
    "dtype": lambda: (np.zeros(3), np.zeros(3, np.float32), r"float64\[3\] .* and float32\[3\]"),
    "kind of key": lambda: (
        {"k": KEY},
        {"k": jax.random.key(0, impl="rbg")},
        r"\['k'\] is key<fry>\[\] .* and key<rbg>",
    ),
    "number": lambda: (Node(1.5), Node(2.5), r"\.child is 1\.5 .* and 2\.5"),
    "string": lambda: (Node(None, "a"), Node(None, "b"), r"\.fixed is 'a' .* and 'b'"),
    "static dtype": lambda: (Node(None, np.dtype("f4")), Node(None, np.dtype("f8")), r"is float32 .* and float64 in"),
    "static array": lambda: (
        Node(None, Shift(np.ones(2))),
        Node(None, Shift(np.zeros(2))),
        r"float64\[2\] with digest \w+ in",
    ),
    "class": lambda: (
        Node(Node(1)),
        Node(Other(2)),
        r"\.child is test_describe\.Node .* and test_describe\.Other in `like`\.$",
    ),
    "length": lambda: ((1, Shade.DARK), (1, Shade.DARK, 2), r"the whole is tuple of 2 .* and tuple of 3 in `like`\.$"),
    "enumeration": lambda: (Pair(Shade.DARK, 0), Pair(Shade.LIGHT, 0), r"\.left is .*Shade\.DARK .* and .*LIGHT in"),
    "absent": lambda: ({"a": 1, "b": 2}, {"a": 1}, r"\['b'\] is 2 .* and absent from `like`"),
    "additional": lambda: ({"a": 1}, {"a": 1, "b": 2}, r"\['b'\] is 2 in `like` and absent from the file"),
    "nothing": lambda: (Node(None), Node(np.zeros(2)), r"\.child is None .* and float64\[2\]"),
    "function": lambda: (Node(double), Node(halve), r"\.child is test_describe\.double .* and test_describe\.halve in"),
    "compiled": lambda: (Node(jax.jit(double)), Node(jax.jit(halve)), r"\.child is test_describe\.double"),
    "global": lambda: (Node(lambda x: double(x)), Node(lambda x: halve(x)), r"\.child\.__code__ is"),
    "value of a global": lambda: (Node(reader(2)), Node(reader(3)), r"\.child\.factor is 2 .* and 3"),
    "lambda": lambda: (Node(lambda x: x + 1), Node(lambda x: x + 2), r"\.child\.__code__ is \w{12}"),
    "closure": lambda: (Node(times(2)), Node(times(3)), r"\.child\.factor is 2 .* and 3"),
    "closed array": lambda: (Node(times(np.ones(2))), Node(times(np.zeros(2))), r"\.child\.factor is float64\[2\]"),
    "wrapper": lambda: (Node(wrapped(double, 2)), Node(wrapped(double, 3)), r"\.child\.factor is 2 .* and 3 in"),
    "partial": lambda: (functools.partial(times, 1), functools.partial(times, 2), r"\.args is \(1,\) .* and \(2,\) in"),
    "keyword": lambda: (
        functools.partial(times, factor=1),
        functools.partial(times, factor=2),
        r"\.keywords\['factor'\] is 1",
    ),
    "method": lambda: (Node(Shift(1).method), Node(Shift(2).method), r"\.child\.__self__\.by is 1 .* and 2 in"),
    "object": lambda: (Node(None, Shift(1)), Node(None, Shift(2)), r"\.fixed\.by is 1 .* and 2"),
    "set": lambda: (Node(None, {"a", "b"}), Node(None, {"a", "c"}), r"\.fixed\[1\] is 'b' .* and 'c'"),
    "ufunc": lambda: (Node(np.tanh), Node(np.sin), r"numpy\.tanh .* and numpy\.sin"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_object_is_refused_by_the_name_of_what_differs(name, tmp_path):
    saved, like, message = CHANGES[name]()
    frx.save(tmp_path / "a.frx", saved)
    with pytest.raises(ValueError, match=message) as caught:
        frx.load(tmp_path / "a.frx", like)
    assert str(caught.value).startswith(f"{tmp_path / 'a.frx'} does not match `like`: ")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    frx.load(tmp_path / "a.frx", saved)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Node(lambda x: x in {"a", "b", "c"}),
        lambda: Node(times(np.arange(3.0))),
        lambda: Node(jax.jit(lambda x: x + 1)),
        lambda: Node(object(), Shift(np.ones(2))),
        lambda: Node(Shift(1).method, np.random.default_rng(0)),
        lambda: optax.adam(optax.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)),
        lambda: optax.chain(optax.clip(1.0), optax.multi_transform({"a": optax.adam(1e-3)}, lambda p: p)),
        lambda: mlp(lambda x: jnp.maximum(x, 0)),
        lambda: jax.tree_util.Partial(double, np.ones(2)),
        lambda: Node(np.array(["a", "b"]), Shift(np.array([None, "a"], dtype=object))),
        lambda: np.float32(0.5),
    ],
)
def test_objects_made_twice_have_one_description(make):
    """No text depends on an address, or on which of two equal functions an object holds."""
    assert different(make(), make()) == []
    assert different(make(), make(), by_value=True) == []


def test_equal_values_agree_whatever_their_type_or_wrapper():
    assert different(Node(1.0), Node(1)) == []
    assert different(Node(np.float64(0.5)), Node(0.5)) == []
    assert different(Node(jax.jit(double)), Node(double)) == []
    assert different({"a": 1, "b": 2}, {"b": 2, "a": 1}) == []
    assert different(np.zeros(2), np.ones(2)) == []
    assert [path for path, *_ in different(np.zeros(2), np.ones(2), by_value=True)] == [""]


def test_an_object_that_contains_itself_is_described():
    loop = Shift(None)
    loop.by = loop
    assert describe(loop)[".by"] == "a reference to an object that contains it"


def test_names_of_scripts_and_moved_modules_agree():
    local = "make.<locals>.f"
    here = {"": "package.new:Class", ".f": f"package.new:{local}", ".f.__code__": "1", ".f.a": "2", ".f.c": "3"}
    moved = {"": "package.old:Class", ".f": f"package.old:{local}", ".f.__code__": "2", ".f.b": "2", ".f.c": "3"}
    script = {**here, "": "__main__:Class", ".f": "__main__:other.<locals>.f"}
    one, two = {"package": "1.0"}, {"package": "2.0"}
    assert differences(moved, here, one, two) == []
    # The values that both close over must still agree.
    assert differences({**moved, ".f.c": "4"}, here, one, two) == [(".f.c", "4", "3")]
    assert [path for path, *_ in differences(moved, here, one, one)] == [""]
    assert differences(script, here, one, one) == []
    assert differences({"": "other:Class"}, {"": "package:Class"}, one, two) == [("", "other:Class", "package:Class")]
    # The bytes of code are those of one version of Python.
    changed = {**script, ".f.__code__": "3"}
    assert [path for path, *_ in differences(changed, here, one, one)] == [".f.__code__"]
    assert differences(changed, here, {"python": "3.11.7"}, {"python": "3.12.1"}) == []


def test_a_decorator_that_checks_types_does_not_change_a_function():
    from beartype import beartype

    def activation(x: int) -> int:
        return x + 1

    assert different(Node(beartype(activation)), Node(activation)) == []


@pytest.mark.accuracy
def test_descriptions_are_the_same_in_another_process():
    """Addresses and hashes of strings, and with them the orders of sets, differ between processes."""
    code = (
        "import json, optax; from flowrax._base.describe import describe\n"
        "tree = [lambda x: x in {'a', 'b', 'c', 'd'}, {'p', 'q', 'r'}, optax.adamw(1e-3), object()]\n"
        "text = json.dumps(describe(tree))"
    )
    scope = {"__name__": "__main__"}
    exec(code, scope)
    environment = {**os.environ, "PYTHONHASHSEED": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", f"{code}\nprint(text)"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert ran.stdout.strip() == scope["text"]

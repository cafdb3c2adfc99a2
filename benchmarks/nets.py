"""The trained networks of the jobs, copies of them in torch, and reference solutions."""

import contextlib
import functools
import hashlib

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flowrax as frx

from . import environment
from .harness import say
from .pieces import torch

FREQUENCIES = 4


@contextlib.contextmanager
def double():
    with jax.enable_x64(True):
        yield


def network(size, key=0):
    return frx.nn.MLP((size,), key=jax.random.key(key), num_frequencies=FREQUENCIES)


def model_of(net, size, **interval):
    return frx.Model(net, frx.Linear(), shape=(size,), **interval)


def ring():
    """A mixture of eight Gaussians in the plane."""
    angle = jnp.arange(8) * jnp.pi / 4
    means = 3 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return frx.oracle.GaussianMixture(jnp.ones(8), means, jnp.tile(0.1 * jnp.eye(2), (8, 1, 1)))


@functools.cache
def digits():
    """8 x 8 images of digits in [-1, 1], dequantised; all samples need about equally many steps."""

    def data():
        from sklearn.datasets import load_digits

        images = jnp.asarray(load_digits(return_X_y=True)[0], jnp.float32)
        return images, lambda key, row: (row + jax.random.uniform(key, row.shape, row.dtype)) / 17 * 2 - 1

    return _trained("digits", 64, data, 6000)


@functools.cache
def mixture():
    """A mixture of 25 Gaussians in 64 dimensions; some samples need 1.5 times as many steps as others."""

    def data():
        means = 2 * jax.random.normal(jax.random.key(5), (25, 64))
        gaussians = frx.oracle.GaussianMixture(jnp.ones(25), means, jnp.tile(0.05 * jnp.eye(64), (25, 1, 1)))
        return gaussians.sample(jax.random.key(6), (20_000,)), None

    return _trained("mixture", 64, data, 6000)


@functools.cache
def plane():
    return _trained("plane", 2, lambda: (ring().sample(jax.random.key(3), (20_000,)), None), 4000)


def _trained(name, size, data, num_steps):
    path = environment.CACHE / f"{name}.frx"
    like = model_of(network(size), size)
    if path.exists():
        try:
            return frx.load(path, like)[0]
        except ValueError as error:  # The file was written by another version or for another network.
            say(f"  {error}")
    rows, augment = data()
    say(f"  training {name} for {num_steps} steps, once")
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, num_steps))
    trained = frx.fit(
        like, rows, jax.random.key(7), num_steps=num_steps, augment=augment, optimizer=optimizer, progress=False
    ).model
    frx.save(path, trained, {})
    return trained


def fingerprint(model):
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:12]


def doubled(model):
    """The same network in float64; use it inside [`double`][] only."""
    cast = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, model.network)
    return frx.Model(cast, model.interpolant, model.target, shape=model.shape, t_min=model.t_min, t_max=model.t_max)


def truth(model, x0, name):
    """The end points of the probability flow from `x0`, in float64 at tolerance 1e-10; cached on disk."""
    start = np.asarray(x0)
    digest = hashlib.sha256(start.tobytes() + fingerprint(model).encode()).hexdigest()[:12]
    path = environment.CACHE / f"truth-{name}-{digest}.npy"
    if path.exists():
        return np.load(path)
    say(f"  solving {name} in float64, once")
    with double():
        end = solve_tightly(velocity(doubled(model)), jnp.asarray(start, jnp.float64), model.t_min, model.t_max)
    np.save(path, end)
    return end


def solve_tightly(field, x0, start, end):
    """Solves each row separately by Dopri8 at tolerance 1e-10."""

    @jax.jit
    def solve(x0):
        def one(x0):
            term = dfx.ODETerm(lambda t, x, args: field(t, x))
            controller = dfx.PIDController(rtol=1e-10, atol=1e-10, pcoeff=0.3, icoeff=0.4)
            solution = dfx.diffeqsolve(
                term, dfx.Dopri8(), start, end, None, x0, stepsize_controller=controller, max_steps=20_000
            )
            assert solution.ys is not None
            return solution.ys[0]

        return jax.lax.map(one, x0, batch_size=1000)

    return np.asarray(solve(x0))


def velocity(model):
    """The velocity `(t, x) -> v` for one event."""
    return lambda t, x: model.predict(t, x).velocity


def bare_loop(model, repeats):
    """`repeats` evaluations of the whole batch in one compiled loop, each depending on the one before.

    The weights are arguments of the compiled program; as constants they cost nine percent more.
    """

    @eqx.filter_jit
    def loop(model, x):
        batched = jax.vmap(velocity(model), in_axes=(None, 0))
        times = jnp.linspace(0, 1, repeats, dtype=x.dtype)
        return jax.lax.scan(lambda x, t: (x + 1e-3 * batched(t, x), None), x, times)[0]

    return lambda x: loop(model, x)


def noise(n, size, seed=1):
    return jax.random.normal(jax.random.key(seed), (n, size), jnp.float32)


def to_torch(model):
    """A torch module `(t, x)` with the same weights; `t` is a scalar or has one value per row."""
    library = torch()
    net = model.network

    class Net(library.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("frequencies", library.tensor(net.features.frequencies, dtype=library.float32))
            self.layers = library.nn.ModuleList()
            for layer in net.layers:
                linear = library.nn.Linear(layer.in_features, layer.out_features)
                linear.weight.data = library.from_numpy(np.array(layer.weight))
                linear.bias.data = library.from_numpy(np.array(layer.bias))
                self.layers.append(linear)
            self.calls = 0

        def forward(self, t, x, **extras):
            self.calls += 1
            angle = 2 * np.pi * self.frequencies * t.reshape(-1, 1)
            features = library.cat([library.sin(angle), library.cos(angle)], dim=1)
            h = library.cat([features.expand(x.shape[0], -1), x], dim=1)
            for layer in self.layers[:-1]:
                h = library.nn.functional.silu(layer(h))
            return self.layers[-1](h)

    return Net()


def as_torch(x):
    return torch().from_numpy(np.array(x))

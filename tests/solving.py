"""A small conditional model and its solves, for the tests of the engine."""

import functools

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

import flowrax as frx

KEY = jax.random.key(0)
CONTROLLER = dfx.PIDController(rtol=1e-9, atol=1e-9, pcoeff=0.4, icoeff=0.3)


class Net(eqx.Module):
    """A perceptron of (t, x, condition)."""

    mlp: eqx.nn.MLP

    def __call__(self, t, x, condition):
        return self.mlp(jnp.concatenate([jnp.reshape(t, 1).astype(x.dtype), x, condition]))


@functools.cache
def problem(n=6):
    """A model, starts and a condition for each, in double precision."""
    mlp = eqx.nn.MLP(5, 2, 8, 1, activation=jnp.tanh, dtype=jnp.float64, key=KEY)
    x0 = jax.random.normal(KEY, (n, 2), jnp.float64) * jnp.linspace(0.1, 3, n)[:, None]
    condition = jax.random.normal(jax.random.fold_in(KEY, 1), (n, 2), jnp.float64)
    return frx.Model(Net(mlp), frx.Linear(), shape=(2,)), x0, condition


def draw(arguments, **options):
    model, x0, condition = arguments
    return frx.sample(model, KEY, len(x0), x0=x0, condition=frx.Batched(condition), **options)

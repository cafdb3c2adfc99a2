"""Representation alignment against values computed by DiffuseNNX, whose time runs from data to noise."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flowrax as frx
from flowrax.model import AbstractFeatureNetwork

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "nnx_repa.npz")


class Network(AbstractFeatureNetwork):
    """Their stand-in: half of x for its output, seen in our time, and two lists of features."""

    def hidden(self, t, x, condition=None, *, key=None):
        return -0.5 * x, (x, jnp.sin(x) + (1 - t))


def projector():
    layers = [(REFERENCE[f"proj/{i}/kernel"], REFERENCE[f"proj/{i}/bias"]) for i in range(3)]
    new = frx.nn.Projector(4, 6, 5, key=jax.random.key(0))
    weights = [jnp.asarray(array, float) for kernel, bias in layers for array in (kernel.T, bias)]
    return eqx.tree_at(lambda p: [leaf for layer in p.layers for leaf in (layer.weight, layer.bias)], new, weights)


def test_alignment(x64):
    network = frx.nn.Projected(Network(), projector(), block=1)
    model = frx.Model(network, frx.Linear(), shape=(3, 4), dtype=jnp.float64)
    loss = frx.loss.RepresentationAlignment(weight=0.5)
    data, noise, t, features = (jnp.asarray(REFERENCE[name]) for name in ("x", "n", "t", "x_feature"))

    def parts(t, x0, x1, features):
        condition = frx.loss.WithFeatures(None, features)
        return loss(model, t, x0, x1, condition), *loss.parts(model, t, x0, x1, condition)

    answer = jax.jit(jax.vmap(parts))(1 - t, noise, data, features)
    for value, name in zip(answer, ("loss", "diffusion_loss", "repa_loss"), strict=True):
        np.testing.assert_allclose(value, REFERENCE[f"out/{name}"], rtol=1e-10, atol=1e-10)

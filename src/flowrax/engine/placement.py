"""Samples that lie on several devices: each device solves its own, with lanes of its own."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._checks import is_traced
from .._typing import Array, PyTree

Placement = tuple[Mesh, str | tuple[str, ...]]
"""A mesh of devices and those of its axes along which samples are split."""


def placement_of(rows: PyTree, shared: PyTree) -> Placement | None:
    """Where the first split leaf of `rows` has its leading axis; None for samples in one place.

    None, too, under a transformation: there the compiler places what it is given.
    """
    if is_traced(rows, shared):
        return None
    for leaf in jax.tree.leaves(rows):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and len(sharding.spec) > 0 and sharding.spec[0] is not None:
            if sharding.mesh.size > 1:
                assert isinstance(sharding.mesh, Mesh)
                return sharding.mesh, sharding.spec[0]
    return None


def on_each_device(
    function: Callable[[PyTree, PyTree, Array], PyTree],
    placement: Placement | None,
    n: int,
    shared: PyTree,
    rows: PyTree,
) -> PyTree:
    """`function(shared, rows, index)`: on each device for the `rows` that lie there and their places in `range(n)`.

    Every leaf of `rows`, and of what is returned, has one row a sample.
    """
    if placement is None:
        return function(shared, rows, jnp.arange(n))
    mesh, axis = placement
    arrays, static = eqx.partition((shared, rows), eqx.is_array)
    count = math.prod(mesh.shape[name] for name in ((axis,) if isinstance(axis, str) else axis))

    def local(shared: PyTree, rows: PyTree) -> PyTree:
        index = jax.lax.axis_index(axis) * (n // count) + jnp.arange(n // count)
        shared, rows = eqx.combine((shared, rows), static)
        return function(shared, rows, index)

    split = PartitionSpec(axis)
    in_specs = PartitionSpec(), split
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=split, check_vma=False)(*arrays)

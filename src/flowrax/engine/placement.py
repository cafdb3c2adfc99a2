"""Samples that lie on several devices: each device solves its own, with lanes of its own."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._base.checks import is_traced
from .._base.typing import Array, PyTree

Placement = tuple[Mesh, str | tuple[str, ...]]
"""A mesh of devices and those of its axes along which samples are split."""


def answer_of_none(function: Callable[[PyTree], PyTree], rows: PyTree) -> PyTree:
    """The answer of a function of rows for none of them: every array of the answer has no rows either."""

    def one_row(leaf: Array) -> Array:
        return jnp.zeros((1, *leaf.shape[1:]), leaf.dtype)

    def none(leaf: jax.ShapeDtypeStruct) -> Array:
        return jnp.zeros((0, *leaf.shape[1:]), leaf.dtype)

    # Only the shapes are used: nothing is computed.
    keys, rows = eqx.partition(rows, lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
    keys = jax.tree.map(lambda leaf: jax.random.split(jax.random.key(0, impl=jax.random.key_impl(leaf)), 1), keys)
    answer = eqx.filter_eval_shape(function, eqx.combine(keys, jax.tree.map(one_row, rows)))
    return jax.tree.map(lambda leaf: none(leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, answer)


def shard_rows(rows: PyTree, shared: PyTree) -> tuple[PyTree, Placement | None]:
    """All leaves of `rows` split as the first leaf that is, and how; unchanged where none is.

    Where `shared` is under a transformation the compiler places the work, on a mesh whose axes are left to it.
    """
    if is_traced(rows):
        return rows, None
    for leaf in jax.tree.leaves(rows):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and len(sharding.spec) > 0 and sharding.spec[0] is not None:
            mesh, axis = sharding.mesh, sharding.spec[0]
            if mesh.size > 1:
                assert isinstance(mesh, Mesh)
                by_compiler = is_traced(shared)
                mesh = Mesh(mesh.devices, mesh.axis_names) if by_compiler else mesh
                split = NamedSharding(mesh, PartitionSpec(axis))
                return jax.device_put(rows, split), None if by_compiler else (mesh, axis)
    return rows, None


@eqx.filter_jit
def on_each_device(
    function: Callable[[PyTree, PyTree, Array], PyTree],
    placement: Placement | None,
    n: int,
    shared: PyTree,
    rows: PyTree,
) -> PyTree:
    """`function(shared, rows, index)`, compiled: on each device for the `rows` that lie there.

    **Arguments:**

    - `function`: called with the numbers `index` of its rows, the whole of `range(n)` on one device.
    - `placement`: as [`shard_rows`][] gives it; None for one device.
    - `n`: the number of rows.
    - `shared`: common to all rows.
    - `rows`: each leaf has one row per sample, as have the leaves of the answer.

    **Returns:** the answer of `function`.
    """
    if placement is None:
        return function(shared, rows, jnp.arange(n))
    mesh, axis = placement
    arrays, static = eqx.partition((shared, rows), eqx.is_array)
    count = math.prod(mesh.shape[name] for name in ((axis,) if isinstance(axis, str) else axis))

    def local(shared: PyTree, rows: PyTree) -> PyTree:
        own = jnp.arange(n // count)
        index = jax.lax.axis_index(axis).astype(own.dtype) * (n // count) + own
        shared, rows = eqx.combine((shared, rows), static)
        return function(shared, rows, index)

    split = PartitionSpec(axis)
    in_specs = PartitionSpec(), split
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=split, check_vma=False)(*arrays)

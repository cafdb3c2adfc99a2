r"""Rows that fail must not reach the gradients of other rows.

The cotangent of a failed row is zero, but the way back multiplies it with the NaN of that row, and $0 \cdot
\text{NaN}$ is NaN: it would reach every parameter that the rows share. The wrappers here set the derivative of a
failed row to zero in all its arguments, before those of the rows are summed.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.typing import Array, PyTree
from .trees import count_rows, select


def isolate_row(
    function: Callable[..., Any], succeeded: Callable[[Any], Array], arguments: tuple[Any, ...], *, reverse_only: bool
) -> Any:
    """`function(*arguments)` of one row. If the row fails, its derivative is zero in all arguments.

    **Arguments:**

    - `function`: a function of one row, to be mapped over rows. It closes over no arrays.
    - `succeeded`: maps the answer of `function` to whether the row succeeded.
    - `arguments`: those of the row and those that all rows share.
    - `reverse_only`: whether `function` contains a custom reverse mode, and thus has no forward mode.

    **Returns:** the answer of `function`.
    """
    isolated = _in_reverse if reverse_only else _in_either_mode
    return isolated(arguments, function, succeeded)


@eqx.filter_custom_jvp
def _in_either_mode(arguments: tuple[Any, ...], function: Callable[..., Any], succeeded: Callable[[Any], Array]) -> Any:
    return function(*arguments)


@_in_either_mode.def_jvp
def _in_either_mode_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    arguments, function, succeeded = primals
    moving = jax.tree.map(lambda _, tangent: tangent is not None, arguments, tangents[0], is_leaf=_is_none)
    # The row is linearised before its tangents are used, because only its end tells whether it failed.
    given, of = _split(function, arguments, moving)
    _, push, answer = jax.linearize(of, given, has_aux=True)
    return answer, push(_unless_failed(succeeded(answer), tangents[0]))


@eqx.filter_custom_vjp
def _in_reverse(arguments: tuple[Any, ...], function: Callable[..., Any], succeeded: Callable[[Any], Array]) -> Any:
    return function(*arguments)


@_in_reverse.def_fwd
def _in_reverse_fwd(
    perturbed: PyTree, arguments: tuple[Any, ...], function: Callable[..., Any], succeeded: Callable[[Any], Array]
) -> tuple[Any, Any]:
    given, of = _split(function, arguments, perturbed)
    floats, pull, answer = jax.vjp(of, given, has_aux=True)
    return answer, (floats, pull, succeeded(answer))


@_in_reverse.def_bwd
def _in_reverse_bwd(
    residuals: Any,
    cotangents: Any,
    perturbed: PyTree,
    arguments: tuple[Any, ...],
    function: Callable[..., Any],
    succeeded: Callable[[Any], Array],
) -> PyTree:
    floats, pull, good = residuals
    dense = jax.tree.map(_dense, floats, cotangents, is_leaf=_is_none)
    return _unless_failed(good, pull(dense)[0])


@eqx.filter_custom_jvp
def isolate_rows(arguments: tuple[PyTree, PyTree], function: Callable[[PyTree, PyTree], PyTree[Array]]) -> Any:
    """`function(shared, rows)`, whose derivative is zero in all rows that are not finite, for `(shared, rows)`.

    The derivative is taken with a successful row in place of those that failed, which costs one more evaluation but,
    unlike [`isolate_row`][], holds one derivative for all rows. Use it for what is cheap beside a solve.
    """
    return function(*arguments)


@isolate_rows.def_jvp
def _isolate_rows_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (shared, rows), function = primals
    answer = function(shared, rows)
    good = finite_rows(answer)
    other = jnp.argmax(good)
    arrays, static = eqx.partition(rows, eqx.is_array)
    safe = eqx.combine(select(good, arrays, jax.tree.map(lambda leaf: leaf[other][None], arrays)), static)
    moving = jax.tree.map(lambda _, tangent: tangent is not None, (shared, rows), tangents[0], is_leaf=_is_none)
    given, of = _split(function, (shared, safe), moving)
    incoming = _unless_failed(jnp.any(good), tangents[0][0]), _unless_failed(good, tangents[0][1])
    _, outgoing, _ = jax.jvp(of, (given,), (incoming,), has_aux=True)
    return answer, _unless_failed(good, outgoing)


def finite_rows(tree: PyTree) -> Array:
    """Whether all elements of a row are finite, `(n,)`."""
    finite = jnp.ones(count_rows(tree), bool)
    for leaf in jax.tree.leaves(tree):
        finite &= jnp.all(jnp.isfinite(leaf.reshape(leaf.shape[0], -1)), axis=1)
    return finite


def _split(function: Callable[..., Any], arguments: PyTree, moving: PyTree) -> tuple[PyTree, Callable[[PyTree], Any]]:
    """The arguments to differentiate, and the function of these: the floats of its answer, and the answer itself."""
    given, fixed = eqx.partition(arguments, moving)

    def of(given: PyTree) -> tuple[PyTree, Any]:
        answer = function(*eqx.combine(given, fixed))
        return eqx.filter(answer, eqx.is_inexact_array), answer

    return given, of


def _unless_failed(good: Array, derivatives: PyTree) -> PyTree:
    return select(good, derivatives, jax.tree.map(jnp.zeros_like, derivatives))


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _dense(like: Array | None, cotangent: Array | None) -> Array | None:
    return jnp.zeros_like(like) if cotangent is None and like is not None else cotangent

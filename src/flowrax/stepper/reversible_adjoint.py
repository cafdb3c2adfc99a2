"""Exact gradients of a solve by running it in reverse, with memory independent of the number of steps.

Only the final state and the step times are kept. The backward pass reconstructs the state at the start of each step
from the state at its end and propagates the cotangents through the step; it evaluates the vector field as often as the
forward pass does.
"""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import Checked
from .._base.checks import check_positive
from .._base.typing import Array, Bool, PyTree, Scalar
from .accepted_steps import AcceptedSteps, March, share_of_interval
from .reversal import AbstractReversal, Times, Transpose, add, reversal_of

_MESSAGE = (
    "ReversibleAdjoint: the reversed solve did not return to its initial state within a relative tolerance of "
    "{tolerance:.1e}, so its gradients cannot be trusted. Rounding errors grow where the flow is stiff or contracts, "
    "or where the steps are too long for the solver to be stable. Use more steps, double precision, another solver or "
    "diffrax.RecursiveCheckpointAdjoint(); ReversibleAdjoint(throw=False) gives NaN instead of this error."
)


class ReversibleAdjoint(dfx.AbstractAdjoint, metaclass=Checked):
    """Gradients of a solve with a reversible solver, exact to rounding, in memory independent of the number of steps.

    Pass it to `diffrax.diffeqsolve`, [`sample`][] or [`log_prob`][], with `diffrax.ReversibleHeun()`,
    `SemiImplicitEuler()`, `LeapfrogMidpoint()` or [`Reversible`][]`(diffrax.Tsit5())`. It differentiates the discrete
    solve with respect to `y0`, `args`, `terms` and the arrays that a vector field closes over. It supports fixed and
    adaptive steps (whose lengths are not differentiated, as in diffrax), ODEs, and SDEs whose Brownian path can be
    evaluated again. Differentiating with respect to the times of a solve raises an error. Adaptive steps, and steps of
    a constant `dt0`, need `max_steps`, and one time is stored for each; a grid stores nothing. Forward mode and second
    derivatives need another adjoint, such as `diffrax.DirectAdjoint()`.

    Under `jax.vmap` the cotangents of shared parameters are stored for each sample and summed at the end, as in
    diffrax's own adjoints: for gradients with respect to large networks, stack the batch into one solve on a grid.

    `SaveAt` may contain `t0`, `t1` and `ts`, in any combination of `subs`.

    A flow that is stiff or contracts loses digits when it is reversed. The backward pass compares the reconstructed
    initial state with the true one and raises an error where they differ by more than `tolerance`.

    **Reference:** [@kidger2021efficient].
    """

    tolerance: float | None = eqx.field(static=True)
    throw: bool = eqx.field(static=True)

    def __init__(self, *, tolerance: float | None = None, throw: bool = True):
        r"""**Arguments:**

        - `tolerance`: the largest allowed error of the reconstructed initial state, relative to the largest absolute
            value of the state at either end of the solve. Default: $10 \sqrt{\epsilon}$ for the machine precision
            $\epsilon$ of the state's dtype (3e-3 in single, 1.5e-7 in double precision). Raises `ValueError` where it
            is not positive.
        - `throw`: whether a larger error raises in the backward pass; if false, the gradients are NaN. Default: True.
        """
        check_positive("tolerance", tolerance)
        self.tolerance, self.throw = tolerance, throw

    def loop(
        self,
        *,
        args: PyTree,
        terms: PyTree,
        solver: dfx.AbstractSolver,
        stepsize_controller: dfx.AbstractStepSizeController,
        event: Any,
        saveat: dfx.SaveAt,
        t0: Scalar,
        t1: Scalar,
        max_steps: int | None,
        init_state: Any,
        progress_meter: dfx.AbstractProgressMeter,
        **unused: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Implements diffrax's adjoint interface: runs the solve from its initial to its final loop state."""
        reversal = reversal_of(solver)
        _check_request(stepsize_controller, event, saveat, terms, max_steps, init_state.made_jump)
        subs = jax.tree.leaves(saveat.subs, is_leaf=_is_sub)
        wanted = [sub.ts for sub in subs if sub.ts is not None]
        dtype = jnp.result_type(t0)
        march = March(
            solver=solver,
            controller=stepsize_controller,
            meter=progress_meter,
            t0=t0,
            t1=t1,
            first=_without_tangent(init_state.tnext),
            controller_state=jax.tree.map(_without_tangent, init_state.controller_state),
            meter_state=init_state.progress_meter_state,
            ts=jnp.concatenate([jnp.zeros(0, dtype), *(ts.astype(dtype) for ts in wanted)]),
            max_steps=max_steps,
        )
        terms = _explicit(terms, t0, init_state.y, args)
        y, saved, record = _solve(
            (init_state.y, init_state.solver_state, (terms, args)), march, reversal, self.tolerance, self.throw
        )
        record = jax.tree.map(_without_tangent, record)
        states, offset = [], 0
        for sub in subs:
            count = 0 if sub.ts is None else len(sub.ts)
            rows = jax.tree.map(lambda leaf, i=offset, n=count: leaf[i : i + n], saved)
            states.append(_save(sub, march, args, init_state.y, rows, march.ts[offset : offset + count], y, record))
            offset += count
        empty = jax.tree.leaves(init_state.save_state, is_leaf=_is_save_state)
        filled = [eqx.tree_at(lambda s: (s.ts, s.ys), old, new) for old, new in zip(empty, states, strict=True)]
        save_state = jax.tree.unflatten(jax.tree.structure(saveat.subs, is_leaf=_is_sub), filled)
        final = eqx.tree_at(
            lambda s: (s.save_state, s.num_steps, s.num_accepted_steps, s.num_rejected_steps, s.result),
            init_state,
            (save_state, record.tried, record.taken, record.tried - record.taken, record.result),
        )
        return eqx.tree_at(lambda s: s.progress_meter_state, final, record.meter_state, is_leaf=_is_none), {}


class _Explicit(dfx.AbstractTerm):
    """A term whose vector field has the arrays it closes over as leaves, as a custom VJP requires."""

    term: dfx.AbstractTerm
    field: Callable[..., Any]

    def vf(self, t: Scalar, y: PyTree, args: PyTree) -> Any:
        return self.field(t, y, args)

    def contr(self, t0: Scalar, t1: Scalar, **kwargs: Any) -> Any:
        return self.term.contr(t0, t1, **kwargs)

    def prod(self, vf: Any, control: Any) -> PyTree:
        return self.term.prod(vf, control)


def _explicit(terms: PyTree, t: Scalar, y: PyTree, args: PyTree) -> PyTree:
    if isinstance(terms, dfx.MultiTerm):
        return dfx.MultiTerm(*(_explicit(term, t, y, args) for term in terms.terms))
    if isinstance(terms, tuple):
        # The two halves of a semi-implicit method; each is a function of the other half's state.
        return _explicit(terms[0], t, y[1], args), _explicit(terms[1], t, y[0], args)
    return _Explicit(terms, eqx.filter_closure_convert(terms.vf, t, y, args))


def _without_tangent(leaf: Any) -> Array:
    """The same value without a tangent: JAX attaches tangents to a custom VJP's integers; bitwise or drops them."""
    leaf = jnp.asarray(leaf)
    return jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf | jnp.zeros_like(leaf)


def _is_none(node: Any) -> bool:
    return node is None


def _is_sub(node: Any) -> bool:
    return isinstance(node, dfx.SubSaveAt)


def _is_save_state(node: Any) -> bool:
    return hasattr(node, "saveat_ts_index")


def _check_request(
    controller: dfx.AbstractStepSizeController,
    event: Any,
    saveat: dfx.SaveAt,
    terms: PyTree,
    max_steps: int | None,
    made_jump: Any,
) -> None:
    subs = jax.tree.leaves(saveat.subs, is_leaf=_is_sub)
    if saveat.dense or saveat.solver_state or saveat.controller_state or saveat.made_jump or any(s.steps for s in subs):
        raise ValueError("ReversibleAdjoint saves at t0, t1 and ts only; pass SaveAt(ts=...) instead.")
    if event is not None:
        raise ValueError("ReversibleAdjoint cannot end a solve at an event; use diffrax.RecursiveCheckpointAdjoint().")
    if made_jump is not False or getattr(controller, "jump_ts", None) is not None:
        raise ValueError("ReversibleAdjoint cannot cross jumps of the vector field; solve each piece separately.")
    if max_steps is None and not isinstance(controller, dfx.StepTo):
        raise ValueError("ReversibleAdjoint stores the step times: pass max_steps, or a grid, diffrax.StepTo(ts=...).")
    paths = jax.tree.leaves(terms, is_leaf=lambda node: isinstance(node, dfx.UnsafeBrownianPath))
    if any(isinstance(path, dfx.UnsafeBrownianPath) for path in paths):
        raise ValueError(
            "ReversibleAdjoint needs the same noise again in the backward pass, and UnsafeBrownianPath cannot "
            "reproduce it; use flowrax.stepper.BrownianTree or GridBrownianPath."
        )


def _save(
    sub: dfx.SubSaveAt,
    march: March,
    args: PyTree,
    y0: PyTree,
    rows: PyTree,
    ts: Array,
    y1: PyTree,
    record: AcceptedSteps,
) -> tuple[Array, PyTree]:
    """The times and values `fn(t, y, args)` of one `SubSaveAt`; infinite at times that the solve did not reach."""
    times, states = [ts], [rows]
    if sub.t0:
        times.insert(0, march.t0[None])
        states.insert(0, jax.tree.map(lambda leaf: leaf[None], y0))
    if sub.t1:
        times.append(record.end[None])
        states.append(jax.tree.map(lambda leaf: leaf[None], y1))
    stacked = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)
    at = jnp.concatenate(times)
    values = jax.vmap(lambda t, y: sub.fn(t, y, args))(at, stacked)
    reached = at <= record.end

    def mask(leaf: Array) -> Array:
        return jnp.where(reached.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, jnp.inf)

    return jnp.where(reached, at, jnp.inf), jax.tree.map(mask, values)


@eqx.filter_custom_vjp
def _solve(
    start: PyTree, march: March, reversal: AbstractReversal, tolerance: float | None, throw: bool
) -> tuple[PyTree, PyTree, AcceptedSteps]:
    y0, solver_state, (terms, args) = start
    y, _, saved, record = march.forward(y0, solver_state, terms, args, keep_times=False)
    return y, saved, record


@_solve.def_fwd
def _solve_forward(
    perturbed: PyTree, start: PyTree, march: March, reversal: AbstractReversal, tolerance: float | None, throw: bool
) -> tuple[Any, Any]:
    y0, solver_state, (terms, args) = start
    y, solver_state, saved, record = march.forward(y0, solver_state, terms, args, keep_times=True)
    return (y, saved, eqx.tree_at(lambda r: r.times, record, None, is_leaf=_is_none)), (y, solver_state, record)


@_solve.def_bwd
def _solve_backward(
    residuals: Any,
    cotangents: Any,
    perturbed: PyTree,
    start: PyTree,
    march: March,
    reversal: AbstractReversal,
    tolerance: float | None,
    throw: bool,
) -> PyTree:
    y, end_state, record = residuals
    y0, solver_state, params = start
    of_y = jax.tree.map(_dense, y, cotangents[0], is_leaf=_is_none)
    of_saved = jax.tree.map(_rows(len(march.ts)), y, cotangents[1], is_leaf=_is_none)
    moving, fixed = eqx.partition(params, perturbed[2])
    point, others = reversal.start(y, end_state)

    def times_at(k: Array) -> Times:
        kept = record.times if march.grid is None else march.grid
        assert kept is not None
        return Times(*(kept[jnp.clip(i, 0, record.taken)] for i in (k - 2, k - 1, k, k + 1)))

    def body(carry: Any) -> Any:
        k, point, of_y, others, total = carry
        times = times_at(k)

        def pull(increment: Any, x: PyTree) -> tuple[PyTree, Transpose]:
            def value(x: PyTree, moving: PyTree) -> PyTree:
                return increment(times, x, *eqx.combine(moving, fixed))

            return jax.vjp(value, x, moving)

        at_start, at_end = _pull_saved(march.ts, of_saved, times)
        point, of_y, others, share = reversal.back(pull, point, add(of_y, at_end), others)
        return k - 1, point, add(of_y, at_start), others, add(total, share)

    total = jax.tree.map(jnp.zeros_like, moving)
    carry = (jnp.asarray(record.taken), point, of_y, others, total)
    _, point, of_y, others, total = jax.lax.while_loop(lambda c: c[0] > 0, body, carry)
    back, of_state, of_terms = reversal.finish(times_at(jnp.asarray(0)), point, others, solver_state, params[0])
    if of_terms is not None:
        total = add(total, (eqx.filter(of_terms, perturbed[2][0]), jax.tree.map(jnp.zeros_like, moving[1])))
    # The values saved at t0 or earlier are y0 itself.
    of_y = add(of_y, jax.tree.map(lambda c: _weigh(c, (march.ts <= march.t0).astype(c.dtype)), of_saved))
    if of_state is None:
        of_state = jax.tree.map(lambda leaf: None, solver_state)
    gradients = _guard((of_y, of_state, total), back, y0, y, tolerance, throw)
    return jax.tree.map(lambda g, p: g if p else None, gradients, perturbed, is_leaf=_is_none)


def _dense(like: Array, cotangent: Array | None) -> Array:
    return jnp.zeros_like(like) if cotangent is None else cotangent


def _rows(count: int) -> Any:
    return lambda like, cotangent: jnp.zeros((count, *like.shape), like.dtype) if cotangent is None else cotangent


def _weigh(rows: Array, weights: Array) -> Array:
    return jnp.tensordot(weights, rows, 1, precision=jax.lax.Precision.HIGHEST)


def _pull_saved(ts: Array, of_saved: PyTree, times: Times) -> tuple[PyTree, PyTree]:
    """Splits the cotangents of the values saved within a step between the states at its two ends."""
    within, share = share_of_interval(ts, times.start, times.end)

    def ends(weights: Array) -> PyTree:
        weights = jnp.where(within, weights, jnp.zeros_like(weights))
        return jax.tree.map(lambda rows: _weigh(rows, weights.astype(rows.dtype)), of_saved)

    return ends(1 - share), ends(share)


def _guard(gradients: PyTree, back: PyTree, y0: PyTree, y1: PyTree, tolerance: float | None, throw: bool) -> PyTree:
    """The gradients; an error or NaN where the final state is finite but the reconstructed initial state is wrong."""
    largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves((y0, y1))]
    wrong = [jnp.max(jnp.abs(a - b), initial=0) for a, b in zip(*map(jax.tree.leaves, (back, y0)), strict=True)]
    size, error = jnp.max(jnp.stack(largest)), jnp.max(jnp.stack(wrong))
    limit = 10 * float(jnp.finfo(size.dtype).eps) ** 0.5 if tolerance is None else tolerance
    bad: Bool[Array, ""] = ~(error <= limit * size) & jnp.isfinite(size)
    if throw:
        return eqx.error_if(gradients, bad, _MESSAGE.format(tolerance=limit))
    return jax.tree.map(lambda g: jnp.where(bad, jnp.full_like(g, jnp.nan), g), gradients)

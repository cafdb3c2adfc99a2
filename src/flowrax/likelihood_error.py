"""What stands between a computed log-density and the model's: the noise of its probes, and the steps of its solve."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._checks import is_traced
from ._condition import Batched
from ._result import RESULTS, LogProb, is_failed
from ._typing import Array, Batch, Condition, KeyArray, PyTree
from .divergence import AbstractDivergence, ControlVariate, Hadamard, Hutchinson, Rademacher
from .engine import Stepping

Solve = Callable[[Batch, Condition | Batched, Array | None, AbstractDivergence, Stepping], LogProb]
"""Rows, their conditions, one key for each, how to take the divergence and how to step."""

# How much tighter the second solve of a discretisation error is.
_TIGHTER = 10.0

# Signs that all agree, one in two to this power, hide the error of a row.
_LEAST_BITS = 10

# The least number of rows that is solved again at once: fewer rows are padded to it.
_LEAST_ROWS = 8


def keys_of_rows(key: KeyArray, num: int) -> Array:
    """The keys of `num` rows, `fold_in(key, i)` for row `i`."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(num))


class ErrorOptions(eqx.Module):
    """What `log_prob` is asked to do about the errors of its answer."""

    target: float | None = eqx.field(static=True)
    max_probes: int = eqx.field(static=True)
    discretisation: bool = eqx.field(static=True)

    def check(self, divergence: AbstractDivergence, stepping: Stepping, traced: PyTree, size: int) -> None:
        """Raises `ValueError` unless it can be done for events of `size` elements."""
        if self.discretisation:
            refine(stepping)
        if self.target is None:
            return
        probing = _probing(divergence)
        if probing is None or probing.num_probes < 2:
            raise ValueError(
                "target_standard_error adds probes to those of divergence=Hutchinson(num_probes) with num_probes >= 2."
            )
        if isinstance(probing.law, Rademacher) and (size - 1) * (probing.num_probes - 1) < _LEAST_BITS:
            raise ValueError(
                f"{probing.num_probes} random signs in {size} dimensions are too often all the same, and then show no "
                "error; use Exact(), divergence.Hadamard() or more probes."
            )
        if not self.target > 0:
            raise ValueError(f"target_standard_error must be positive; got {self.target}.")
        if self.max_probes < probing.num_probes:
            raise ValueError(f"max_probes={self.max_probes} is below the divergence's num_probes={probing.num_probes}.")
        if is_traced(traced):
            raise ValueError(
                "target_standard_error looks at values to choose the rows that need more probes, so it cannot be "
                "traced by jit, grad or vmap; fix Hutchinson(num_probes) there."
            )


def solve_with_errors(
    solve: Solve,
    x: Batch,
    condition: Condition | Batched,
    keys: Array | None,
    divergence: AbstractDivergence,
    solver: dfx.AbstractSolver,
    stepping: Stepping,
    errors: ErrorOptions,
) -> LogProb:
    """One solve, and those that `errors` asks for."""
    answer = first = solve(x, condition, keys, divergence, stepping)
    probing = _probing(divergence)
    if errors.target is not None and keys is not None and probing is not None:

        def add(rows: np.ndarray, num_round: int, num_probes: int) -> LogProb:
            subset = Batched(_take(condition.value, rows)) if isinstance(condition, Batched) else condition
            fresh = jax.vmap(lambda key: jax.random.fold_in(key, num_round))(keys[rows])
            more = Hutchinson(num_probes, law)
            if isinstance(divergence, ControlVariate):
                more = ControlVariate(more, exact=divergence.exact)
            return solve(x[rows], subset, fresh, more, stepping)

        law, size = probing.law, math.prod(x.shape[1:])
        exact = law.num_rows(size) if isinstance(law, Hadamard) else None
        answer = _add_probes(add, answer, probing.num_probes, errors.target, errors.max_probes, exact)
    if not errors.discretisation:
        return answer
    finer = solve(x, condition, keys, divergence, refine(stepping))
    error = _error_of_steps(first, finer, divergence, solver, stepping)
    return eqx.tree_at(lambda a: a.discretisation_error, answer, error, is_leaf=lambda leaf: leaf is None)


def _probing(divergence: AbstractDivergence) -> Hutchinson | None:
    """The independent probes of a divergence, where it has them."""
    inner = divergence.divergence if isinstance(divergence, ControlVariate) else divergence
    return inner if isinstance(inner, Hutchinson) else None


def _add_probes(
    add: Callable[[np.ndarray, int, int], LogProb],
    answer: LogProb,
    total: int,
    target: float,
    max_probes: int,
    exact: int | None,
) -> LogProb:
    r"""Solves rows of `answer` again until their standard error is at most `target` or they have `max_probes`.

    Each round takes as many fresh probes as the row had.
    Rounds are independent, so means weighted by their numbers of probes have variance $\sum_r (k_r / k)^2 e_r^2$.
    A round of `exact` probes has no error, and its values replace the means.
    """
    used = np.full(answer.value.shape[0], total)
    for num_round in itertools.count(1):
        (rows,) = np.nonzero(np.asarray(answer.standard_error) > target)
        fresh = min(total, max_probes - total)
        fresh = fresh if exact is None else min(fresh, exact)
        # A single probe more would come without an error.
        if rows.size == 0 or fresh < 2:
            break
        more = _take(add(_pad(rows, used.size), num_round, fresh), np.arange(rows.size))
        total += fresh
        answer = _combine(answer, more, rows, 1.0 if fresh == exact else fresh / total)
        used[rows] = total
        if fresh == exact:
            break
    return eqx.tree_at(lambda a: a.num_probes, answer, jnp.asarray(used), is_leaf=lambda leaf: leaf is None)


def _pad(rows: np.ndarray, most: int) -> np.ndarray:
    """`rows` and repeats of the first, as many as the next power of two, so that few shapes are compiled."""
    width = min(max(1 << (rows.size - 1).bit_length(), _LEAST_ROWS), most)
    return np.concatenate([rows, np.full(width - rows.size, rows[0])])


def _take(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _combine(answer: LogProb, more: LogProb, rows: np.ndarray, weight: float) -> LogProb:
    """The mean of old and new values of `rows`, the new ones weighted by `weight`, with the work of both."""
    value = (1 - weight) * answer.value[rows] + weight * more.value
    error = jnp.hypot((1 - weight) * answer.standard_error[rows], weight * more.standard_error)
    before = _take(answer.result, rows)
    result = jax.vmap(RESULTS.where)(is_failed(before), before, more.result)
    return eqx.tree_at(
        lambda a: (a.value, a.standard_error, a.stats, a.result),
        answer,
        (
            answer.value.at[rows].set(value),
            answer.standard_error.at[rows].set(error),
            jax.tree.map(lambda old, new: old.at[rows].add(new), answer.stats, more.stats),
            jax.tree.map(lambda old, new: old.at[rows].set(new), answer.result, result),
        ),
    )


def refine(stepping: Stepping) -> Stepping:
    """Half steps, or a tenth of the tolerances; raises `ValueError` where neither is known."""
    if stepping.grid is not None:
        grid = stepping.grid
        halves = jnp.stack([grid[:-1], (grid[:-1] + grid[1:]) / 2], axis=1).reshape(-1)
        grid = jnp.concatenate([halves, grid[-1:]])
        return Stepping(stepping.start, stepping.end, dfx.StepTo(ts=grid), grid, len(grid) - 1, stepping.backward)
    if not isinstance(stepping.controller, dfx.PIDController):
        raise ValueError(
            f"discretisation_error cannot refine {type(stepping.controller).__name__}; use rtol and atol, a "
            "grid or a PIDController."
        )
    controller = eqx.tree_at(
        lambda c: (c.rtol, c.atol),
        stepping.controller,
        (stepping.controller.rtol / _TIGHTER, stepping.controller.atol / _TIGHTER),
    )
    return eqx.tree_at(lambda s: s.controller, stepping, controller)


def _error_of_steps(
    answer: LogProb, finer: LogProb, divergence: AbstractDivergence, solver: dfx.AbstractSolver, stepping: Stepping
) -> Array:
    r"""The error of `answer` by its difference from a `finer` solve with the same probes.

    With half steps of a method of order $p$ the finer error is $2^{-p}$ of this one, and is taken away (Richardson).
    Adaptive steps promise no such ratio, nor does a control variate, whose deviation takes the trapezoidal rule beside
    the method: there the difference itself misses the error by that of the finer solve.
    """
    known = stepping.grid is not None and not isinstance(divergence, ControlVariate)
    order = solver.order(None) if known else None
    share = 1.0 if order is None else 1 - 0.5**order
    return (answer.value - finer.value) / share

"""The two errors of a computed log-density: the noise of its random probes, and the steps of its solve."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base.checks import is_traced
from .._base.condition import Batched
from .._base.result import RESULTS, LogProb, is_failed
from .._base.typing import Array, Batch, Condition, PyTree, Shape
from ..divergence import AbstractDivergence, ControlVariate, Hadamard, Hutchinson, Rademacher
from ..engine import Stepping
from ..stepper.step_control import CheckedController
from .density_solve import DensitySolve
from .options import SolveOptions

_DEFAULT_MAX_PROBES = 1024

# The factor by which the second solve of a discretisation error tightens the tolerances.
_TIGHTER = 10.0

# Where all probes may be equal with a chance above two to minus this power, their spread shows no error.
_LEAST_BITS = 10

# Fewer rows than this are padded to this many when they are solved again, so that few shapes are compiled.
_LEAST_ROWS = 8


class ErrorOptions(eqx.Module):
    """The options of `log_prob` that reduce or estimate the errors of its answer."""

    target: float | None = eqx.field(static=True)
    max_probes: int = eqx.field(static=True)
    discretisation: bool = eqx.field(static=True)

    @classmethod
    def of(cls, options: SolveOptions) -> "ErrorOptions":
        """The options that a verb was called with."""
        most = _DEFAULT_MAX_PROBES if options.max_probes is None else options.max_probes
        return cls(options.target_standard_error, most, options.discretisation_error)

    def check(self, divergence: AbstractDivergence, stepping: Stepping, traced: PyTree, shape: Shape) -> None:
        """Raises `ValueError` for options that cannot be met for events of this shape."""
        size = math.prod(shape)
        if self.discretisation:
            refine(stepping)
        if self.target is None:
            return
        probing = _probing(divergence)
        if probing is None or probing.num_probes < 2:
            raise ValueError(
                "target_standard_error adds probes to those of divergence=Hutchinson(num_probes) with num_probes >= 2."
            )
        if isinstance(probing.distribution, Rademacher) and (size - 1) * (probing.num_probes - 1) < _LEAST_BITS:
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
    solve: DensitySolve, x: Batch, condition: Condition | Batched, keys: Array | None, errors: ErrorOptions
) -> LogProb:
    """One solve, and the further ones that `errors` asks for."""
    answer = first = solve(x, condition, keys)
    probing = _probing(solve.divergence)
    if errors.target is not None and keys is not None and probing is not None:

        def add(rows: np.ndarray, num_round: int, num_probes: int) -> LogProb:
            subset = Batched(_take(condition.value, rows)) if isinstance(condition, Batched) else condition
            fresh = jax.vmap(lambda key: jax.random.fold_in(key, num_round))(keys[rows])
            more = Hutchinson(num_probes, probes)
            if isinstance(solve.divergence, ControlVariate):
                more = ControlVariate(more, exact=solve.divergence.exact)
            return DensitySolve(solve.model, more, solve.spec, solve.throw)(x[rows], subset, fresh)

        probes, size = probing.distribution, math.prod(x.shape[1:])
        exact = probes.num_rows(size) if isinstance(probes, Hadamard) else None
        answer = _add_probes(add, answer, probing.num_probes, errors.target, errors.max_probes, exact)
    if not errors.discretisation:
        return answer
    finer = eqx.tree_at(lambda solve: solve.spec.stepping, solve, refine(solve.spec.stepping))(x, condition, keys)
    error = _error_of_steps(first, finer, solve)
    return eqx.tree_at(lambda a: a.discretisation_error, answer, error, is_leaf=lambda leaf: leaf is None)


def _probing(divergence: AbstractDivergence) -> Hutchinson | None:
    """The Hutchinson estimator within a divergence, whose probes are independent; None where there is none."""
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
        # A single additional probe has no standard error.
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
    """`rows`, padded with the first of them to a power of two, so that few shapes are compiled."""
    width = min(max(1 << (rows.size - 1).bit_length(), _LEAST_ROWS), most)
    return np.concatenate([rows, np.full(width - rows.size, rows[0])])


def _take(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _combine(answer: LogProb, more: LogProb, rows: np.ndarray, weight: float) -> LogProb:
    """The weighted mean of old and new values of `rows`, `weight` for the new ones, and the sum of their work."""
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
    """The same solve with half steps, or a tenth of the tolerances; raises `ValueError` where neither is known."""
    if stepping.grid is not None:
        grid = stepping.grid
        halves = jnp.stack([grid[:-1], (grid[:-1] + grid[1:]) / 2], axis=1).reshape(-1)
        grid = jnp.concatenate([halves, grid[-1:]])
        return Stepping(stepping.start, stepping.end, dfx.StepTo(ts=grid), grid, len(grid) - 1, stepping.backward)
    controller, is_checked = stepping.controller, isinstance(stepping.controller, CheckedController)
    if isinstance(controller, CheckedController):
        controller = controller.controller
    if not isinstance(controller, dfx.PIDController):
        raise ValueError(
            f"discretisation_error cannot refine {type(controller).__name__}; use rtol and atol, a "
            "grid or a PIDController."
        )
    finer = eqx.tree_at(
        lambda c: (c.rtol, c.atol), controller, (controller.rtol / _TIGHTER, controller.atol / _TIGHTER)
    )
    finer = CheckedController(finer) if is_checked else finer
    return eqx.tree_at(lambda s: s.controller, stepping, finer)


def _error_of_steps(answer: LogProb, finer: LogProb, solve: DensitySolve) -> Array:
    r"""The error of `answer`, estimated by its difference from a `finer` solve with the same probes.

    With half steps of a method of order $p$ the finer error is $2^{-p}$ of this one, and is taken away (Richardson
    extrapolation). Adaptive steps promise no such ratio, nor does a control variate, whose deviation is integrated by
    the trapezoidal rule beside the method: there the difference itself is the estimate, off by the finer solve's error.
    """
    known = solve.spec.stepping.grid is not None and not isinstance(solve.divergence, ControlVariate)
    order = solve.spec.solver.order(None) if known else None
    share = 1.0 if order is None else 1 - 0.5**order
    return (answer.value - finer.value) / share

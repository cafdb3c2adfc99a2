r"""`parallel_sample`: many steps of a grid at once, by Picard iteration in a sliding window.

A one-step method $x_{i+1} = \Phi_i(x_i)$ is a fixed point of (Shih et al. 2023, eq. 5, there for Euler)

$$x_{s+j} \leftarrow x_s + \sum_{i=s}^{s+j-1} \bigl(\Phi_i(x_i) - x_i\bigr), \qquad j = 1, \dots, p,$$

whose $p$ terms are computed side by side. A round makes $x_{s+1}$ exact whatever came before. Where the update changed
$x_{s+1}, \dots, x_{s+j}$ by at most $\tau$ (root mean square) the steps up to $x_{s+j+1}$ are taken as found and the
window moves on. So each step holds up to $\mathrm{Lip}(\Phi_i - 1)\, \tau = O(h L \tau)$, and the end differs from that
of the sequential method by at most $\tau\, (e^{L (t_1 - t_0)} - 1)$ by Gronwall's inequality.
"""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import checked
from .._base.checks import check_count, check_not_negative, check_shape
from .._base.condition import Batched, split_condition
from .._base.random import as_threefry
from .._base.result import NONFINITE, RESULTS, Samples, Stats, raise_if_failed
from .._base.typing import Array, Batch, BatchLike, Condition, Event, Integer, KeyArray, KeyLike, PyTree
from ..dynamics.base import AbstractDynamics
from ..engine import Grid, SolveSpec, Stepping, evaluations_per_step
from ..model.base import AbstractContinuousModel
from .options import ModelEquation, SolveOptions, check_model, default_dynamics
from .sample import check_starts, draw_start, solve_samples


@checked
def parallel_sample(
    model: AbstractContinuousModel,
    key: KeyLike,
    num_samples: Integer,
    *,
    grid: Grid,
    window: Integer = 32,
    tolerance: float | Array = 1e-3,
    condition: Condition | Batched = None,
    x0: BatchLike | None = None,
    dynamics: AbstractDynamics | None = None,
    solver: dfx.AbstractSolver | None = None,
    throw: bool = True,
) -> Samples:
    """Draws what `sample(..., grid=grid)` draws with the same key, up to the tolerance, in fewer rounds of the network.

    It trades work for depth: several times the evaluations, in batches `window` times as large, in a fraction of the
    sequential calls. That pays on an accelerator that the batch alone leaves idle, and not on a few CPU cores. The
    gradient is that of `sample` on the same grid, which solves it again, in sequence.

    **Arguments:**

    - `model`, `key`, `num_samples`, `condition`, `x0`, `dynamics`, `throw`: as in [`sample`][].
    - `grid`: a number of equal steps or the `(k + 1,)` times of fixed ones.
    - `window`: steps computed at once for each sample.
    - `tolerance`: a state is accepted when its root mean square change is at most this, in units of `x`, in each
        sample separately. With zero the answer is the sequential one to rounding, in up to `k` rounds.
    - `solver`: a diffrax one-step solver, such as Heun or ShARK: one that carries nothing from step to step that it
        could not recompute. Default: `Euler()` (Euler-Maruyama).

    **Returns:** [`Samples`][] without a trajectory; `stats.num_steps` counts rounds, each of which calls the network
        as often in sequence as one step of the solver, and `stats.num_evaluations` all evaluations.

    **Raises:** `ValueError` for a bad argument, [`SolveError`][] where a state became NaN.

    **Reference:** [@shih2023parallel].
    """
    check_model(model, "parallel_sample")
    num_samples, window = check_count("num_samples", num_samples), check_count("window", window)
    check_not_negative("tolerance", tolerance)
    check_shape("tolerance", jnp.shape(tolerance), ())
    key = as_threefry(key)
    moving = default_dynamics(model) if dynamics is None else dynamics
    options = SolveOptions(solver=dfx.Euler() if solver is None else solver, grid=grid)
    spec = options.resolve(model, moving)
    assert isinstance(moving, AbstractDynamics)
    condition, start = check_starts(model, num_samples, condition, x0)
    shared, rows = split_condition(condition)
    window = min(window, spec.stepping.max_steps)
    equation, allowed = ModelEquation(moving, None, model, shared), jnp.asarray(tolerance, model.dtype)
    answer = _sample((equation, start, rows), key, num_samples, spec, allowed, window)
    return raise_if_failed("parallel_sample", answer, answer.result, None) if throw else answer


class _Window(eqx.Module):
    """The window of one sample: the states from number `first` on, `(window + 1, ...)` on every leaf."""

    first: Array
    states: PyTree[Array]
    rounds: Array


class _Picard(eqx.Module):
    """How every sample is drawn."""

    equation: ModelEquation
    spec: SolveSpec
    tolerance: Array
    window: int = eqx.field(static=True)

    def draw(self, key: KeyArray, index: Array, x0: Event | None, row: PyTree) -> Samples:
        """Sample number `index`."""
        solver, stepping = self.spec.solver, self.spec.stepping
        start = draw_start(self.equation, key, index, x0, row)
        terms, args = self.equation.bind((start.state, start.own), solver, stepping)
        state = start.state
        _check_memory(solver, terms, stepping, state, args)
        states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (self.window + 1, *leaf.shape)), state)
        zero = jnp.zeros((), jnp.int32)
        last = stepping.max_steps
        end = jax.lax.while_loop(
            lambda w: w.first < last, lambda w: self.round(w, terms, args), _Window(zero, states, zero)
        )
        x = self.equation.dynamics.readout(jax.tree.map(lambda leaf: leaf[0], end.states))
        good = jnp.all(jnp.isfinite(x))
        result = RESULTS.where(good, RESULTS.successful, NONFINITE)
        evaluations = end.rounds * self.window * evaluations_per_step(solver)
        stats = Stats(num_steps=end.rounds, num_rejected=zero, num_evaluations=evaluations)
        return Samples(jnp.where(good, x, jnp.nan), None, None, None, None, stats, result)

    def round(self, window: _Window, terms: dfx.AbstractTerm, args: PyTree) -> _Window:
        """One Picard update of the window, which then moves on by the steps found to have converged."""
        grid, last, solver = self.spec.stepping.grid, self.spec.stepping.max_steps, self.spec.solver
        assert grid is not None
        index = window.first + jnp.arange(self.window, dtype=jnp.int32)

        def change(index: Array, state: PyTree[Array]) -> PyTree[Array]:
            step = jnp.minimum(index, last - 1)
            t0, t1 = grid[step], grid[step + 1]
            memory = solver.init(terms, t0, t1, state, args)
            moved = solver.step(terms, t0, t1, state, args, memory, made_jump=False)[0]
            # Steps past the end of the grid change nothing.
            return jax.tree.map(lambda new, old: jnp.where(index < last, new - old, 0), moved, state)

        changes = jax.vmap(change)(index, jax.tree.map(lambda leaf: leaf[:-1], window.states))
        states = jax.tree.map(
            lambda leaf, change: jnp.cumulative_sum(jnp.concatenate([leaf[:1], change]), axis=0),
            window.states,
            changes,
        )
        update = jax.vmap(_rms)(jax.tree.map(lambda new, old: new - old, states, window.states))[1:-1]
        # No step of the window starts at its last state, which may change. NaN counts as a change.
        changed = jnp.append(~(update <= self.tolerance), True)
        found = 1 + jnp.argmax(changed).astype(jnp.int32)
        move = jnp.minimum(found, last - window.first)
        kept = jnp.minimum(move + jnp.arange(self.window + 1, dtype=jnp.int32), self.window)
        return _Window(window.first + move, jax.tree.map(lambda leaf: leaf[kept], states), window.rounds + 1)


def _rms(state: PyTree[Array]) -> Array:
    leaves = jax.tree.leaves(state)
    squares = sum(jnp.sum(leaf**2) for leaf in leaves)
    return jnp.sqrt(squares / sum(leaf.size for leaf in leaves))


def _check_memory(
    solver: dfx.AbstractSolver, terms: dfx.AbstractTerm, stepping: Stepping, state: PyTree[Array], args: PyTree
) -> None:
    # The memory of these solvers follows from the state. diffrax calls a wrapper an instance of the class it wraps.
    plain = dfx.AbstractRungeKutta | dfx.AbstractSRK | dfx.AbstractFosterLangevinSRK
    if isinstance(solver, plain) and not isinstance(solver, dfx.AbstractWrappedSolver):
        return
    memory = jax.eval_shape(lambda s: solver.init(terms, stepping.start, stepping.end, s, args), state)
    if jax.tree.leaves(memory):
        raise ValueError(
            f"{type(solver).__name__} carries a memory from step to step, so its steps cannot be taken side by side; "
            "use Euler, Heun, ShARK or another one-step method."
        )


@eqx.filter_jit
def _rounds(
    drawn: tuple[ModelEquation, Batch | None, PyTree],
    key: KeyArray,
    num_samples: int,
    spec: SolveSpec,
    tolerance: Array,
    window: int,
) -> Samples:
    equation, x0, rows = drawn
    draw = _Picard(equation, spec, tolerance, window).draw
    return jax.vmap(draw, in_axes=(None, 0, 0, 0))(key, jnp.arange(num_samples), x0, rows)


_sample: Any = eqx.filter_custom_vjp(_rounds)


@_sample.def_fwd
def _sample_fwd(perturbed: PyTree, drawn: PyTree, *others: Any) -> tuple[Samples, None]:
    return _rounds(drawn, *others), None


@_sample.def_bwd
def _sample_bwd(
    residuals: None,
    cotangents: Samples,
    perturbed: PyTree,
    drawn: PyTree,
    key: KeyArray,
    num_samples: int,
    *others: Any,
) -> PyTree:
    """The gradient of the sequential solve, of which the rounds are an approximation to the tolerance."""
    spec: SolveSpec = others[0]

    def sequential(drawn: tuple[ModelEquation, Batch | None, PyTree]) -> PyTree:
        equation, x0, rows = drawn
        return solve_samples((equation, spec, None, key), (x0, rows), jnp.arange(num_samples)).x

    x, pull_back = eqx.filter_vjp(sequential, drawn)
    return pull_back(jnp.zeros_like(x) if cotangents.x is None else cotangents.x)[0]

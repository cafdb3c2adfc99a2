"""`sample`: draw from a model, by any dynamics and any diffrax solver, each sample with its own step size."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from ._checks import check_batch, check_finite
from ._condition import Batched, cast_condition, rows_of
from ._result import Samples, raise_if_failed
from ._typing import Array, Batch, Condition, Event, KeyArray, PyTree
from .abstract import AbstractContinuousModel, AbstractDynamics
from .divergence import AbstractDivergence, Exact
from .dynamics import ProbabilityFlow
from .engine import Grid, Progress, Stepping, make_noise, make_stepping, map_samples, solve_one
from .last_step import AbstractLastStep
from .likelihood import Augmented, initial_log_density, likelihood_norm


def sample(
    model: AbstractContinuousModel,
    key: KeyArray,
    num_samples: int,
    *,
    condition: Condition | Batched = None,
    x0: Batch | None = None,
    dynamics: AbstractDynamics | None = None,
    solver: dfx.AbstractSolver | None = None,
    rtol: float | Array | None = None,
    atol: float | Array | None = None,
    grid: Grid | None = None,
    stepsize_controller: dfx.AbstractStepSizeController | None = None,
    adjoint: dfx.AbstractAdjoint | None = None,
    saveat: dfx.SaveAt | None = None,
    lanes: int | None = None,
    last_step: AbstractLastStep | None = None,
    with_log_prob: bool = False,
    divergence: AbstractDivergence | None = None,
    max_steps: int = 4096,
    progress: Progress = False,
    throw: bool = True,
) -> Samples:
    """Draws from the model's law at the end of the dynamics' interval (`t_max` for the probability flow).

    **Arguments:**

    - `model`: what to draw from.
    - `key`: sample `i` draws from `fold_in(key, i)` only, whatever the others do.
    - `num_samples`: `n`.
    - `condition`: one condition for all samples, or `Batched(c)` with a leading axis `n` on every leaf.
    - `x0`: `(n, *event)`, the states to start from instead of draws from the source: already scaled, as `LogProb.latent`.
    - `dynamics`: the probability flow without; or `ReverseSDE(...)`, `Langevin(...)`, ...
    - `solver`: any diffrax solver that fits the dynamics.
    - `rtol`, `atol`: of the error per step of each sample; the dynamics' `default_tolerance` without.
    - `grid`: instead, a number of equal steps or the `(k + 1,)` times of fixed ones.
    - `stepsize_controller`: instead, a diffrax controller.
    - `adjoint`: how gradients are taken; diffrax's recursive checkpointing without.
    - `saveat`: a `diffrax.SaveAt(ts=...)` (or `steps=True`) fills `Samples.trajectory` and `Samples.times`.
    - `lanes`: samples solved at once; all of them without.
    - `last_step`: what to do with the end state, such as [`Tweedie`][]; refused with `with_log_prob`.
    - `with_log_prob`: whether to solve for the log-density of each sample too; probability flow only.
    - `divergence`: for that, [`Exact`][] without.
    - `max_steps`: of each adaptive solve.
    - `progress`: True, or a diffrax progress meter.
    - `throw`: whether a failed solve raises; otherwise its row is NaN and carries its code.

    **Returns:** [`Samples`][].

    **Raises:** `ValueError` for a bad argument, [`SolveError`][] for a failed solve.
    """
    dynamics = model.default_dynamics if dynamics is None else dynamics
    _check_density(dynamics, with_log_prob, divergence, last_step)
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; got {num_samples}.")
    if x0 is not None:
        x0 = jnp.asarray(x0, model.dtype)
        check_batch("x0", x0, model.shape, num_samples)
        check_finite("x0", x0)
    solver = dynamics.stepper(solver)
    _check_calculus(dynamics, solver)
    stepping = make_stepping(
        dynamics.interval(model),
        solver,
        model.dtype,
        rtol=rtol,
        atol=atol,
        controller=stepsize_controller,
        grid=grid,
        max_steps=max_steps,
        default_tolerance=dynamics.default_tolerance,
        norm=likelihood_norm if with_log_prob else optx.rms_norm,
        stochastic=not dynamics.keeps_density,
    )
    condition = cast_condition(condition, model.dtype, num_samples)
    carried = (Exact() if divergence is None else divergence) if with_log_prob else None
    answer = _sample(
        model, key, num_samples, condition, x0, dynamics, solver, stepping, adjoint, saveat, lanes, last_step,
        carried, progress,
    )  # fmt: skip
    if not throw:
        return answer
    return raise_if_failed("sample", answer, answer.result, stepping.max_steps)


def _check_density(
    dynamics: AbstractDynamics,
    with_log_prob: bool,
    divergence: AbstractDivergence | None,
    last_step: AbstractLastStep | None,
) -> None:
    if not with_log_prob:
        if divergence is not None:
            raise ValueError("divergence is used with with_log_prob=True only.")
        return
    if not dynamics.keeps_density:
        raise ValueError(
            f"with_log_prob=True needs the probability flow; {type(dynamics).__name__} carries no density."
        )
    if last_step is not None:
        raise ValueError("last_step changes the law of the samples; it cannot go with with_log_prob=True.")


def _check_calculus(dynamics: AbstractDynamics, solver: dfx.AbstractSolver) -> None:
    if dynamics.calculus is not None and not isinstance(solver, dynamics.calculus):
        reading = "Ito" if dynamics.calculus is dfx.AbstractItoSolver else "Stratonovich"
        raise ValueError(
            f"{type(dynamics).__name__} has state-dependent diffusion in the {reading} sense, "
            f"but {type(solver).__name__} converges to the other; pass a solver of diffrax's {reading} kind."
        )


@eqx.filter_jit
def _sample(
    model: AbstractContinuousModel,
    key: KeyArray,
    num_samples: int,
    condition: Any,
    x0: Batch | None,
    dynamics: AbstractDynamics,
    solver: dfx.AbstractSolver,
    stepping: Stepping,
    adjoint: dfx.AbstractAdjoint | None,
    saveat: dfx.SaveAt | None,
    lanes: int | None,
    last_step: AbstractLastStep | None,
    divergence: AbstractDivergence | None,
    progress: Progress,
) -> Samples:
    source = dynamics.source(model)
    rows, condition_of = rows_of(condition)

    def one(row: PyTree) -> Samples:
        index, x0, condition_row = row
        keys = jax.random.split(jax.random.fold_in(key, index), 4)
        start = source.draw(keys[0]) if x0 is None else x0
        condition = condition_of(condition_row)
        solve = _plain if divergence is None else _with_density
        x, log_prob, error, saved, stats, result = solve(
            model, condition, start, source, dynamics, divergence, solver, stepping, keys[1:], adjoint, saveat, progress
        )
        if last_step is not None:
            x = last_step(model, stepping.end, x, condition)
        times, trajectory = (None, None) if saved is None else saved
        return Samples(x, log_prob, error, trajectory, times, stats, result)

    return map_samples(one, (jnp.arange(num_samples), x0, rows), lanes)


def _plain(
    model: Any, condition: Any, x: Event, source: Any, dynamics: AbstractDynamics, divergence: None, solver: Any,
    stepping: Stepping, keys: Any, adjoint: Any, saveat: Any, progress: Any,
) -> tuple[Any, ...]:  # fmt: skip
    terms = dynamics.terms(model, condition, make_noise(stepping, solver, keys[0], model.dtype))
    state = dynamics.initial(x, keys[1])
    end, saved, stats, result = solve_one(
        terms, solver, stepping, state, (model, condition), saveat=saveat, adjoint=adjoint, progress=progress
    )
    if saved is not None:
        saved = saved[0], jax.vmap(dynamics.readout)(saved[1])
    return dynamics.readout(end), None, None, saved, stats, result


def _with_density(
    model: Any, condition: Any, x: Event, source: Any, dynamics: AbstractDynamics, divergence: AbstractDivergence,
    solver: Any, stepping: Stepping, keys: Any, adjoint: Any, saveat: Any, progress: Any,
) -> tuple[Any, ...]:  # fmt: skip
    probes = divergence.probes(keys[2], x)
    term = dfx.ODETerm(Augmented(ProbabilityFlow(), divergence))
    state = (x, initial_log_density(x, divergence))
    (end, change), saved, stats, result = solve_one(
        term, solver, stepping, state, (model, condition, probes), saveat=saveat, adjoint=adjoint, progress=progress
    )
    if saved is not None:
        saved = saved[0], saved[1][0]
    value = source.log_density(x) + jnp.mean(change)
    return end, value, divergence.standard_error(change), saved, stats, result

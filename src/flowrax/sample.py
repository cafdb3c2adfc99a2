"""`sample`: draw from a model, by any dynamics and any diffrax solver, each sample with its own step size."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from ._checks import check_batch, check_finite
from ._condition import Batched, cast_condition, rows_of
from ._result import Samples, raise_if_failed
from ._typing import Array, Batch, BatchLike, Condition, Event, KeyArray, PyTree
from .abstract import AbstractContinuousModel, AbstractDynamics
from .divergence import AbstractDivergence, Exact
from .engine import Grid, Progress, Stepping, make_noise, make_stepping, map_samples, solve_one
from .last_step import AbstractLastStep
from .likelihood import augmented, likelihood_norm
from .prior import AbstractPrior


def sample(
    model: AbstractContinuousModel,
    key: KeyArray,
    num_samples: int,
    *,
    condition: Condition | Batched = None,
    x0: BatchLike | None = None,
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
    - `x0`: `(n, *event)`, the states to start from instead of draws from the source;
        already scaled, as `LogProb.latent`.
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
    start = None if x0 is None else _check_start(model, x0, num_samples)
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
    plan = _Plan(
        dynamics=dynamics,
        divergence=(Exact() if divergence is None else divergence) if with_log_prob else None,
        last_step=last_step,
        solver=solver,
        stepping=stepping,
        saveat=saveat,
        adjoint=adjoint,
        progress=progress,
    )
    condition = cast_condition(condition, model.dtype, num_samples)
    answer = _sample(plan, model, key, num_samples, condition, start, lanes)
    if not throw:
        return answer
    return raise_if_failed("sample", answer, answer.result, stepping.max_steps)


class _Plan(eqx.Module):
    """How every sample is drawn: what the compiler sees of the arguments of `sample`."""

    dynamics: AbstractDynamics
    divergence: AbstractDivergence | None
    last_step: AbstractLastStep | None
    solver: dfx.AbstractSolver
    stepping: Stepping
    saveat: dfx.SaveAt | None
    adjoint: dfx.AbstractAdjoint | None
    progress: Progress

    def draw(
        self,
        model: AbstractContinuousModel,
        condition: Condition,
        source: AbstractPrior,
        x0: Event | None,
        key: KeyArray,
    ) -> Samples:
        """One sample: all fields of the answer without their leading axis."""
        source_key, noise_key, state_key, probe_key = jax.random.split(key, 4)
        x0 = source.draw(source_key) if x0 is None else x0
        if self.divergence is None:
            dynamics, noise = self.dynamics, make_noise(self.stepping, self.solver, noise_key, model.dtype)
            terms, state = dynamics.terms(model, condition, noise), dynamics.initial(x0, state_key)
            readout = dynamics.readout
        else:
            terms, state, readout = augmented(self.divergence, x0, probe_key)
        end, saved, stats, result = solve_one(
            terms,
            self.solver,
            self.stepping,
            state,
            (model, condition),
            saveat=self.saveat,
            adjoint=self.adjoint,
            progress=self.progress,
        )
        x, log_prob, error = readout(end), None, None
        if self.divergence is not None:
            log_prob = source.log_density(x0) + jnp.mean(end[1])
            error = self.divergence.standard_error(end[1])
        if self.last_step is not None:
            x = self.last_step(model, self.stepping.end, x, condition)
        times, trajectory = (None, None) if saved is None else (saved[0], jax.vmap(readout)(saved[1]))
        return Samples(x, log_prob, error, trajectory, times, stats, result)


def _check_start(model: AbstractContinuousModel, x0: BatchLike, num_samples: int) -> Batch:
    start = jnp.asarray(x0, model.dtype)
    check_batch("x0", start, model.shape, num_samples)
    check_finite("x0", start)
    return start


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
    plan: _Plan,
    model: AbstractContinuousModel,
    key: KeyArray,
    num_samples: int,
    condition: Condition | Batched,
    x0: Batch | None,
    lanes: int | None,
) -> Samples:
    source = plan.dynamics.source(model)
    rows, condition_of = rows_of(condition)

    def one(row: PyTree) -> Samples:
        index, x0, condition_row = row
        return plan.draw(model, condition_of(condition_row), source, x0, jax.random.fold_in(key, index))

    return map_samples(one, (jnp.arange(num_samples), x0, rows), lanes)

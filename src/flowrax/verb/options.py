"""How to solve: the options that the verbs share, checked in one place and made into the engine's record.

A verb collects its arguments in [`SolveOptions`][]. A model without a differential equation refuses the options that
belong to one; for any other they are resolved, with its dynamics, to the engine's `SolveSpec`.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

import diffrax as dfx
import equinox as eqx
import optimistix as optx

from .._base.checks import check_count, check_time
from .._base.typing import Array, Condition, KeyArray, PyTree
from ..discrete.base import AbstractSampledModel, AbstractSampler
from ..divergence import AbstractDivergence
from ..dynamics import ProbabilityFlow
from ..dynamics.base import AbstractDynamics
from ..engine import AbstractEquation, Grid, ProgressLike, SolveSpec, Stepping, check_saveat, make_noise, make_stepping
from ..model.base import AbstractContinuousModel, AbstractModel
from ..prior import bind_row
from ..stepper import check_predictions
from ..stepper.fitting import with_tolerances
from .augmented import augmented_norm, augmented_solver, augmented_terms
from .last_step import AbstractLastStep

DEFAULT_MAX_STEPS = 4096


def default_dynamics(model: AbstractModel) -> AbstractDynamics | AbstractSampler:
    """The dynamics by which a verb moves a model unless it is given another."""
    return model.default_sampler if isinstance(model, AbstractSampledModel) else ProbabilityFlow()


class SolveOptions(eqx.Module):
    """The options of a solve as a verb was called with them; None or False is an option that was not given."""

    solver: dfx.AbstractSolver | None = None
    rtol: float | Array | None = None
    atol: float | Array | None = None
    grid: Grid | None = None
    stepsize_controller: dfx.AbstractStepSizeController | None = None
    adjoint: dfx.AbstractAdjoint | None = None
    saveat: dfx.SaveAt | None = None
    lanes: int | None = None
    last_step: AbstractLastStep | None = None
    with_log_prob: bool = False
    divergence: AbstractDivergence | None = None
    max_steps: int | None = None
    target_standard_error: float | None = None
    max_probes: int | None = None
    discretisation_error: bool = False
    progress: ProgressLike = False

    def __check_init__(self) -> None:
        for name in ("lanes", "max_steps"):
            value = getattr(self, name)
            if value is not None:
                check_count(name, value)

    def given_beside(self, allowed: Collection[str]) -> list[str]:
        """The names of the options that were given, without those in `allowed`."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return [
            name for name, value in given.items() if value is not None and value is not False and name not in allowed
        ]

    def check_sampler(self, sampler: AbstractSampler) -> None:
        """Raises `ValueError` for options that a sampler of discrete steps has no use for."""
        name, given = type(sampler).__name__, self.given_beside(("grid", "saveat", "lanes", "progress"))
        if "with_log_prob" in given:
            raise ValueError(f"{name} carries no density; log_prob(model, x, key=...) gives a bound.")
        if given:
            raise ValueError(
                f"{name} is not a diffrax solve and takes no {', '.join(given)}; pass grid=, a number of steps or "
                "their times."
            )

    def check_bound(self, model: AbstractModel) -> None:
        """Raises `ValueError` for options that the bound of a categorical model ignores."""
        given = self.given_beside(("grid", "lanes", "progress"))
        if given:
            raise ValueError(
                f"log_prob of a {type(model).__name__} is a Monte Carlo bound, not an ODE solve, and takes no "
                f"{', '.join(given)}; pass key= and, for the bound of a fixed number of steps, grid=."
            )

    def check_density(self, dynamics: AbstractDynamics) -> None:
        """Raises `ValueError` where a density is asked for that the dynamics cannot carry, or none but its options."""
        if not self.with_log_prob:
            if self.divergence is not None:
                raise ValueError("divergence is used with with_log_prob=True only.")
            return
        if not dynamics.keeps_density:
            raise ValueError(
                f"with_log_prob=True needs the probability flow; {type(dynamics).__name__} carries no density."
            )
        if self.last_step is not None:
            raise ValueError("last_step changes the distribution of the samples; it cannot go with with_log_prob=True.")

    def resolve(
        self,
        model: AbstractModel,
        dynamics: AbstractDynamics | AbstractSampler,
        divergence: AbstractDivergence | None = None,
        *,
        backward: bool = False,
    ) -> SolveSpec:
        """How to solve a model by a dynamics.

        **Arguments:**

        - `model`, `dynamics`: what is solved.
        - `divergence`: carries the log-density along; None for the event alone.
        - `backward`: from the end of the dynamics' interval to its start.

        **Returns:** the record that the engine takes.

        **Raises:** `ValueError` for options that contradict each other, the model or the dynamics.
        """
        if not (isinstance(model, AbstractContinuousModel) and isinstance(dynamics, AbstractDynamics)):
            raise ValueError(f"{type(dynamics).__name__} moves continuous events; {type(model).__name__} has none.")
        solver, interval = dynamics.stepper(self.solver), dynamics.interval(model)
        start, end = dynamics.path_time(model, interval[0]), dynamics.path_time(model, interval[1])
        if dynamics.calculus is not None and not isinstance(solver, dynamics.calculus):
            reading = "Ito" if dynamics.calculus is dfx.AbstractItoSolver else "Stratonovich"
            raise ValueError(
                f"{type(dynamics).__name__} has state-dependent diffusion in the {reading} sense, "
                f"but {type(solver).__name__} converges to the other; pass a solver of diffrax's {reading} kind."
            )
        if divergence is None:
            check_predictions(solver, model, start, end)
        if self.last_step is not None:
            self.last_step.check(model, end)
        if backward:
            check_time("t_min", interval[0])
        if divergence is not None:
            solver = augmented_solver(divergence, solver)
        stepping = make_stepping(
            (interval[1], interval[0]) if backward else interval,
            solver,
            model.dtype,
            rtol=self.rtol,
            atol=self.atol,
            controller=self.stepsize_controller,
            grid=self.grid,
            max_steps=DEFAULT_MAX_STEPS if self.max_steps is None else self.max_steps,
            default_tolerance=dynamics.default_tolerance,
            norm=optx.rms_norm if divergence is None else augmented_norm,
            stochastic=dynamics.has_noise,
        )
        solver = with_tolerances(solver, stepping.controller, model.dtype)
        saveat = None if self.saveat is None else check_saveat(self.saveat, stepping)
        return SolveSpec(solver, stepping, saveat, self.adjoint, self.lanes, self.progress)


class Start(eqx.Module):
    """What belongs to one sample alone."""

    noise_key: KeyArray | None
    probes: PyTree
    row: PyTree
    """Its own condition, where the conditions are `Batched`."""


class ModelEquation(AbstractEquation):
    """The equation of the samples of a model under a dynamics, with their log-densities if a divergence is set."""

    dynamics: AbstractDynamics
    divergence: AbstractDivergence | None
    model: AbstractContinuousModel
    condition: Condition
    """The condition that all samples share, if they do."""

    def bind(self, start: tuple[PyTree, Start], solver: dfx.AbstractSolver, stepping: Stepping) -> tuple[Any, PyTree]:
        own = start[1]
        args = bind_row(self.model, self.condition, own.row)
        if self.divergence is not None:
            return augmented_terms(self.divergence, own.probes), args
        assert own.noise_key is not None
        return self.dynamics.terms(*args, make_noise(stepping, solver, own.noise_key, self.model.dtype))

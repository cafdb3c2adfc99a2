"""How to solve: the options that the verbs share, checked in one place and made into the engine's record.

A verb collects its arguments in [`SolveOptions`][]. A model without a differential equation refuses the options that
belong to one; for any other they are resolved, with its dynamics, to the engine's `SolveSpec`.
"""

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

import diffrax as dfx
import equinox as eqx
import numpy as np
import optimistix as optx

from .._base.checks import check_broadcast, check_count, check_grid, check_instance, check_positive, check_time
from .._base.typing import Array, Condition, Integer, KeyArray, PyTree
from ..discrete.base import AbstractSampledModel, AbstractSampler
from ..divergence import AbstractDivergence
from ..dynamics import ProbabilityFlow
from ..dynamics.base import AbstractDynamics
from ..engine import (
    AbstractEquation,
    Grid,
    ProgressLike,
    SolveSpec,
    Stepping,
    check_saveat,
    check_tolerances,
    make_noise,
    make_stepping,
)
from ..model.base import AbstractContinuousModel, AbstractModel
from ..prior import bind_row
from ..stepper import check_predictions
from ..stepper.fitting import with_tolerances
from .augmented import augmented_norm, augmented_solver, augmented_terms
from .last_step import AbstractLastStep

DEFAULT_MAX_STEPS = 4096
# More bytes than this are reserved for the states of `SaveAt(steps=True)` only if `max_steps` is given.
_MOST_SAVED = 2**30


def default_dynamics(model: AbstractModel) -> AbstractDynamics | AbstractSampler:
    """The dynamics by which a verb moves a model unless it is given another."""
    return model.default_sampler if isinstance(model, AbstractSampledModel) else ProbabilityFlow()


def check_model(model: Any, verb: str) -> None:
    """Raises `ValueError` for what is not a model, such as a class, a network or a `DensityEstimator`."""
    inner, own = getattr(model, "model", None), hasattr(model, verb)
    if not isinstance(model, AbstractModel) and isinstance(inner, AbstractModel):
        name = type(model).__name__
        mend = (
            f"call the method {verb} of this {name}"
            if own
            else "pass its attribute model, whose events are standardised"
        )
        raise ValueError(f"{verb} takes a model, not a {name}: {mend}.")
    check_instance("model", model, AbstractModel)


def check_moves(model: AbstractModel, dynamics: Any) -> None:
    """Raises `ValueError` for what is neither a dynamics nor a sampler, or does not move events of this model."""
    check_instance("dynamics", dynamics, AbstractDynamics | AbstractSampler)
    name, kind = type(dynamics).__name__, type(model).__name__
    if isinstance(dynamics, AbstractSampler) and not isinstance(model, AbstractSampledModel):
        raise ValueError(
            f"{name} is a sampler of categorical or joint models; {kind} takes a dynamics such as ProbabilityFlow()."
        )
    if isinstance(dynamics, AbstractDynamics) and not isinstance(model, AbstractContinuousModel):
        raise ValueError(f"{name} moves continuous events; {kind} has none.")


def _optional_count(name: str) -> Callable[[Integer | None], int | None]:
    return lambda value: None if value is None else check_count(name, value)


class SolveOptions(eqx.Module):
    """The options of a solve as a verb was called with them; None or False is an option that was not given."""

    solver: dfx.AbstractSolver | None = None
    rtol: float | Array | None = None
    atol: float | Array | None = None
    grid: Grid | None = None
    stepsize_controller: dfx.AbstractStepSizeController | None = None
    adjoint: dfx.AbstractAdjoint | None = None
    saveat: dfx.SaveAt | None = None
    lanes: int | None = eqx.field(default=None, converter=_optional_count("lanes"))
    last_step: AbstractLastStep | None = None
    with_log_prob: bool = False
    divergence: AbstractDivergence | None = None
    max_steps: int | None = eqx.field(default=None, converter=_optional_count("max_steps"))
    target_standard_error: float | None = None
    max_probes: int | None = eqx.field(default=None, converter=_optional_count("max_probes"))
    discretisation_error: bool = False
    progress: ProgressLike = False

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol)
        if self.grid is not None:
            check_grid(self.grid)
        if self.target_standard_error is not None:
            check_positive("target_standard_error", self.target_standard_error)

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

    def check_memory(self, model: AbstractContinuousModel, spec: SolveSpec, num_samples: int) -> None:
        """Raises `ValueError` if the states of all steps of the default limit need more than `_MOST_SAVED` bytes."""
        sub = None if self.saveat is None else self.saveat.subs
        if not isinstance(sub, dfx.SubSaveAt) or not sub.steps or self.grid is not None or self.max_steps is not None:
            return
        rows = num_samples * (spec.stepping.max_steps // int(sub.steps))
        size = rows * math.prod(model.shape) * model.dtype.itemsize
        if size > _MOST_SAVED:
            raise ValueError(
                f"saveat=SaveAt(steps=...) reserves {size // 2**20} MiB for the states of up to "
                f"{spec.stepping.max_steps} steps of each sample; pass a lower max_steps=, grid=, or SaveAt(ts=times)."
            )

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
        check_moves(model, dynamics)
        assert isinstance(model, AbstractContinuousModel) and isinstance(dynamics, AbstractDynamics)
        solver, interval = dynamics.stepper(self.solver), dynamics.interval(model)
        start, end = dynamics.path_time(model, interval[0]), dynamics.path_time(model, interval[1])
        if dynamics.calculus is not None and not isinstance(solver, dynamics.calculus):
            reading = "Ito" if dynamics.calculus is dfx.AbstractItoSolver else "Stratonovich"
            raise ValueError(
                f"{type(dynamics).__name__} has state-dependent diffusion in the {reading} sense, "
                f"but {type(solver).__name__} converges to the other; pass a solver of diffrax's {reading} kind."
            )
        for name, tolerance in (("rtol", self.rtol), ("atol", self.atol)):
            check_broadcast(name, () if tolerance is None else np.shape(tolerance), model.shape)
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

r"""`posterior`: draws from $p(x | y)$, by a guided model or by a method that is exact."""

import dataclasses
import warnings
from typing import Any

import diffrax as dfx
import jax

from .._base.arguments import checked
from .._base.checks import check_count, check_methods
from .._base.condition import Batched
from .._base.random import as_threefry
from .._base.typing import Array, BatchLike, Condition, Integer, KeyArray, KeyLike
from ..dynamics.base import AbstractDynamics
from ..engine import Grid, ProgressLike
from ..guidance import AbstractGuidance
from ..inverse import AbstractModelMethod, AbstractNoiseMethod, AbstractPosteriorMethod, ImportanceSampling
from ..model.base import AbstractContinuousModel, AbstractModel
from ..observation import Observation, num_rows, observation_of_row
from .by_model import by_model
from .importance import by_guidance
from .last_step import AbstractLastStep
from .noise_space import NoiseFlow, in_noise_space
from .options import check_model
from .pick_method import pick_method
from .posterior_samples import PosteriorSamples, stacked, with_doubts


@checked
def posterior(
    model: AbstractModel,
    observation: Observation,
    key: KeyLike,
    num_samples: Integer,
    *,
    method: AbstractGuidance | AbstractPosteriorMethod | None = None,
    condition: Condition | Batched = None,
    x0: BatchLike | None = None,
    dynamics: AbstractDynamics | None = None,
    solver: dfx.AbstractSolver | None = None,
    rtol: float | Array | None = None,
    atol: float | Array | None = None,
    grid: Grid | None = None,
    stepsize_controller: dfx.AbstractStepSizeController | None = None,
    adjoint: dfx.AbstractAdjoint | None = None,
    lanes: Integer | None = None,
    last_step: AbstractLastStep | None = None,
    max_steps: Integer | None = None,
    progress: ProgressLike = False,
    throw: bool = True,
) -> PosteriorSamples:
    """Draws from the distribution of `x` given the observation.

    **Arguments:**

    - `model`: the prior; any continuous model with a score.
    - `observation`: the measurement, [`LinearGaussian`][] for guidance. An exact method takes any object with a method
        `log_likelihood(x)` of one event, such as those of `flowrax.observation`. If it holds `Batched` values, each of
        its rows is answered by itself, and all arrays of the answer have a leading axis for the rows.
    - `key`: with guidance, sample `i` draws from `fold_in(key, i)` only. Row `r` of an observation has the key
        `fold_in(key, r)`.
    - `num_samples`: `n`.
    - `method`: a posterior method such as [`TemperedSMC`][], which is exact up to Monte Carlo error, or a guidance rule
        such as [`PiGDM`][], which is exact only for the prior that it assumes. Default: [`Conjugate`][] for a Gaussian
        prior and a linear measurement with Gaussian noise, otherwise [`TemperedSMC`][], and guidance for events of more
        than 4,096 elements or with options that only guidance takes; `reason` in the answer says which and why.
    - `condition`: as in [`sample`][].
    - `x0`, `dynamics`, `solver`, `rtol`, `atol`, `grid`, `stepsize_controller`, `adjoint`, `lanes`, `last_step`,
        `max_steps`, `progress`, `throw`: as in [`sample`][], for guidance and [`ImportanceSampling`][]. For a prior
        that is far from Gaussian, `dynamics=ReverseSDE()` with a `grid` forgets early errors of the guidance and leaves
        smaller residuals than the flow. The likelihood solve of the prior is adaptive, whatever the `grid`.

    A method in noise space solves the flow on a grid. It takes `condition` (one for all draws), `solver` (default:
    `Bosh3()`), `grid` (default: the steps that an adaptive solve of 64 draws of the prior takes), `lanes` and `throw`,
    and refuses the other options. Outside `jit` a warning says so if a quarter of 16 draws move by more than 0.1
    standard deviations or 0.5 nats of log-likelihood when every step is halved.

    The mean of a function of the draws, weighted by `weights`, has the derivatives of the posterior mean with respect
    to the values of the observation and of the model, for every method.

    With `throw=False` failed draws have weight zero: their rows of `x` and `residual` are NaN, unless only the
    likelihood solve of the prior failed. They count as draws of likelihood zero in the evidence, which is then in
    expectation a lower bound: it lacks the part of $p(y)$ that comes from where the solves fail. Leaving failed draws
    out would overestimate the evidence if the solves fail where the weights are small. A warning gives their number.

    **Returns:** [`PosteriorSamples`][].

    **Raises:** `ValueError` for a model without a score or an operator of the wrong width; [`SolveError`][].
    """
    check_model(model, "posterior")
    num_samples = check_count("num_samples", num_samples)
    model = _continuous(model)
    key = as_threefry(key)
    check_methods("observation", observation, ("log_likelihood",))
    options: dict[str, Any] = {"condition": condition, "solver": solver, "rtol": rtol, "atol": atol, "grid": grid}
    options |= {"stepsize_controller": stepsize_controller, "adjoint": adjoint, "lanes": lanes, "max_steps": max_steps}
    options |= {"progress": progress, "x0": x0, "dynamics": dynamics, "last_step": last_step}
    rows = num_rows(observation)
    flow, reason = None, ""
    if method is None:
        first = observation if rows is None else observation_of_row(observation, 0)
        method, reason, flow = pick_method(model, first, options, num_samples)

    def answer_to(observation: Observation, key: KeyArray) -> PosteriorSamples:
        return _answer(model, observation, method, key, num_samples, options, flow, throw=throw)

    if rows is None:
        answer = answer_to(observation, key)
    else:
        each = [answer_to(observation_of_row(observation, i), jax.random.fold_in(key, i)) for i in range(rows)]
        answer = stacked(each)
    for sentence in answer.warnings:
        warnings.warn(sentence, stacklevel=3)
    return dataclasses.replace(answer, method=type(method).__name__, reason=reason)


def _answer(
    model: AbstractContinuousModel,
    observation: Observation,
    method: AbstractGuidance | AbstractPosteriorMethod,
    key: KeyArray,
    num_samples: int,
    options: dict[str, Any],
    flow: NoiseFlow | None,
    *,
    throw: bool,
) -> PosteriorSamples:
    """The answer to one observation, with the sentences that cast doubt on it."""
    if isinstance(method, AbstractNoiseMethod):
        answer = in_noise_space(model, observation, method, key, num_samples, options, flow, throw=throw)
        return with_doubts(answer, "pass a finer grid=")
    if isinstance(method, AbstractModelMethod):
        answer = by_model(model, observation, method, key, num_samples, options, throw=throw)
        return with_doubts(answer, "pass more steps")
    assert isinstance(method, AbstractGuidance | ImportanceSampling), type(method)
    answer = by_guidance(model, observation, method, key, num_samples, options, throw=throw)
    return with_doubts(answer, "raise max_steps or loosen rtol and atol")


def _continuous(model: AbstractModel) -> AbstractContinuousModel:
    if not isinstance(model, AbstractContinuousModel):
        raise ValueError(
            f"posterior is for continuous events; {type(model).__name__} has none. Known tokens are given by sample's "
            "x0=, readings of them by discrete.Euler(guide=)."
        )
    return model

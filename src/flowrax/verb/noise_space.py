"""`posterior` by a method that works in the noise space of the flow."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.checks import check_methods, is_traced
from .._base.condition import Batched, cast_condition
from .._base.result import NONFINITE, RESULTS, SolveError, Stats, is_failed
from .._base.typing import Array, Batch, Condition, Event, KeyArray, PyTree
from ..dynamics import ProbabilityFlow
from ..engine import Grid, SolveSpec, evaluations_per_step, solve
from ..inverse import AbstractNoiseMethod, NoiseProblem, PosteriorDraws
from ..model.base import AbstractContinuousModel
from ..observation import Observation
from ..prior import AbstractGaussianPrior, bind_condition, rescaled
from .options import ModelEquation, SolveOptions, Start
from .pilot import pilot_grid
from .posterior_samples import PosteriorSamples, answer_of, log_sum
from .shared_condition import check_shared

# The options that a method in noise space takes.
NOISE_OPTIONS = ("condition", "solver", "grid", "lanes")
# The steps of a flow whose grid cannot be chosen, inside `jit`, and how many draws choose the grid otherwise.
_STEPS, _PILOTS = 32, 64
# How many draws are solved again to judge the grid, and the deviations beyond which a warning is given, if a
# quarter of these draws has larger ones: in standard deviations of the draws, and in nats of log-likelihood.
_CHECKED, _QUANTILE, _SPREADS, _NATS = 16, 0.75, 0.1, 0.5
# The share of the data in the start of the flow that is neglected.
_NEGLIGIBLE = 0.01


class NoiseFlow(eqx.Module):
    """The probability flow on a grid as a function of standard normal noise, `(n, *shape)`."""

    equation: ModelEquation
    spec: SolveSpec

    def refined(self) -> "NoiseFlow":
        """The flow with every step halved."""
        times = self.spec.stepping.grid
        assert times is not None
        halves = jnp.stack([times[:-1], (times[:-1] + times[1:]) / 2], axis=1).reshape(-1)
        grid = jnp.concatenate([halves, times[-1:]])
        stepping = dataclasses.replace(
            self.spec.stepping, grid=grid, controller=dfx.StepTo(ts=grid), max_steps=2 * self.spec.stepping.max_steps
        )
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, stepping=stepping))

    def start(self, z: Batch) -> Batch:
        """The states at the start of the flow."""
        source = _gaussian_source(bind_condition(self.equation.model, self.equation.condition))
        return jax.vmap(source.transform)(z.astype(source.dtype))

    def __call__(self, z: Batch) -> Batch:
        solved = solve(self.equation, (self.start(z), _own(z.shape[0])), self.spec)
        return solved.y.astype(self.equation.model.dtype)


def _own(n: int) -> PyTree:
    """What belongs to each sample alone. The flow has no noise, so the key of its noise does not matter."""
    return jax.vmap(lambda key: Start(key, None, None))(jax.random.split(jax.random.key(0), n))


def has_gaussian_source(model: AbstractContinuousModel, condition: Condition) -> bool:
    """Whether the flow starts from a Gaussian."""
    try:
        _gaussian_source(bind_condition(model, cast_condition(condition, model.dtype, 1)))
    except ValueError:
        return False
    return True


def _gaussian_source(model: AbstractContinuousModel) -> AbstractGaussianPrior:
    """The Gaussian that the flow starts from. An oracle starts from its marginal, which nearly is the scaled prior."""
    source = model.source
    if isinstance(source, AbstractGaussianPrior):
        return source
    alpha, sigma = model.schedule.alpha(model.t_min), model.schedule.sigma(model.t_min)
    prior = rescaled(model.prior, sigma)
    if not isinstance(prior, AbstractGaussianPrior) or (
        not is_traced(alpha, sigma) and float(alpha) > _NEGLIGIBLE * float(sigma)
    ):
        raise ValueError(
            f"A posterior method in noise space needs a model that starts from a Gaussian; this one starts from "
            f"{type(source).__name__} at t={model.t_min:g}."
        )
    return prior


class _Likelihood(eqx.Module):
    """The log-likelihood of an observation that is a PyTree, so that one compilation serves all of its values."""

    observation: Any

    def __call__(self, x: Event) -> Array:
        return jnp.asarray(self.observation.log_likelihood(x))


def _likelihood_of(observation: Observation) -> Callable[[Event], Array]:
    """The log-likelihood of one event. A plain object may change between calls, so nothing compiled for it is kept."""
    if isinstance(observation, eqx.Module):
        return _Likelihood(observation)
    return lambda x: jnp.asarray(observation.log_likelihood(x))


def given_beside(options: dict[str, Any], allowed: Collection[str]) -> list[str]:
    """The names of the options that were given, without those in `allowed`."""
    return [name for name, value in options.items() if value is not None and value is not False and name not in allowed]


def noise_flow(model: AbstractContinuousModel, options: dict[str, Any]) -> NoiseFlow:
    """The flow of a model on the grid that was given, or else on one that suits draws of the prior.

    **Raises:** `ValueError` for conditions of rows, and a source that is not Gaussian.
    """
    condition = options["condition"]
    if isinstance(condition, Batched):
        raise ValueError(
            "condition is Batched, but the draws of a posterior method share one condition; call posterior once for "
            "each of them."
        )
    condition = cast_condition(condition, model.dtype, 1)
    solver, grid = options["solver"], options["grid"]
    solver = dfx.Bosh3() if solver is None else solver
    dynamics = ProbabilityFlow()
    _gaussian_source(bind_condition(model, condition))

    def make(grid: Grid) -> NoiseFlow:
        spec = SolveOptions(solver=solver, grid=grid, lanes=options["lanes"]).resolve(model, dynamics)
        return NoiseFlow(ModelEquation(dynamics, None, model, condition), spec)

    flow = make(_STEPS if grid is None else grid)
    z = random.normal(jax.random.key(0), (_PILOTS, *model.shape), model.dtype)
    if grid is not None or is_traced(model, condition, z):
        return flow
    times = pilot_grid(flow.equation, (flow.start(z), _own(_PILOTS)), flow.spec)
    return flow if times is None else make(times)


def noise_problem(flow: NoiseFlow, observation: Observation) -> NoiseProblem:
    """What a method in noise space works on.

    **Raises:** `ValueError` for an observation of other events.
    """
    model = flow.equation.model
    check_methods("observation", observation, ("log_likelihood",))
    if hasattr(observation, "check_event"):
        observation.check_event(model.shape)
    likelihood = _likelihood_of(observation)
    answer = jax.eval_shape(likelihood, jax.ShapeDtypeStruct(model.shape, model.dtype))
    if answer.shape != () or not jnp.issubdtype(answer.dtype, jnp.floating):
        raise ValueError(
            f"log_likelihood of the {type(observation).__name__} must return one real number for one event; got shape "
            f"{answer.shape} and dtype {answer.dtype}."
        )
    measured = observation if isinstance(observation, eqx.Module) else None
    return NoiseProblem(flow, likelihood, model.shape, model.dtype, measured)


def in_noise_space(
    model: AbstractContinuousModel,
    observation: Observation,
    method: AbstractNoiseMethod,
    key: KeyArray,
    n: int,
    options: dict[str, Any],
    flow: NoiseFlow | None,
    *,
    throw: bool,
) -> PosteriorSamples:
    """The answer of a method that works in the noise space of the flow, which is made unless it is given.

    **Raises:** `ValueError` for options that do not apply and an observation of other events; [`SolveError`][] for a
    method that did not finish.
    """
    given, name = given_beside(options, NOISE_OPTIONS), type(method).__name__
    if given:
        raise ValueError(
            f"{name} weights its own draws on a fixed grid of the flow and takes no {', '.join(given)}; pass grid= and "
            "solver=."
        )
    check_shared(model, options["condition"], n)
    flow = noise_flow(model, options) if flow is None else flow
    problem = noise_problem(flow, observation)
    traced = is_traced(problem)
    draws = method(_constant(problem) if traced and not method.differentiable else problem, key, n)
    draws = raise_unless_finished(name, draws) if throw else draws
    if traced and not method.differentiable:
        draws = _with_derivatives(problem, draws)
    finite = jnp.all(jnp.isfinite(draws.x.reshape(n, -1)), axis=1)
    result = jax.vmap(RESULTS.where, in_axes=(0, None, None))(finite, RESULTS.successful, NONFINITE)
    reached = jnp.broadcast_to(draws.finished, (n,))
    result = jax.vmap(RESULTS.where, in_axes=(0, 0, None))(reached, result, RESULTS.max_steps_reached)
    if not is_traced(draws, flow):
        draws = _check_grid(flow, observation, draws, is_failed(result))
    steps = jnp.broadcast_to(draws.num_evaluations * flow.spec.stepping.max_steps, (n,))
    evaluations = steps * evaluations_per_step(flow.spec.solver)
    return answer_of(draws, observation, Stats(steps, jnp.zeros_like(steps), evaluations), result)


def _constant(problem: NoiseProblem) -> NoiseProblem:
    """The problem without derivatives."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, problem)


def _with_derivatives(problem: NoiseProblem, draws: PosteriorDraws) -> PosteriorDraws:
    r"""The same draws, whose weighted means have the derivatives of the posterior means.

    With $z$ held fixed and weights $\propto L(x(z)) / L_0(x_0(z))$, where the denominator is held fixed too, the
    derivative of a mean is $\mathbb{E}[\partial f] + \operatorname{Cov}(f, \partial \log L)$, and that of the evidence
    $\mathbb{E}[\partial \log L]$.
    """
    assert draws.z is not None
    x = problem.flow(draws.z)
    value = jax.vmap(problem.log_likelihood)(x).astype(draws.log_weights.dtype)
    known = jnp.isfinite(value) & (draws.log_weights > -jnp.inf)
    value = jnp.where(known, value, 0)
    log_weights = draws.log_weights + value - jax.lax.stop_gradient(value)
    total = log_sum(log_weights)
    log_weights = jnp.where(known, log_weights - jnp.where(jnp.isfinite(total), total, 0), draws.log_weights)
    evidence = draws.log_evidence
    if evidence is not None:
        evidence = evidence + total - jax.lax.stop_gradient(total)
    return dataclasses.replace(draws, x=x, log_weights=log_weights, log_evidence=evidence)


@eqx.filter_jit
def _carried(flow: NoiseFlow, z: Batch) -> Batch:
    return flow(z)


def raise_unless_finished(name: str, draws: PosteriorDraws) -> PosteriorDraws:
    """Raises [`SolveError`][] if the method `name` did not reach the posterior."""
    sentence = (
        f"posterior: {name} did not reach the posterior: its limit of temperatures was reached, or no particle or "
        "start has a positive likelihood. Raise its limit or its number of particles or chains, or check the "
        "observation; throw=False returns what there is."
    )
    if is_traced(draws):
        return eqx.error_if(draws, ~draws.finished, sentence)
    if not bool(draws.finished):
        raise SolveError(sentence)
    return draws


def _check_grid(flow: NoiseFlow, observation: Observation, draws: PosteriorDraws, failed: Array) -> PosteriorDraws:
    """The draws, with a warning if twice as many steps carry a few of them elsewhere, relative to the spread."""
    good = jnp.flatnonzero(~failed)
    if good.shape[0] < 2:
        return draws
    assert draws.z is not None
    # From all islands.
    chosen = good[jnp.linspace(0, good.shape[0] - 1, _CHECKED).astype(int)]
    x = draws.x[chosen]
    fine = _carried(flow.refined(), draws.z[chosen])
    spread = jnp.std(draws.x[good], axis=0)
    error = jnp.where(spread > 0, (fine - x) / jnp.where(spread > 0, spread, 1)[None], 0).reshape(_CHECKED, -1)
    likelihood = jax.vmap(lambda event: jnp.asarray(observation.log_likelihood(event)))
    change = jnp.abs(likelihood(fine) - likelihood(x))
    solved = jnp.all(jnp.isfinite(fine.reshape(_CHECKED, -1)), axis=1)
    # Quantiles, since a flow that divides modes carries a few draws at their boundary anywhere.
    error = float(jnp.nanquantile(jnp.where(solved, jnp.sqrt(jnp.mean(error**2, axis=1)), jnp.nan), _QUANTILE))
    change = float(jnp.nanquantile(jnp.where(solved, change, jnp.nan), _QUANTILE))
    if error > _SPREADS or change > _NATS:
        steps = flow.spec.stepping.max_steps
        sentence = (
            f"posterior: the grid of {steps} steps of {type(flow.spec.solver).__name__} is too coarse: a quarter of "
            f"the draws move by more than {error:.2g} of their standard deviations or {change:.2g} nats of "
            "log-likelihood if every step is halved; pass a finer grid= or a solver= of higher order."
        )
        return dataclasses.replace(draws, warnings=(*draws.warnings, sentence))
    return draws

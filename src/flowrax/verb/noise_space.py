"""`posterior` by a method that works in the noise space of the flow."""

import warnings
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.checks import check_methods, is_traced
from .._base.condition import Batched, cast_condition
from .._base.result import NONFINITE, RESULTS, SolveError, Stats, is_failed
from .._base.typing import Array, Batch, Condition, Event, KeyArray
from ..dynamics import ProbabilityFlow
from ..engine import Grid, SolveSpec, evaluations_per_step, solve
from ..inverse import AbstractPosteriorMethod, NoiseDraws, NoiseProblem
from ..model.base import AbstractContinuousModel
from ..observation import Observation
from ..prior import AbstractGaussianPrior, bind_condition, rescaled
from .options import ModelEquation, SolveOptions, Start
from .sample import sample

DEFAULT_STEPS = 24
# How many draws are solved adaptively to judge the grid, and the deviations beyond which a warning is given, if a
# quarter of these draws has larger ones: in standard deviations of the draws, and in nats of log-likelihood.
_CHECKED, _QUANTILE, _SPREADS, _NATS = 16, 0.75, 0.1, 0.5
# The share of the data in the start of the flow that is neglected.
_NEGLIGIBLE = 0.01


class NoiseFlow(eqx.Module):
    """The probability flow on a grid as a function of standard normal noise, `(n, *shape)`."""

    equation: ModelEquation
    spec: SolveSpec

    def start(self, z: Batch) -> Batch:
        """The states at the start of the flow."""
        source = _gaussian_source(bind_condition(self.equation.model, self.equation.condition))
        return jax.vmap(source.transform)(z.astype(source.dtype))

    def __call__(self, z: Batch) -> Batch:
        # The flow has no noise, so the key of its noise does not matter.
        own = jax.vmap(lambda key: Start(key, None, None))(jax.random.split(jax.random.key(0), z.shape[0]))
        solved = solve(self.equation, (self.start(z), own), self.spec)
        return solved.y.astype(self.equation.model.dtype)


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


def check_none(method: AbstractPosteriorMethod, options: dict[str, Any]) -> None:
    """Raises `ValueError` for options that were given but do not apply to a posterior method."""
    given = [
        name
        for name, value in options.items()
        if value is not None and value is not False and name not in ("condition", "solver", "grid", "lanes")
    ]
    if given:
        raise ValueError(
            f"{type(method).__name__} weights its own draws on a fixed grid of the flow and takes no "
            f"{', '.join(given)}; pass grid= and solver=."
        )


def noise_flow(
    model: AbstractContinuousModel,
    condition: Condition | Batched,
    solver: dfx.AbstractSolver | None,
    grid: Grid | None,
    lanes: int | None,
) -> NoiseFlow:
    """The flow of a model on a grid.

    **Raises:** `ValueError` for conditions of rows, and a source that is not Gaussian.
    """
    if isinstance(condition, Batched):
        raise ValueError(
            "condition is Batched, but the draws of a posterior method share one condition; call posterior once for "
            "each of them."
        )
    condition = cast_condition(condition, model.dtype, 1)
    options = SolveOptions(
        solver=dfx.Heun() if solver is None else solver, grid=DEFAULT_STEPS if grid is None else grid, lanes=lanes
    )
    dynamics = ProbabilityFlow()
    spec = options.resolve(model, dynamics)
    _gaussian_source(bind_condition(model, condition))
    return NoiseFlow(ModelEquation(dynamics, None, model, condition), spec)


def noise_posterior(
    flow: NoiseFlow, observation: Observation, method: AbstractPosteriorMethod, key: KeyArray, n: int, *, throw: bool
) -> tuple[NoiseDraws, Stats, RESULTS]:
    """Draws by the method, the work done for each and its result.

    **Raises:** `ValueError` for an observation of other events; [`SolveError`][] for a method that did not finish.
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
    draws = method(NoiseProblem(flow, likelihood, model.shape, model.dtype), key, n)
    draws = _raise_unless_finished(method, draws) if throw else draws
    finite = jnp.all(jnp.isfinite(draws.x.reshape(n, -1)), axis=1)
    result = jax.vmap(RESULTS.where, in_axes=(0, None, None))(finite, RESULTS.successful, NONFINITE)
    reached = jnp.broadcast_to(draws.finished, (n,))
    result = jax.vmap(RESULTS.where, in_axes=(0, 0, None))(reached, result, RESULTS.max_steps_reached)
    if not is_traced(draws, flow):
        _check_grid(flow, observation, draws, is_failed(result))
    steps = jnp.broadcast_to(draws.num_flows * flow.spec.stepping.max_steps, (n,))
    evaluations = steps * evaluations_per_step(flow.spec.solver)
    return draws, Stats(steps, jnp.zeros_like(steps), evaluations), result


def _raise_unless_finished(method: AbstractPosteriorMethod, draws: NoiseDraws) -> NoiseDraws:
    name = type(method).__name__
    sentence = (
        f"posterior: {name} did not reach the posterior: its limit of temperatures was reached, or no particle has a "
        "positive likelihood. Raise max_temperatures or num_samples, or check the observation; throw=False returns "
        "what there is."
    )
    if is_traced(draws):
        return eqx.error_if(draws, ~draws.finished, sentence)
    if not bool(draws.finished):
        raise SolveError(sentence)
    return draws


def _check_grid(flow: NoiseFlow, observation: Observation, draws: NoiseDraws, failed: Array) -> None:
    """Warns if adaptive solves of a few draws end elsewhere than those on the grid, relative to the spread."""
    good = jnp.flatnonzero(~failed)
    if good.shape[0] < 2:
        return
    # From all islands.
    chosen = good[jnp.linspace(0, good.shape[0] - 1, _CHECKED).astype(int)]
    model, condition = flow.equation.model, flow.equation.condition
    start, x = flow.start(draws.z[chosen]), draws.x[chosen]
    fine = sample(model, jax.random.key(0), _CHECKED, x0=start, condition=condition, throw=False)
    solved = ~is_failed(fine.result)
    spread = jnp.std(draws.x[good], axis=0)
    error = jnp.where(spread > 0, (fine.x - x) / jnp.where(spread > 0, spread, 1)[None], 0).reshape(_CHECKED, -1)
    likelihood = jax.vmap(lambda event: jnp.asarray(observation.log_likelihood(event)))
    change = jnp.abs(likelihood(fine.x) - likelihood(x))
    # Quantiles, since a flow that divides modes carries a few draws at their boundary anywhere.
    error = float(jnp.nanquantile(jnp.where(solved, jnp.sqrt(jnp.mean(error**2, axis=1)), jnp.nan), _QUANTILE))
    change = float(jnp.nanquantile(jnp.where(solved, change, jnp.nan), _QUANTILE))
    if error > _SPREADS or change > _NATS:
        steps = flow.spec.stepping.max_steps
        warnings.warn(
            f"posterior: the grid of {steps} steps of {type(flow.spec.solver).__name__} is too coarse: a quarter of "
            f"the draws differ from an adaptive solve by more than {error:.2g} of their standard deviations and "
            f"{change:.2g} nats of log-likelihood; pass a finer grid= or a solver= of higher order.",
            stacklevel=6,
        )

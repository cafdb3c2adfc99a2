"""`fit_semidiscrete`: fits the potentials of a semidiscrete coupling by ott-jax, before training."""

import os
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.arguments import checked
from .._base.arrays import as_leaf, as_numbers
from .._base.checks import check_count, check_instance, check_positive, check_shape
from .._base.random import as_threefry
from .._base.rows import check_finite_leaves, check_rows, check_some, row_arrays
from .._base.typing import Array, BatchLike, Integer, KeyArray, KeyLike, Number, Numbers
from ..coupling import PotentialsRecord, Semidiscrete
from ..coupling.cost import Cost
from ..coupling.ott_jax import ott_jax
from ..prior import AbstractPrior, Conditional, Gaussian
from .progress import Bar
from .resume import RunFile

_CHUNK = 100

# The regularisation at the first and the last step, in units of the mean cost.
_SOFTEST, _HARDEST = 1e-2, 1e-4


class PotentialsState(eqx.Module):
    """The state of the fit; step `k` draws from `fold_in(key, k)` only, so a run can be resumed."""

    step: Array
    inner: Any
    """The state of ott-jax's solver."""


@checked
def fit_semidiscrete(
    data: BatchLike,
    key: KeyLike,
    *,
    prior: AbstractPrior | None = None,
    reg: Number = 0.0,
    cost: Cost | None = None,
    weights: Numbers | None = None,
    labels: Numbers | None = None,
    condition: Numbers | None = None,
    condition_weight: Number = 1.0,
    num_steps: Integer = 1000,
    batch_size: Integer = 512,
    learning_rate: Number = 0.0025,
    tolerance: Number = 0.05,
    num_check: Integer = 20_000,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Semidiscrete:
    r"""Fits the potentials of a [`Semidiscrete`][] coupling between a prior and a data set.

    **Arguments:**

    - `data`: `(m, *event)`, the same rows in the same order as in `fit`, after any augmentation that does not change
        them at random.
    - `key`: step `k` draws from `fold_in(key, k)` only.
    - `prior`: the distribution of the noise. Default: the standard normal distribution.
    - `reg`: the regularisation $\varepsilon$ in units of the cost. Default: 0, the exact plan.
    - `cost`: the cost of pairs as in [`ExactOT`][], without conditions. Default: the squared distance.
    - `weights`: `(m,)`, the mass of each row, up to a factor. Default: equal masses.
    - `labels`: `(m,)` integers; noise is paired within labels, with a potential for each row of each label.
    - `condition`: `(m, ...)`, continuous conditions, whose squared distance times `condition_weight` adds to the cost.
    - `num_steps`, `batch_size`, `learning_rate`: settings of Adam with a cosine decay. A batch consists of noise
        samples, and the learning rate is in units of the mean cost of independent pairs.
    - `tolerance`, `num_check`: after the fit, `num_check` fresh noise samples are paired. A warning is given if the
        chi-squared of the masses exceeds its value from sampling alone by more than `tolerance`, the square of the
        relative error of a mass, plus three standard errors.
    - `checkpoint`: a path, from which an interrupted run with the same arguments resumes.
    - `progress`: whether to show a progress bar.

    **Returns:** [`Semidiscrete`][] for `fit(coupling=)`, with its `record`. `save` and `load` store it.

    **Raises:** `ValueError` for data, weights, labels or conditions that do not belong together or are not finite.
    """
    key = as_threefry(key)
    rows = as_leaf("data", row_arrays("data", data), float)
    check_some("data", rows.shape[0])
    check_finite_leaves("data", rows)
    prior = Gaussian(rows.shape[1:], dtype=rows.dtype) if prior is None else prior
    check_instance("prior", prior, AbstractPrior)
    if isinstance(prior, Conditional):
        raise ValueError("A prior that depends on the condition has no semidiscrete transport here; use ExactOT.")
    check_shape("One draw of the prior", jax.eval_shape(prior.draw, key).shape, rows.shape[1:])
    extra: dict[str, Any] = {} if condition is None else {"condition": as_numbers("condition", condition, rows.dtype)}
    if weights is not None:
        extra["masses"] = as_numbers("weights", weights, rows.dtype)
    if labels is not None:
        extra["labels"] = jnp.asarray(labels)
    check_rows("fit_semidiscrete", extra, rows.shape[0], "data")
    check_finite_leaves("fit_semidiscrete", extra)
    if weights is not None:
        if jnp.any(extra["masses"] < 0) or not jnp.any(extra["masses"] > 0):
            raise ValueError("weights must not be negative, and some must be positive.")
        extra["masses"] = extra["masses"] / jnp.sum(extra["masses"])
    if condition is not None:
        check_positive("condition_weight", condition_weight)
        extra["condition"] = extra["condition"].reshape(rows.shape[0], -1) * float(condition_weight) ** 0.5
    coupling = Semidiscrete(rows, prior, reg=float(reg), cost=cost, **extra)
    numbers = {"num_steps": check_count("num_steps", num_steps), "batch_size": check_count("batch_size", batch_size)}
    check_positive("learning_rate", learning_rate)
    solver = _Solver(coupling, float(learning_rate), **numbers)
    file = None if checkpoint is None else RunFile(checkpoint, {"solver": solver, "key": key})
    fitted = _fit(solver, key, file, progress)
    return _checked(
        fitted, jax.random.fold_in(key, numbers["num_steps"]), check_count("num_check", num_check), tolerance
    )


class _Solver(eqx.Module):
    """The problem, and the settings of the solver of ott-jax."""

    coupling: Semidiscrete
    learning_rate: float
    num_steps: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    def first(self, key: KeyArray) -> PotentialsState:
        potentials = eqx.filter_jit(self.start)(key)
        with ott_jax():
            from ott.solvers.linear.semidiscrete import SemidiscreteState

            dtype = potentials.dtype
            unset = jnp.full((self.num_steps,), jnp.inf, dtype)
            inner = SemidiscreteState(
                it=jnp.zeros((), jnp.int32),
                epsilon=jnp.full((), self.coupling.reg, dtype),
                g=potentials,
                g_ema=potentials,
                opt_state=self.ott(jnp.ones((), dtype))[0].optimizer.init(potentials),
                losses=unset,
                grad_norms=unset,
                errors=unset[:1],
            )
        return PotentialsState(jnp.zeros((), jnp.int32), inner)

    def start(self, key: KeyArray) -> Array:
        """The initial potentials: for each data point, the quantile of its costs at its mass.

        With these, data far from all noise receive about their mass from the first step on. If there are more data
        points than noise samples in a batch, the potential is the least cost in several batches. The means of noise
        and data are matched first, which for squared distances adds a linear function to the potentials.
        """
        coupling, size = self.coupling, self.batch_size
        m, dtype = coupling.num_rows, coupling.points.dtype
        masses = jnp.full(m, 1 / m, dtype) if coupling.masses is None else coupling.masses
        place = jnp.clip(size * masses, 0, size - 1).astype(jnp.int32)
        shift = jnp.zeros_like(coupling.centre)
        if coupling.cost is None:
            shift = jnp.mean(coupling.noise(key, 4096), axis=0, keepdims=True) - coupling.centre

        def least(best: Array, key: KeyArray) -> tuple[Array, None]:
            costs = jnp.sort(self.sample(key, size, shift), axis=0)
            return jnp.minimum(best, jnp.take_along_axis(costs, place[None], axis=0)[0]), None

        keys = jax.random.split(key, min(8, max(1, m // size)))
        best = jax.lax.scan(least, jnp.full(m, jnp.inf, dtype), keys)[0]
        best = best - 2 * coupling.points.reshape(m, -1) @ shift.reshape(-1)
        is_known = jnp.isfinite(best)
        mean = jnp.sum(jnp.where(is_known, best, 0)) / jnp.maximum(jnp.sum(is_known), 1).astype(dtype)
        return jnp.where(is_known, best - mean, 0)

    def sample(self, key: KeyArray, number: int, shift: Array | None = None) -> Array:
        """The costs of fresh noise, less `shift`, and all data, `(number, m)`."""
        noise_key, reference_key = jax.random.split(key)
        coupling = self.coupling
        noise = coupling.noise(noise_key, number)
        noise = noise if shift is None else noise - shift
        return coupling.costs(noise, coupling.references(reference_key, number))

    def unit(self, key: KeyArray) -> Array:
        """The mean cost of independent pairs within labels."""
        costs = self.sample(key, 64)
        allowed = jnp.isfinite(costs)
        mean = jnp.sum(jnp.where(allowed, costs, 0)) / jnp.sum(allowed).astype(costs.dtype)
        return jnp.where(mean > 0, mean, 1)

    def ott(self, unit: Array) -> tuple[Any, Any]:
        """The solver and the problem."""
        import optax
        from ott.geometry.geometry import Geometry
        from ott.geometry.semidiscrete_pointcloud import SemidiscretePointCloud
        from ott.problems.linear.semidiscrete_linear_problem import SemidiscreteLinearProblem
        from ott.solvers.linear.semidiscrete import SemidiscreteSolver

        coupling, sample_costs = self.coupling, self.sample

        class Costs(SemidiscretePointCloud):
            def sample(self, rng: KeyArray, num_samples: int, *, epsilon: Any = None) -> Any:
                return Geometry(cost_matrix=sample_costs(rng, num_samples), epsilon=epsilon)

            @property
            def epsilon(self) -> Array:
                return jnp.asarray(coupling.reg, coupling.points.dtype)

        def epsilon(step: Array, target: Array) -> Array:
            # A soft argmin at first: its gradient reaches more than one data point for each noise sample.
            fraction = step.astype(target.dtype) / self.num_steps
            return jnp.maximum(_SOFTEST * unit * (_HARDEST / _SOFTEST) ** fraction, target)

        decay = optax.cosine_decay_schedule(1.0, self.num_steps)
        optimizer = optax.adam(lambda step: self.learning_rate * unit * decay(step))
        solver = SemidiscreteSolver(
            num_iterations=self.num_steps,
            batch_size=self.batch_size,
            optimizer=optimizer,
            error_eval_every=self.num_steps,
            epsilon_scheduler=epsilon,
        )
        return solver, SemidiscreteLinearProblem(Costs(_unused, coupling.points), coupling.masses)


def _unused(rng: KeyArray, shape: Any, dtype: Any) -> Array:
    raise AssertionError("The noise is drawn with its costs, by Costs.sample.")


@eqx.filter_jit
def _advance(solver: _Solver, state: PotentialsState, key: KeyArray, unit: Array, count: Array) -> PotentialsState:
    with ott_jax():
        steps, problem = solver.ott(unit)

        def body(_: Array, state: PotentialsState) -> PotentialsState:
            inner = steps.step(jax.random.fold_in(key, state.step), state.inner, problem)
            inner = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), inner, state.inner)
            return PotentialsState(state.step + 1, inner)

        return jax.lax.fori_loop(0, count, body, state)


def _fit(solver: _Solver, key: KeyArray, file: RunFile | None, progress: bool) -> Semidiscrete:
    unit = eqx.filter_jit(solver.unit)(jax.random.fold_in(key, solver.num_steps + 1))
    state, history = solver.first(key), []
    if file is not None:
        state, history = file.restore(state)
    bar = Bar(solver.num_steps, int(state.step), enabled=progress)
    try:
        while (step := int(state.step)) < solver.num_steps:
            count = min(_CHUNK, solver.num_steps - step)
            state = _advance(solver, state, key, unit, jnp.asarray(count, jnp.int32))
            bar.step(count)
            if file is not None:
                file.write(state, history)
    finally:
        bar.close()
    return eqx.tree_at(lambda c: c.potentials, solver.coupling, state.inner.g_ema)


@eqx.filter_jit
def _record(coupling: Semidiscrete, key: KeyArray, number: int) -> PotentialsRecord:
    """The masses that the data receive from fresh noise, of which 512 samples are paired at a time."""
    size = min(512, number)
    cost, dtype, repeats = coupling.cost, coupling.points.dtype, number // size

    def batch(carry: tuple[Array, Array], key: KeyArray) -> tuple[tuple[Array, Array], None]:
        counts, total = carry
        noise_key, pair_key = jax.random.split(key)
        pairs = coupling.pairs(pair_key, coupling.noise(noise_key, size))
        if cost is None:
            own = jnp.sum((pairs.x0 - pairs.x1) ** 2) / size
        else:
            own = jnp.mean(jnp.diagonal(cost(pairs.x1, pairs.x0, None)))
        return (counts.at[pairs.data_rows].add(1), total + own.astype(dtype)), None

    first = jnp.zeros(coupling.num_rows, jnp.int32), jnp.zeros((), dtype)
    (counts, total), _ = jax.lax.scan(batch, first, jax.random.split(key, repeats))
    drawn = repeats * size
    masses = jnp.full(coupling.num_rows, 1 / coupling.num_rows, dtype) if coupling.masses is None else coupling.masses
    has_mass = masses > 0
    errors = (counts.astype(dtype) / drawn - masses) ** 2 / jnp.where(has_mass, masses, 1)
    floor = (jnp.sum(has_mass).astype(dtype) - 1) / drawn
    return PotentialsRecord(jnp.sum(jnp.where(has_mass, errors, 0)), floor, total / repeats)


def _checked(coupling: Semidiscrete, key: KeyArray, num_check: int, tolerance: Number) -> Semidiscrete:
    record = _record(coupling, key, num_check)
    chi_squared, floor = float(record.chi_squared), float(record.floor)
    # The statistic times the number of noise samples is chi-squared with floor x number degrees of freedom.
    spread = (2 * floor / num_check) ** 0.5
    if not chi_squared <= floor + float(tolerance) + 3 * spread:
        warnings.warn(
            f"The masses of the data have a chi-squared of {chi_squared:.3g} after the fit of the potentials, where "
            f"sampling alone gives {floor:.3g}: some data are paired too often. Use more num_steps, a larger "
            "batch_size or another learning_rate.",
            stacklevel=4,
        )
    return eqx.tree_at(lambda c: c.record, coupling, record)

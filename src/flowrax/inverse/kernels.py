r"""Markov kernels that leave $\pi(z) \propto \mathcal{N}(z; 0, I)\, L(z)$ invariant.

Hamiltonian kernels follow $H(z, p) = -\log \pi(z) + \tfrac12 p^\top M^{-1} p$ by the leapfrog scheme with steps
$\epsilon$ and accept the end with probability $\min(1, e^{-\Delta H})$, or choose among the points of the path. The
elliptical slice needs no gradient: it draws $\nu \sim \mathcal{N}(0, I)$ and a level $\log u + \log L(z)$, and shrinks
a bracket of angles $\theta$ until $\log L(z \cos\theta + \nu \sin\theta)$ reaches the level.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._base import random
from .._base.arguments import Checked
from .._base.checks import check_between, check_count
from .._base.typing import Array, Bool, Float, Int, KeyArray
from .base import NoiseProblem

# The most elements of an event for which the whole mass matrix is adapted: the last window of the warm-up must hold
# more draws than elements.
_DENSE = 100
# The largest log-density and gradient, in size. Squares of larger momenta overflow in single precision, and a kinetic
# energy of minus infinity would be accepted.
_LARGEST = 1e12
# The step size of HMC is drawn between this fraction of the adapted one and all of it.
_LEAST_STEP = 0.5
# The limit of the proposals of an elliptical slice. The bracket of angles halves on average, so that rounding ends it
# long before.
_SHRINKS = 200

# The count of proposals, the ends of the bracket, the angle, and the point and its log-likelihood there.
_Bracket = tuple[Array, Array, Array, Array, Array, Array]


class Target(eqx.Module):
    """The posterior in noise space as a function of the elements of one event's noise, `(d,)`.

    Minus infinity takes the place of a likelihood that is NaN or plus infinity, and of densities whose logarithm or its
    gradient exceeds 1e12 in size, with gradient zero.
    """

    problem: NoiseProblem

    def log_likelihood(self, z: Array) -> Array:
        problem = self.problem
        x = problem.flow(z.reshape(1, *problem.shape).astype(problem.dtype))[0]
        value = problem.log_likelihood(x).astype(z.dtype)
        return jnp.where(jnp.isnan(value) | (value == jnp.inf), -jnp.inf, value)

    def log_density(self, z: Array) -> Array:
        r"""The logarithm of $\pi$ up to a constant, differentiable once."""

        def density(z: Array) -> Array:
            return self.log_likelihood(z) - 0.5 * jnp.sum(z**2)

        def forward(z: Array) -> tuple[Array, Array]:
            value, gradient = jax.value_and_grad(density)(z)
            # The comparisons are false for NaN.
            good = (jnp.abs(value) < _LARGEST) & jnp.all(jnp.abs(gradient) < _LARGEST)
            return jnp.where(good, value, -jnp.inf), jnp.where(good, gradient, 0)

        guarded = jax.custom_vjp(density)
        guarded.defvjp(forward, lambda gradient, cotangent: (cotangent * gradient,))
        return guarded(z)


class Chain(eqx.Module):
    """One Markov chain after its warm-up.

    **Attributes:**

    - `z`: `(num_steps, d)`.
    - `num_evaluations`: the evaluations of the target, warm-up included.
    - `acceptance`: the mean acceptance probability, or None for a kernel that always moves.
    - `num_divergent`: the transitions whose energy error exceeded 1,000 nats, or None.
    """

    z: Float[Array, "num_steps d"]
    num_evaluations: Int[Array, ""]
    acceptance: Float[Array, ""] | None = None
    num_divergent: Int[Array, ""] | None = None


class AbstractKernel(eqx.Module, metaclass=Checked):
    """A Markov kernel of [`NoiseSpaceMCMC`][]."""

    @abc.abstractmethod
    def run(self, target: Target, key: KeyArray, z: Array, num_warmup: int, num_steps: int) -> Chain:
        """One chain from `z`, `(d,)`, after a warm-up."""


class AbstractHamiltonian(AbstractKernel):
    """A kernel of blackjax that needs gradients, with step size and mass matrix adapted by Stan's windows.

    The mass matrix is full for events of up to 100 elements, otherwise diagonal.

    **References:** [@hoffman2014nuts], [@cabezas2024blackjax].
    """

    target_acceptance: eqx.AbstractVar[float]
    """The mean acceptance probability at which the warm-up aims."""

    def __check_init__(self) -> None:
        check_between("target_acceptance", self.target_acceptance, 0.0, 1.0)

    @abc.abstractmethod
    def algorithm(self) -> tuple[Any, dict[str, Any]]:
        """The algorithm of blackjax and its parameters that are not adapted."""

    @abc.abstractmethod
    def step_factor(self, key: KeyArray) -> Array | float:
        """The factor of the adapted step size in one transition."""

    def run(self, target: Target, key: KeyArray, z: Array, num_warmup: int, num_steps: int) -> Chain:
        # Imported at first use: it takes a second. It mixes dtypes and ranks.
        import blackjax

        algorithm, options = self.algorithm()
        warm_key, key = jax.random.split(key)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            warm_up: Any = blackjax.window_adaptation(
                algorithm,
                target.log_density,
                is_mass_matrix_diagonal=z.shape[0] > _DENSE,
                target_acceptance_rate=self.target_acceptance,
                adaptation_info_fn=lambda state, info, adaptation: info.num_integration_steps,
                **options,
            )
            (state, parameters), counts = warm_up.run(warm_key, z, num_warmup)
            kernel = algorithm.build_kernel()

            def step(state: Any, key: KeyArray) -> tuple[Any, tuple[Array, ...]]:
                key, factor_key = jax.random.split(key)
                adapted = parameters | {"step_size": parameters["step_size"] * self.step_factor(factor_key)}
                state, info = kernel(key, state, target.log_density, **adapted)
                return state, (state.position, info.acceptance_rate, info.num_integration_steps, info.is_divergent)

            _, (z, acceptance, more, divergent) = jax.lax.scan(step, state, jax.random.split(key, num_steps))
        total = jnp.sum(jnp.broadcast_to(counts, num_warmup)) + jnp.sum(jnp.broadcast_to(more, num_steps))
        # A single step follows no path: its proposal may be bad, but that is no sign of a rough energy.
        count = None if options.get("num_integration_steps") == 1 else jnp.sum(divergent, dtype=jnp.int32)
        return Chain(z, total, jnp.mean(acceptance), count)


class NUTS(AbstractHamiltonian):
    """The no-U-turn sampler: Hamiltonian Monte Carlo whose paths end where they would turn back.

    **References:** [@hoffman2014nuts].
    """

    max_doublings: int = eqx.field(default=8, converter=lambda n: check_count("max_doublings", n))
    """A path has at most $2^k - 1$ leapfrog steps."""
    target_acceptance: float = 0.8
    """The mean acceptance probability at which the warm-up aims."""

    def algorithm(self) -> tuple[Any, dict[str, Any]]:
        import blackjax

        return blackjax.nuts, {"max_num_doublings": self.max_doublings}

    def step_factor(self, key: KeyArray) -> Array | float:
        return 1.0


class HMC(AbstractHamiltonian):
    """Hamiltonian Monte Carlo with a fixed number of leapfrog steps.

    The step size of each transition is drawn between half of the adapted one and all of it, so that no path returns to
    where it started.

    **References:** [@neal2011mcmc].
    """

    num_steps: int = eqx.field(default=5, converter=lambda n: check_count("num_steps", n))
    """The number of leapfrog steps of a transition."""
    target_acceptance: float = 0.8
    """The mean acceptance probability at which the warm-up aims."""

    def algorithm(self) -> tuple[Any, dict[str, Any]]:
        import blackjax

        return blackjax.hmc, {"num_integration_steps": self.num_steps}

    def step_factor(self, key: KeyArray) -> Array | float:
        return random.uniform(key, (), jnp.zeros(()).dtype) * (1 - _LEAST_STEP) + _LEAST_STEP


class MALA(AbstractHamiltonian):
    """The Metropolis-adjusted Langevin algorithm, preconditioned: Hamiltonian Monte Carlo of one leapfrog step.

    **References:** [@roberts1996exponential].
    """

    target_acceptance: float = 0.574
    """The mean acceptance probability at which the warm-up aims; 0.574 is optimal in many dimensions."""

    def algorithm(self) -> tuple[Any, dict[str, Any]]:
        import blackjax

        return blackjax.hmc, {"num_integration_steps": 1}

    def step_factor(self, key: KeyArray) -> Array | float:
        return 1.0


class EllipticalSlice(AbstractKernel):
    """Elliptical slice sampling: needs no gradient and no tuning, and respects hard constraints.

    Its steps are of the size at which the likelihood changes by about one nat, in all directions alike, so it mixes
    slowly where the posterior is much narrower in some directions than in others.

    **References:** [@murray2010elliptical].
    """

    def run(self, target: Target, key: KeyArray, z: Array, num_warmup: int, num_steps: int) -> Chain:
        keys = jax.random.split(key, num_warmup + num_steps)
        step = lambda state, key: _slice(target, key, *state)  # noqa: E731
        _, (drawn, counts) = jax.lax.scan(step, (z, target.log_likelihood(z)), keys)
        return Chain(drawn[num_warmup:], jnp.sum(counts) + 1)


def _slice(target: Target, key: KeyArray, z: Array, value: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """One transition of the elliptical slice sampler.

    Unlike blackjax's, its loop also ends where the level rounds to the log-likelihood of `z` itself.
    """
    noise_key, level_key, key = jax.random.split(key, 3)
    noise = random.normal(noise_key, z.shape, z.dtype)
    level = value - random.exponential(level_key, (), z.dtype)
    first = 2 * math.pi * random.uniform(key, (), z.dtype)

    def at(angle: Array) -> tuple[Array, Array]:
        moved = z * jnp.cos(angle) + noise * jnp.sin(angle)
        return moved, target.log_likelihood(moved)

    def shrink(state: _Bracket) -> _Bracket:
        count, low, high, angle, _, _ = state
        low, high = jnp.where(angle < 0, angle, low), jnp.where(angle < 0, high, angle)
        share = random.uniform(jax.random.fold_in(key, count), (), z.dtype)
        angle = low + (high - low) * share
        return count + 1, low, high, angle, *at(angle)

    def rejected(state: _Bracket) -> Bool[Array, ""]:
        return (state[-1] < level) & (state[0] < _SHRINKS)

    start = jnp.ones((), jnp.int32), first - 2 * math.pi, first, first, *at(first)
    count, _, _, _, moved, moved_value = jax.lax.while_loop(rejected, shrink, start)
    good = moved_value >= level
    z, value = jnp.where(good, moved, z), jnp.where(good, moved_value, value)
    return (z, value), (z, count)

r"""The equation of $(x, \ell)$: an event and the change of its log-density (Chen et al. 2018, theorem 1).

Along the probability flow $\frac{\mathrm{d}}{\mathrm{d}t} \log p_t(x_t) = -\nabla \cdot v(t, x_t)$, so $\ell$ with
$\dot\ell = -\nabla \cdot v$ is the change of the log-density on the way. With random probes $\ell$ has one entry per
probe.
"""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._base.typing import Array, Event, PyTree, Scalar
from ..divergence import AbstractDivergence, ControlVariate
from ..dynamics import ProbabilityFlow
from ..stepper import Trapezoidal


class Augmented(eqx.Module):
    """The vector field of (x, one log-density per estimate); `args` is `(model, condition)`."""

    divergence: AbstractDivergence
    probes: Array | None

    def __call__(self, t: Scalar, state: tuple[Event, Array], args: PyTree) -> tuple[Event, Array]:
        x, _ = state
        velocity, estimates = self.divergence(lambda x: ProbabilityFlow().drift(t, x, args), x, self.probes)
        return velocity, -estimates


class Deviation(eqx.Module):
    """The vector field of the correction that a control variate makes to the log-densities of [`Augmented`][]."""

    divergence: ControlVariate
    probes: Array | None

    def __call__(self, t: Scalar, state: tuple[Event, Array], args: PyTree) -> tuple[Event, Array]:
        x, _ = state
        return jnp.zeros_like(x), self.divergence.deviation(
            lambda x: ProbabilityFlow().drift(t, x, args), x, self.probes
        )


def augmented_terms(divergence: AbstractDivergence, probes: Array | None) -> dfx.AbstractTerm:
    """The diffrax terms of (x, log-density)."""
    terms = dfx.ODETerm(Augmented(divergence, probes))
    if isinstance(divergence, ControlVariate):
        return dfx.MultiTerm(terms, dfx.ODETerm(Deviation(divergence, probes)))
    return terms


def augmented_solver(divergence: AbstractDivergence, solver: dfx.AbstractSolver) -> dfx.AbstractSolver:
    """The solver of [`augmented_terms`][]."""
    return Trapezoidal(solver) if isinstance(divergence, ControlVariate) else solver


def augmented_state(divergence: AbstractDivergence, x: Event) -> tuple[Event, Array]:
    """The state at `x`, with no change of density yet."""
    return x, jnp.zeros(divergence.num_estimates, x.dtype)


def augmented_norm(error: PyTree[Array]) -> Array:
    """The size of an error in (x, log-density) for the step control: the largest error of any element of either.

    Measured on a 16-dimensional mixture against the root mean square over x: a tenth more steps, and a tenth of the
    error in the worst log-density, which a small error in x along a stiff direction spoils.
    """
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(error)]))

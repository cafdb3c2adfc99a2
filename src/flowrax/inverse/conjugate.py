r"""The posterior in closed form where the flow is affine, $x(z) = a + B z$, so that the prior is Gaussian.

For a measurement $y = A x + s\,\varepsilon$ with $M = \operatorname{diag}(s)^{-1} A B$ and
$r = \operatorname{diag}(s)^{-1} (y - A a)$, a draw of the posterior in noise space is

$$z = \xi + M^\top (M M^\top + I)^{-1} (r - M \xi - \varepsilon), \qquad \xi, \varepsilon \sim \mathcal{N}(0, I),$$

and $p(y) = \mathcal{N}(r; 0, M M^\top + I) / \prod_i s_i$.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._base import random
from .._base.checks import check_instance, is_traced
from .._base.typing import Array, KeyArray
from ..observation import LinearGaussian
from .base import AbstractNoiseMethod, NoiseProblem, PosteriorDraws

# The most elements of an event for which the matrix of the flow is formed, by one solve of the flow for each.
MOST_ELEMENTS = 2048
# How many sums of noise are carried by the flow to see whether it is affine, and the deviation that rounding explains,
# relative to the size of the events.
_PAIRS, _ROUNDING = 16, 1e-3


class Conjugate(AbstractNoiseMethod):
    """The exact posterior of a Gaussian prior given a linear measurement with Gaussian noise, and its evidence.

    The prior is Gaussian if the flow is affine, whatever the class of the model. This is tested on random noise. The
    matrix of the flow is found by one solve for each element of an event, at most 2,048. All draws are independent.
    Inside `jit` the flow cannot be tested: it is taken to be affine, and a draw that is not is NaN.

    **References:** [@matheron1973intrinsic].

    **Raises:** `ValueError` for a measurement that is not [`LinearGaussian`][], a flow that is not affine and events of
    more than 2,048 elements.
    """

    @property
    def differentiable(self) -> bool:
        return True

    def __call__(self, problem: NoiseProblem, key: KeyArray, num_samples: int) -> PosteriorDraws:
        check_instance("observation", problem.observation, LinearGaussian)
        size = math.prod(problem.shape)
        if size > MOST_ELEMENTS:
            raise ValueError(
                f"Conjugate forms the matrix of the flow, for events of at most {MOST_ELEMENTS} elements; these have "
                f"{size}. Pass method=frx.TemperedSMC()."
            )
        affine = is_affine(problem)
        if not is_traced(affine) and not bool(affine):
            raise ValueError("Conjugate needs a Gaussian prior, but the flow of this model is not affine.")
        return _draw(problem, key, num_samples, affine)


def is_affine(problem: NoiseProblem) -> Array:
    """Whether the flow carries sums of random noise as an affine map does, up to rounding."""
    rows = random.normal(jax.random.key(0), (2 * _PAIRS, *problem.shape), problem.dtype)
    first, second = rows[:_PAIRS], rows[_PAIRS:]
    points = jnp.concatenate([jnp.zeros_like(rows[:1]), first, second, first + second])
    x = problem.flow(points).reshape(3 * _PAIRS + 1, -1)
    origin, a, b, both = x[:1], x[1 : _PAIRS + 1], x[_PAIRS + 1 : 2 * _PAIRS + 1], x[2 * _PAIRS + 1 :]
    deviation = jnp.sqrt(jnp.mean((a + b - both - origin) ** 2))
    scale = jnp.sqrt(jnp.mean((both - origin) ** 2))
    return deviation <= _ROUNDING * scale


@eqx.filter_jit
def _draw(problem: NoiseProblem, key: KeyArray, num_samples: int, affine: Array) -> PosteriorDraws:
    observation, dtype = problem.observation, problem.dtype
    assert isinstance(observation, LinearGaussian)
    size = math.prod(problem.shape)
    points = jnp.concatenate([jnp.zeros((1, size), dtype), jnp.eye(size, dtype=dtype)])
    carried = problem.flow(points.reshape(-1, *problem.shape)).reshape(size + 1, size)
    origin, rows = carried[0], carried[1:] - carried[:1]
    measured = jax.vmap(observation.apply)(jnp.concatenate([origin[None], rows]).reshape(-1, *problem.shape))
    measured, scale = measured.astype(dtype), observation.noise_std.astype(dtype)
    matrix = measured[1:].T / scale[:, None]
    residual = (observation.y.astype(dtype) - measured[0]) / scale
    left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
    xi_key, noise_key = jax.random.split(key)
    xi = random.normal(xi_key, (num_samples, size), dtype)
    noise = random.normal(noise_key, (num_samples, residual.shape[0]), dtype)
    misfit = residual[None] - xi @ matrix.T - noise
    z = xi + ((misfit @ left) * (values / (values**2 + 1))[None]) @ right
    x = jnp.where(affine, origin[None] + z @ rows, jnp.nan)
    inside = left.T @ residual
    squares = jnp.sum(inside**2 / (1 + values**2)) + jnp.sum((residual - left @ inside) ** 2)
    constant = 0.5 * residual.shape[0] * math.log(2 * math.pi) + jnp.sum(jnp.log(scale))
    log_evidence = -0.5 * squares - 0.5 * jnp.sum(jnp.log1p(values**2)) - constant
    num_flows = -(-(size + 1 + 3 * _PAIRS + 1) // num_samples)
    return PosteriorDraws(
        x=x.reshape(num_samples, *problem.shape),
        log_weights=jnp.full(num_samples, -np.log(num_samples), dtype),
        log_evidence=jnp.where(affine, log_evidence, jnp.nan),
        log_evidence_error=jnp.zeros((), dtype),
        num_evaluations=jnp.asarray(num_flows),
        finished=jnp.asarray(True),
        z=z.reshape(num_samples, *problem.shape),
    )

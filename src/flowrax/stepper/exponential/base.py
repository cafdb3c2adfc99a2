r"""The exact step of the semilinear equation, and the integrals of polynomials by which exponential solvers correct it.

With $\lambda = \log(\alpha / \sigma)$, $h = \lambda_t - \lambda_s$, $H = (1 + c) h$ and a constant data prediction $D$
the reverse SDE of $w = c\, g^2 / 2$ goes from $s$ to $t$ by

$$x_t = k\, x_s + (\alpha_t - k\, \alpha_s)\, D + \sigma_t \sqrt{1 - e^{-2 c h}}\, \xi, \qquad
k = \frac{\sigma_t}{\sigma_s}\, e^{-c h},$$

in distribution; $c = 0$ is the probability flow. With noise $\mathcal{N}(m, C)$ this holds for $x - \sigma m$, with
$\xi \sim \mathcal{N}(0, C)$. Where $\alpha_s = 0$ or $\sigma_t = 0$, $h$ is infinite but the step is finite.
Where $D$ is a polynomial in $u = (\lambda - \lambda_s) / h$, its power $u^k$ contributes $\alpha_t\, \psi_{k + 1}(H)$,

$$\psi_{k + 1}(H) = H \int_0^1 e^{-H (1 - u)} u^k\, \mathrm{d}u, \qquad
\psi_1 = 1 - e^{-H}, \quad \psi_{k + 1} = 1 - k\, \psi_k / H.$$

These are the $\varphi$ functions of exponential integrators, scaled to be bounded at infinite $H$.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from ..._base.arguments import CheckedSolver
from ..._base.typing import Array, DType, Event, PyTree, Scalar
from ...model import gaussian_prior
from ...model.base import AbstractContinuousModel
from ...model.trained import check_data_prediction
from ...prior import AbstractGaussianPrior
from ..semilinear import SemilinearTerm

_SERIES_TERMS = 18


def psi(decay: Array, count: int) -> list[Array]:
    r"""$\psi_1, \dots, \psi_{\text{count}}$ at a scalar $H$, accurate for every $H$.

    For $|H| < 1$, $\psi_k$ with $k$ = `count` comes from its series $H \sum_n (-H)^n (k-1)! / (n + k)!$ and the others
    from the recursion downwards; otherwise the recursion runs upwards from $\psi_1$.
    """
    small = jnp.abs(decay) < 1
    inner, outer = jnp.where(small, decay, 1), jnp.where(small, 1, decay)
    series = jnp.zeros_like(inner)
    for n in reversed(range(_SERIES_TERMS)):
        series = series * -inner + math.factorial(count - 1) / math.factorial(n + count)
    down, up = [inner * series], [-jnp.expm1(-outer)]
    for k in range(1, count):
        down.insert(0, inner * (1 - down[0]) / (count - k))
        up.append(1 - k * up[-1] / outer)
    return [jnp.where(small, a, b) for a, b in zip(down, up, strict=True)]


class Step(eqx.Module):
    """The coefficients of one step, `keep * x + data * D + mean + std * xi`; all but `mean` are scalars."""

    keep: Array
    """The factor $k$ of the state at the start."""
    data: Array
    """The coefficient of the data prediction."""
    std: Array
    """The standard deviation of the noise; zero for the probability flow."""
    alpha: Array
    r"""$\alpha$ at the end of the step."""
    sigma: Array
    r"""$\sigma$ at the end of the step."""
    gap: Array
    r"""$h$, infinite where the step starts at $\alpha = 0$ or ends at $\sigma = 0$."""
    decay: Array
    """$H$."""
    mean: Event | float
    """The contribution of the prior's mean."""

    def __call__(self, x: Event, data: Event) -> Event:
        """The step without its noise."""
        return scaled(self.keep, x) + scaled(self.data, data) + self.mean


class Problem(eqx.Module):
    """The semilinear equation inside the terms that diffrax passes to a solver, which may run time backwards."""

    term: SemilinearTerm
    scale: Array | float
    noise: dfx.AbstractTerm | None
    direction: Any
    args: PyTree

    def denoise(self, t: Scalar, x: Event) -> Event:
        """The data prediction at `(t, x)`."""
        return self.term.denoise(t * self.direction, x, self.args)

    def scales(self, t: Scalar) -> tuple[Array, Array]:
        r"""$\alpha$ and $\sigma$."""
        schedule = self.term.schedule(self.args)
        return schedule.alpha(t * self.direction), schedule.sigma(t * self.direction)

    def noise_of(self, t: Scalar, x: Event, data: Event) -> Event:
        r"""The noise prediction from the data prediction; zero where $\sigma = 0$."""
        alpha, sigma = self.scales(t)
        return scaled(jnp.where(sigma > 0, 1 / jnp.where(sigma > 0, sigma, 1), 0), x - scaled(alpha, data))

    def log_ratio(self, t: Scalar) -> Array:
        r"""$\lambda = \log(\alpha / \sigma)$."""
        return self.term.schedule(self.args).log_snr(t * self.direction) / 2

    def between(self, t0: Scalar, t1: Scalar, fraction: float) -> Array:
        r"""The time at a fraction of the step, measured in $\lambda$, or in time where $\lambda$ is infinite."""
        start, gap = self.log_ratio(t0), self.log_ratio(t1) - self.log_ratio(t0)
        finite = jnp.isfinite(gap)
        inside = jnp.where(finite, start, 0) + fraction * jnp.where(finite, gap, 0)
        time = self.term.schedule(self.args).time_at(2 * inside) * self.direction
        return jnp.where(finite, time, t0 + fraction * (t1 - t0)).astype(jnp.result_type(t0))

    def step(self, t0: Scalar, t1: Scalar) -> Step:
        """The coefficients of the exact step from `t0` to `t1` with a constant data prediction."""
        (alpha0, sigma0), (alpha1, sigma1) = self.scales(t0), self.scales(t1)
        gap = self.log_ratio(t1) - self.log_ratio(t0)
        finite = jnp.isfinite(gap)
        # With noise, steps run towards the data, so an infinite gap is positive; for c = 0, c h is zero for any h.
        scale = jnp.asarray(self.scale, gap.dtype)
        damping = scale * jnp.where(finite, gap, 0) + jnp.where(finite | (scale == 0), 0, jnp.inf)
        keep = sigma1 / sigma0 * jnp.exp(-damping)
        return Step(
            keep=keep,
            # This form takes constant data from the scale alpha0 to the scale alpha1 up to rounding.
            data=alpha1 - keep * alpha0,
            std=sigma1 * jnp.sqrt(-jnp.expm1(-2 * damping)) if self.noise is not None else jnp.zeros_like(keep),
            alpha=alpha1,
            sigma=sigma1,
            gap=gap,
            decay=(1 + scale) * gap,
            mean=self.shift(sigma1 - keep * sigma0),
        )

    def shift(self, coefficient: Array) -> Event | float:
        """The coefficient times the prior's mean; zero for the probability flow, where the mean cancels."""
        return 0.0 if self.noise is None else shift(gaussian_prior(self.args[0]), coefficient)

    def normal(self, t0: Scalar, t1: Scalar, like: Event) -> Event:
        """A draw with the prior's covariance: the Brownian increment over the square root of the step's length."""
        if self.noise is None:
            return jnp.zeros_like(like)
        return scaled(1 / jnp.sqrt(t1 - t0), self.noise.contr(t0, t1).astype(like.dtype))


class AbstractExponentialSolver(dfx.AbstractItoSolver, metaclass=CheckedSolver):
    """A solver that integrates the linear part of a semilinear term exactly.

    Subclasses define diffrax's `order`, `init` and `step`. In `step`, [`problem`][] gives the data prediction and the
    coefficients of the first-order step.

    It derives from diffrax's Ito solvers, but the noise is additive, so the Ito and Stratonovich interpretations agree.
    """

    term_structure: ClassVar[Any] = dfx.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., Any]] = dfx.LocalLinearInterpolation
    num_evaluations_per_step: eqx.AbstractVar[int]
    """The number of data predictions in one step."""
    takes_noise: eqx.AbstractClassVar[bool]
    """Whether the solver supports the reverse SDE in addition to the probability flow."""
    predicts_at_end: eqx.AbstractClassVar[bool]
    """Whether every step, including the last, evaluates the data prediction at its end."""

    def func(self, terms: dfx.AbstractTerm, t0: Scalar, y0: Event, args: PyTree) -> PyTree:
        return terms.vf(t0, y0, args)

    def problem(self, terms: dfx.AbstractTerm, args: PyTree) -> Problem:
        """The semilinear equation in diffrax's terms; raises `ValueError` where this solver does not support it."""
        parts = terms.terms if isinstance(terms, dfx.MultiTerm) else (terms,)
        # diffrax wraps each term in a private class to let time run backwards.
        term, direction = getattr(parts[0], "term", parts[0]), getattr(parts[0], "direction", 1)
        name = type(self).__name__
        if not isinstance(term, SemilinearTerm) or len(parts) > 2:
            raise ValueError(f"{name} is for ProbabilityFlow() and ReverseSDE() in sample; use another solver here.")
        if len(parts) == 2 and not self.takes_noise:
            raise ValueError(f"{name} is for the probability flow; use DDIM, DPMSolverPP or SEEDS with ReverseSDE().")
        if term.scale is None:
            raise ValueError(
                f"{name} integrates ReverseSDE(SBDM(scale)) only; use a diffrax solver for other coefficients."
            )
        return Problem(term, term.scale, parts[1] if len(parts) == 2 else None, direction, args)


def check_predictions(solver: dfx.AbstractSolver, model: AbstractContinuousModel, start: Scalar, end: Scalar) -> None:
    """Raises `ValueError` where an exponential solver, wrapped or not, would use an infinite data prediction."""
    is_exponential = lambda leaf: isinstance(leaf, AbstractExponentialSolver)  # noqa: E731
    for part in filter(is_exponential, jax.tree.leaves(solver, is_leaf=is_exponential)):
        check_data_prediction(model, type(part).__name__, start, end if part.predicts_at_end else start)


def scaled(coefficient: Array, x: Event) -> Event:
    """A scalar coefficient, cast to the state's dtype, times the state."""
    return coefficient.astype(x.dtype) * x


def shift(prior: AbstractGaussianPrior, coefficient: Array) -> Event | float:
    """The coefficient times the prior's mean; zero for the standard normal."""
    return 0.0 if prior.is_standard else scaled(coefficient, prior.mean)


def correction(step: Step, data: Event, nodes: Sequence[Array], values: Sequence[Event]) -> Event:
    """The correction of the first-order step by a polynomial through further data predictions.

    A straight line is integrated by the midpoint rule (DPM-Solver++ 2M; the choice $B_2$ of UniPC), a polynomial of
    higher degree exactly.

    **Arguments:**

    - `step`: the coefficients of the first-order step.
    - `data`: the prediction at the start of the step, $u = 0$.
    - `nodes`: the $u$ of the further predictions, distinct; a node that is not finite and all nodes after it are
        missing.
    - `values`: the predictions at `nodes`.

    **Returns:** an array of the shape of `data`.
    """
    known = [jnp.isfinite(nodes[0])] if nodes else []
    for node in nodes[1:]:
        known.append(known[-1] & jnp.isfinite(node))
    points, lowest = [jnp.zeros_like(step.gap)], jnp.zeros_like(step.gap)
    for node, there in zip(nodes, known, strict=True):
        # A missing node may lie anywhere apart from the others: its differences have no weight.
        points.append(jnp.where(there, node, lowest - 1))
        lowest = jnp.minimum(lowest, points[-1])
    integrals = psi(step.decay, len(nodes) + 1)
    column, basis, total = [data, *values], [jnp.ones_like(step.gap)], jnp.zeros_like(data)
    for k, there in enumerate(known, 1):
        column = [scaled(1 / (points[i + k] - points[i]), column[i + 1] - column[i]) for i in range(len(column) - 1)]
        # The Newton basis: the product of u - u_j over j < k, by powers of u.
        shifted = [jnp.zeros_like(step.gap), *basis]
        basis = [a - points[k - 1] * b for a, b in zip(shifted, [*basis, jnp.zeros_like(step.gap)], strict=True)]
        weight = step.alpha * sum(a * b for a, b in zip(basis, integrals, strict=False))
        if k == 1:
            straight = ~known[1] if len(known) > 1 else True
            weight = jnp.where(straight, step.data / 2, weight)
        total = total + scaled(jnp.where(there, weight, 0), column[0])
    return total


class History(eqx.Module):
    r"""The last predictions, newest first, with their $\lambda$, which is $-\infty$ for a missing prediction."""

    datas: tuple[Event, ...]
    log_ratios: tuple[Array, ...]

    def push(self, data: Event, log_ratio: Array) -> "History":
        count = len(self.datas)
        return History((data, *self.datas)[:count], (log_ratio, *self.log_ratios)[:count])

    def forget(self, when: Any) -> "History":
        return History(self.datas, tuple(jnp.where(when, -jnp.inf, value) for value in self.log_ratios))

    def nodes(self, start: Array, gap: Array, count: int) -> list[Array]:
        r"""$u$ of the newest `count` predictions for a step of length `gap` from `start`, both in $\lambda$.

        All are $-\infty$, that is, missing, where `start` or `gap` is infinite.
        """
        finite = jnp.isfinite(start) & jnp.isfinite(gap)
        safe_start, safe_gap = jnp.where(finite, start, 0), jnp.where(finite, gap, 1)
        return [jnp.where(finite, (value - safe_start) / safe_gap, -jnp.inf) for value in self.log_ratios[:count]]


def empty_history(count: int, y: Event, dtype: DType) -> History:
    """A history of `count` missing predictions of the shape of `y`."""
    return History((jnp.zeros_like(y),) * count, (jnp.asarray(-jnp.inf, dtype),) * count)

r"""Noise with the prior's covariance: for $x_0 \sim \mathcal{N}(m, C)$ samplers are driven by $C^{1/2} W$.

The score enters as $C s = -(\mathbb{E}[x_0 | x_t] - m) / \sigma$. The dynamics is then the one for standard noise in
the coordinates $C^{-1/2} x$, and if $C$ is singular, a state in its range stays in its range.
"""

import diffrax as dfx
import equinox as eqx
import jax

from .._base.typing import Array, Event, PyTree, Scalar
from ..prior import AbstractGaussianPrior
from .base import AbstractContinuousModel


def gaussian_prior(model: AbstractContinuousModel) -> AbstractGaussianPrior:
    """The Gaussian prior of a model that has a score; raises `ValueError` for any other model."""
    _ = model.score_interval
    if not isinstance(model.prior, AbstractGaussianPrior):
        raise ValueError(f"This sampler needs a Gaussian prior; the model's prior is {type(model.prior).__name__}.")
    return model.prior


def scaled_score(model: AbstractContinuousModel, score: Event) -> Event:
    """$C s$ from the score $s$, where $C$ is the prior's covariance."""
    prior = gaussian_prior(model)
    return score if prior.is_standard else prior.covariance_product(score)


class _Shaped(dfx.AbstractBrownianPath):
    """A Brownian path whose increments have the prior's covariance; they may have axes before the event's axes."""

    path: dfx.AbstractBrownianPath
    prior: AbstractGaussianPrior

    def __init__(self, path: dfx.AbstractBrownianPath, prior: AbstractGaussianPrior) -> None:
        self.path, self.prior = path, prior

    @property
    def levy_area(self) -> type:
        return self.path.levy_area

    @property
    def t0(self) -> Scalar | None:
        return self.path.t0

    @property
    def t1(self) -> Scalar | None:
        return self.path.t1

    def evaluate(self, t0: Scalar, t1: Scalar | None = None, left: bool = True, use_levy: bool = False) -> PyTree:
        increment = self.path.evaluate(t0, t1, left, use_levy)
        if not use_levy:
            return self._shape(increment)
        # W and its Levy areas are all linear in the path.
        areas = [name for name in ("W", "H", "K") if hasattr(increment, name)]
        shaped = [self._shape(getattr(increment, name)) for name in areas]
        return eqx.tree_at(lambda record: [getattr(record, name) for name in areas], increment, shaped)

    def _shape(self, z: Array) -> Array:
        events = z.reshape(-1, *self.prior.shape)
        return jax.vmap(self.prior.root)(events).reshape(z.shape)


def shaped(model: AbstractContinuousModel, path: dfx.AbstractBrownianPath) -> dfx.AbstractBrownianPath:
    """The path $C^{1/2} W$ from a standard path $W$, where $C$ is the prior's covariance."""
    prior = gaussian_prior(model)
    return path if prior.is_standard else _Shaped(path, prior)

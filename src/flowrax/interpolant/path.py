"""What a path of categorical events can say: a chain of noise between independent sites, known in closed form."""

import abc

import equinox as eqx

from .._typing import Array, KeyArray, PyTree, Scalar, Tokens
from ..prior import AbstractCategoricalPrior
from ..schedule import AbstractMasking


class AbstractCategoricalPath(eqx.Module):
    r"""The law $q(x_t | x_1)$ of sites that lose their class, each for itself, between the data and a prior.

    Tokens are `(*shape)` integers, probabilities `(*shape, K)`; where either may be given, probabilities are averaged
    over. Times are scalars, and $s < t$: $s$ is the noisier.
    """

    schedule: eqx.AbstractVar[AbstractMasking]
    """The share of sites that are the data's; raises `ValueError` where noise is no mixture of data and prior."""

    @abc.abstractmethod
    def check_prior(self, prior: AbstractCategoricalPrior) -> None:
        """Raises `ValueError` for a prior that is not the noise of this path."""

    @abc.abstractmethod
    def noise(self, key: KeyArray, x0: Tokens) -> PyTree:
        """What [`interpolate`][] needs beside the data, given a draw of the prior."""

    @abc.abstractmethod
    def interpolate(self, t: Scalar, x0: PyTree, x1: Tokens) -> Tokens:
        """The state at `t`, from `x0` as [`noise`][] gives it: a draw of $q(x_t | x_1)$."""

    @abc.abstractmethod
    def marginal(self, prior: AbstractCategoricalPrior, t: Scalar, x1: Array) -> Array:
        r"""$q(x_t | x_1)$, `(*shape, K)`, of tokens or probabilities."""

    @abc.abstractmethod
    def log_marginal(self, prior: AbstractCategoricalPrior, t: Scalar, log_p1: Array) -> Array:
        r"""The logarithm of [`marginal`][] by that of weights of the data, which need not sum to one."""

    @abc.abstractmethod
    def transition(self, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Array) -> Array:
        r"""$q(x_s | x_t = x)$, `(*shape, K)`: rows of the noise's matrix, for tokens or probabilities at $t$."""

    @abc.abstractmethod
    def likelihood(self, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens) -> Array:
        r"""$q(x_s = x | x_t = k)$ of every class $k$, `(*shape, K)`: columns of the noise's matrix."""

    @abc.abstractmethod
    def posterior(self, prior: AbstractCategoricalPrior, s: Scalar, t: Scalar, x: Tokens, x1: Array) -> Array:
        r"""$\sum_{x_1} p(x_1)\, q(x_t | x_s = x, x_1)$, `(*shape, K)`, of tokens or probabilities of the data."""
